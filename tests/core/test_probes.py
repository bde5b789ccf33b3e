"""Answers of a probe, counted: rise, fall, and how soon to ask again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.probes import EAGER, Tally, count, pause
from supervisor.plan import Probe

PROBES = st.builds(Probe, interval=st.floats(0.1, 1e9), rise=st.integers(1, 5), fall=st.integers(1, 5))


def verdicts(probe: Probe, answers: str) -> str:
    """What each answer (``+`` or ``-``) has made of the worker: ``R`` ready, ``U`` not ready, ``.`` what it was."""
    tally, said = Tally(), ""
    for answer in answers:
        tally, told = count(probe, tally, answer == "+")
        said += ("R" if tally.ready else "U") if told else "."
    return said


@pytest.mark.parametrize(
    ("rise", "fall", "answers", "said"),
    [
        (1, 3, "+++", "R.."),
        (1, 3, "+--+---+", "R.....UR"),
        (2, 3, "+-++", "...R"),
        (2, 1, "++-+-++", ".RU...R"),
        (1, 1, "-+-+", "URUR"),
        (1, 3, "---+", "..UR"),
    ],
)
def test_so_many_answers_in_a_row_make_a_worker_ready_or_not(rise: int, fall: int, answers: str, said: str) -> None:
    assert verdicts(Probe(interval=EAGER, rise=rise, fall=fall), answers) == said


def test_a_worker_that_comes_up_slowly_is_asked_soon_and_not_complained_of_within_the_interval() -> None:
    probe = Probe(interval=5.0, fall=2)
    tally, pauses, told = Tally(), [], False
    while not told:
        tally, told = count(probe, tally, False)
        pauses.append(round(pause(probe, tally), 3))
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert count(probe, tally, False) == (tally._replace(in_a_row=8), False)


@given(PROBES, st.lists(st.booleans(), max_size=60))
def test_a_verdict_is_told_once_and_never_against_the_last_answers(probe: Probe, answers: list[bool]) -> None:
    tally = Tally()
    for number, answer in enumerate(answers, 1):
        before = tally.ready
        tally, told = count(probe, tally, answer)
        assert 0 < pause(probe, tally) <= probe.interval
        if before is not None:
            assert pause(probe, tally) == probe.interval
        assert told is (tally.ready is not before)
        if told:
            enough = probe.rise if answer else probe.fall
            assert tally.ready is answer
            assert answers[number - enough : number] == [answer] * enough


@given(PROBES)
def test_however_long_it_goes_on_the_pause_stays_the_interval(probe: Probe) -> None:
    assert pause(probe, Tally(None, False, 10**9)) == probe.interval
