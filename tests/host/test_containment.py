"""Whose process is it: by mark, session and descent; and never by a number that may be another's by now."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Generator, Iterator
from typing import Any

import pytest

from supervisor.host import containment as under_test
from supervisor.host import proc
from supervisor.host.containment import MARK, Sessions, Tree, become_subreaper
from supervisor.host.proc import Process, inherited, open_proved, read_process, send


@pytest.fixture(autouse=True)
def subreaper() -> Iterator[None]:
    become_subreaper()
    yield
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


@pytest.fixture
def unclaimed() -> list[Process]:
    return []


@pytest.fixture
def sessions(unclaimed: list[Process]) -> Sessions:
    return Sessions(adopts=True, unclaimed=unclaimed.append)


def lead(sessions: Sessions, script: str, *, marked: bool = True) -> tuple[Tree, subprocess.Popen[str]]:
    """A worker that runs a shell script and ends when its stdin does."""
    tree = sessions.open()
    env = {"PATH": os.environ["PATH"]} | ({MARK: tree.mark} if marked else {})
    leader = subprocess.Popen(
        ["sh", "-c", script], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    sessions.spawned(tree, leader.pid)
    return tree, leader


def say(leader: subprocess.Popen[str]) -> int:
    """The next number that the worker prints."""
    assert leader.stdout
    return int(leader.stdout.readline())


def end(sessions: Sessions, tree: Tree, leader: subprocess.Popen[str]) -> None:
    with leader:
        assert leader.stdin
        leader.stdin.close()
    sessions.reaped(tree)


def members(sessions: Sessions, trees: Collection[Tree]) -> dict[Tree, set[int]]:
    return {tree: {process.pid for process in found} for tree, found in run(sessions.members(trees)).items()}


def run(steps: Generator[None, None, Any]) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def kill(sessions: Sessions, tree: Tree) -> None:
    """Kill what is left of an ended tree, until nothing is."""
    while left := sessions.left({tree}):
        for process in left[tree]:
            send(process, signal.SIGKILL)
    sessions.close(tree)


SLEEP = "sleep 100 >&- & echo $!; read line"
APART = "setsid sleep 100 >&- & echo $!; read line"
FORGETFUL = "env -i setsid sleep 100 >&- & echo $!; read line"


# ---- what is left


def test_nothing_is_left_of_a_worker_without_children(sessions: Sessions) -> None:
    tree, leader = lead(sessions, "read line")
    end(sessions, tree, leader)
    assert sessions.left({tree}) == {}


@pytest.mark.parametrize("script", [SLEEP, APART], ids=["same session", "own session"])
def test_a_child_outlives_its_worker_until_it_is_dead(sessions: Sessions, script: str) -> None:
    tree, leader = lead(sessions, script)
    pid = say(leader)
    assert sessions.left(()) == {}
    end(sessions, tree, leader)
    assert [process.pid for process in sessions.left({tree})[tree]] == [pid]
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert sessions.left({tree}) == {}
    assert read_process(pid) is None, "it was reaped"


def test_only_the_topmost_are_left_and_the_rest_follows(sessions: Sessions) -> None:
    tree, leader = lead(sessions, "(sleep 100 >&- & echo $!; exec sleep 100 >&-) & echo $!; read line")
    pids = {say(leader), say(leader)}
    end(sessions, tree, leader)
    (top,) = sessions.left({tree})[tree]
    assert top.pid in pids
    assert members(sessions, {tree}) == {tree: pids}
    kill(sessions, tree)
    assert not [pid for pid in pids if read_process(pid)]


def test_leftovers_are_told_apart_by_worker(sessions: Sessions) -> None:
    one, two = lead(sessions, APART), lead(sessions, APART)
    pids = say(one[1]), say(two[1])
    for tree, leader in (one, two):
        end(sessions, tree, leader)
    left = sessions.left({one[0], two[0]})
    assert [[process.pid for process in left[tree]] for tree, _ in (one, two)] == [[pids[0]], [pids[1]]]
    for tree, _ in (one, two):
        kill(sessions, tree)


def test_what_forgot_its_mark_is_known_by_its_session(sessions: Sessions, unclaimed: list[Process]) -> None:
    tree, leader = lead(sessions, "env -i sleep 100 >&- & echo $!; read line")
    say(leader)
    end(sessions, tree, leader)
    assert len(sessions.left({tree})[tree]) == 1
    kill(sessions, tree)
    assert not unclaimed


def test_what_forgot_mark_and_session_is_told_once_as_unclaimed_and_reaped(
    sessions: Sessions, unclaimed: list[Process]
) -> None:
    tree, leader = lead(sessions, FORGETFUL)
    pid = say(leader)
    while inherited(pid, "PATH") or read_process(pid).session != pid:  # type: ignore[union-attr]
        pass
    end(sessions, tree, leader)
    assert sessions.left({tree}) == {}
    assert sessions.left({tree}) == {}
    assert [process.pid for process in unclaimed] == [pid]
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    sessions.left(())
    assert read_process(pid) is None
    assert len(unclaimed) == 1


def test_what_came_to_us_dead_is_reaped_without_a_word(sessions: Sessions, unclaimed: list[Process]) -> None:
    """A zombie shows no environment: whose it was cannot be known, and there is nothing to do about it."""
    pid = int(subprocess.check_output(["sh", "-c", "setsid sleep 0.1 >&- & echo $!"]))
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert sessions.left(()) == {}
    assert read_process(pid) is None, "it was reaped"
    assert not unclaimed


def test_children_that_came_with_us_through_exec_are_reaped(sessions: Sessions, unclaimed: list[Process]) -> None:
    child = subprocess.Popen(["true"])
    sessions.adopt_children()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert sessions.left(()) == {}
    assert read_process(child.pid) is None, "it was reaped"
    assert not unclaimed
    child.wait()


def test_an_owner_once_found_is_kept_when_the_environment_is_written_over(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, leader = lead(sessions, APART)
    pid = say(leader)
    end(sessions, tree, leader)
    assert sessions.left({tree})
    monkeypatch.setattr(under_test, "inherited", lambda pid, name: "")
    assert [process.pid for process in sessions.left({tree})[tree]] == [pid]
    kill(sessions, tree)


def test_the_mark_of_a_supervisor_inside_a_worker_leads_to_that_worker(
    sessions: Sessions, unclaimed: list[Process]
) -> None:
    tree, leader = lead(sessions, f'export {MARK}="${MARK}/inner.7"; {APART}')
    pid = say(leader)
    while not inherited(pid, MARK).endswith("/inner.7") or read_process(pid).session != pid:  # type: ignore[union-attr]
        pass
    end(sessions, tree, leader)
    assert [process.pid for process in sessions.left({tree})[tree]] == [pid]
    kill(sessions, tree)
    assert not unclaimed


def test_the_mark_counts_more_than_a_session_whose_number_may_be_anothers(sessions: Sessions) -> None:
    one, leader_one = lead(sessions, SLEEP)
    two, leader_two = lead(sessions, "read line")
    say(leader_one)
    end(sessions, two, leader_two)
    sessions._by_leader[leader_one.pid] = two  # as if the number of its session had been two's before
    end(sessions, one, leader_one)
    assert set(sessions.left({one, two})) == {one}
    kill(sessions, one)


def test_a_reaped_leaders_number_that_is_in_use_again_says_nothing_about_sessions(sessions: Sessions) -> None:
    tree, leader = lead(sessions, SLEEP, marked=False)
    say(leader)
    sessions.leave_alone(leader.pid)
    sessions.reaped(tree)  # while a process of that number lives: as if it were another one by now
    assert members(sessions, {tree}) == {}
    os.killpg(leader.pid, signal.SIGKILL)
    with leader:
        pass
    kill(sessions, tree)


def test_children_in_our_own_session_are_nobodys_orphans(sessions: Sessions, unclaimed: list[Process]) -> None:
    child = subprocess.Popen(["sh", "-c", "exit 9"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert sessions.left(()) == {}
    assert child.wait() == 9
    assert not unclaimed


def test_a_child_that_is_to_be_left_alone_is_forgotten_when_its_owner_has_reaped_it(
    sessions: Sessions, unclaimed: list[Process]
) -> None:
    child = subprocess.Popen(["true"], start_new_session=True)
    sessions.leave_alone(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    sessions.left(())
    members(sessions, ())
    assert child.wait() == 0
    sessions.left(())
    assert not sessions._others
    assert not unclaimed


def test_a_kernel_without_lists_of_children_is_served_by_all_of_proc(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(under_test, "open", none, raising=False)
    tree, leader = lead(sessions, APART)
    pid = say(leader)
    end(sessions, tree, leader)
    assert [process.pid for process in sessions.left({tree})[tree]] == [pid]
    kill(sessions, tree)


def test_children_of_what_was_just_reaped_are_not_overlooked(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The orphan's parent ends between the reading of our list of children and its own reaping."""
    tree, leader = lead(sessions, "setsid sh -c 'sleep 100 >&- & echo $!; echo $$; kill -STOP $$' & read line")
    pid, parent = say(leader), say(leader)
    end(sessions, tree, leader)
    listed = sessions._strange_children

    def listed_in_time() -> set[int]:
        children = listed()
        if parent in children:
            os.kill(parent, signal.SIGKILL)
            os.waitid(os.P_PID, parent, os.WEXITED | os.WNOWAIT)
        return children

    monkeypatch.setattr(sessions, "_strange_children", listed_in_time)
    assert [process.pid for process in sessions.left({tree})[tree]] == [pid]
    kill(sessions, tree)


