"""``/``: how everything stands, as one HTML page for people.

The whole of it is written here, so that it says the same without JavaScript; the script only fetches it again when
``/events`` has news, and counts seconds. What workers and users have named stands in it escaped, and a policy (CSP
level 3) lets nothing but the page's own style and script have an effect.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files

from supervisor import __version__, clock
from supervisor.core import health
from supervisor.core.health import LEAVING, GroupView, RendezvousView, Snapshot, WorkerView
from supervisor.report.history import History
from supervisor.report.page.timeline import moment, strip

_STYLE = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
_SCRIPT = files(__package__).joinpath("page.js").read_text(encoding="utf-8")

TROUBLES = 12
"""Workers that are told of one by one; then they are counted."""

PAST = frozenset({"failed", "exited"})
BAD = PAST | {"unready", "uninterruptible", "unkillable", "backing_off"}
"""States that need a word. What is starting, or was stopped with its group, is seen in the grid."""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            f"style-src {_hash(_STYLE)}",
            f"script-src {_hash(_SCRIPT)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def render(snapshot: Snapshot, about: Mapping[str, str], history: History) -> str:
    """The page. ``about`` says whose it is (service, host, run_id)."""
    verdict, _ = _verdict(snapshot)
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(verdict)}: {escape(about['service'])} on {escape(about['host'])}</title>"
        '<link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style>"
        '<noscript><meta http-equiv="refresh" content="5"></noscript></head>\n'
        f'<body>{"".join(_main(snapshot, about, history))}<p id="contact" role="status" hidden></p>'
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def _verdict(snapshot: Snapshot) -> tuple[str, str]:
    """In two words, and what colour that is."""
    if snapshot.stage in LEAVING:
        return snapshot.stage, "leaving"
    if health.ready(snapshot).ok:
        return "ready", "ready"
    if all(view.succeeded for view in snapshot.groups.values() if view.required):
        return "done", "ready"
    return "not ready", "failed"


def _main(snapshot: Snapshot, about: Mapping[str, str], history: History) -> Iterator[str]:
    verdict, colour = _verdict(snapshot)
    yield f'<main data-now="{clock.rfc3339(snapshot.at)}"><header>'
    yield f'<p class="verdict {colour}">{escape(verdict)}</p>'
    yield f"<h1>{escape(about['service'])} <small>on {escape(about['host'])}</small></h1>"
    reasons = [*health.live(snapshot).reasons, *health.ready(snapshot).reasons]
    if reasons:
        yield f'<ul class="reasons">{"".join(f"<li>{_words(reason)}</li>" for reason in reasons)}</ul>'
    yield "</header>"
    for view in snapshot.groups.values():
        yield from _group(view, snapshot.at, history)
    yield (
        f"<footer>run {_words(about['run_id'])} · rankd {__version__} · as of {moment(snapshot.at)} · "
        '<a href="/status">status</a> <a href="/metrics">metrics</a> <a href="/events">events</a></footer></main>'
    )


def _group(view: GroupView, now: float, history: History) -> Iterator[str]:
    name = escape(view.name)
    yield f'<section id="group-{name}" aria-labelledby="name-{name}">'
    yield f'<h2 id="name-{name}">{name} <span class="phase {_colour(view)}">{escape(_phase(view))}</span></h2>'
    yield f'<p class="why">{_words(_sentence(view.why))}</p>' if view.why else ""
    if view.next:
        when = f" {_relative(view.next_at, now, 'in')}" if view.next_at is not None else ""
        yield f'<p class="next"><b>Next:</b> {_words(view.next)}{when}</p>'
    yield f"<dl>{''.join(_facts(view, now))}</dl>"
    yield from _workers(view, now)
    yield from _hosts(view.name, view.rendezvous) if view.rendezvous is not None else ()
    yield from strip(view.name, history.stretches(view.name), history.causes(view.name), now)
    yield from _causes(view.name, history, now)
    yield "</section>"


def _phase(view: GroupView) -> str:
    if view.succeeded:
        return "succeeded"
    if view.phase == "finished":
        return "failed" if view.failed else "stopped"
    if view.phase == "running" and not view.ready:
        return "running, not ready"
    return view.phase.replace("_", " ")


def _colour(view: GroupView) -> str:
    if view.succeeded or view.ready:
        return "ready"
    if view.phase in {"finished", "stopping"}:
        return "failed" if _phase(view) == "failed" else view.phase
    return "starting"


def _facts(view: GroupView, now: float) -> Iterator[str]:
    left = "" if view.restarts_left is None else f" <small>{view.restarts_left} left</small>"
    for name, value in (
        ("ready", f"{view.ready_workers}/{view.size}"),
        ("attempt", str(view.attempt) if view.attempt >= 0 else "none yet"),
        ("restarts", f"{view.restarts}{left}"),
        ("for", _relative(view.since, now, "")),
        ("required", "" if view.required else "no"),
        *(_meeting(view.hosts, view.rendezvous, now) if view.rendezvous is not None else ()),
    ):
        if value:
            yield f"<div><dt>{name}</dt><dd>{value}</dd></div>"


def _meeting(hosts: int, view: RendezvousView, now: float) -> Iterator[tuple[str, str]]:
    for_ = "" if view.waiting_since is None else f" <small>for {_relative(view.waiting_since, now, '')}</small>"
    yield "this host", f"{view.state}{for_}"
    yield "round", f"{view.round} <small>{view.phase}</small>" if view.round else "none yet"
    least = "" if view.min_hosts == view.max_hosts else f"{view.min_hosts} to "
    yield "hosts", f"{hosts} <small>of {least}{view.max_hosts}</small>"
    yield "leader", _words(view.leader)


def _hosts(group: str, view: RendezvousView) -> Iterator[str]:
    """All hosts of the job, where they are known: on the one that leads."""
    hosts, states = view.listed, view.states
    if hosts is None or states is None:
        return
    counts = ", ".join(f"{number} {state}" for state, number in states.items())
    yield f'<details id="hosts-{escape(group)}"><summary>All hosts: {counts}</summary><div class="wide"><table>'
    yield "<thead><tr><th>host<th>state<th>address<th>workers<th>first rank</thead><tbody>"
    for host in hosts:
        first = "" if host.base_rank is None else host.base_rank
        yield f"<tr><td>{_words(host.name)}<td>{host.state}<td>{_words(host.addr)}<td>{host.workers or ''}<td>{first}"
    yield "</tbody></table></div></details>"


def _workers(view: GroupView, now: float) -> Iterator[str]:
    """A cell a rank; those that are not as they should be in words; all of them on request."""
    yield f'<ol class="ranks" aria-label="ranks of {escape(view.name)}">'
    for worker in view.workers:
        state = escape(worker.state)
        title = f"rank {worker.rank}: {state.replace('_', ' ')}"
        yield f'<li class="{state}" title="{title}">{worker.rank}<span> {state}</span></li>'
    yield "</ol>"
    bad = [worker for worker in view.workers if worker.state in BAD or worker.why]
    if bad:
        yield '<ul class="troubles">'
        for worker in bad[:TROUBLES]:
            state, why = worker.state.replace("_", " "), _words(worker.why or worker.exit)
            past = worker.state in PAST
            since = _relative(worker.since, now, "ago") if past else f"for {_relative(worker.since, now, '')}"
            yield f"<li><b>rank {worker.rank}</b> {escape(state)} {since}{': ' if why else ''}{why}</li>"
        if len(bad) > TROUBLES:
            yield f"<li>and {len(bad) - TROUBLES} more</li>"
        yield "</ul>"
    yield (
        f'<details id="all-{escape(view.name)}"><summary>All ranks ({view.size})</summary><div class="wide"><table>'
        "<thead><tr><th>rank<th>state<th>for<th>pid<th>attempt<th>says</thead><tbody>"
    )
    for worker in view.workers:
        yield (
            f"<tr><td>{worker.rank}<td>{escape(worker.state)}<td>{_relative(worker.since, now, '')}"
            f"<td>{worker.pid or ''}<td>{worker.attempt if worker.attempt >= 0 else ''}<td>{_said(worker, now)}"
        )
    yield "</tbody></table></div></details>"


def _said(worker: WorkerView, now: float) -> str:
    """What the worker says of itself, and how its last process ended."""
    parts = [
        f"step {worker.progress}" if worker.progress is not None else "",
        _words(worker.status),
        *(f"in {_words(name)} for {_relative(since, now, '')}" for name, since in worker.sections),
        _words(worker.exit),
    ]
    return ", ".join(filter(None, parts))


def _causes(group: str, history: History, now: float) -> Iterator[str]:
    causes = history.causes(group)
    if not causes:
        return
    name = escape(group)
    yield f'<h3 id="causes-{name}">Failures</h3><div class="wide"><table aria-labelledby="causes-{name}">'
    yield "<thead><tr><th>when<th>attempt<th>rank<th>root cause</thead><tbody>"
    for cause in causes:
        rank = cause.rank if cause.rank >= 0 else ""
        yield (
            f"<tr><td>{_relative(cause.at, now, 'ago')}<td>{cause.attempt}<td>{rank}"
            f'<td class="reason">{_words(_sentence(cause.reason))}'
        )
    yield "</tbody></table></div>"


def _relative(at: float, now: float, how: str) -> str:
    """How long ago, or until then, for the script to keep right: ``how`` is "ago", "in", or "" for a duration."""
    words = clock.words(max(0.0, at - now if how == "in" else now - at))
    shown = f"in {words}" if how == "in" else f"{words} ago" if how == "ago" else words
    return f'<time datetime="{clock.rfc3339(at)}" data-how="{how}">{shown}</time>'


def _words(text: str) -> str:
    """Somebody else's words: whatever direction they are written in, it is theirs alone."""
    return f"<bdi>{escape(text)}</bdi>" if text else ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
