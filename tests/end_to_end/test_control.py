"""``rankd status``, ``stop``, ``start`` and the others, with a real daemon on a real socket."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.end_to_end.configs import SLEEP, group, ladder, python, table
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import PATIENCE, ROOT, Rankd, until
from tests.end_to_end.verbs import ask, begin, socket_of

pytestmark = pytest.mark.end_to_end

NOBODY = 65534
CROWD = """
import socket, sys, time
crowd = [socket.socket(socket.AF_UNIX) for _ in range(200)]
for one in crowd:
    one.connect(sys.argv[1])
    try:
        one.send(b"G")
    except OSError:
        pass
print("all are there", flush=True)
time.sleep(1000)
"""
AS_NOBODY = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups")
needs_another_user = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="needs root and setpriv: apt-get install util-linux",
)
TWO = group("cache", SLEEP) + group("trainer", SLEEP, workers=2)
FAILS_ONCE = python("import os, sys; print('soon'); print('no model', file=sys.stderr); sys.exit(3)")


def ready(daemon: Rankd, *groups: str) -> Rankd:
    for name in groups:
        daemon.wait_for("group.ready", group=name)
    daemon.wait_for("daemon.ready")
    return daemon


def test_a_group_is_stopped_and_stays_so_while_the_others_run_until_it_is_started(rankd: Start) -> None:
    daemon = ready(rankd(TWO), "cache", "trainer")
    assert ask(daemon, "stop", "trainer", "--wait") == (0, "group trainer has stopped\n", "")
    daemon.wait_for("control.command", verb="stop", group="trainer", uid=os.geteuid())
    daemon.wait_for("group.stopped", group="trainer")
    assert ask(daemon, "stop", "trainer", "--wait")[0] == 0
    code, out, _ = ask(daemon, "status")
    assert code == 0
    assert "trainer  stopped  0/2" in out
    assert "with `rankd stop`" in out
    assert "stopped by" in daemon.until("/readyz", 503).text
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("daemon.reloaded")
    assert ask(daemon, "start", "trainer", "--wait") == (0, "group trainer is ready\n", "")
    daemon.wait_for("group.ready", group="trainer", attempt=1)
    daemon.until("/readyz", 200)
    assert not daemon.all("worker.exited", group="cache")
    assert daemon.stop() == 0


def test_a_daemon_whose_only_group_a_person_has_stopped_is_there_to_start_it_again(rankd: Start) -> None:
    daemon = ready(rankd(group("only", SLEEP)), "only")
    assert ask(daemon, "stop", "only", "--wait")[0] == 0
    assert ask(daemon, "restart", "only", "--wait") == (0, "group only is ready\n", "")
    assert daemon.stop() == 0


def test_a_restart_is_not_charged_and_is_over_when_the_new_workers_are_ready(rankd: Start) -> None:
    daemon = ready(rankd(TWO), "cache", "trainer")
    assert ask(daemon, "restart", "trainer", "--wait") == (0, "group trainer is ready\n", "")
    view = daemon.http("/status").json["groups"]["trainer"]
    assert (view["attempt"], view["restarts"], view["restarts_left"]) == (1, 0, 3)
    assert daemon.stop() == 0


def test_to_wait_for_a_group_that_fails_is_to_hear_why(rankd: Start) -> None:
    waits = {"start_timeout": "1m"}  # else it would be ready, if only for a moment
    bad = group("bad", FAILS_ONCE, required=False, restart={"max_restarts": 0}, watchdog=waits)
    daemon = rankd(group("cache", SLEEP) + bad)
    daemon.wait_for("group.failed")
    code, out, err = ask(daemon, "start", "bad", "--wait")
    assert (code, out) == (1, "")
    assert err.startswith("rankd: group bad could not be started: rank 0 exited with code 3")
    assert daemon.stop() == 0


def test_to_wait_no_longer_than_so_long(rankd: Start) -> None:
    deaf = python("import signal, sys; signal.signal(15, signal.SIG_IGN); print('up', flush=True); signal.pause()")
    daemon = rankd(group("deaf", deaf, stop=ladder("3s", "1s")))
    daemon.wait_for_line("up")
    code, _, err = ask(daemon, "stop", "deaf", "--wait", "--timeout", "100ms")
    assert code == 75
    assert err.startswith("rankd: after 0.1 s group deaf is not stopped yet, but stopping")
    assert "SIGKILL to what is left" in ask(daemon, "status")[1]
    assert daemon.stop() == 0


def test_status_says_which_rank_has_failed_and_where_its_log_is(rankd: Start) -> None:
    daemon = rankd(
        group("cache", SLEEP)
        + group("bad", FAILS_ONCE, restart={"backoff": {"initial": "50s"}})
        + group("web", SLEEP, depends_on={"bad": "succeeded"})
    )
    daemon.wait_for("group.backing_off")
    daemon.wait_for("daemon.ready")
    code, out, err = ask(daemon, "status")
    assert (code, err) == (0, "")
    assert "waits for bad to succeed" in out
    log = daemon.log("bad", 0, 0, "stderr")
    assert f"(attempt 0)\n    {log}\n" in out
    assert "\x1b" not in out
    assert ask(daemon, "logs", "bad:0", "--stream", "stderr") == (0, "no model\n", "")
    assert ask(daemon, "logs", "bad")[1] == "0 out| soon\n0 err| no model\n"
    assert "rank 0 exited with code 3" in ask(daemon, "failures", "bad")[1]
    (failure,) = map(json.loads, ask(daemon, "failures", "bad", "--json")[1].splitlines())
    assert failure["directory"] == str(log.parent)
    assert ask(daemon, "failures", "cache")[1] == "nothing has failed in group cache\n"
    told = json.loads(ask(daemon, "status", "bad", "--json")[1])
    assert list(told["groups"]) == ["bad"]
    shared = daemon.http("/status").json["groups"]["bad"]
    assert told["groups"]["bad"].keys() == shared.keys()
    assert daemon.stop() == 0


def test_what_is_watched_or_followed_is_told_as_it_happens(rankd: Start) -> None:
    daemon = ready(rankd(TWO), "cache", "trainer")
    watching = begin(daemon, "status", "--watch", "--json")
    following = begin(daemon, "events", "-f", "--json", "--since", "0")  # else: from when it has connected
    logs = begin(daemon, "logs", "trainer", "-f")
    with watching, following, logs:
        try:
            assert watching.stdout is not None
            assert following.stdout is not None
            assert json.loads(watching.stdout.readline())["groups"]["trainer"]["attempt"] == 0
            ask(daemon, "restart", "trainer", "--wait")
            for line in watching.stdout:
                if json.loads(line)["groups"]["trainer"]["attempt"] == 1:
                    break
            assert any(json.loads(line)["event"] == "control.command" for line in following.stdout)
            assert daemon.stop() == 0
            assert [one.wait(PATIENCE) for one in (watching, following, logs)] == [69, 69, 69]
            assert following.stderr is not None
            assert following.stderr.read() == "rankd: the daemon has ended\n"
        finally:
            for one in (watching, following, logs):
                one.kill()


def test_who_waits_is_told_though_no_record_is(rankd: Start) -> None:
    """``log.level`` may keep what would have told him."""
    daemon = rankd(table("log", level="warning") + table("health", listen=["127.0.0.1:0"]) + TWO)
    until(lambda: ask(daemon, "status")[0] == 0, "an answer")
    assert ask(daemon, "stop", "cache", "--wait")[0] == 0
    assert ask(daemon, "start", "cache", "--wait") == (0, "group cache is ready\n", "")
    assert daemon.stop() == 0


def test_events_are_those_after_a_number_and_end_without_follow(rankd: Start) -> None:
    daemon = ready(rankd(TWO), "cache", "trainer")
    begun = daemon.wait_for("daemon.started")["seq"]
    code, out, _ = ask(daemon, "events", "--json", "--since", str(begun))
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [one["seq"] for one in records] == sorted(one["seq"] for one in records)
    assert records[0]["seq"] > begun
    assert any(one["event"] == "group.ready" for one in records)
    assert "group trainer is ready" in ask(daemon, "events")[1]
    assert ask(daemon, "events", "--since", "999999") == (0, "", "")
    assert daemon.stop() == 0


def test_a_drained_daemon_runs_on_and_is_not_ready(rankd: Start) -> None:
    daemon = ready(rankd(TWO), "cache", "trainer")
    assert ask(daemon, "drain")[0] == 0
    assert "draining: asked by" in daemon.until("/readyz", 503).text
    assert "draining (asked by" in ask(daemon, "status")[1]
    assert not daemon.all("worker.exited")
    assert ask(daemon, "undrain")[0] == 0
    daemon.until("/readyz", 200)
    assert daemon.stop() == 0


def test_a_reload_is_answered_and_a_wrong_file_by_its_line(rankd: Start) -> None:
    daemon = ready(rankd(TWO), "cache", "trainer")
    assert ask(daemon, "reload") == (0, "reloaded\n", "")
    path = daemon.directory / "rankd.toml"
    path.write_text(f"[daemon]\nnmae = 'x'\n{TWO}")
    code, out, err = ask(daemon, "reload")
    assert (code, out) == (78, "")
    assert err.startswith(f"{path}:2: daemon.nmae: unknown key")
    assert daemon.stop() == 0


def test_a_signal_reaches_one_rank_or_all(rankd: Start) -> None:
    hears = python(
        "import signal, os\nfor n in (10, 12): signal.signal(n, lambda n, _: print('heard', n, flush=True))\n"
        "print('up', flush=True)\nwhile True: signal.pause()"
    )
    daemon = rankd(group("job", hears, workers=2))
    daemon.wait_for_line("up", count=2)
    daemon.wait_for("daemon.ready")
    assert ask(daemon, "signal", "job:1", "usr1") == (0, "group job: SIGUSR1 to rank 1\n", "")
    daemon.wait_for_line("[job1]:heard 10")
    assert ask(daemon, "signal", "job", "SIGUSR2")[1] == "group job: SIGUSR2 to ranks 0, 1\n"
    daemon.wait_for_line("heard 12", count=2)
    assert not [line for line in daemon.console if "[job0]:heard 10" in line]
    assert ask(daemon, "signal", "job:7", "usr1") == (1, "", "rankd: rank 7 of group job does not run\n")
    assert ask(daemon, "signal", "job", "usr9")[0] == 64
    assert ask(daemon, "signal", "job:0", "kill")[0] == 0
    daemon.wait_for("worker.exited", rank=0, signal="SIGKILL", by="daemon")
    assert daemon.stop() == 0


def test_who_asks_for_what_is_not_there_is_told_what_there_is(rankd: Start) -> None:
    daemon = ready(rankd(TWO), "cache", "trainer")
    for words in (["stop", "x"], ["status", "x"], ["logs", "x"], ["signal", "x", "usr1"]):
        assert ask(daemon, *words) == (64, "", "rankd: there is no group x; there are: cache, trainer\n")
    assert ask(daemon, "stop", "cache:0")[0] == 64
    assert daemon.stop() == 0


def test_where_no_daemon_is_one_sentence_says_so(rankd: Start, tmp_path: Path) -> None:
    daemon = ready(rankd(TWO), "cache")
    assert daemon.stop() == 0
    assert not socket_of(daemon).exists()
    gone = f"rankd: no daemon answers on {socket_of(daemon)}: there is no such socket\n"
    assert ask(daemon, "status") == (69, "", gone)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_of(daemon)))
    assert ask(daemon, "status")[2].endswith(": nobody listens there\n")
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "status"],
        cwd=ROOT,
        env={**os.environ, "RUNTIME_DIRECTORY": str(tmp_path / "none"), "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 69 or Path("/run/rankd/control.sock").exists()
    assert f"{tmp_path}/none/control.sock or {tmp_path}/rankd/control.sock" in done.stderr


def test_the_socket_of_a_killed_daemon_is_replaced_and_that_of_a_live_one_is_not(rankd: Start) -> None:
    first = ready(rankd(TWO), "cache")
    run = first.directory / "run"
    second = rankd(TWO, env={"RUNTIME_DIRECTORY": str(run)})
    refused = second.wait_for("control.unavailable")
    assert refused["reason"] == f"{run}/control.sock: another daemon listens there"
    assert second.stop() == 0
    assert ask(first, "status")[0] == 0
    first.signal(signal.SIGKILL)
    first.wait()
    assert socket_of(first).exists()
    third = ready(rankd(TWO, env={"RUNTIME_DIRECTORY": str(run)}), "cache")
    assert ask(first, "status")[0] == 0
    assert third.stop() == 0
    assert not socket_of(first).exists()


def test_a_socket_that_cannot_be_had_stops_nobody_from_supervising(rankd: Start) -> None:
    daemon = rankd(TWO + table("control", socket="no/such/folder/c.sock"))
    daemon.wait_for("control.unavailable")
    daemon.wait_for("group.ready", group="trainer")
    assert daemon.stop() == 0
    silent = ready(rankd(TWO + table("control", socket="")), "cache")
    assert not socket_of(silent).exists()
    assert not silent.all("control.unavailable")
    assert silent.stop() == 0


def test_the_socket_is_ours_alone(rankd: Start) -> None:
    daemon = ready(rankd(TWO), "cache")
    found = socket_of(daemon).stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, os.geteuid())
    assert daemon.stop() == 0


@needs_another_user
def test_another_user_may_ask_only_if_the_configuration_says_so(rankd: Start, open_to_all: None) -> None:
    daemon = ready(rankd(TWO + table("control", allow_users=["daemon"])), "cache", "trainer")
    assert stat.S_IMODE(socket_of(daemon).stat().st_mode) == 0o666
    for words in (["status"], ["stop", "cache"], ["events"], ["reload"]):
        code, out, err = ask(daemon, *words, through=AS_NOBODY)
        assert (code, out) == (77, "")
        assert "uid 65534 may not ask this daemon" in err
    assert not daemon.all("control.command")
    assert daemon.stop() == 0
    allowed = ready(rankd(TWO + table("control", allow_users=[NOBODY])), "cache", "trainer")
    assert ask(allowed, "restart", "cache", "--wait", through=AS_NOBODY)[0] == 0
    allowed.wait_for("control.command", verb="restart", uid=NOBODY)
    assert allowed.stop() == 0


def test_a_daemon_without_a_terminal_reloads_on_sighup_whatever_its_records_look_like(rankd: Start) -> None:
    config = table("log", format="console") + table("health", listen=["127.0.0.1:0"]) + TWO
    daemon = rankd(config, through=["sh", "-c", 'exec "$@" > /dev/null', "sh"])
    until(lambda: ask(daemon, "status")[0] == 0, "an answer")
    (daemon.directory / "rankd.toml").write_text(config + group("more", SLEEP))
    daemon.signal(signal.SIGHUP)
    until(lambda: "more" in ask(daemon, "status")[1], "the group")
    assert daemon.stop() == 0


@needs_another_user
def test_strangers_by_the_hundred_put_nobody_out(rankd: Start, open_to_all: None) -> None:
    daemon = ready(rankd(TWO + table("control", allow_users=["daemon"])), "cache", "trainer")
    following = begin(daemon, "events", "-f", "--json", "--since", "0")
    crowd = subprocess.Popen(
        [*AS_NOBODY, sys.executable, "-S", "-c", CROWD, str(socket_of(daemon))], stdout=subprocess.PIPE, text=True
    )
    with following, crowd:
        try:
            assert crowd.stdout is not None
            assert crowd.stdout.readline() == "all are there\n"
            assert ask(daemon, "stop", "cache", "--wait")[0] == 0
            assert following.stdout is not None
            assert any(json.loads(line)["event"] == "control.command" for line in following.stdout)
        finally:
            crowd.kill()
            following.kill()
    assert daemon.stop() == 0


@needs_another_user
def test_another_user_cannot_even_connect_where_nobody_is_allowed(rankd: Start, open_to_all: None) -> None:
    daemon = ready(rankd(TWO), "cache")
    code, _, err = ask(daemon, "status", through=AS_NOBODY)
    assert (code, err) == (77, f"rankd: {socket_of(daemon)}: uid {NOBODY} may not connect\n")
    assert daemon.stop() == 0


def test_garbage_and_what_never_comes_to_an_end_is_cut_off(rankd: Start) -> None:
    daemon = ready(rankd(TWO), "cache", "trainer")
    for sent, answer in (
        (b"\0\1\2\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 20_000, b"431"),
        (b"POST /groups/cache/grow HTTP/1.0\r\n\r\n", b"404"),
        (b"GET /drain HTTP/1.0\r\n\r\n", b"404"),
        (b"POST /groups/cache/signal?signal=0 HTTP/1.0\r\n\r\n", b"400"),
        (b"POST /groups/cache/signal?signal=15&rank=-1 HTTP/1.0\r\n\r\n", b"400"),
        (b"POST /groups/%2e%2e/stop HTTP/1.0\r\n\r\n", b"404"),
    ):
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(PATIENCE)
            wire.connect(str(socket_of(daemon)))
            wire.sendall(sent)
            assert wire.recv(4096).split()[1] == answer, sent[:40]
    with socket.socket(socket.AF_UNIX) as halting:
        halting.settimeout(PATIENCE)
        halting.connect(str(socket_of(daemon)))
        halting.sendall(b"GET /status")
        assert halting.recv(4096).split()[1] == b"408"
    with socket.socket(socket.AF_UNIX) as resetting:
        resetting.connect(str(socket_of(daemon)))
        resetting.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        resetting.sendall(b"GET /events HTTP/1.0\r\n\r\n")
    assert ask(daemon, "status")[0] == 0
    assert not daemon.all("worker.exited")
    assert daemon.stop() == 0


@pytest.fixture
def open_to_all(tmp_path: Path) -> None:
    """Every folder on the way to the test's own lets others pass, as /run does."""
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_uid == os.geteuid() and folder.name.startswith(("pytest", "popen", "test")):
            folder.chmod(0o711)


