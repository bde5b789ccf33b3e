"""The post-mortem of a group that has given up: root cause first, then other failures, then whom we stopped."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from supervisor.core import events, failure
from supervisor.core.events import Event, Who
from supervisor.core.messages import ErrorReport, ExitStatus
from supervisor.plan import Backoff, LogRules, Places, RendezvousRules, RestartRules, Streams
from tests.stories.story import (
    Story,
    asked_to_stop,
    due,
    exited,
    formed,
    gone,
    job,
    job_ended,
    killed,
    met,
    not_started,
    refused,
    running,
    started,
    up,
)

ONCE = RestartRules(max_restarts=0)
ERROR = ErrorReport("RuntimeError: boom", "Traceback (most recent call last):\n  boom\nRuntimeError: boom", 7)


class Told(Story):
    """A story that remembers its failures as ``report.failures`` does."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.roots: list[Event] = []
        self.others: list[Event] = []

    def happen(self, at: float, what: Any) -> None:
        super().happen(at, what)
        for event in self.said:
            if event.name == "worker.failed":
                if event.fields["root_cause"]:
                    self.roots.append(event)
                    self.others.clear()
                else:
                    self.others.append(event)

    def then(self, *happenings: Any) -> Told:
        for what in happenings:
            self.happen(self.now + 1.0, what)
        return self

    @property
    def lines(self) -> list[str]:
        return failure.post_mortem(
            self.group, self.roots, self.others, host="host-a", directory="/logs/job/run", date=lambda at: f"@{at:g}"
        )


def runs(workers: int, restart: RestartRules = ONCE) -> Told:
    story = Told(job(workers=workers, restart=restart))
    story.runs()
    return story


def of(story: Told, root: Event) -> str:
    """The post-mortem of that story, had its root cause been told so."""
    story.roots[-1] = root
    return "\n".join(story.lines)


def ended(restart: RestartRules = ONCE) -> Told:
    return runs(1, restart).then(exited(0, 1), gone(0))


def told(status: ExitStatus | None = None, **more: Any) -> Event:
    """Rank 0's failure, with what else is known of it."""
    code = more.pop("exit_code", status.code if status else None)
    event = events.worker_failed(
        5.0, Who("job", 0, 0, 0), more.pop("reason", "ended"), root_cause=True, pid=more.pop("pid", 4711),
        status=status, exit_code=code, error=more.pop("error", None),
    )  # fmt: skip
    return Event(event.name, event.level, event.at, event.message, event.group, {**event.fields, **more})


def sections(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if line.endswith(":") and not line.startswith(" ")]


def test_everything_that_is_known_is_told_the_root_cause_first() -> None:
    """Of four, rank 1 fails; rank 2 had failed too before it was stopped; 0 and 3 are stopped."""
    story = runs(4).then(
        exited(1, 3, error=ERROR), exited(2, 4, unasked=True), killed(0, signal.SIGTERM), exited(3, 1),
        gone(0), gone(1), gone(2), gone(3),
    )  # fmt: skip
    assert story.over()
    assert story.lines == [
        "=" * 72,
        "group job FAILED: rank 1 exited with code 3 after 1.0 s; not restarted: max_restarts is 0",
        "-" * 72,
        "Root cause (first failure of attempt 0):",
        "  rank      : 1 (local rank 1) on host-a (pid 1001)",
        "  time      : @1.001",
        "  reason    : exited with code 3 after 1.0 s",
        "  error     : RuntimeError: boom",
        "  traceback :",
        "    Traceback (most recent call last):",
        "      boom",
        "    RuntimeError: boom",
        "  logs      : /logs/job/run/attempt_0/1/{stdout.log,stderr.log,error.json}",
        "-" * 72,
        "Other failures:",
        "  attempt 0, rank 2: exited with code 4 after 2.0 s",
        "-" * 72,
        "Stopped by rankd, no failures of their own:",
        "  ranks 0, 3",
        "=" * 72,
    ]


def test_the_attempts_before_are_told_in_a_line_each() -> None:
    story = runs(1, RestartRules(max_restarts=1, backoff=Backoff(0.0, jitter=0.0)))
    story.then(exited(0, 3, error=ERROR), gone(0), formed(), started(0), exited(0, 4), gone(0))
    assert sections(story.lines) == ["Root cause (first failure of attempt 1):", "Root causes of earlier attempts:"]
    assert "  attempt 0, rank 0: exited with code 3 after 1.0 s: RuntimeError: boom" in story.lines


def test_of_many_attempts_the_last_ones_are_told() -> None:
    story = runs(1, RestartRules(max_restarts=12, backoff=Backoff(0.0, jitter=0.0)))
    for _ in range(12):
        story.then(exited(0, 3), gone(0), formed(), started(0))
    lines = story.then(exited(0, 3), gone(0)).lines
    assert "  ... 4 before these" in lines
    shown = [line.partition(",")[0] for line in lines if line.startswith("  attempt ")]
    assert shown == [f"  attempt {number}" for number in range(4, 12)]


