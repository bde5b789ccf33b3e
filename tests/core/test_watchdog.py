"""Whoever hangs is found, by whatever it should have said; and whoever does not is left alone."""

from __future__ import annotations

import pytest

from supervisor.core.messages import Worker
from supervisor.core.timers import TimerExpired, TimerRequest
from supervisor.core.watchdog import HEARTBEAT, SECTIONS, Became, Expired, Notice, Silent, Watchdog, words
from supervisor.plan import AutoRules, WatchdogRules

A, B = Worker(0, 0), Worker(1, 0)
READY = Notice(ready=True)


def begin(name: str) -> Notice:
    return Notice(sections=((True, name),))


def end(name: str) -> Notice:
    return Notice(sections=((False, name),))


class Story:
    """A group of two workers that start at the instant 0, and what is found at a later one."""

    def __init__(self, auto: AutoRules | None = None, **limits: float) -> None:
        sections = {"step": 10.0, "checkpoint": 100.0}
        rules = WatchdogRules(**limits, sections=sections, auto=auto or AutoRules())  # type: ignore[arg-type]
        self.dog = Watchdog(rules)
        self.dog.started(A, 100, 0.0)
        self.dog.started(B, 101, 0.0)

    def at(self, now: float, *notices: Notice, worker: Worker = A) -> list[Became | None]:
        return [self.dog.hear(worker, notice, now) for notice in notices]

    def set(self, pid: int, at: float, now: float = 1.0, scope: str = "s", signal: int = 9) -> None:
        self.dog.request(TimerRequest(pid, scope, at, signal), now)

    def found(self, now: float) -> list[Expired]:
        """All that is due, which has to be what ``nearest`` said."""
        nearest = self.dog.nearest()
        found = self.dog.expired(now)
        assert bool(found) == (nearest is not None and nearest <= now)
        return found


def test_a_group_without_limits_has_no_deadline() -> None:
    story = Story()
    story.at(1.0, READY, HEARTBEAT, begin("mine"), end("mine"), Notice(stopping=True))
    assert story.dog.nearest() is None


def test_a_worker_that_never_says_a_word_is_found_by_its_boot_limit() -> None:
    story = Story(boot=30.0)
    story.at(29.0, Notice(status="loading"))
    assert story.found(1000.0) == [Silent(B, "boot", 0.0, 30.0)]


def test_a_timer_of_its_own_process_is_a_workers_first_word_and_that_of_another_is_not() -> None:
    story = Story(boot=30.0)
    story.set(100, 500.0)
    story.set(100, 501.0)
    story.set(999, 600.0)
    assert story.found(499.0) == [Silent(B, "boot", 0.0, 30.0)]


def test_a_worker_that_does_not_become_ready_is_found_whatever_else_it_says() -> None:
    story = Story(start_timeout=60.0, heartbeat=50.0)
    assert story.at(20.0, READY, READY) == ["ready", None]
    story.at(20.0, HEARTBEAT, worker=B)
    assert story.found(60.0) == [Silent(B, "start", 0.0, 60.0)]


def test_one_that_somebody_else_finds_ready_has_come_up_in_time_and_owes_heartbeats_from_then_on() -> None:
    story = Story(start_timeout=60.0, heartbeat=50.0)
    story.dog.found_ready(A, 20.0)
    story.dog.found_ready(Worker(0, 7), 21.0)
    story.dog.found_ready(A, 40.0)
    assert story.found(65.0) == [Silent(B, "start", 0.0, 60.0)]
    assert story.found(70.0) == [Silent(A, "heartbeat", 20.0, 50.0)]


def test_what_waits_for_a_probe_owes_no_heartbeat_before_that_is_content() -> None:
    dog = Watchdog(WatchdogRules(heartbeat=5.0), probed=True)
    dog.started(A, 100, 0.0)
    assert dog.nearest() is None
    dog.found_ready(A, 70.0)
    assert dog.nearest() == 75.0


def test_a_mute_worker_is_found_by_its_heartbeat_where_nothing_else_is_waited_for() -> None:
    """As systemd's WatchdogSec does it for a service that is up as soon as it runs."""
    story = Story(heartbeat=5.0)
    story.at(1.0, READY, worker=B)
    assert story.found(5.0) == [Silent(A, "heartbeat", 0.0, 5.0)]
    assert story.found(6.0) == [Silent(B, "heartbeat", 1.0, 5.0)]


