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
    """Why that class cannot say where the logs go (torch.distributed.run, ``_get_logs_specs_class``)."""
    found = {one.name: one for one in metadata.entry_points(group="torchrun.logs_specs")}
    if name not in found:
        installed = ", ".join(sorted({"default", *found}))
        return f"no package has such an entry point in the group torchrun.logs_specs (allowed: {installed})"
    try:
        found[name].load()
    except ImportError as error:
        return f"it cannot be loaded without what it imports: {error}"
    except Exception as error:  # noqa: BLE001 - somebody else's module: whatever it raises is the reason
        return f"it cannot be loaded: {type(error).__name__}: {error}"
    return (
        "a class of torch's LogsSpecs chooses files inside torchrun; rankd places them itself "
        "(allowed: default; --log-dir, --redirects, --tee and the filters say which)"
    )
