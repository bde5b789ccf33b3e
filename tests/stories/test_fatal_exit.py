"""An exit code that is called fatal is never retried, whatever is left of the budget."""

from __future__ import annotations

from supervisor.plan import RestartRules
from tests.stories.story import exited, gone, job, killed, running

RULES = RestartRules(fatal_exit_codes=frozenset({64, 78}))


def test_the_group_fails_with_that_code() -> None:
    story = running(job(workers=2, restart=RULES)).tell(
        (1.0, exited(0, code=78), "SIGTERM tree 1#0; timer ladder 31", "worker.exited; worker.failed; group.stopping"),
        (1.0, gone(0)),
        (1.1, killed(1, 15), "", "worker.exited"),
        (1.1, gone(1), "no timer ladder", "group.failed exit_code=78"),
    )
    assert story.view.why == "rank 0 exited with code 78 after 1.0 s; not restarted: exit code 78 is fatal"
    assert story.view.restarts_left == 3


def test_other_codes_and_signals_are_retried() -> None:
    story = running(job(restart=RULES)).ends(1.0, 0, code=1).runs(1.0)
    story.happen(2.0, killed(0, 9))
    assert story.view.restarts == 2