def test_with_a_boot_limit_heartbeats_count_from_the_first_word() -> None:
    story = Story(boot=30.0, heartbeat=5.0)
    story.at(10.0, Notice(status="loading"))
    assert story.found(15.0) == [Silent(A, "heartbeat", 10.0, 5.0)]
    assert story.found(30.0) == [Silent(B, "boot", 0.0, 30.0)]


def test_a_start_is_extended_by_whoever_asks_for_time_and_never_shortened() -> None:
    story = Story(start_timeout=60.0)
    story.at(50.0, Notice(extend_by=1.0))
    assert story.dog.nearest() == 60.0
    story.at(50.0, Notice(extend_by=30.0))
    story.at(10.0, READY, worker=B)
    assert story.found(80.0) == [Silent(A, "start", 0.0, 80.0)]
    story.at(90.0, Notice(extend_by=30.0), worker=B)
    assert story.dog.nearest() is None  # it is ready: there is nothing to extend


def test_heartbeats_count_from_ready_or_from_the_first_one() -> None:
    story = Story(start_timeout=100.0, heartbeat=5.0)
    story.at(10.0, Notice(status="loading"))
    assert story.dog.nearest() == 100.0
    story.at(20.0, READY)
    story.at(22.0, HEARTBEAT, worker=B)
    assert story.found(25.0) == [Silent(A, "heartbeat", 20.0, 5.0)]
    assert story.found(27.0) == [Silent(B, "heartbeat", 22.0, 5.0)]
    assert story.dog.heartbeats == 1


def test_a_heartbeat_may_come_with_other_words() -> None:
    story = Story(start_timeout=100.0, heartbeat=5.0)
    assert story.at(3.0, Notice(heartbeat=True, ready=True, status="up")) == ["ready"]
    assert story.dog.nearest() == 8.0


def test_whoever_gives_its_heartbeat_in_time_is_never_found() -> None:
    story = Story(heartbeat=5.0)
    for now in range(0, 1000, 4):
        story.at(now, HEARTBEAT)
        story.at(now, HEARTBEAT, worker=B)
        assert story.found(now) == []
    assert story.dog.nearest() == 1001.0


def test_a_worker_may_set_its_own_heartbeat() -> None:
    story = Story()
    story.at(1.0, Notice(heartbeat_every=3.0))
    assert story.dog.nearest() is None  # it is not ready yet
    story.at(2.0, READY)
    assert story.dog.nearest() == 5.0
    story.at(4.0, Notice(heartbeat_every=10.0))
    assert story.dog.nearest() == 14.0
    story.at(5.0, Notice(heartbeat_every=0.0))
    assert story.dog.nearest() is None


def test_a_worker_that_finds_itself_hung_is_found_at_once() -> None:
    story = Story()
    story.at(7.0, Notice(trigger=True))
    assert story.found(7.0) == [Silent(A, "heartbeat", 7.0, 0.0)]


def test_a_section_over_its_limit_is_found_though_another_was_opened_on_top_of_it() -> None:
    story = Story()
    story.at(0.0, begin("step"))
    story.at(5.0, begin("checkpoint"))
    story.at(6.0, begin("one without a limit"))
    assert story.found(10.0) == [Silent(A, "section", 0.0, 10.0, "step")]


def test_a_section_that_was_left_in_time_is_never_found() -> None:
    story = Story()
    story.at(0.0, begin("checkpoint"), begin("step"), begin("step"))
    story.at(1.0, end("step"), end("step"), end("step"))
    assert story.dog.nearest() == 100.0
    story.at(2.0, end("checkpoint"))
    assert (story.dog.nearest(), story.dog.refused) == (None, 1)


def test_of_two_sections_of_one_name_the_later_is_closed_first() -> None:
    story = Story()
    story.at(0.0, begin("step"))
    story.at(3.0, begin("step"))
    story.at(4.0, end("step"))
    assert story.dog.nearest() == 10.0


LEARNS = AutoRules(frozenset({"epoch"}), floor=1.0, ceiling=500.0, factor=3.0)


def epochs(story: Story, count: int, lasts: float) -> float:
    """So many epochs of so many seconds, one after the other; when the last was over."""
    for number in range(count):
        story.at(number * lasts, begin("epoch"))
        story.at((number + 1) * lasts, end("epoch"))
    return count * lasts


