"""What torchrun's users may ask for and this version does not do. Nothing that was asked for is left out silently."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import NamedTuple

from supervisor.errors import USAGE, RankdError


class WrongUsage(RankdError):
    """What the command line or its variables ask for cannot be had, for one reason or several."""

    exit_code = USAGE

    def __init__(self, *reasons: str) -> None:
        super().__init__("\nrankd: ".join(reasons))


class NotYet(NamedTuple):
    """A part of torchrun that is still missing here."""

    what: str
    is_asked_for: Callable[[Namespace, Mapping[str, str]], bool]
    instead: str


def _positive(text: str) -> bool:
    """Whether torchrun would take the text for a time limit (``_resolve_uninterruptible_state_timeout``)."""
    try:
        return float(text) > 0
    except ValueError:
        return False


NOT_YET = (
    NotYet(
        "TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT",
        lambda _, environ: _positive(environ.get("TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT", "")),
        "this version does not look for workers in D state; unset it to run without",
    ),
)
"""Whatever has been built leaves this table."""


def logs_specs(name: str) -> str:
    """Why that class cannot say where the logs go (torch.distributed.run, ``_get_logs_specs_class``)."""
    found = {one.name: one for one in metadata.entry_points(group="torchrun.logs_specs")}
    if name not in found:
        installed = ", ".join(["default", *sorted(found)])
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


def missing(flags: Namespace, environ: Mapping[str, str]) -> list[str]:
    """Why this command cannot be run yet: one sentence for each thing that is not there."""
    return [f"{one.what}: {one.instead}" for one in NOT_YET if one.is_asked_for(flags, environ)]