def test_of_many_other_failures_the_first_ones_are_told() -> None:
    story = runs(11).then(exited(0, 1), *[exited(rank, 1, unasked=True) for rank in range(1, 11)])
    lines = story.then(*[gone(rank) for rank in range(11)]).lines
    shown = [line.partition(":")[0] for line in lines if line.startswith("  attempt ")]
    assert shown == [f"  attempt 0, rank {rank}" for rank in range(1, 9)]
    assert "  ... and 2 more" in lines


def test_who_was_stopped_is_named_in_runs() -> None:
    story = runs(8).then(exited(3, 1), *[killed(rank, signal.SIGTERM) for rank in (0, 1, 2, 4, 6, 7)])
    story.then(exited(5, 1, unasked=True), *[gone(rank) for rank in range(8)])
    assert "  ranks 0-2, 4, 6-7" in story.lines
    story = runs(2).then(exited(0, 1), killed(1, signal.SIGTERM), gone(0), gone(1))
    assert "  rank 1" in story.lines


def test_a_signal_comes_with_what_is_most_often_behind_it() -> None:
    text = of(ended(), told(ExitStatus(None, 11, core_dumped=True), reason="was killed by SIGSEGV (core dumped)"))
    assert "  reason    : was killed by SIGSEGV (core dumped)" in text
    assert "  hint      : an invalid memory access in native code" in text
    assert "hint" not in of(ended(), told(ExitStatus(None, 64)))
    proved = told(ExitStatus(None, 9), reason="was killed by SIGKILL (out of memory)")
    assert "hint" not in of(ended(), proved), "nothing has to be guessed"
    for by in ("probe", "timer", "heartbeat"):
        assert "hint" not in of(ended(), told(ExitStatus(None, signal.SIGTERM), by=by)), "the signal was our own"


def test_an_exit_code_that_a_shell_made_of_a_signal_is_explained() -> None:
    text = of(ended(), told(ExitStatus(137)))
    assert "  hint      : 128 + 9: a shell says so when a signal has ended what it ran" in text


def test_a_worker_that_leaves_no_word_is_told_how_it_could() -> None:
    hint = "supervisor.worker.record"
    assert hint in of(ended(), told(ExitStatus(1)))
    for more in ({"error": ERROR}, {"stderr_tail": "oh no"}):
        assert hint not in of(ended(), told(ExitStatus(1), **more))
    assert hint not in of(ended(), told(exit_code=127, pid=None)), "it never ran"


def test_a_function_that_exits_is_not_told_to_be_decorated() -> None:
    story = ended()
    calls = story.group._replace(plan=replace(story.group.plan, returns=True))
    story.state = story.state._replace(groups={"job": calls})
    assert "decorate" not in of(story, told(ExitStatus(4)))


def test_the_last_lines_of_stderr_are_shown_when_there_are_any() -> None:
    text = of(ended(), told(ExitStatus(1), stderr_tail="\n".join(map(str, range(30)))))
    assert "  stderr    : (the last 20 of 30 lines)\n    10\n" in text
    assert "    29\n" in text
    assert "    9\n" not in text


@pytest.mark.parametrize(
    ("stderr", "shown"),
    [
        ("Traceback (most recent call last):\n  main()\n  boom\nRuntimeError: boom", []),
        ("  boom\nRuntimeError: boom", []),
        ("loading\nTraceback (most recent call last):\n  boom\nRuntimeError: boom\nbye", ["loading", "bye"]),
        ("Traceback (most recent call last):\n  caught\nTraceback (most recent call last):\nRuntimeError: boom",
         ["Traceback (most recent call last):", "  caught"]),
        ("another word\nof it", ["another word", "of it"]),
    ],
)  # fmt: skip
def test_a_traceback_is_not_shown_twice(stderr: str, shown: list[str]) -> None:
    lines = of(ended(), told(ExitStatus(1), error=ERROR, stderr_tail=stderr)).splitlines()
    assert lines.count("    RuntimeError: boom") == 1
    if shown:
        at = lines.index("  stderr    :")
        assert lines[at + 1 : at + 1 + len(shown)] == [f"    {line}" for line in shown]
    else:
        assert not any(line.startswith("  stderr") for line in lines)


def test_what_is_wrong_with_the_error_file_is_shown() -> None:
    text = of(ended(), told(ExitStatus(1), error=ErrorReport(note="the error file is not used: it is empty")))
    assert "  note      : the error file is not used: it is empty" in text
    assert "error.json}" in text


def test_only_files_that_there_are_are_named() -> None:
    """Where there is none, no directory either: a launch removes what is empty."""
    story = ended()
    for streams, error, named in (
        (0, None, []),
        (1, None, ["  logs      : /d/attempt_0/0/stdout.log"]),
        (2, None, ["  logs      : /d/attempt_0/0/stderr.log"]),
        (0, ERROR, ["  logs      : /d/attempt_0/0/error.json"]),
    ):
        logs = LogRules("/logs", tee=Streams(0), redirects=Streams(streams))
        group = story.group._replace(plan=replace(story.group.plan, logs=logs))
        lines = failure.post_mortem(group, [told(ExitStatus(1), error=error)], [], host="h", directory="/d", date=str)
        assert [line for line in lines if line.startswith("  logs")] == named


