"""Whether to restart after an end, and after what pause. Instants in, a verdict with its reason out.

Two counters with two meanings: the *budget* (``max_restarts``, over the run's life or a sliding window) says whether;
the *failures in a row* (since the last healthy ``reset_after``) say how long to pause.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from supervisor.core.messages import ExitStatus
from supervisor.plan import Backoff, RestartRules

End = Literal["success", "failure", "transient", "permanent"]
"""How a worker, or the start of one, ended. ``transient`` and ``permanent``: it never ran (see WorkerNotStarted)."""

SHORTAGE_PAUSE = 1.0
"""Seconds of the shortest pause when the machine is short of something: at once would only make it shorter."""


@dataclass(frozen=True, slots=True)
class History:
    """What the rules have to remember. ``used`` counts every restart (TORCHELASTIC_RESTART_COUNT)."""

    used: int = 0
    spent_at: tuple[float, ...] = ()
    in_a_row: int = 0


@dataclass(frozen=True, slots=True)
class Restart:
    """Restart after ``pause`` seconds; ``history`` has it counted already."""

    pause: float
    history: History


@dataclass(frozen=True, slots=True)
class Succeeded:
    """It ended well and is not to run again."""


@dataclass(frozen=True, slots=True)
class Failed:
    """No restart, and why. ``gave_up``: the rules would have restarted it, but the budget is used up."""

    why: str
    gave_up: bool = False


Verdict = Restart | Succeeded | Failed


def end_of(rules: RestartRules, status: ExitStatus) -> End:
    """Success is an exit code that the rules call one; every signal is a failure."""
    return "success" if status.signal is None and status.code in rules.success_exit_codes else "failure"


def decide(
    rules: RestartRules, history: History, end: End, *, exit_code: int | None, healthy_for: float, now: float, seed: int
) -> Verdict:
    """The verdict on an end at ``now`` of what had been healthy for ``healthy_for`` seconds before it.

    ``exit_code`` is None for a signal. The jitter is taken from ``seed`` and the number of the restart, so that a
    history replays.
    """
    if end == "permanent":
        return Failed("it can never start")
    if end == "success" and rules.policy != "always":
        return Succeeded()
    if rules.policy == "never":
        return Failed('the restart policy is "never"')
    if end == "failure" and exit_code in rules.fatal_exit_codes:
        return Failed(f"exit code {exit_code} is fatal")

    recovered = 0 < rules.reset_after <= healthy_for
    history = History(
        used=history.used,
        spent_at=() if recovered else _recent(rules, history, now),
        in_a_row=0 if recovered else history.in_a_row,
    )
    if restarts_left(rules, history, now) == 0:
        return Failed(budget_in_words(rules), gave_up=True)
    backoff = rules.backoff
    if end == "transient":
        backoff = replace(backoff, initial=max(backoff.initial, SHORTAGE_PAUSE))
    pause = pause_before(backoff, history.in_a_row) * (1 - backoff.jitter * spread(seed, history.used))
    if end == "transient":
        pause = max(pause, SHORTAGE_PAUSE)
    return Restart(
        pause,
        History(
            used=history.used + 1,
            spent_at=(*history.spent_at, now) if rules.window and rules.max_restarts > 0 else (),
            in_a_row=history.in_a_row + 1,
        ),
    )


def restarts_left(rules: RestartRules, history: History, now: float) -> int | None:
    """How many restarts the budget allows at ``now``; None for no limit."""
    if rules.max_restarts < 0:
        return None
    spent = len(_recent(rules, history, now)) if rules.window else history.used
    return max(0, rules.max_restarts - spent)


def pause_before(backoff: Backoff, in_a_row: int) -> float:
    """Seconds before the restart that follows ``in_a_row`` earlier failures: exponential, never above ``max``."""
    if backoff.initial <= 0:
        return 0.0
    try:
        return min(backoff.max, float(backoff.initial * backoff.factor**in_a_row))
    except OverflowError:
        return backoff.max


def spread(seed: int, number: int) -> float:
    """A number in [0, 1) that looks random and is a function of its arguments (one step of SplitMix64)."""
    mask = (1 << 64) - 1
    mixed = (seed + (number + 1) * 0x9E3779B97F4A7C15) & mask
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
    return (mixed ^ (mixed >> 31)) / 2**64


def _recent(rules: RestartRules, history: History, now: float) -> tuple[float, ...]:
    return tuple(at for at in history.spent_at if at > now - rules.window)


def budget_in_words(rules: RestartRules) -> str:
    """Why there is no restart left."""
    if rules.max_restarts == 0:
        return "max_restarts is 0"
    times = f"all {rules.max_restarts} restarts are used" if rules.max_restarts > 1 else "the one restart is used"
    return f"{times} within {rules.window:g} s" if rules.window else times
