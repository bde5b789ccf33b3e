"""The line at the bottom of a terminal: what it says of every phase, and that it never is too long."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.health import GroupView, Snapshot
from supervisor.report.progress import cells, cut, progress
from tests.report.views import group

NOW = 1000.0


def view(**changes: Any) -> GroupView:
    return group(since=NOW - 12.7, **changes)


def said(*views: GroupView, width: int = 200, stage: Any = "running", colour: bool = False) -> str:
    return progress(Snapshot(NOW, stage, {one.name: one for one in views}), width, colour=colour)


WAITS = {"ready": False, "size": 4}


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (view(size=4), "trainer running 4/4 ready, attempt 0, 3 restarts left, up 12 s"),
        (view(restarts_left=1, attempt=2), "trainer running 2/2 ready, attempt 2, 1 restart left, up 12 s"),
        (view(restarts_left=None), "trainer running 2/2 ready, attempt 0, up 12 s"),
        (
            view(**WAITS, phase="waiting", attempt=-1, why="waits for cache"),
            "trainer waiting 0/4 ready, 3 restarts left: waits for cache",
        ),
        (
            view(**WAITS, phase="backing_off", restarts_left=2, why="it exited with code 3",
                 next="starts attempt 1", next_at=NOW + 3.1),
            "trainer backing off, starts attempt 1 in 4 s, 2 restarts left: it exited with code 3",
        ),
        (
            view(**WAITS, phase="stopping", why="SIGTERM", next="SIGKILL to what is left", next_at=NOW + 90),
            "trainer stopping 0/4 ready, SIGKILL to what is left in 1 min 30 s, attempt 0, 3 restarts left: SIGTERM",
        ),
        (view(size=4, next="restarts rank 1", next_at=NOW - 1),
         "trainer running 4/4 ready, restarts rank 1 in 0 s, attempt 0, 3 restarts left, up 12 s"),
        (view(**WAITS, phase="finished", succeeded=True), "trainer succeeded"),
        (view(**WAITS, phase="finished", why="no restart is left"), "trainer finished: no restart is left"),
    ],
)  # fmt: skip
def test_every_phase_has_its_words(one: GroupView, words: str) -> None:
    assert said(one) == words


def test_an_up_time_changes_once_a_second_and_is_said_as_people_say_it() -> None:
    assert said(group(since=NOW - 3725)).endswith("up 1 h 2 min")


def test_several_groups_share_the_line_and_say_less_where_there_is_no_room() -> None:
    views = view(), view(name="cache", size=1, ready=False, phase="starting", why="its dependency is ready")
    assert said(*views).endswith("cache starting 0/1 ready, attempt 0, 3 restarts left: its dependency is ready")
    assert said(*views, width=120).endswith("cache starting 0/1 ready, attempt 0, 3 restarts left")
    assert said(*views, width=60) == "trainer running 2/2 ready | cache starting 0/1 ready"
    assert said(*views, width=30) == "trainer running 2/2 ready | c…"


def test_on_eighty_columns_a_pause_still_says_when_it_ends_and_the_beginning_of_why() -> None:
    pause = view(
        **WAITS, phase="backing_off", why="rank 2 exited with code 3", next="starts attempt 1", next_at=NOW + 3
    )
    assert said(pause, width=78) == "trainer backing off, starts attempt 1 in 3 s, 3 restarts left: rank 2 exited …"


def test_a_stop_is_said_first() -> None:
    assert said(view(), stage="stopping").startswith("stopping: trainer running")
    assert said(view(), stage="draining").startswith("draining: trainer running")


def test_it_is_green_when_all_is_ready_and_else_yellow_and_plain_when_colour_is_off() -> None:
    assert said(view(), colour=True) == f"\x1b[32m{said(view())}\x1b[0m"
    assert said(view(ready=False), colour=True) == f"\x1b[33m{said(view(ready=False))}\x1b[0m"


def test_without_groups_or_without_room_nothing_is_said() -> None:
    assert said() == ""
    assert said(view(), width=9, colour=True) == ""


def test_what_would_move_the_cursor_is_spelt_out() -> None:
    assert "\\n" in said(view(ready=False, phase="waiting", why="one\ntwo\x1b[2J"))
    assert "\x1b" not in said(view(ready=False, phase="waiting", why="one\ntwo\x1b[2J"))


@pytest.mark.parametrize(("text", "width"), [("abc", 3), ("漢字", 4), ("e\u0301", 1), ("", 0), ("ä", 1)])
def test_cells_are_columns_of_a_terminal(text: str, width: int) -> None:
    assert cells(text) == width


@pytest.mark.parametrize(
    ("text", "width", "seen"),
    [("abcdef", 6, "abcdef"), ("abcdef", 5, "abcd…"), ("漢字漢字", 6, "漢字…"), ("e\u0301" * 3, 2, "e\u0301…")],
)
def test_a_text_is_cut_between_characters_and_says_so(text: str, width: int, seen: str) -> None:
    assert cut(text, width) == seen


@given(st.text(), st.text(), st.integers(0, 120), st.sampled_from(["running", "backing_off", "waiting", "finished"]))
def test_whatever_it_is_about_it_fits(name: str, why: str, width: int, phase: str) -> None:
    line = said(view(name=name, ready=False, phase=phase, why=why), view(name="b"), width=width)
    assert cells(line) <= width
    assert line.isprintable() or not line.isascii()