def test_on_a_terminal_the_watched_table_is_drawn_over_itself_and_fits(rankd: Start) -> None:
    """64 workers on a terminal of 20 lines and 60 columns, whose time passes without the daemon being asked."""
    daemon = ready(rankd(group("many", SLEEP, workers=64)), "many")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 60, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    watching = subprocess.Popen(
        [sys.executable, "-m", "supervisor", "status", "many", "--watch", "--socket", str(socket_of(daemon))],
        env=environment | {"PYTHONPATH": str(ROOT), "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    drawn = b""
    try:
        while drawn.count(b"\x1b[J") < 3:
            assert select.select([ours], [], [], PATIENCE)[0]
            drawn += os.read(ours, 1 << 16)
    finally:
        os.close(ours)
        watching.kill()
        watching.wait()
    for screen in drawn.split(b"\x1b[H")[1:3]:
        lines = re.sub(rb"\x1b\[[0-9;]*[mKJ]", b"", screen).decode().splitlines()
        assert len(lines) == 19
        assert max(map(len, lines)) <= 60
        assert lines[-1] == "... 51 more lines"
    assert b"\x1b[32mrunning" in drawn
    assert daemon.stop() == 0


def test_a_plan_says_what_a_reload_would_do_and_does_nothing(rankd: Start, tmp_path: Path) -> None:
    daemon = ready(rankd(group("a", SLEEP) + group("b", SLEEP)), "a", "b")
    text = (daemon.directory / "rankd.toml").read_text()
    other = tmp_path / "other.toml"
    other.write_text(text.replace("[groups.b]", "[groups.c]") + table("groups.a.restart", max_restarts=9))
    code, out, err = ask(daemon, "plan", str(other))
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "GROUP  WHAT        BECAUSE OF",
        "a      apply live  restart.max_restarts",
        "b      remove",
        "c      add",
    ]
    other.write_text(text + table("groups.a.env", X="1") + table("log", level="debug"))
    told = json.loads(ask(daemon, "plan", str(other), "--json")[1])
    assert told["groups"]["a"] == {"what": "restart", "keys": ["env"]}
    other.write_text(text + "[groups.a.restrat]\n")
    code, out, err = ask(daemon, "plan", str(other))
    assert (code, out) == (78, "")
    assert f"{other}:" in err
    assert "did you mean" in err
    assert not daemon.all("daemon.reloaded")
    assert not daemon.all("worker.exited")


def test_a_dump_shows_what_every_worker_does_and_harms_none(rankd: Start) -> None:
    script = "import time; print('up', flush=True); time.sleep(1000)"
    daemon = ready(rankd(group("job", python(script), workers=2)), "job")
    code, out, err = ask(daemon, "dump", "job:1")
    assert (code, err) == (0, "")
    assert "rank 1 is looked at: asked by root with `rankd dump`" in out
    assert "rank 0" in out
    assert Path(out.splitlines()[-1]).read_text() in out
    assert daemon.wait_for("worker.dumped")["rank"] == 1
    others = {Path(json.loads(ask(daemon, "dump", "job", "--json")[1])["path"]) for _ in range(2)}
    assert len(others) == 2
    assert all(path.exists() for path in others)
    assert not list(Path(out.splitlines()[-1]).parent.glob("evidence*")), "that is kept for who hangs"
    assert not daemon.all("worker.exited")
    assert ask(daemon, "dump", "job:5")[0] == 1
