"""The health listener: GET and HEAD, answered at once from a snapshot. It waits for nobody and nothing.

Imports aiohttp, and is therefore imported only after the first workers have been started; ``listen`` has claimed the
addresses long before. One server answers on all of them.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote

from aiohttp import web

from supervisor.core import health
from supervisor.core.health import LEAVING, Answer, GroupView, Only, Snapshot
from supervisor.report.connection import FAREWELL, TEXT, USUAL, Connection, Connections, Limits, respond, text
from supervisor.report.counts import Counts
from supervisor.report.history import History
from supervisor.report.listen import BoundListener
from supervisor.report.look import Look
from supervisor.report.metrics import Metrics
from supervisor.report.page import HEADERS, render
from supervisor.report.ring import Ring
from supervisor.report.status import health_document, status
from supervisor.report.stream import EVENT_STREAM, Streams

HEALTH = "application/health+json"
HTML = "text/html; charset=utf-8"
ALLOWED = "GET, HEAD, OPTIONS"
GROUP_PREFIX = "/readyz/"
OF_GROUP = GROUP_PREFIX + "GROUP"
OF_WORKER = OF_GROUP + "/LOCAL_RANK"
EVENTS = "/events"
RETRY_AFTER = "5"
"""Seconds after which a client of a draining daemon may look again: by then it sees the successor, or nobody."""

Page = Callable[[web.BaseRequest, Snapshot], web.Response]


class HealthListener:
    """Answers on every listener it is given, until it is stopped."""

    def __init__(
        self,
        look: Look,
        counts: Counts,
        *,
        started_at: float,
        about: Mapping[str, str],
        ring: Ring,
        history: History,
        drain_status: int = 503,
        limits: Limits = USUAL,
    ) -> None:
        """``look`` is asked once a request; ``about`` (service, host, run_id) heads ``/status``.

        ``ring`` has the records for ``/events``, ``history`` what the page looks back on.
        """
        self._look = look
        self._counts = counts
        self._about = about
        self._history = history
        self._drain_status = drain_status
        self._connections = Connections(limits, self._refused)
        self._metrics = Metrics(look, counts, started_at)
        self._streams = Streams(ring)
        self._pages: dict[str, Page] = {
            "/": self._page,
            "/livez": self._livez,
            "/startupz": self._startupz,
            "/readyz": self._readyz,
            "/healthz": self._readyz,
            "/status": self._status,
            "/metrics": self._scrape,
            EVENTS: self._events,
        }
        self._web: web.Server | None = None
        self._servers: list[asyncio.Server] = []
        self._listeners: list[BoundListener] = []

    def set_drain_status(self, status: int) -> None:
        """What ``/readyz`` answers from now on where it would not answer 200."""
        self._drain_status = status

    async def start(self, listeners: Sequence[BoundListener]) -> list[str]:
        """Let clients in; returns the addresses as one can connect to them. Takes the listeners over, to close them.

        Raises ``AddressUnavailable`` if somebody else got hold of an address after all; ``stop`` is due then as well.
        """
        server = self._web = web.Server(self._answer)
        self._listeners = list(listeners)
        for listener in listeners:
            listener.listen()
        addresses = [listener.name for listener in listeners]
        for listener in listeners:
            self._servers.append(await listener.serve(lambda: Connection(server, self._connections)))
        return addresses

    async def stop(self) -> None:
        """Give the addresses back and close every connection, those with an answer under way at most a second later."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for listener in self._listeners:
            listener.close()
        self._streams.end()
        if self._web is not None:
            self._web.pre_shutdown()
            await self._web.shutdown(FAREWELL)
            self._web = None
        self._connections.abort()
        await asyncio.sleep(0)  # transports say goodbye to their protocols in the loop's next turn

    # ---- answers

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        label, page = self._find(request)
        code = 500
        try:
            response = self._respond(request, page)
            code = response.status
        finally:
            self._counts.http_requests[label, code] += 1
        if label == EVENTS and request.method == "GET" and code == 200:
            return await self._streams.serve(request)
        return response

    def _respond(self, request: web.BaseRequest, page: Page | None) -> web.Response:
        snapshot = self._look(workers=_one_worker(request) or page in {self._status, self._page})
        if page is None:
            response = text(404, f"nothing here; there are {', '.join(self._pages)}, {OF_GROUP} and {OF_WORKER}")
        elif request.method in {"GET", "HEAD"}:
            response = page(request, snapshot)
        else:
            # OPTIONS asks what GET would: it is what HAProxy's "option httpchk" sends unless told otherwise, and a
            # 204 at all times would keep a daemon in service that is not ready.
            response = page(request, snapshot) if request.method == "OPTIONS" else text(405, f"only {ALLOWED}")
            if response.status == 200:
                response = respond(204, b"", TEXT)
            response.headers["Allow"] = ALLOWED
        if snapshot.stage in LEAVING:
            response.headers["Connection"] = "close"
            response.force_close()
        elif not request.content.is_eof():
            response.force_close()  # no body is read, so nothing can follow it
        return response

    def _refused(self, status: int) -> None:
        self._counts.http_requests["other", status] += 1

    def _find(self, request: web.BaseRequest) -> tuple[str, Page | None]:
        """The page, and what it is called in metrics: a client cannot make up new names there."""
        path = request.path
        if request.method == "OPTIONS" and path in {"/", "*"}:
            path = "/readyz"  # of the server as a whole: whether it is ready
        page = self._pages.get(path)
        if page is not None:
            return path, page
        if _one_worker(request) is not None:
            return OF_WORKER, self._readyz_worker
        if path.startswith(GROUP_PREFIX) and len(path) > len(GROUP_PREFIX):
            return OF_GROUP, self._readyz_group
        return "other", None

    def _livez(self, request: web.BaseRequest, snapshot: Snapshot) -> web.Response:
        return self._health(request, snapshot, health.live(snapshot), ())

    def _startupz(self, request: web.BaseRequest, snapshot: Snapshot) -> web.Response:
        return self._health(request, snapshot, health.started(snapshot), tuple(snapshot.groups.values()))

    def _readyz(self, request: web.BaseRequest, snapshot: Snapshot) -> web.Response:
        return self._readiness(request, snapshot, health.ready(snapshot), tuple(snapshot.groups.values()))

    def _readyz_group(self, request: web.BaseRequest, snapshot: Snapshot) -> web.Response:
        name = request.path.removeprefix(GROUP_PREFIX)
        answer = health.group_ready(snapshot, name)
        if answer is None:
            return text(404, f"no such group; there are: {', '.join(snapshot.groups)}")
        return self._readiness(request, snapshot, answer, (snapshot.groups[name],))

    def _readyz_worker(self, request: web.BaseRequest, snapshot: Snapshot) -> web.Response:
        only = _one_worker(request)
        assert only is not None
        answer = health.worker_ready(snapshot, *only)
        if answer is None:
            return text(404, "no such worker")
        view = snapshot.groups[only.group]
        return self._readiness(request, snapshot, answer, (view,), leaves=view.workers[0].state == "draining")

    def _readiness(
        self, request: web.BaseRequest, snapshot: Snapshot, answer: Answer, groups: tuple[GroupView, ...], *,
        leaves: bool = False,
    ) -> web.Response:  # fmt: skip
        """``leaves``: who is asked for drains, though the daemon does not."""
        if snapshot.stage not in LEAVING and not leaves:
            return self._health(request, snapshot, answer, groups)
        response = self._health(request, snapshot, answer, groups, failing=self._drain_status)
        response.headers["Retry-After"] = RETRY_AFTER
        return response

    def _health(
        self, request: web.BaseRequest, snapshot: Snapshot, answer: Answer, groups: tuple[GroupView, ...],
        failing: int = 503,
    ) -> web.Response:  # fmt: skip
        code = 200 if answer.ok else failing
        if _wants_document(request):
            return respond(code, _json(health_document(answer, snapshot, groups)), HEALTH)
        return text(code, "ok" if answer.ok else "\n".join(answer.reasons))

    def _status(self, _request: web.BaseRequest, snapshot: Snapshot) -> web.Response:
        return respond(200, _json(status(snapshot, self._about)), "application/json")

    def _page(self, _request: web.BaseRequest, snapshot: Snapshot) -> web.Response:
        response = respond(200, render(snapshot, self._about, self._history), HTML)
        response.headers.update(HEADERS)
        return response

    def _scrape(self, request: web.BaseRequest, _snapshot: Snapshot) -> web.Response:
        body, content_type = self._metrics.exposition(request.headers.get("Accept", ""))
        return respond(200, body, content_type)

    def _events(self, _request: web.BaseRequest, _snapshot: Snapshot) -> web.Response:
        """Whether a stream can be had; what is in it comes later."""
        return text(503, "too many listen already") if self._streams.full else respond(200, b"", EVENT_STREAM)


# Not in ASCII: lone surrogates would pass as escapes that strict parsers refuse, where ``respond`` replaces them.
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _one_worker(request: web.BaseRequest) -> Only | None:
    """Whom ``/readyz/GROUP/LOCAL_RANK`` is about; None for any other path. A slash in a group's name is ``%2F``."""
    found = re.fullmatch(rf"{GROUP_PREFIX}([^/]+)/(0|[1-9][0-9]{{0,8}})", request.rel_url.raw_path)
    return Only(unquote(found[1]), int(found[2])) if found else None


def _wants_document(request: web.BaseRequest) -> bool:
    if HEALTH in request.headers.get("Accept", ""):
        return True
    return bool(request.query_string) and "verbose" in request.query
