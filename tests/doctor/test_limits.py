"""Limits against the workers that a plan has, and what the kernel does when they are reached."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from supervisor.doctor import Finding, limits
from supervisor.doctor.units import Unit
from supervisor.plan import DaemonPlan, GroupPlan, LogRules, Resources


def plan(workers: int, oom_score_adj: int | None = None) -> DaemonPlan:
    group = GroupPlan("job", ("x",), workers, "job", LogRules("/x"), resources=Resources(oom_score_adj=oom_score_adj))
    return DaemonPlan("", "", "", "/x", "/x", {"job": group})


def unit(**properties: object) -> Unit:
    return Unit("r.service", {name: str(value) for name, value in properties.items()})


def test_open_files_are_five_a_worker_and_some_of_our_own() -> None:
    assert limits.open_files(plan(1000), unit(LimitNOFILE=5064)).verdict == "ok"
    told = limits.open_files(plan(1000), unit(LimitNOFILE=5063))
    assert told == Finding(
        "open files",
        "failed",
        "hard limit of r.service 5063; 1000 workers take up to 5064",
        "LimitNOFILE=1024:65536 in the unit, or ulimit -Hn",
    )
    assert limits.open_files(plan(60000), unit(LimitNOFILE="infinity")).verdict == "ok"


def test_without_a_unit_the_limit_is_our_own() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert limits.open_files(None, None).found.startswith(f"hard limit {hard if hard >= 0 else 'unlimited'}")


@pytest.mark.parametrize(("workers", "verdict"), [(1, "ok"), (2, "warning"), (68, "warning"), (69, "failed")])
def test_the_least_limit_of_processes_is_that_of_a_control_group_above(
    tmp_path: Path, workers: int, verdict: str
) -> None:
    for path, text in (
        ("proc/sys/kernel/pid_max", 32768),
        ("proc/self/cgroup", "0::/a/b"),
        ("sys/fs/cgroup/a/pids.max", 100),
        ("sys/fs/cgroup/a/b/pids.max", "max"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{text}\n")
    told = limits.processes(plan(workers), None, str(tmp_path))
    assert told.verdict == verdict
    assert told.found.startswith("at most 100 processes and threads (pids.max of control group /a)")


def test_of_a_unit_its_own_limits_count_and_nproc_only_for_other_users_than_root(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert limits.processes(plan(9), unit(TasksMax="infinity"), root).found == "no limit"
    told = limits.processes(plan(9), unit(TasksMax=40, LimitNPROC=9, User="root"), root)
    assert (told.verdict, told.advice) == ("failed", "raise TasksMax= of r.service (TasksMax=infinity in the unit)")
    assert (
        "(LimitNPROC= of r.service)" in limits.processes(plan(9), unit(TasksMax=40, LimitNPROC=9, User="u"), root).found
    )


def test_a_score_that_ends_rankd_first_or_protects_its_workers_too_is_worth_a_warning() -> None:
    assert limits.memory(plan(1), unit(OOMScoreAdjust=0)).verdict == "ok"
    assert "picks rankd early" in limits.memory(plan(1), unit(OOMScoreAdjust=100)).found
    told = limits.memory(plan(1), unit(OOMScoreAdjust=-900))
    assert (told.verdict, told.found) == ("warning", "oom_score_adj -900, inherited by the workers of job")
    assert limits.memory(plan(1, oom_score_adj=0), unit(OOMScoreAdjust=-900)).verdict == "ok"


@pytest.mark.parametrize(
    ("pattern", "soft", "verdict", "words"),
    [
        ("|/usr/lib/systemd/systemd-coredump %P", 0, "ok", "piped to /usr/lib/systemd/systemd-coredump"),
        ("core", 0, "ok", "the limit is 0"),
        ("core", -1, "warning", "in each worker's working directory, up to unlimited bytes"),
        ("/var/crash/core.%p", 4096, "ok", "written to /var/crash/core.%p, up to 4096 bytes"),
    ],
)
def test_where_core_dumps_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, soft: int, verdict: str, words: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, -1))
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/core_pattern").write_text(f"{pattern}\n")
    told = limits.core_dumps(str(tmp_path))
    assert told.verdict == verdict
    assert words in told.found


@pytest.mark.parametrize(("length", "verdict"), [("0", "warning"), ("9", "warning"), ("10", "ok"), ("", "ok")])
def test_the_kernel_keeps_as_many_words_of_workers_as_it_does_by_itself(
    tmp_path: Path, length: str, verdict: str
) -> None:
    if length:
        setting = tmp_path / "proc/sys/net/unix/max_dgram_qlen"
        setting.parent.mkdir(parents=True)
        setting.write_text(f"{length}\n")
    told = limits.datagrams(str(tmp_path))
    assert (told.verdict, length in told.found) == (verdict, True)
    assert bool(told.advice) == (verdict == "warning")
