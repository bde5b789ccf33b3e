"""Functions end well: what they have returned is told with the group's success, as far as there is room."""

from __future__ import annotations

from dataclasses import replace

from supervisor.core.messages import ExitStatus, Returned, WorkerExited
from supervisor.core.returned import ROOM
from supervisor.plan import RestartRules
from tests.stories.story import Happening, Story, exited, gone, job, running


def ended(rank: int, returned: Returned | None) -> Happening:
    return Happening(
        "", lambda story, name: WorkerExited(story.worker(name, rank, None), ExitStatus(0), returned=returned)
    )


def finished(*all_returned: Returned | None, scope: bool = False) -> Story:
    rules = RestartRules(scope="worker") if scope else RestartRules()
    story = running(replace(job(workers=len(all_returned), restart=rules), returns=True))
    for rank, returned in enumerate(all_returned):
        story.happen(1.0, ended(rank, returned))
        story.happen(1.0, gone(rank))
    return story


def test_values_are_in_the_record_and_in_the_view_by_rank() -> None:
    for scope in (False, True):
        story = finished(Returned('{"loss":0.5}'), Returned(), Returned(note="no JSON"), None, scope=scope)
        assert story.view.succeeded
        assert story.view.returned == {
            "return_values": {"0": {"loss": 0.5}, "1": None},
            "return_notes": {"2": "no JSON"},
        }


def test_what_has_no_room_is_left_out_and_counted() -> None:
    big = f'"{"x" * (ROOM - 5)}"'
    story = finished(Returned(big), Returned('"long"'), Returned("1"), Returned(note="no JSON"))
    assert story.view.returned == {
        "return_values": {"0": "x" * (ROOM - 5), "2": 1},
        "return_values_left_out": 2,
    }


def test_a_command_returns_nothing() -> None:
    story = running(job(workers=1))
    story.happen(1.0, exited(0))
    story.happen(1.0, gone(0))
    assert story.view.returned == {}


def test_the_record_of_the_success_has_them() -> None:
    story = running(replace(job(workers=1), returns=True))
    story.happen(1.0, ended(0, Returned("[1,2]")))
    story.happen(1.0, gone(0))
    assert [event.fields.get("return_values") for event in story.said if event.name == "group.succeeded"] == [
        {"0": [1, 2]}
    ]
