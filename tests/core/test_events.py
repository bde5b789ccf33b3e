"""Every event is a value with a stable name, a sentence for people, and JSON fields for machines."""

from __future__ import annotations

import inspect
import json
import signal
from collections.abc import Callable
from typing import Any

import pytest

from supervisor.core import events, peer_events
from supervisor.core.events import Event, Who, how_it_ended, signal_name
from supervisor.core.messages import ErrorReport, ExitStatus, Worker, WorkerSilent
from supervisor.core.reload import Changes, GroupChange
from supervisor.plan import single_host_world
from tests.stories.story import job

WHO = Who("trainer", 5, 1, 2)
SEGFAULT = ExitStatus(None, 11, True, 1024, 0.5, 0.25)

ARGUMENTS: dict[str, Any] = {
    "at": 12.5, "who": WHO, "pid": 4711, "status": SEGFAULT, "by": "itself", "ran_for": 1.5, "reason": "why not",
    "root_cause": True, "exit_code": 3, "signal": 15, "why": "because", "waited_for": 30.0, "details": "4711 D nfs",
    "processes": ("1 sh", "2 sh"), "group": "trainer", "attempt": 2, "workers": 4, "took_for": 0.25, "ready": 3,
    "size": 4, "cause": "exit", "left": 2, "pause": 1.5, "rank": 5, "restarts": 2, "version": "1.0",
    "groups": ("trainer",), "containment": "sessions", "for_": 5.0, "up_for": 60.0, "addresses": ("127.0.0.1:8080",),
    "reasons": ("group a is starting",), "stream": "stdout", "lost": 512, "into": "stdout.log",
    "stderr_tail": "last\nwords", "over": False, "process": "99 sleep",
    "hook": "page", "agents": ("127.0.0.1:8081",),
    "keys": ("memory_max", "cpu_max"), "words": "was killed by SIGKILL (out of memory)",
    "source": "probe", "output": "last\nlines",
    "mistakes": ("rankd.toml:3: groups.x: unknown key",),
    "changes": Changes((), ("log.level",), ("c",), ("d",), {"a": GroupChange(("env", "required"), ("env",))}),
    "error": ErrorReport("ValueError: no", "Traceback ...", 1795349042, "no note"),
    "evidence": "/logs/trainer/run/attempt_2/evidence_1.txt", "scope": "train.py#31", "away_for": 90.0,
    "limit": 60.0, "left_out": 3, "replaced": 2, "halted": False,
    "silent": WorkerSilent(Worker(1, 2), "heartbeat", "hangs", 9, "section", "step", 60.0),
    "world": single_host_world(job("trainer", workers=4), 3, "10.0.0.1", 29500), "round": 3, "because": "left",
    "host": "host-b", "how": "closed", "key": "/rankd/job/trainer/hosts/b", "wait": 300.0, "in_time": True,
    "returned": {"return_values": {"4": [1.5, None]}},
    "path": "/run/rankd/control.sock", "verb": "restart", "user": "root", "uid": 0,
}  # fmt: skip

PLACES: dict[str, dict[str, Any]] = {"ready": {"health_changed": False}, "who": {"daemon_undrained": "root"}}
"""Arguments of one name and several kinds."""

CONSTRUCTORS = {
    name: function
    for module in (events, peer_events)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and inspect.signature(function).return_annotation == "Event"
}


def made(name: str, **given: Any) -> Event:
    constructor: Callable[..., Event] = CONSTRUCTORS[name]
    arguments = {
        parameter: PLACES.get(parameter, {}).get(name, ARGUMENTS[parameter])
        for parameter in inspect.signature(constructor).parameters
    }
    return constructor(**(arguments | given))


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_an_event_is_named_after_its_constructor_and_can_be_written_as_json(name: str) -> None:
    event = made(name)
    others = dict.fromkeys(("orphan_reaped", "leftovers_killed"), "worker.orphan_killed") | {
        "worker_silent": "worker.heartbeat_missed", "timer_reported": "timer.expired",
        "rendezvous_changed": "rendezvous.peer_left", "rendezvous_ended": "rendezvous.closed",
        "exit_barrier_waiting": "exit_barrier.waiting", "exit_barrier_done": "exit_barrier.done",
    }  # fmt: skip
    assert event.name == others.get(name, name.replace("_", ".", 1))
    assert event.at == 12.5
    assert event.message
    assert "\n" not in event.message
    assert json.loads(json.dumps(dict(event.fields), allow_nan=False)) == event.fields
    assert event.group == (
        "trainer"
        if name.startswith(("worker", "group", "timer", "rendezvous", "exit_barrier", "control_command"))
        else None
    )


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (9, "SIGKILL"),
        (signal.SIGRTMIN, "SIGRTMIN"),
        (signal.SIGRTMIN + 3, "SIGRTMIN+3"),
        (signal.SIGRTMAX, "SIGRTMAX"),
        (32, "SIG32"),
        (77, "SIG77"),
    ],
)
def test_every_signal_has_a_name(number: int, name: str) -> None:
    assert signal_name(number) == name


