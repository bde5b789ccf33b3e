"""The post-mortem of a group: who failed first and why, who failed besides, whom we stopped.

It is made from the group's ``worker.failed`` events, in the order in which the kernel has let the workers end, and from
its state when it has given up. A worker that ended because we were stopping it is no failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from supervisor.core.events import Event, Who
from supervisor.core.state import Group
from supervisor.plan import Places

WIDTH = 72
TRACEBACK_LINES = 40
STDERR_LINES = 20
OTHERS = 8
"""Lines, and workers by name, that are shown at most."""

HEAD = "Traceback (most recent call last):"
"""The first line of each of Python's tracebacks."""

HINTS = {
    "SIGABRT": "a failed assertion or an uncaught exception of native code",
    "SIGBUS": "memory that its file cannot back: is /dev/shm, or a disk, full?",
    "SIGFPE": "an integer divided by zero in native code",
    "SIGILL": "an instruction that this CPU does not have: built for another one?",
    "SIGINT": "an interrupt from outside, as by Ctrl-C",
    "SIGKILL": "sent from outside: most often by the kernel, for want of memory (journalctl -k)",
    "SIGSEGV": "an invalid memory access in native code",
    "SIGSYS": "a system call that a sandbox forbids",
    "SIGTERM": "sent from outside, by a person or a scheduler",
    "SIGXCPU": "its limit of CPU time (rlimits)",
    "SIGXFSZ": "its limit of file size (rlimits)",
}  # fmt: skip
"""What most often is behind a signal."""


def root_cause(group: Group, roots: Sequence[Event]) -> Event | None:
    """The failure that ``group`` has given up for; None when no worker is to blame.

    ``roots`` are those of its ``worker.failed`` events, oldest first, that were the first of their attempts.
    """
    cause = group.failure
    if cause is None or not roots:
        return None
    last = who(roots[-1])
    is_it = (last.rank, last.attempt) == (cause.rank, cause.attempt)
    # In a shared world the verdict comes to a group that waits for the next one, whose attempt no worker has seen.
    waits = group.plan.rendezvous.is_elastic and group.world is None
    is_last = last.attempt == group.attempt - waits
    return roots[-1] if is_it and (group.plan.restart.scope == "worker" or is_last) else None


def who(event: Event) -> Who:
    """Whose failure that is."""
    fields = event.fields
    return Who(event.group or "", fields["rank"], fields["local_rank"], fields["attempt"])


def post_mortem(
    group: Group, roots: Sequence[Event], others: Sequence[Event], *,
    host: str, directory: str, date: Callable[[float], str], places: Callable[[Who], Places | None] = lambda _: None,
) -> list[str]:  # fmt: skip
    """The lines that people are shown when ``group`` has failed; none when no worker is to blame.

    ``roots`` as in ``root_cause``, and ``others`` are the events that came after the last of them; ``directory`` is
    where the group's attempts are, and the output of its workers, but of those whose ``places`` are elsewhere; ``date``
    says when an instant was. A line is as long as what is in it, and may have any characters.
    """
    root = root_cause(group, roots)
    if root is None:
        return []
    why = group.verdict.why if group.verdict is not None else ""
    lines = ["=" * WIDTH, f"group {group.plan.name} FAILED: {why}", "-" * WIDTH]
    lines.append(f"Root cause (first failure of attempt {who(root).attempt}):")
    lines += [f"  {line}" for line in _in_full(group, root, host, directory, date, places)]
    lines += _section("Other failures:", _first([_in_brief(event) for event in others]))
    lines += _section("Stopped by rankd, no failures of their own:", _stopped(group))
    lines += _section("Root causes of earlier attempts:", _last([_in_brief(event) for event in roots[:-1]]))
    return [*lines, "=" * WIDTH]


def _section(title: str, lines: list[str]) -> list[str]:
    """A part of it, or nothing."""
    return ["-" * WIDTH, title, *(f"  {line}" for line in lines)] if lines else []


def _first(lines: list[str]) -> list[str]:
    return lines[:OTHERS] + ([f"... and {len(lines) - OTHERS} more"] if len(lines) > OTHERS else [])


def _last(lines: list[str]) -> list[str]:
    return ([f"... {len(lines) - OTHERS} before these"] if len(lines) > OTHERS else []) + lines[-OTHERS:]