def test_the_limit_of_a_section_is_learnt_from_those_that_ended_in_time() -> None:
    story = Story(LEARNS)
    now = epochs(story, 100, 2.0)
    story.at(now, begin("epoch"))
    story.at(now, begin("epoch"), worker=B)
    limit = story.dog.learnt.limit("epoch")
    assert limit is not None
    assert limit == pytest.approx(6.0, rel=0.06)
    assert story.found(now + 7.0) == [Silent(worker, "section", now, limit, "epoch") for worker in (A, B)]
    story.at(now + 300.0, end("epoch"))
    assert story.dog.learnt.limit("epoch") == limit, "what was found silent teaches nothing"
    assert story.dog.learnt_from == 100


def test_until_enough_is_known_a_learnt_limit_is_the_ceiling() -> None:
    story = Story(LEARNS)
    now = epochs(story, 99, 2.0)
    story.at(now, begin("epoch"))
    assert story.dog.nearest() == now + 500.0


def test_nothing_is_learnt_from_sections_that_were_open_while_we_did_not_run() -> None:
    story = Story(LEARNS)
    story.at(1.0, begin("epoch"))
    story.dog.put_off(3000.0)
    story.at(3002.0, end("epoch"), begin("epoch"))
    story.at(3004.0, end("epoch"))
    told = story.dog.learnt.explained()["epoch"]
    assert (told["seen"], told["longest_s"]) == (1, 2.0)


def test_sections_of_two_threads_need_not_be_closed_in_order() -> None:
    story = Story()
    story.at(0.0, begin("step"))
    story.at(1.0, begin("checkpoint"), end("step"))
    assert story.dog.nearest() == 101.0


def test_time_outside_of_any_section_is_limited_from_the_first_word_on() -> None:
    story = Story(out_of_section=20.0)
    assert story.dog.nearest() is None
    story.at(5.0, READY)
    assert story.dog.nearest() == 25.0
    story.at(6.0, begin("checkpoint"), begin("checkpoint"))
    assert story.dog.nearest() == 106.0
    story.at(50.0, end("checkpoint"))
    assert story.dog.nearest() == 106.0
    story.at(60.0, end("checkpoint"))
    assert story.found(80.0) == [Silent(A, "out_of_section", 60.0, 20.0)]


def test_a_section_that_has_no_limit_hides_nothing() -> None:
    """Its name may be misspelt."""
    story = Story(out_of_section=20.0)
    story.at(5.0, READY, begin("chekpoint"))
    story.at(9.0, begin("step"), end("chekpoint"))
    assert story.dog.nearest() == 19.0
    story.at(10.0, begin("chekpoint"), end("step"))
    assert story.found(30.0) == [Silent(A, "out_of_section", 10.0, 20.0)]


def test_sections_are_bounded() -> None:
    story = Story()
    story.at(0.0, *(begin("mine") for _ in range(SECTIONS + 3)))
    told = story.dog.told(A)
    assert told is not None
    assert (len(told.sections), story.dog.refused) == (SECTIONS, 3)


def test_a_worker_on_its_way_down_has_one_limit_left_and_may_extend_it() -> None:
    story = Story(start_timeout=99.0, heartbeat=5.0, out_of_section=6.0, stopping=30.0)
    story.at(1.0, READY, begin("step"))
    assert story.at(2.0, Notice(stopping=True, ready=True)) == ["stopping"]
    assert set(story.at(3.0, HEARTBEAT, end("step"), Notice(stopping=True), Notice(heartbeat_every=1.0))) == {None}
    assert story.dog.nearest() == 32.0
    story.at(30.0, Notice(extend_by=10.0))
    assert story.found(40.0) == [Silent(A, "stopping", 2.0, 38.0)]


def test_a_worker_is_found_once_and_no_word_of_it_counts_after_that() -> None:
    story = Story(start_timeout=1000.0, heartbeat=5.0, out_of_section=6.0)
    story.set(100, 300.0)
    story.at(1.0, READY, begin("step"), begin("checkpoint"))
    assert story.found(500.0) == [Silent(A, "heartbeat", 1.0, 5.0)]
    story.at(501.0, HEARTBEAT, begin("step"), Notice(trigger=True), Notice(stopping=True))
    story.set(100, 502.0)
    assert story.dog.nearest() == 1000.0  # its peer's


def test_all_that_is_due_comes_out_in_the_order_in_which_it_was() -> None:
    story = Story(heartbeat=5.0)
    story.at(1.0, READY)
    story.at(2.0, READY, worker=B)
    story.set(55, 6.5)
    story.set(56, 9.0)
    story.set(57, 99.0)
    assert story.found(10.0) == [
        Silent(A, "heartbeat", 1.0, 5.0),
        TimerExpired(55, "s", 9, 1.0, 6.5),
        Silent(B, "heartbeat", 2.0, 5.0),
        TimerExpired(56, "s", 9, 1.0, 9.0),
    ]
    assert story.dog.nearest() == 99.0