def test_a_worker_whose_orphans_die_faster_than_they_are_reaped_is_not_gone(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, leader = lead(sessions, APART)
    say(leader)
    end(sessions, tree, leader)
    monkeypatch.setattr(under_test, "_reap", lambda pid: True)  # and there is another one each time
    assert set(sessions.left({tree})) == {tree}
    monkeypatch.undo()
    kill(sessions, tree)


# ---- who is there


def test_members_are_all_descendants_but_not_the_leader(sessions: Sessions) -> None:
    tree, leader = lead(sessions, f"setsid sh -c '{APART.replace('read line', 'echo $$; wait')}' & {SLEEP}")
    pids = {say(leader), say(leader), say(leader)}
    other, idle = lead(sessions, "read line")
    assert members(sessions, {tree, other}) == {tree: pids}
    end(sessions, other, idle)
    end(sessions, tree, leader)
    assert members(sessions, {tree}) == {tree: pids}
    kill(sessions, tree)


@pytest.mark.parametrize("script", [SLEEP, APART], ids=["same session", "own session"])
def test_one_process_is_known_by_its_ancestors_and_an_orphan_by_what_it_came_with(
    sessions: Sessions, script: str
) -> None:
    tree, leader = lead(sessions, script)
    other, beside = lead(sessions, "read line")
    process = read_process(say(leader))
    assert process
    assert sessions.whose(process) is tree
    for own, started in ((tree, leader), (other, beside)):
        itself = read_process(started.pid)
        assert itself
        assert sessions.whose(itself) is own
    for number in (os.getpid(), os.getppid(), 1):
        stranger = read_process(number)
        assert stranger is None or sessions.whose(stranger) is None
    end(sessions, other, beside)
    end(sessions, tree, leader)
    process = read_process(process.pid)
    assert process
    assert sessions.whose(process) is tree
    send(process, signal.SIGKILL)
    os.waitpid(process.pid, 0)


def test_parents_that_seem_to_go_round_in_a_circle_lead_nowhere(sessions: Sessions) -> None:
    census = {pid: Process(pid, "x", "S", parent, pid, pid, 1) for pid, parent in ((10, 11), (11, 12), (12, 10))}
    owners: dict[int, Tree | None] = {}
    assert sessions._owner(census[10], census, owners) is None
    assert owners == {10: None, 11: None, 12: None}


def test_what_is_in_a_process_group_already_reached_is_not_signalled_again(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, leader = lead(sessions, f"sleep 100 >&- & {APART}")
    pid = say(leader)
    while read_process(pid).group != pid:  # type: ignore[union-attr]
        pass
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(under_test, "send", lambda process, number: sent.append((process.pid, number)))
    run(sessions.pursue({tree}, signal.SIGUSR1, {tree}))
    assert sent == [(pid, signal.SIGUSR1)]
    end(sessions, tree, leader)
    monkeypatch.undo()
    kill(sessions, tree)


# ---- numbers


def test_a_process_is_read_whatever_it_calls_itself() -> None:
    name = ") S 1 (x"
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", f"open('/proc/self/comm', 'w').write({name!r}); print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdin
        assert child.stdout
        child.stdout.readline()
        process = read_process(child.pid)
        child.stdin.write(b"\n")
    assert process
    assert (process.name, process.parent, process.session) == (name, os.getpid(), os.getsid(0))
    assert str(process) == f"{child.pid} {name}"


def test_a_number_that_another_process_has_now_is_never_signalled() -> None:
    child = subprocess.Popen(["sleep", "100"])
    process = read_process(child.pid)
    assert process
    before = os.listdir("/proc/self/fd")
    earlier = process._replace(started=process.started - 1)
    assert open_proved(earlier) is None
    send(earlier, signal.SIGKILL)
    assert os.listdir("/proc/self/fd") == before
    assert child.poll() is None
    send(process, signal.SIGTERM)
    assert child.wait() == -signal.SIGTERM
    assert open_proved(process) is None


def test_a_number_is_compared_after_the_pidfd_was_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends, and its number is given away, in the very moment in which its pidfd is opened."""
    first, second = subprocess.Popen(["sleep", "100"]), subprocess.Popen(["sleep", "100"])
    process = read_process(first.pid)
    assert process
    opened = os.pidfd_open
    # the kernel would give the second process the first one's number: here its pidfd and its stat stand in for that
    monkeypatch.setattr(os, "pidfd_open", lambda pid: opened(second.pid))
    reused = read_process(second.pid)
    assert reused
    monkeypatch.setattr(proc, "read_process", lambda pid: reused._replace(pid=pid, started=process.started + 1))
    send(process, signal.SIGKILL)
    monkeypatch.undo()
    assert (first.poll(), second.poll()) == (None, None)
    for child in (first, second):
        child.kill()
        child.wait()


def test_a_zombie_is_no_more_a_process_to_signal() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    process = read_process(child.pid)
    assert process
    assert process.dead
    assert open_proved(process) is None
    child.wait()
    assert read_process(child.pid) is None


def test_an_inherited_variable_is_read_from_anywhere_in_the_environment() -> None:
    for env in ({"X": "1", "A": "2"}, {"A": "2", "X": "1"}, {"XX": "no", "X": "1", "Y": "X=no"}):
        child = subprocess.Popen(["sleep", "100"], env={**env, "PATH": os.environ["PATH"]})
        assert inherited(child.pid, "X") == "1"
        assert inherited(child.pid, "NONE") == ""
        child.kill()
        child.wait()
    assert inherited(child.pid, "X") == ""


@pytest.mark.parametrize(
    ("state", "flags", "start_code", "environment", "none"),
    [
        ("S", 0x400000, 4096, (9000, 9100), False),
        ("R", 0x400000, 0, (0, 0), False),  # in the midst of exec(2): nothing yet
        ("R", 0x400000, 0, (9000, 9000), False),  # and now it is copied in
        ("R", 0x400000, 4096, (9000, 9000), True),
        ("S", 0x400000, 1, (0, 0), True),  # not for us to see
        ("I", 0x208040, 0, (0, 0), True),  # a kernel thread, of which a host has hundreds
        ("Z", 0x400000, 0, (0, 0), True),
    ],
)
def test_no_environment_is_told_from_one_that_exec_has_not_copied_yet(
    state: str, flags: int, start_code: int, environment: tuple[int, int], none: bool
) -> None:
    fields = ["0"] * 53
    fields[3], fields[9], fields[26], fields[50], fields[51] = (
        state,
        str(flags),
        str(start_code),
        *map(str, environment),
    )
    assert proc._has_none(f"7 (a) {' '.join(fields[3:])}".encode()) is none


def test_a_variable_is_read_from_a_process_that_does_nothing_but_exec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its old memory and its new one it has no environment, and is not one that has none."""
    monkeypatch.setattr(proc, "_EXEC", 5.0)  # on a busy machine it may be kept waiting there
    again = 'i=$(($1 - 1)); [ $i = 0 ] || exec sh -c "$0" "$0" $i; read line'
    with subprocess.Popen(
        ["sh", "-c", again, again, "3000"], env={"X": "1", "PATH": os.environ["PATH"]}, stdin=subprocess.PIPE
    ) as child:
        seen = [inherited(child.pid, "X") for _ in range(20_000)]
        child.kill()
    assert seen.count("1") == len(seen), f"{seen.count('')} of {len(seen)} times there was nothing"