def test_how_a_process_ended_is_said_in_words() -> None:
    assert how_it_ended(ExitStatus(3)) == "exited with code 3"
    assert how_it_ended(ExitStatus(None, 9)) == "was killed by SIGKILL"
    assert how_it_ended(ExitStatus(None, 11, core_dumped=True)) == "was killed by SIGSEGV (core dumped)"


def test_an_exit_has_either_a_code_or_a_signal() -> None:
    fields = made("worker_exited").fields
    assert fields["signal"] == "SIGSEGV"
    assert "exit_code" not in fields
    assert (fields["rank"], fields["local_rank"], fields["attempt"], fields["ran_for_ms"]) == (5, 1, 2, 1500.0)
    fields = made("worker_exited", status=ExitStatus(3)).fields
    assert fields["exit_code"] == 3
    assert "signal" not in fields


def test_a_failure_says_how_it_ended_or_that_it_never_ran() -> None:
    fields = made("worker_failed").fields
    assert (fields["signal"], fields["core_dumped"], fields["pid"]) == ("SIGSEGV", True, 4711)
    assert "exit_code" not in fields
    fields = made("worker_failed", status=ExitStatus(3)).fields
    assert (fields["exit_code"], fields["root_cause"], fields["reason"]) == (3, True, "why not")
    fields = made("worker_failed", status=None, pid=None, exit_code=127).fields
    assert fields["exit_code"] == 127
    assert "pid" not in fields
    assert "exit_code" not in made("worker_failed", status=None, exit_code=None).fields


def test_a_failure_has_the_last_lines_of_stderr_where_there_are_any() -> None:
    assert made("worker_failed").fields["stderr_tail"] == "last\nwords"
    assert "stderr_tail" not in made("worker_failed", stderr_tail="").fields


def test_a_failure_has_what_the_worker_wrote_about_it_as_far_as_it_did() -> None:
    words = {"error": "ValueError: no", "traceback": "Traceback ...", "error_timestamp": 1795349042}
    fields = made("worker_failed").fields
    assert {name: fields.get(name) for name in (*words, "error_note")} == words | {"error_note": "no note"}
    fields = made("worker_failed", error=ErrorReport("ValueError: no")).fields
    assert [name for name in fields if name.startswith(("error", "traceback"))] == ["error"]
    assert "error" not in made("worker_failed", error=None).fields


def test_a_success_has_what_functions_have_returned_where_there_were_any() -> None:
    assert made("group_succeeded").fields["return_values"] == {"4": [1.5, None]}
    assert made("group_succeeded", returned=None).fields == {"attempt": 2, "restarts": 2}


def test_numbers_agree_with_their_nouns() -> None:
    assert made("group_starting", workers=1).message == "group trainer starts 1 worker (attempt 2)"
    assert made("group_starting").message == "group trainer starts 4 workers (attempt 2)"
    assert made("group_succeeded", restarts=0).message == "group trainer has succeeded"
    assert made("group_succeeded", restarts=1).message == "group trainer has succeeded after 1 restart"
    assert made("group_succeeded").message == "group trainer has succeeded after 2 restarts"
    assert "left 1 process behind (1 sh)" in made("worker_orphan_killed", processes=("1 sh",)).message


def test_a_restart_says_whom_and_when_and_what_is_left() -> None:
    assert made("group_restarting").message == "rank 5 of group trainer restarts in 1.5 s (2 left): because"
    event = made("group_restarting", rank=None, pause=0.0, left=None)
    assert event.message == "group trainer restarts (no limit): because"
    assert event.fields == {
        "attempt": 2, "reason": "because", "cause": "exit", "restarts_left": None, "pause_ms": 0.0
    }  # fmt: skip


def test_of_many_processes_left_behind_a_few_are_named() -> None:
    event = made("worker_orphan_killed", processes=tuple(f"{pid} sh" for pid in range(40)))
    assert event.message.endswith("6 sh, 7 sh and 32 more): sent SIGTERM")
    assert (event.fields["count"], len(event.fields["processes"])) == (40, 32)


def test_what_cannot_be_killed_is_described_as_far_as_it_is_known() -> None:
    assert made("worker_unkillable").message == "rank 5 cannot be killed: 4711 D nfs"
    assert made("worker_unkillable", details="").message == "rank 5 cannot be killed"


def test_readiness_that_changes_says_what_it_is_now() -> None:
    assert made("health_changed").message == "not ready: group a is starting"
    assert made("health_changed", ready=True, reasons=()).message == "ready"


def test_a_file_that_takes_no_output_and_does_again() -> None:
    assert made("worker_output_dropped").message == (
        "rank 5: stdout.log takes no output, dropping it; so far 512 bytes: because"
    )
    assert made("worker_output_dropped", over=True).message == (
        "rank 5: stdout.log takes output again; dropped 512 bytes: because"
    )