@pytest.mark.parametrize(
    ("expired", "said"),
    [
        (TimerExpired(100, "s", 9, 1.0, 3.5), "did not release the timer 's' within 2.5 s"),
        (TimerExpired(55, "s", 9, 1.0, 3.5), "did not release the timer 's' of its process 55 within 2.5 s"),
        (Silent(A, "boot", 0.0, 30.0), "has said nothing within 30 s of its start"),
        (Silent(A, "start", 0.0, 0.7), "was not ready within 0.7 s of its start"),
        (Silent(A, "heartbeat", 1.0, 5.0), "has sent no heartbeat for 5 s"),
        (Silent(A, "heartbeat", 1.0, 0.0), "has said that it hangs (WATCHDOG=trigger)"),
        (Silent(A, "section", 1.0, 10.0, "step"), "has been in section step for longer than 10 s"),
        (Silent(A, "out_of_section", 1.0, 6.0), "has been in no section for longer than 6 s"),
        (Silent(A, "stopping", 1.0, 30.0), "has not ended within 30 s of its STOPPING=1"),
    ],
)
def test_what_was_not_done_in_time_is_said_in_words(expired: Expired, said: str) -> None:
    assert words(expired, 100) == said


def test_what_has_ended_is_expected_to_say_nothing_and_its_timers_go_with_it() -> None:
    story = Story(heartbeat=5.0, start_timeout=9.0)
    story.at(1.0, READY, begin("step"))
    story.set(100, 8.0)
    story.set(777, 9.0)
    story.dog.ended(A)
    story.dog.ended(A)
    assert (story.dog.nearest(), len(story.dog.timers)) == (9.0, 1)
    story.dog.ended(B)  # the last one: whatever process had timers, it was one of these
    assert (story.dog.nearest(), len(story.dog.timers), story.dog.told(B)) == (None, 0, None)
    story.dog.dismiss(A)


def test_a_number_used_again_does_not_come_with_the_timers_of_its_last_holder() -> None:
    story = Story()
    story.set(200, 50.0)
    story.dog.started(Worker(0, 1), 200, 10.0)
    assert story.dog.nearest() is None


def test_a_rank_started_again_is_watched_anew_though_its_last_end_was_not_told() -> None:
    story = Story(boot=30.0)
    story.dog.started(Worker(0, 1), 100, 10.0)
    story.at(20.0, HEARTBEAT, worker=Worker(0, 1))
    assert story.found(50.0) == [Silent(B, "boot", 0.0, 30.0)]


def test_news_from_an_earlier_attempt_changes_nothing() -> None:
    story = Story(boot=30.0, heartbeat=5.0)
    later = Worker(0, 1)
    story.dog.started(later, 300, 100.0)
    assert story.at(101.0, READY, HEARTBEAT, begin("step"), worker=A) == [None, None, None]
    story.dog.ended(A)
    story.dog.dismiss(A)
    assert story.dog.expired(129.0) == [Silent(B, "boot", 0.0, 30.0)]
    assert story.dog.nearest() == 130.0


def test_while_we_did_not_run_nobody_was_late() -> None:
    story = Story(start_timeout=100.0, heartbeat=5.0)
    story.at(1.0, READY)
    story.set(100, 8.0)
    story.dog.put_off(300.0)
    assert story.dog.nearest() == 306.0
    story.at(301.0, HEARTBEAT)
    assert story.dog.nearest() == 306.0
    story.at(302.0, HEARTBEAT)
    assert story.dog.nearest() == 307.0
    story.at(306.0, HEARTBEAT)
    assert story.dog.nearest() == 308.0  # the timer


def test_what_a_worker_tells_is_kept_for_people() -> None:
    story = Story()
    story.at(3.0, Notice(status="epoch 1", progress=17, sections=((True, "step"), (True, "save"), (False, "save"))))
    told = story.dog.told(A)
    assert told is not None
    assert (told.status, told.progress, told.progress_at, told.is_ready) == ("epoch 1", 17, 3.0, False)
    assert [section.name for section in told.sections] == ["step"]
    story.at(4.0, READY)
    assert (told.status, told.progress, told.is_ready) == ("epoch 1", 17, True)