def _in_full(
    group: Group, event: Event, host: str, directory: str, date: Callable[[float], str],
    places: Callable[[Who], Places | None],
) -> Iterator[str]:  # fmt: skip
    fields, of = event.fields, who(event)
    pid = f" (pid {fields['pid']})" if "pid" in fields else ""
    yield f"rank      : {of.rank} (local rank {of.local_rank}) on {host}{pid}"
    yield f"time      : {date(event.at)}"
    yield f"reason    : {fields['reason']}"
    if "evidence" in fields:
        yield f"evidence  : {fields['evidence']}"
    if hint := _hint(fields, records=group.plan.returns):
        yield f"hint      : {hint}"
    if "error" in fields:
        yield from _text("error", fields["error"], TRACEBACK_LINES)
    if "error_note" in fields:
        yield f"note      : {fields['error_note']}"
    if "traceback" in fields:
        yield from _text("traceback", fields["traceback"], TRACEBACK_LINES)
    if stderr := _beside(fields.get("traceback", ""), fields.get("stderr_tail", "")):
        yield from _text("stderr", stderr, STDERR_LINES)
    if pid and (files := _logs(group, fields, of, directory, places(of))):
        yield f"logs      : {files}"


def _hint(fields: Any, *, records: bool) -> str:
    """What else there is to think of. ``records``: an exception would be in the worker's error file in any case."""
    if fields.get("by") in ("probe", "timer", "heartbeat"):
        return ""  # how it ended was our doing, and why is in the reason
    if "signal" in fields:
        return "" if "memory" in fields["reason"] else HINTS.get(fields["signal"], "")
    code = fields.get("exit_code", 0)
    if 128 < code < 160:
        return f"128 + {code - 128}: a shell says so when a signal has ended what it ran"
    if "pid" in fields and not records and not {"error", "error_note", "stderr_tail"} & fields.keys():
        return "decorate its main function with supervisor.worker.record, or torch's, to see the exception here"
    return ""


def _beside(traceback: str, stderr: str) -> str:
    """What the worker has said on stderr besides that traceback: Python says one there that nobody catches."""
    told, lines = traceback.splitlines(), stderr.splitlines()
    if not told or told[-1] not in lines:
        return stderr
    end = len(lines) - lines[::-1].index(told[-1])
    heads = [at for at, line in enumerate(lines[:end]) if line == HEAD]
    begin = heads[-min(len(heads), max(1, told.count(HEAD)))] if heads else 0
    return "\n".join(lines[:begin] + lines[end:])


def _logs(group: Group, fields: Any, of: Who, directory: str, places: Places | None) -> str:
    """The files of its own that there are, in its directory or where somebody else has placed them."""
    has_error_file = bool({"error", "error_note"} & fields.keys())
    if places is not None:
        files = [places.stdout, places.stderr, (places.error_file or "") if has_error_file else ""]
        return ", ".join(dict.fromkeys(file for file in files if file not in ("", "/dev/null")))
    streams = group.plan.logs.tee[of.local_rank] | group.plan.logs.redirects[of.local_rank]
    names = ["stdout.log"] * (streams & 1) + ["stderr.log"] * (streams >> 1) + ["error.json"] * has_error_file
    if not names:
        return ""
    return f"{directory}/attempt_{of.attempt}/{of.local_rank}/" + (
        names[0] if len(names) == 1 else f"{{{','.join(names)}}}"
    )


def _text(name: str, text: str, limit: int) -> Iterator[str]:
    """One line beside its name; of more lines the last ones below it."""
    lines = text.splitlines()
    if len(lines) == 1:
        yield f"{name:<10}: {lines[0]}"
        return
    yield f"{name:<10}:" + (f" (the last {limit} of {len(lines)} lines)" if len(lines) > limit else "")
    for line in lines[-limit:]:
        yield f"  {line}"


def _in_brief(event: Event) -> str:
    error = event.fields.get("error", "")
    of = who(event)
    return f"attempt {of.attempt}, rank {of.rank}: {event.fields['reason']}" + (f": {error}" if error else "")


def _stopped(group: Group) -> list[str]:
    """The ranks that we have ended, as ``ranks 0-3, 5``."""
    ranks = [group.rank(local) for local, end in group.ended.items() if end.by == "daemon"]
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    words = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return [f"rank{'s' if len(ranks) > 1 else ''} {', '.join(words)}"] if ranks else []
