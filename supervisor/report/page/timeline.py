"""The life of a group as a strip: what it was from when to when, and where it failed. SVG, for CSP allows no style."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from supervisor import clock
from supervisor.report.history import Cause, Stretch

NARROWEST = 0.3
"""Percent of the strip that even an instant gets, for else it cannot be seen."""

_COLOURS = {"backing off": "backing_off", "degraded": "unready"}


def strip(group: str, stretches: Sequence[Stretch], causes: Sequence[Cause], now: float) -> Iterator[str]:
    """``causes`` newest first, as ``History`` has them. Nothing before the first stretch."""
    if not stretches:
        return
    began_at = stretches[0].at
    whole = max(now - began_at, 1e-3)

    def across(at: float) -> float:
        return 100 * min(max(at - began_at, 0.0), whole) / whole

    told = f"the last {clock.words(whole)}"
    yield f'<figure class="life"><svg role="img" aria-label="{escape(group)}: {told}" width="100%" height="26">'
    for stretch, until in zip(stretches, [*(later.at for later in stretches[1:]), now], strict=True):
        start = across(stretch.at)
        width = max(across(until) - start, NARROWEST)
        title = f"attempt {stretch.attempt}: {stretch.state} for {clock.words(until - stretch.at)}"
        colour = _COLOURS.get(stretch.state, stretch.state)
        yield (
            f'<rect class="{colour}" x="{min(start, 100 - NARROWEST):.3f}%" width="{width:.3f}%" y="8" height="18">'
            f"<title>{title}, from {clock.rfc3339(stretch.at)}</title></rect>"
        )
    for cause in reversed(causes):
        if cause.at >= began_at:
            yield (
                f'<circle class="cause" cx="{across(cause.at):.3f}%" cy="4" r="3.5">'
                f"<title>{escape(cause.reason)}</title></circle>"
            )
    yield f"</svg><figcaption><span>{moment(began_at)}</span><span>{told}</span><span>now</span></figcaption></figure>"


def moment(at: float) -> str:
    """An instant, in UTC to the second; the script gives it in the reader's own time."""
    full = clock.rfc3339(at)
    return f'<time datetime="{full}" data-how="at">{full[:10]} {full[11:19]} UTC</time>'
