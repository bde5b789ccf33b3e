"""What torchrun's users may ask for and cannot have. Nothing that was asked for is left out silently."""

from __future__ import annotations

from importlib import metadata

from supervisor.errors import USAGE, RankdError


class WrongUsage(RankdError):
    """What the command line or its variables ask for cannot be had, for one reason or several."""

    exit_code = USAGE

    def __init__(self, *reasons: str) -> None:
        super().__init__("\nrankd: ".join(reasons))


def logs_specs(name: str) -> str:
    """Why no such class says where logs go (torch.distributed.run, ``_get_logs_specs_class``); empty: one does."""
    found = {one.name for one in metadata.entry_points(group="torchrun.logs_specs")}
    if name in found:
        return ""
    installed = ", ".join(sorted({"default", *found}))
    return f"no package has such an entry point in the group torchrun.logs_specs (allowed: {installed})"