def test_files_that_somebody_else_has_placed_are_named_where_they_are() -> None:
    group = ended().group
    for places, error, end in (
        (Places("/a/out", "/a/err"), ERROR, "/a/out, /a/err"),
        (Places("/a/both", "/a/both", error_file="/a/error"), ERROR, "/a/both, /a/error"),
        (Places("/a/out", "", error_file="/a/error"), None, "/a/out"),
        (Places("", "/dev/null"), None, ""),
    ):
        root = told(ExitStatus(1), error=error)
        lines = failure.post_mortem(
            group, [root], [], host="h", directory="/d", date=str, places={failure.who(root): places}.get
        )
        assert [line for line in lines if line.startswith("  logs")] == ([f"  logs      : {end}"] if end else [])


def test_a_worker_that_never_ran_is_a_root_cause_without_pid_and_logs() -> None:
    story = Told(job(restart=ONCE))
    story.then(up(), formed(), not_started(0, "permanent", "command not found: 'x'", 127))
    text = "\n".join(story.lines)
    assert "  rank      : 0 (local rank 0) on host-a\n" in text
    assert "  reason    : command not found: 'x'" in text
    assert "logs" not in text


def test_a_group_with_scope_worker_names_the_rank_that_used_up_the_budget() -> None:
    story = runs(2, RestartRules(scope="worker", max_restarts=1, backoff=Backoff(0.0, jitter=0.0)))
    story.then(exited(0, 3), gone(0), started(0), exited(1, 4), killed(0, signal.SIGTERM), gone(0), gone(1))
    assert "Root cause (first failure of attempt 0):" in story.lines
    assert "  rank      : 1 (local rank 1) on host-a (pid 1001)" in story.lines
    assert "  attempt 0, rank 0: exited with code 3 after 1.0 s" in story.lines


def test_in_a_shared_world_the_verdict_finds_the_group_waiting_for_the_next_one() -> None:
    """It does not decide alone: its last worker is gone and its next attempt begun before the job's end is told."""
    shared = Told(job(rendezvous=RendezvousRules("etcd", 2, min_hosts=2), restart=ONCE))
    shared.then(up(), met(1), started(0), exited(0, 3), gone(0))
    assert shared.group.attempt == 1
    assert shared.group.failure is not None
    shared.then(job_ended(f"{shared.group.failure.reason} (host h2)", 3))
    assert "Root cause (first failure of attempt 0):" in shared.lines
    assert "  reason    : exited with code 3 after 1.0 s" in shared.lines


def test_of_a_failure_on_another_host_there_is_nothing_to_tell() -> None:
    shared = Told(job(rendezvous=RendezvousRules("etcd", 2, min_hosts=2), restart=ONCE))
    shared.then(up(), met(1), started(0), exited(0, 3), gone(0), job_ended("rank 0 exited with code 9 (host h1)", 9))
    assert shared.lines == []


def test_where_no_worker_is_to_blame_there_is_nothing_to_tell() -> None:
    """No port; processes that cannot be killed; a stop after a restart that was for something else."""
    story = Told(job(restart=ONCE))
    assert story.then(up(), refused("no port")).lines == []
    once_more = RestartRules(max_restarts=1, backoff=Backoff(0.0, jitter=0.0))
    story = runs(1, once_more).then(exited(0, 3), gone(0), formed(), refused("no port"), asked_to_stop(hurry=True))
    assert story.lines == []


def test_with_other_hosts_the_cause_is_told_though_it_was_agreed_on_only_later() -> None:
    """The next attempt had begun by then; it had no world."""
    once = RestartRules(max_restarts=1, backoff=Backoff(0.0, jitter=0.0))
    story = Told(job(restart=once, rendezvous=RendezvousRules("etcd", 2)))
    story.then(up(), met(1, restarts=1), started(0), exited(0, 7), gone(0))
    story.then(job_ended(f"{story.group.failure.reason if story.group.failure else ''} (host h1)", 7))
    assert story.group.attempt == 1
    assert "Root cause (first failure of attempt 0):" in story.lines


def test_a_failure_that_was_repaired_is_not_the_cause_of_a_later_one() -> None:
    """Attempt 0 fails and attempt 1 runs; asked to stop, it cannot be killed."""
    story = runs(1, RestartRules(max_restarts=1, backoff=Backoff(0.0, jitter=0.0)))
    story.then(exited(0, 3), gone(0), formed(), started(0), asked_to_stop(hurry=True))
    story.now = story.timers["job", "ladder"]
    story.happen(story.now, due("ladder"))
    assert story.group.verdict is not None
    assert story.group.verdict.outcome == "failed"
    assert story.roots
    assert story.lines == []
    assert running(job()).group.failure is None


def test_of_one_that_hung_the_evidence_is_named_and_no_other_hint_given() -> None:
    root = told(ExitStatus(None, signal.SIGKILL), by="heartbeat", evidence="/logs/job/run/attempt_0/evidence_0.txt")
    text = of(ended(), root)
    assert "  evidence  : /logs/job/run/attempt_0/evidence_0.txt\n" in text
    assert "hint" not in text
