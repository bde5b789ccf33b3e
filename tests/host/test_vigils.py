"""Where the workers' doors cannot be made, that is said before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.core.events import Who
from supervisor.host.apart import Apart
from supervisor.plan import DaemonPlan, GroupPlan, LogRules, WatchdogRules
from supervisor.premises import Unusable
from supervisor.vigils import Vigils


def test_a_runtime_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    group = GroupPlan("job", ("x",), 1, "job", LogRules("/x"), watchdog=WatchdogRules())
    plan = DaemonPlan("", "", "", "/x", str(tmp_path / "file"), {"job": group})
    with pytest.raises(Unusable, match=f"{tmp_path}/file: no doors for the workers of job there: Not a directory"):
        Vigils(
            plan,
            whose=lambda _group, _process: None,
            who=lambda group, worker: Who(group, worker.rank, worker.rank, worker.attempt),
            post=lambda _group, _input: None,
            tell=lambda _event: None,
            last_lines=lambda _group, _worker: "",
            leave_alone=lambda _pid: None,
            apart=Apart(),
        )
