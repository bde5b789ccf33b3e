"""How everything stands, as a table for people: the JSON of ``/status`` in, lines out. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from supervisor import clock
from supervisor.report.progress import cells, cut
from supervisor.report.prose import BOLD, DIM, GREEN, RED, RESET, YELLOW, printable

View = Mapping[str, Any]
LogOf = Callable[[str, int, int], str]
"""Of a group, an attempt and a local rank: the path of the log to look at."""

ENOUGH = 30
"""Cells that a sentence needs beside the columns; with less it has lines of its own."""

MOST = 8
"""Ranks of a group that are named one by one, unless the whole group is asked for."""

_TROUBLED = ("unready", "uninterruptible", "unkillable", "failed", "backing_off")
_COLOURS = {
    "running": YELLOW,
    "starting": YELLOW,
    "stopping": YELLOW,
    "waiting": YELLOW,
    "backing off": RED,
    "failed": RED,
    "gone": RED,
}


def table(
    status: View, *, width: int | None, log_of: LogOf, group: str = "", later: float = 0.0, colour: bool = False
) -> list[str]:
    """Lines of at most ``width`` cells (None: as long as they are; only paths are longer in any case).

    ``later``: seconds since ``status`` was true. ``group``: that one alone, with each of its workers.
    """
    groups = {name: view for name, view in status["groups"].items() if group in ("", name)}
    lines = [_paint(_headline(status), BOLD if colour else "")]
    lines += columns(_group_rows(groups, later), width, colour)
    for name, view in groups.items():
        if group:
            lines += ["", *columns(_worker_rows(view), width, colour)]
            if "peers" in view:
                lines += ["", *columns(_host_rows(view["peers"], status["host"]), width, colour)]
        if trouble := list(_trouble(name, view, log_of)):
            lines.append("")
            for sentence, path in trouble:
                lines += _wrapped(sentence, width, "    ")
                lines += [_paint(f"    {printable(path)}", DIM if colour else "")] if path else []
    return [line.rstrip() for line in lines]


def _headline(status: View) -> str:
    ready = "ready" if status["ready"] else "not ready"
    stage = f"{status['stage']} ({status['why']})" if status["why"] else status["stage"]
    return printable(f"{status['service']} on {status['host']}: {stage}, {ready}")


def _some(names: Sequence[str]) -> str:
    """The names, unless they are many."""
    return ", ".join(names) if len(names) <= MOST else f"{len(names)} hosts"


# ---- rows


def _group_rows(groups: Mapping[str, View], later: float) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("GROUP", "PHASE", "READY", "FOR", "ATTEMPT", "LEFT", "")]
    for name, view in groups.items():
        left = view["restarts_left"]
        rows.append(
            (
                name,
                phase(view),
                f"{view['ready_workers']}/{view['size']}",
                _for(view["for_s"] + later),
                str(view["attempt"]) if view["attempt"] >= 0 else "-",
                "any" if left is None else str(left),
                what(view, later),
            )
        )
    return rows


def _worker_rows(view: View) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("RANK", "STATE", "PID", "ATTEMPT", "")]
    for worker in view["workers"]:
        said = [worker["why"] or ("" if worker["pid"] else worker["exit"]), worker.get("status", "")]
        said += [f"progress {worker['progress']}"] if "progress" in worker else []
        said += [f"in section {one['name']}" for one in worker.get("sections", ())]
        pid, attempt = worker["pid"] or "-", worker["attempt"] if worker["attempt"] >= 0 else "-"
        state = worker["state"].replace("_", " ")
        rank = "-" if view["shared"] and not view["hosts"] else str(worker["rank"])  # which rank is not known yet
        rows.append((rank, state, str(pid), str(attempt), "; ".join(filter(None, said))))
    return rows


def _host_rows(peers: View, here: str) -> list[Sequence[str]]:
    """Every host of the job, whichever daemon is asked."""
    if "error" in peers:
        return [("HOST", ""), (here, f"the others are not known: {peers['error']}")]
    rows: list[Sequence[str]] = [("HOST", "STATE", "RANKS", "ADDRESS", "")]
    for host in peers["hosts"]:
        first, several = host["base_rank"], host["workers"] > 1
        ranks = "-" if first is None else f"{first}-{first + host['workers'] - 1}" if several else str(first)
        said = ["leads"] if host["name"] == peers["leader"] else []
        said += ["here"] if host["name"] == here else []
        rows.append((host["name"], host["state"], ranks, host["addr"] or "-", ", ".join(said)))
    return rows


def phase(view: View) -> str:
    """A word or two: the phase, or how a finished group has ended."""
    if view["phase"] == "finished":
        return "succeeded" if view["succeeded"] else "failed" if view["failed"] else "stopped"
    return str(view["phase"]).replace("_", " ")


def what(view: View, later: float = 0.0) -> str:
    """What happens next and when, and why it is as it is; nothing of a group that does what it should."""
    parts = []
    if view["next"] is not None and view["next_in_s"] is not None:
        parts.append(f"in {_for(view['next_in_s'] - later, up=True)}: {view['next']}")
    elif view["next"] is not None:
        parts.append(view["next"])
    if view["roll"] is not None and view["roll"]["halted"]:
        parts.append("not all workers are replaced")
    if not view["cut_off"] and (view["hosts"] > 1 or (view["shared"] and view["hosts"])):
        parts.append(f"round {view['round']}, {view['hosts']} host{'s' * (view['hosts'] > 1)}")
    parts += _other_hosts(view)
    well = view["ready"] or view["succeeded"]
    if view["why"] and not (well and view["phase"] in ("running", "finished")) and not _tells_failure(view):
        parts.append(view["why"])
    return "; ".join(parts)


def _other_hosts(view: View) -> Iterator[str]:
    """Those that are gone; and while the group runs, those that stand by. As one, and as many."""
    told = [("gone", "is gone", "are gone")]
    told += [("waiting", "waits", "wait"), ("spare", "is a spare", "are spares")] if view["hosts"] else []
    hosts = view.get("peers", {}).get("hosts", ())
    for state, one, many in told:
        if names := [host["name"] for host in hosts if host["state"] == state]:
            yield f"{_some(names)} {one if len(names) == 1 else many}"


def _tells_failure(view: View) -> bool:
    """Whether the reason is the failure that is told of below, with its log."""
    failure = view["last_failure"]
    return failure is not None and _is_troubled(view) and view["why"] == failure["reason"]


def _is_troubled(view: View) -> bool:
    """Also one that serves on without those who have failed for good."""
    if view["roll"] is not None and view["roll"]["halted"]:
        return True
    return not (view["ready"] or view["succeeded"] or view["stopped_by"])


def _trouble(name: str, view: View, log_of: LogOf) -> Iterator[tuple[str, str]]:
    """Sentences about what is wrong in a group, each with the log to look at ("": none)."""
    if not _is_troubled(view):
        return
    failure = view["last_failure"]
    if failure is not None:
        local = {worker["rank"]: worker["local_rank"] for worker in view["workers"]}.get(failure["rank"])
        path = "" if local is None else log_of(name, failure["attempt"], local)
        yield f"{name}: {failure['reason']} (attempt {failure['attempt']})", path
    told = [] if failure is None else [failure["rank"]]
    others = [one for one in view["workers"] if one["state"] in _TROUBLED and one["rank"] not in told]
    for worker in others[:MOST]:
        reason = worker["why"] or worker["exit"]
        sentence = f"{name}: rank {worker['rank']} is {worker['state'].replace('_', ' ')}"
        yield f"{sentence}: {reason}" if reason else sentence, log_of(name, worker["attempt"], worker["local_rank"])
    if len(others) > MOST:
        yield f"{name}: {len(others) - MOST} more ranks are in trouble: rankd status {name}", ""


# ---- on the screen


def columns(rows: Sequence[Sequence[str]], width: int | None = None, colour: bool = False) -> list[str]:
    """Columns under their heads, with the sentence of each row at its end, or below it where there is no room."""
    heads = [[printable(cell) for cell in row[:-1]] for row in rows]
    if width is not None:
        heads = [[cut(row[0], max(8, width // 3)), *row[1:]] for row in heads]
        while len(heads[0]) > 3 and _whole(heads) > width:
            heads = [row[:-1] for row in heads]
    widths = [max(cells(row[column]) for row in heads) for column in range(len(heads[0]))]
    lines = []
    for number, row in enumerate(heads):
        padded = [text + " " * (size - cells(text)) for text, size in zip(row, widths, strict=True)]
        if colour and number:
            padded[1] = _paint(padded[1], _shade(row))
        beside, below = _placed(printable(rows[number][-1]), _whole(heads) + 2, width)
        line = "  ".join([*padded, beside])
        lines += [_paint(line.rstrip(), DIM if colour and not number else ""), *below]
    return lines


def _placed(sentence: str, column: int, width: int | None) -> tuple[str, list[str]]:
    """What of a sentence goes beside a row, from that column on, and the lines below it."""
    if width is None or column + cells(sentence) <= width:
        return sentence, []
    if width - column < ENOUGH:
        return "", _wrapped(f"    {sentence}", width, "    ")
    first, *others = textwrap.wrap(sentence, width - column)
    return first, [" " * column + other for other in others]


def _whole(rows: Sequence[Sequence[str]]) -> int:
    return sum(max(cells(row[column]) for row in rows) + 2 for column in range(len(rows[0]))) - 2


def _shade(row: Sequence[str]) -> str:
    ready, _, size = row[2].partition("/") if len(row) > 2 else ("", "", "")
    if row[1] in ("running", "ready") and (not size or ready == size):
        return GREEN
    return _COLOURS.get(row[1], RED if row[1].replace(" ", "_") in _TROUBLED else "")


def _wrapped(text: str, width: int | None, indent: str) -> list[str]:
    text = printable(text)
    if width is None or cells(text) <= width:
        return [text]
    return textwrap.wrap(text, max(width, len(indent) + 10), subsequent_indent=indent)


def _paint(text: str, colour: str) -> str:
    return f"{colour}{text}{RESET}" if colour and text else text


def _for(seconds: float, *, up: bool = False) -> str:
    """As people say it, in whole seconds; ``up``: what has begun counts."""
    whole = max(0, int(-(-seconds // 1) if up else seconds))
    return f"{whole} s" if whole < 60 else clock.words(whole)
