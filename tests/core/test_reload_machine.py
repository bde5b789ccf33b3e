"""Random histories in which the configuration is read anew at any moment: DESIGN.md's invariants hold all the same."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import rule

from supervisor.core.groups import ReloadRequested, why_not_reload
from supervisor.plan import DaemonPlan
from tests.core.test_group_machine import Histories, plans


class Reloads(Histories):
    """Budgets and exit codes, which a reload may change at once, are left to the stories."""

    @rule(plan=plans())
    def the_configuration_is_read_anew(self, plan: DaemonPlan) -> None:
        state = self.host.state
        if why_not_reload(state, plan):
            return
        self.host.plan = plan
        used = {
            name: max((worker.attempt for of, worker in self.host.past if of == name), default=-1) for name in "abc"
        }
        self.host.arrive(ReloadRequested(plan, dict.fromkeys(plan.groups, 7), used))
        staying = self.host.state.groups.keys() - self.host.state.leaving
        assert staying == plan.groups.keys()
        for name, group in self.host.state.groups.items():
            if name in staying:
                assert (group.next_plan or group.plan) == plan.groups[name]

    def somebody_starts_a_group(self, name: str) -> None: ...
    def a_failure_is_counted_once_and_has_one_root_cause(self) -> None: ...
    def restarts_stay_within_the_budget(self) -> None: ...
    def the_exit_code_is_that_of_the_first_required_group_that_failed(self) -> None: ...
    def read_events(self) -> None: ...


TestReloads = Reloads.TestCase
TestReloads.settings = settings(max_examples=100, stateful_step_count=50, derandomize=True)
