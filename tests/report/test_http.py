"""What the health listener answers, over real sockets."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from supervisor import clock
from supervisor.core.health import Only, WorkerView
from supervisor.report.counts import Counts
from supervisor.report.history import History
from supervisor.report.http import HealthListener
from supervisor.report.listen import adopt
from supervisor.report.ring import Ring
from tests.report.conftest import Serve
from tests.report.views import FAILED_ONCE, Standing, group

HEALTHY = ("/livez", "/startupz", "/readyz", "/healthz", "/readyz/trainer")


@pytest.mark.parametrize("path", HEALTHY)
async def test_a_healthy_daemon_says_ok_and_that_nobody_may_keep_it(serve: Serve, path: str) -> None:
    client = await (await serve()).client()
    reply = await client.get(path)
    assert (reply.status, reply.text) == (200, "ok\n")
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["server"] == "rankd"


@pytest.mark.parametrize("path", [*HEALTHY, "/", "/status", "/metrics"])
async def test_head_is_get_without_the_body(serve: Serve, path: str) -> None:
    client = await (await serve()).client()
    head = await client.get(path, method="HEAD")
    get = await client.get(path)
    assert (head.status, head.body, get.status) == (200, b"", 200)
    assert head.headers["content-type"] == get.headers["content-type"]
    assert get.body


async def test_what_is_not_ready_says_why_a_reason_a_line(serve: Serve) -> None:
    cache = group("cache", ready=False, phase="backing_off", why="rank 0 exited with code 3")
    served = await serve(Standing(group(ready=False), cache, group("extra", ready=False, required=False)))
    client = await served.client()
    reply = await client.get("/readyz")
    assert reply.status == 503
    assert reply.text.splitlines() == [
        "group trainer is running, 0/2 workers ready: every worker has started",
        "group cache is backing_off, 0/2 workers ready: rank 0 exited with code 3",
    ]
    assert (await client.get("/startupz")).status == 503
    assert (await client.get("/readyz/extra")).status == 503
    assert (await client.get("/livez")).status == 200
    assert "connection" not in reply.headers, "not draining: the connection stays"


async def test_a_group_that_was_ready_once_has_started_up(serve: Serve) -> None:
    client = await (await serve(Standing(group(ready=False, was_ready=True)))).client()
    assert (await client.get("/startupz")).status == 200
    assert (await client.get("/readyz")).status == 503


@pytest.mark.parametrize("stage", ["draining", "stopping", "stopped"])
async def test_a_draining_daemon_is_live_and_sends_clients_away_on_every_answer(serve: Serve, stage: str) -> None:
    standing = Standing()
    served = await serve(standing)
    before = await served.client()
    assert (await before.get("/readyz")).status == 200
    standing.stage, standing.why = stage, "SIGTERM"
    for path in ("/readyz", "/healthz", "/readyz/trainer"):
        client = await served.client()
        reply = await client.get(path)
        assert (reply.status, reply.text) == (503, f"{stage}: SIGTERM\n")
        assert int(reply.headers["retry-after"]) > 0
    for path, status in (("/livez", 200), ("/startupz", 200), ("/status", 200), ("/metrics", 200), ("/no", 404)):
        client = await served.client()
        reply = await client.get(path)
        assert reply.status == status
        assert reply.headers["connection"] == "close"
        assert await client.closed() == b""
    assert (await before.get("/livez")).headers["connection"] == "close"


async def test_the_drain_status_is_for_draining_only(serve: Serve) -> None:
    standing = Standing(group(ready=False))
    client = await (await serve(standing, drain_status=404)).client()
    assert (await client.get("/readyz")).status == 503
    standing.stage = "draining"
    assert (await client.get("/readyz")).status == 404


async def test_unknown_paths_and_groups_are_404(serve: Serve) -> None:
    client = await (await serve()).client()
    for path in ("/readyz/", "/readyz/nobody", "/livez/", "/READYZ", "/..%2fetc/passwd", "/%ff%00"):
        assert (await client.get(path)).status == 404, path


async def test_a_group_may_have_any_name(serve: Serve) -> None:
    client = await (await serve(Standing(group("größe 1/2")))).client()
    assert (await client.get("/readyz/gr%C3%B6%C3%9Fe%201%2F2")).status == 200


async def test_a_balancer_asks_for_one_worker_and_only_that_one_is_looked_at(serve: Serve) -> None:
    now = clock.now()
    rows = (WorkerView(4, 0, "ready", now), WorkerView(5, 1, "starting", now, why="no answer"))
    standing = Standing(group("web", ready=False, workers=rows), group("größe 1/2"))
    client = await (await serve(standing, drain_status=404)).client()
    assert (await client.get("/readyz/web/0")).status == 200
    reply = await client.get("/readyz/web/1")
    assert (reply.status, reply.text) == (503, "rank 5 of group web is starting: no answer\n")
    assert "retry-after" not in reply.headers
    assert (await client.get("/readyz/gr%C3%B6%C3%9Fe%201%2F2/1")).status == 200
    assert standing.looks == [Only("web", 0), Only("web", 1), Only("größe 1/2", 1)]
    for path in ("web/2", "nobody/0", "web/00", "web/-1", "web/0/", "web/"):
        assert (await client.get(f"/readyz/{path}")).status == 404, path
    assert (await client.get("/readyz/web/0", method="HEAD")).status == 200
    assert (await client.get("/readyz/web/0", method="OPTIONS")).status == 204
    assert (await client.get("/readyz/web/1", method="OPTIONS")).status == 503


async def test_a_worker_that_is_drained_says_so_as_a_daemon_does_and_so_do_all_of_one_that_drains(serve: Serve) -> None:
    now = clock.now()
    rows = (WorkerView(0, 0, "draining", now, why="is being replaced"), WorkerView(1, 1, "ready", now))
    standing = Standing(group("web", workers=rows))
    client = await (await serve(standing, drain_status=404)).client()
    reply = await client.get("/readyz/web/0")
    assert (reply.status, reply.headers["retry-after"]) == (404, "5")
    assert reply.headers.get("connection") != "close"
    assert (await client.get("/readyz/web/1")).status == 200
    standing.stage, standing.why = "draining", "SIGTERM"
    reply = await client.get("/readyz/web/1")
    assert (reply.status, reply.text, reply.headers["connection"]) == (404, "draining: SIGTERM\n", "close")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE"])
async def test_other_methods_are_405_with_what_is_allowed(serve: Serve, method: str) -> None:
    client = await (await serve()).client()
    reply = await client.get("/livez", method=method)
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize("path", ["/readyz", "/", "*"])
async def test_options_asks_what_get_would_and_of_the_server_whether_it_is_ready(serve: Serve, path: str) -> None:
    standing = Standing()
    client = await (await serve(standing)).client()
    reply = await client.get(path, method="OPTIONS")
    assert (reply.status, reply.body, reply.headers["allow"]) == (204, b"", "GET, HEAD, OPTIONS")
    standing.put(group(ready=False))
    reply = await client.get(path, method="OPTIONS")
    assert (reply.status, reply.headers["allow"]) == (503, "GET, HEAD, OPTIONS")
    assert reply.text.startswith("group trainer is running")
    assert (await client.get("/livez")).status == 200, "the connection goes on"


async def test_a_stuck_core_turns_livez_red_and_nothing_else(serve: Serve) -> None:
    standing = Standing()
    client = await (await serve(standing)).client()
    standing.behind = 6.0
    reply = await client.get("/livez")
    assert (reply.status, reply.text) == (503, "the core is stuck: it is 6.0 s behind\n")
    for path in ("/startupz", "/readyz", "/healthz", "/readyz/trainer", "/status", "/metrics"):
        assert (await client.get(path)).status == 200, path


async def test_http_1_0_without_host_is_answered_and_closed(serve: Serve) -> None:
    client = await (await serve()).client()
    client.send(b"GET /readyz HTTP/1.0\r\n\r\n")
    assert (await client.reply()).text == "ok\n"
    assert await client.closed() == b""


async def test_requests_sent_at_once_are_answered_in_order(serve: Serve) -> None:
    client = await (await serve()).client()
    client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: here\r\n\r\n" % number for number in range(100)))
    client.send(b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n")
    assert [(await client.reply()).status for _ in range(101)] == [404] * 100 + [200]


@pytest.mark.parametrize(("path", "accept"), [("/readyz?verbose", "*/*"), ("/readyz", "application/health+json")])
async def test_the_long_answer_has_a_check_for_each_group(serve: Serve, path: str, accept: str) -> None:
    standing = Standing(group(), group("extra", ready=False, required=False, phase="backing_off"))
    client = await (await serve(standing)).client()
    reply = await client.get(path, Accept=accept)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/health+json")
    assert reply.json["status"] == "warn"
    checks = reply.json["checks"]
    assert checks["trainer:ready_workers"][0]["status"] == "pass"
    assert checks["trainer:ready_workers"][0]["observedValue"] == 2
    assert checks["extra:ready_workers"][0]["status"] == "warn"
    standing.put(group(ready=False))
    reply = await client.get(path, Accept=accept)
    assert (reply.status, reply.json["status"]) == (503, "fail")
    assert reply.json["output"].startswith("group trainer is running, 0/2")


async def test_the_long_answer_of_one_group_is_about_it_alone(serve: Serve) -> None:
    client = await (await serve(Standing(group(), group("extra", ready=False)))).client()
    reply = await client.get("/readyz/trainer?verbose")
    assert (reply.json["status"], list(reply.json["checks"])) == ("pass", ["trainer:ready_workers"])
    assert (await client.get("/livez?verbose")).json["status"] == "pass"


async def test_status_tells_groups_workers_and_what_comes_next(serve: Serve) -> None:
    standing = Standing(group(ready=False, phase="backing_off", why="rank 1 exited", last_failure=FAILED_ONCE))
    now = standing().at
    standing.put(group("cache", next="starts attempt 1", next_at=now + 60, restarts_left=None))
    client = await (await serve(standing)).client()
    reply = await client.get("/status")
    assert reply.headers["content-type"] == "application/json"
    told = reply.json
    assert (told["service"], told["host"], told["run_id"], told["stage"]) == ("rankd", "host-a", "job-42", "running")
    assert (told["ready"], told["started"]) == (False, False)
    assert len(told["reasons"]) == 2
    trainer, cache = told["groups"]["trainer"], told["groups"]["cache"]
    assert (trainer["phase"], trainer["why"], trainer["next"]) == ("backing_off", "rank 1 exited", None)
    assert (trainer["last_failure"]["rank"], trainer["last_failure"]["exit_code"]) == (1, 3)
    assert (cache["next"], cache["restarts_left"]) == ("starts attempt 1", None)
    assert 55 < cache["next_in_s"] <= 60
    assert cache["next_at"].endswith("Z")
    (first, second) = cache["workers"]
    assert (first["rank"], first["state"], first["pid"], first["attempt"]) == (0, "ready", 1000, 0)
    assert second["since"] < told["time"]


async def test_probes_do_not_look_at_single_workers(serve: Serve) -> None:
    standing = Standing()
    client = await (await serve(standing)).client()
    await client.get("/readyz")
    await client.get("/livez")
    assert standing.looks == [False, False]
    await client.get("/status")
    assert standing.looks == [False, False, True]


async def test_text_that_is_no_text_does_not_break_an_answer(serve: Serve) -> None:
    client = await (await serve(Standing(group(ready=False, why="no such file: caf\udce9")))).client()
    assert (await client.get("/readyz")).text.endswith("no such file: caf?\n")
    assert (await client.get("/status")).json["groups"]["trainer"]["why"] == "no such file: caf?"


async def test_a_page_that_raises_is_a_500_that_is_counted_and_told(serve: Serve) -> None:
    class Broken(Standing):
        broken = True

        def __call__(self, *, workers: bool | Only = True):  # type: ignore[no-untyped-def]
            if self.broken:
                raise ZeroDivisionError
            return super().__call__(workers=workers)

    standing = Broken()
    served = await serve(standing)
    client = await served.client()
    reply = await client.get("/readyz")
    assert (reply.status, reply.text) == (500, "internal server error\n")
    assert isinstance(served.bugs.pop()["exception"], ZeroDivisionError)
    standing.broken = False
    assert (await (await served.client()).get("/readyz")).status == 200
    assert served.counts.http_requests == {("/readyz", 500): 1, ("/readyz", 200): 1}


async def test_requests_are_counted_under_names_that_clients_cannot_make_up(serve: Serve) -> None:
    served = await serve()
    client = await served.client()
    for path in ("/livez", "/livez?x=1", "/readyz/trainer", "/readyz/made-up", "/made-up", "/made-up-too"):
        await client.get(path)
    client.send(b"NONSENSE\r\n\r\n")
    assert (await client.reply()).status == 400
    assert served.counts.http_requests == {
        ("/livez", 200): 2,
        ("/readyz/GROUP", 200): 1,
        ("/readyz/GROUP", 404): 1,
        ("other", 404): 2,
        ("other", 400): 1,
    }


async def test_one_listener_answers_on_several_addresses(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "health.sock"
    served = await serve(listen=["127.0.0.1:0", "127.0.0.2:0", f"unix:{path}"])
    assert served.addresses[2] == f"unix:{path}"
    assert served.addresses[0].startswith("127.0.0.1:")
    assert served.addresses[0] != "127.0.0.1:0"
    for address in served.addresses:
        assert (await (await served.client(address)).get("/livez")).status == 200
    await served.stop()
    assert not path.exists()


@pytest.mark.skipif(not socket.has_ipv6, reason="needs an IPv6 loopback: enable net.ipv6 on this machine")
async def test_ipv6_is_written_in_brackets(serve: Serve) -> None:
    served = await serve(listen=["[::1]:0"])
    assert served.addresses[0].startswith("[::1]:")
    assert (await (await served.client()).get("/livez")).status == 200


async def test_a_socket_that_was_passed_in_is_used(serve: Serve) -> None:
    passed = socket.create_server(("127.0.0.1", 0))
    served = await serve(listeners=adopt([passed]))
    assert served.addresses == [f"127.0.0.1:{passed.getsockname()[1]}"]
    assert (await (await served.client()).get("/livez")).status == 200


async def test_stop_closes_idle_connections_and_refuses_new_ones(serve: Serve) -> None:
    served = await serve()
    idle, half = await served.client(), await served.client()
    assert (await idle.get("/livez")).status == 200
    half.send(b"GET /livez HT")
    await served.stop()
    assert await idle.closed() == b""
    assert await half.closed() == b""
    with pytest.raises(ConnectionRefusedError):
        await served.client()


async def test_a_listener_that_never_started_can_be_stopped() -> None:
    await HealthListener(
        Standing(), Counts(), started_at=0.0, about={}, ring=Ring(lambda *_: b""), history=History()
    ).stop()
