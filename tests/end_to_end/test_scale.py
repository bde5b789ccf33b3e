"""``rankd scale``: more workers and fewer, of a gang and of a service, and nothing else that the file says by now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.configs import SLEEP, group, table
from tests.end_to_end.conftest import Start
from tests.end_to_end.verbs import ask, pids

pytestmark = pytest.mark.end_to_end

SERVES = {"scope": "worker", "policy": "always"}


def test_a_service_gets_more_workers_and_fewer_beside_those_that_serve_on(rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP, workers=2, restart=SERVES))
    daemon.wait_for("group.ready")
    before = pids(daemon)
    assert ask(daemon, "scale", "job", "4", "--wait") == (0, "group job is ready\n", "")
    more = pids(daemon)
    assert len(more) == 4
    assert more.items() > before.items()
    assert daemon.wait_for("control.command")["details"] == "to 4"
    assert ask(daemon, "scale", "job", "1", "--wait")[0] == 0
    assert pids(daemon) == {0: before[0]}


def test_a_gang_starts_again_with_a_world_of_that_size_and_it_is_not_charged(rankd: Start) -> None:
    daemon = rankd(group("job", ["sh", "-c", "echo $WORLD_SIZE; exec sleep 1000"], workers=2))
    daemon.wait_for("group.ready")
    assert ask(daemon, "scale", "job", "3", "--wait") == (0, "group job is ready\n", "")
    assert [daemon.log("job", 1, rank).read_text() for rank in range(3)] == ["3\n"] * 3
    assert json.loads(ask(daemon, "status", "--json")[1])["groups"]["job"]["restarts"] == 0


def test_the_next_reload_goes_by_the_file_again(rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP, workers=1, restart=SERVES))
    daemon.wait_for("group.ready")
    assert ask(daemon, "scale", "job", "2", "--wait")[0] == 0
    assert "workers" in ask(daemon, "plan", str(daemon.directory / "rankd.toml"))[1]
    assert ask(daemon, "reload")[0] == 0
    daemon.wait_for("group.rolling", over=True, count=2)
    assert len(pids(daemon)) == 1


def test_what_else_has_been_written_into_the_file_does_not_come_along(rankd: Start) -> None:
    text = group("job", SLEEP, workers=1, restart=SERVES)
    daemon = rankd(text)
    daemon.wait_for("group.ready")
    file: Path = daemon.directory / "rankd.toml"
    file.write_text(file.read_text().replace("workers = 1", "workers = 1\nrequired = false"))
    code, out, err = ask(daemon, "scale", "job", "2")
    assert (code, out) == (78, "")
    assert f"not scaled: {file} has other changes (rankd plan shows them): reload it first" in err
    assert len(pids(daemon)) == 1
    assert ask(daemon, "reload")[0] == 0
    assert ask(daemon, "scale", "job", "2", "--wait")[0] == 0


def test_a_number_for_which_there_is_no_room_is_refused_by_the_line_that_says_so(rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP, workers=2, ports="9000-9002", restart=SERVES) + table("health", listen=[]))
    daemon.wait_for("group.ready")
    code, _, err = ask(daemon, "scale", "job", "4")
    assert code == 78
    assert "rankd.toml:" in err
    assert "has 3 ports for 4 workers" in err
    assert ask(daemon, "scale", "job", "none")[0] == 64
    assert ask(daemon, "scale", "nobody", "1")[0] == 64


def test_a_stopped_group_has_that_many_when_it_is_started(rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP, workers=1) + group("other", SLEEP))
    daemon.wait_for("group.ready", group="job")
    assert ask(daemon, "stop", "job", "--wait")[0] == 0
    code, out, _ = ask(daemon, "scale", "job", "2", "--wait")
    assert (code, out) == (0, "group job is not running, and has 2 workers when it is started\n")
    assert ask(daemon, "start", "job", "--wait")[0] == 0
    assert len(pids(daemon)) == 2