@pytest.mark.parametrize("notice", [HEARTBEAT, Notice(), Notice(heartbeat=True, status="x")])
def test_a_stranger_is_not_heard(notice: Notice) -> None:
    story = Story()
    assert story.at(1.0, notice, worker=Worker(7, 0)) == [None]
    assert (story.dog.nearest(), story.dog.heartbeats) == (None, 0)


@pytest.mark.parametrize(
    ("expired", "said"),
    [
        (TimerExpired(1000, "step", 9, 10.0, 70.0), "did not release the timer 'step' within 60.0 s"),
        (TimerExpired(7, "step", 9, 10.0, 70.0), "did not release the timer 'step' of its process 7 within 60.0 s"),
        (Silent(A, "boot", 0.0, 5.0), "has said nothing within 5 s of its start"),
        (Silent(A, "start", 0.0, 5.0), "was not ready within 5 s of its start"),
        (Silent(A, "heartbeat", 0.0, 5.0), "has sent no heartbeat for 5 s"),
        (Silent(A, "heartbeat", 0.0, 0.0), "has said that it hangs (WATCHDOG=trigger)"),
        (Silent(A, "section", 0.0, 0.5, "step"), "has been in section step for longer than 0.5 s"),
        (Silent(A, "out_of_section", 0.0, 5.0), "has been in no section for longer than 5 s"),
        (Silent(A, "stopping", 0.0, 5.0), "has not ended within 5 s of its STOPPING=1"),
    ],
)
def test_people_are_told_what_was_not_done_in_time(expired: Expired, said: str) -> None:
    assert words(expired, 1000) == said


def test_a_number_that_is_another_workers_already_is_not_forgotten_with_the_one_that_had_it() -> None:
    dog = Watchdog(WatchdogRules())
    dog.started(Worker(0, 0), 7, 0.0)
    dog.started(Worker(1, 0), 7, 1.0)
    dog.request(TimerRequest(7, "s", 10.0, 9), 2.0)
    dog.ended(Worker(0, 0))
    assert dog.nearest() == 10.0
    dog.ended(Worker(1, 0))
    assert dog.nearest() is None


def test_a_wider_limit_holds_at_once_and_a_tighter_one_for_what_begins_after_it() -> None:
    story = Story(out_of_section=30.0)
    story.at(0.0, begin("checkpoint"), begin("step"))
    story.at(0.0, Notice(status="idle"), worker=B)
    story.dog.go_by(WatchdogRules(sections={"step": 50.0, "checkpoint": 20.0}, out_of_section=40.0))
    assert story.found(39.0) == []
    assert story.found(40.0) == [Silent(B, "out_of_section", 0.0, 40.0)]
    story.at(41.0, begin("checkpoint"))
    assert story.found(60.0) == [Silent(A, "section", 0.0, 50.0, "step")]


def test_a_limit_that_is_taken_away_is_waited_for_by_nobody_and_a_new_one_holds_from_the_next_section_on() -> None:
    story = Story(boot=30.0, start_timeout=60.0, stopping=10.0)
    story.at(1.0, begin("mine"), begin("step"), Notice(stopping=True))
    story.dog.go_by(WatchdogRules(sections={"mine": 5.0}))
    assert story.dog.nearest() is None
    story.at(100.0, begin("mine"), worker=B)
    assert story.found(105.0) == [Silent(B, "section", 100.0, 5.0, "mine")]


def test_a_worker_that_has_asked_for_more_time_keeps_it_under_other_rules() -> None:
    story = Story(start_timeout=60.0)
    story.at(50.0, Notice(extend_by=100.0))
    story.dog.go_by(WatchdogRules(start_timeout=90.0))
    assert story.found(149.0) == [Silent(B, "start", 0.0, 90.0)]
    assert story.found(150.0) == [Silent(A, "start", 0.0, 150.0)]


def test_what_was_learnt_of_a_section_is_known_under_other_rules() -> None:
    story = Story(AutoRules(frozenset({"step", "eval"}), floor=1.0, ceiling=3600.0, factor=3.0))
    for now in range(200):
        story.at(2.0 * now, begin("step"))
        story.at(2.0 * now + 1.0, end("step"))
    story.dog.go_by(WatchdogRules(auto=AutoRules(frozenset({"step", "load"}), floor=7.0, ceiling=3600.0, factor=3.0)))
    assert (story.dog.learnt.limit("step"), story.dog.learnt.limit("load")) == (7.0, 3600.0)
    assert story.dog.learnt.limit("eval") is None
