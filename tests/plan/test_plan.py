"""Ranks and the environment that a worker sees: torch's contract and ours, for one host and for groups side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from supervisor.plan import (
    CONTRACT,
    NEVER_INHERITED,
    DaemonPlan,
    GroupPlan,
    LogRules,
    Probe,
    RestartRules,
    Seat,
    Streams,
    WorkerPlan,
    assign_seats,
    group_environment,
    rank_environment,
    single_host_world,
    substitute,
    worker_plan,
    world_environment,
)


def group(name: str = "trainer", workers: int = 2, **options: Any) -> GroupPlan:
    options.setdefault("role", name)
    options.setdefault("command", ("python", "train.py"))
    return GroupPlan(name=name, workers=workers, logs=LogRules("/state/logs"), **options)


def daemon(*groups: GroupPlan) -> DaemonPlan:
    return DaemonPlan("rankd", "host-a", "job-42", "/state", "/run/rankd", {one.name: one for one in groups})


def planned(
    one: GroupPlan, local_rank: int = 0, inherited: Mapping[str, str] | None = None, *, attempt: int = 3,
    restarts: int = 2, port: int = 29500,
) -> WorkerPlan:  # fmt: skip
    whole = daemon(one)
    world = single_host_world(one, 0, "127.0.0.1", port)
    shared = group_environment(whole, one, inherited or {}) | world_environment(world)
    return worker_plan(whole, one, world, shared, local_rank, attempt=attempt, restarts=restarts)


# ---- ranks


def test_ranks_are_assigned_as_torch_does() -> None:
    """The table of torch's own test (``test_assign_worker_ranks``): ps 4, trainer 1, 2, 3, ps 5."""
    seats = assign_seats([("ps", 4), ("trainer", 1), ("trainer", 2), ("trainer", 3), ("ps", 5)])
    assert seats == [Seat(0, 15, 0, 9), Seat(4, 15, 0, 6), Seat(5, 15, 1, 6), Seat(7, 15, 3, 6), Seat(10, 15, 4, 9)]
    hosts = zip([4, 1, 2, 3, 5], seats, strict=True)
    ranks = [(seat.base_rank + i, seat.base_role_rank + i) for workers, seat in hosts for i in range(workers)]
    assert ranks == [
        (0, 0), (1, 1), (2, 2), (3, 3), (4, 0), (5, 1), (6, 2), (7, 3), (8, 4), (9, 5), (10, 4), (11, 5), (12, 6),
        (13, 7), (14, 8),
    ]  # fmt: skip


def test_every_group_on_one_host_is_a_world_of_its_own() -> None:
    for one in (group("trainer", 4), group("server", 2)):
        world = single_host_world(one, 5, "127.0.0.1", 29500)
        assert (world.base_rank, world.world_size, world.local_world_size) == (0, one.workers, one.workers)
        assert (world.group_rank, world.group_world_size, world.role_world_size) == (0, 1, one.workers)
        assert (world.round, world.master_addr, world.master_port) == (5, "127.0.0.1", 29500)


# ---- the whole environment


def test_a_worker_sees_all_of_torchs_contract_and_ours() -> None:
    one = group(workers=2, role="train", restart=RestartRules(max_restarts=7))
    assert planned(one, 1).env == {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "GROUP_RANK": "0",
        "ROLE_RANK": "1",
        "ROLE_NAME": "train",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_WORLD_SIZE": "1",
        "ROLE_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "TORCHELASTIC_RESTART_COUNT": "2",
        "TORCHELASTIC_MAX_RESTARTS": "7",
        "TORCHELASTIC_RUN_ID": "job-42",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "TORCHELASTIC_ERROR_FILE": "/state/logs/trainer/job-42/attempt_3/1/error.json",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        "OMP_NUM_THREADS": "1",
        "RANKD_GROUP": "trainer",
        "RANKD_ATTEMPT": "3",
        "RANKD_NODE_ID": "host-a",
        "RANKD_ROUND": "0",
        "RANKD_STATE_DIR": "/state",
    }


def test_the_contract_is_the_same_whatever_env_and_the_daemons_own_environment_say() -> None:
    theirs = dict.fromkeys(CONTRACT, "mine") | {"EXTRA": "1"}
    plain = planned(group()).env
    assert planned(group(env=theirs)).env == {**plain, "EXTRA": "1"}
    assert planned(group(env=dict.fromkeys(CONTRACT, "${EXTRA}"))).env == plain
    assert planned(group(), inherited=theirs).env == {**plain, "EXTRA": "1"}
    assert set(plain) - CONTRACT == {"TORCH_NCCL_ASYNC_ERROR_HANDLING", "OMP_NUM_THREADS"}


def test_the_daemons_environment_is_inherited_and_the_groups_own_comes_after_it() -> None:
    inherited = {"HOME": "/root", "DEBUG": "0"}
    env = planned(group(env={"DEBUG": "1"}), inherited=inherited).env
    assert (env["HOME"], env["DEBUG"]) == ("/root", "1")
    env = planned(group(env={"DEBUG": "1"}, inherit_env=False), inherited=inherited).env
    assert "HOME" not in env
    assert env["DEBUG"] == "1"


def test_what_systemd_told_the_daemon_about_itself_is_not_handed_on() -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "JOURNAL_STREAM"):
        assert name in NEVER_INHERITED
    env = planned(group(), inherited=dict.fromkeys(NEVER_INHERITED, "x")).env
    assert not NEVER_INHERITED & set(env)


@pytest.mark.parametrize(
    ("workers", "inherited", "env", "threads"),
    [
        (2, {}, {}, "1"),
        (1, {}, {}, None),
        (2, {"OMP_NUM_THREADS": "8"}, {}, "8"),
        (2, {}, {"OMP_NUM_THREADS": "4"}, "4"),
        (2, {"OMP_NUM_THREADS": "8"}, {"OMP_NUM_THREADS": "4"}, "4"),
        (2, {}, {"OMP_NUM_THREADS": "${LOCAL_WORLD_SIZE}"}, "2"),
    ],
)
def test_omp_num_threads_is_one_when_unset_and_there_are_several_workers(
    workers: int, inherited: dict[str, str], env: dict[str, str], threads: str | None
) -> None:
    assert planned(group(workers=workers, env=env), inherited=inherited).env.get("OMP_NUM_THREADS") == threads


def test_nccls_error_handling_is_on_unless_somebody_says_otherwise() -> None:
    name = "TORCH_NCCL_ASYNC_ERROR_HANDLING"
    assert planned(group(), inherited={name: "3"}).env[name] == "3"
    assert planned(group(env={name: "0"})).env[name] == "0"
    assert planned(group(env={name: "${RANK}"}), 1).env[name] == "1"


# ---- one device a worker


def test_a_virtual_local_rank_is_zero_with_one_visible_device() -> None:
    one = group(workers=3, virtual_local_rank=True)
    env = planned(one, 2, {"CUDA_VISIBLE_DEVICES": "4, 5,GPU-abc"}).env
    assert (env["LOCAL_RANK"], env["CUDA_VISIBLE_DEVICES"], env["RANK"]) == ("0", "GPU-abc", "2")
    assert planned(one, 1, {"CUDA_VISIBLE_DEVICES": "4, 5,6"}).env["CUDA_VISIBLE_DEVICES"] == "5"
    assert planned(one, 2).env["CUDA_VISIBLE_DEVICES"] == "2"


def test_a_list_of_devices_that_is_too_short_is_refused_as_torch_does() -> None:
    with pytest.raises(ValueError, match=r"local rank 2 has no device, CUDA_VISIBLE_DEVICES names 2"):
        planned(group(workers=3, virtual_local_rank=True), 2, {"CUDA_VISIBLE_DEVICES": "4,5"})


def test_an_empty_list_of_devices_hides_all_from_a_virtual_local_rank_too() -> None:
    """As torch has it: the first worker sees none, and for a second there is none."""
    one = group(workers=2, virtual_local_rank=True)
    assert planned(one, 0, {"CUDA_VISIBLE_DEVICES": ""}).env["CUDA_VISIBLE_DEVICES"] == ""
    with pytest.raises(ValueError, match=r"local rank 1 has no device, CUDA_VISIBLE_DEVICES names none"):
        planned(one, 1, {"CUDA_VISIBLE_DEVICES": ""})


def test_the_device_of_a_virtual_local_rank_is_not_what_env_says_last() -> None:
    one = group(workers=2, virtual_local_rank=True, env={"CUDA_VISIBLE_DEVICES": "${RANK}"})
    assert planned(one, 1, {"CUDA_VISIBLE_DEVICES": "6,7"}).env["CUDA_VISIBLE_DEVICES"] == "7"
    one = group(workers=2, virtual_local_rank=True, env={"CUDA_VISIBLE_DEVICES": "2,3"})
    assert planned(one, 1, {"CUDA_VISIBLE_DEVICES": "6,7"}).env["CUDA_VISIBLE_DEVICES"] == "3"


def test_without_it_the_devices_are_left_alone() -> None:
    env = planned(group(), 1, {"CUDA_VISIBLE_DEVICES": "4,5"}).env
    assert (env["LOCAL_RANK"], env["CUDA_VISIBLE_DEVICES"]) == ("1", "4,5")
    assert "CUDA_VISIBLE_DEVICES" not in planned(group()).env


# ---- substitution


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("${RANK}", "3"),
        ("--rank=${RANK}/${WORLD_SIZE}", "--rank=3/8"),
        ("plain $RANK ${}", "plain $RANK ${}"),
        ("${UNKNOWN} ${1} ${a-b}", "${UNKNOWN} ${1} ${a-b}"),
        ("$${RANK}", "${RANK}"),
        ("$$${RANK}", "$${RANK}"),
        ("${NESTED}", "${RANK}"),
        ("${RANK}${RANK}", "33"),
        ("", ""),
    ],
)
def test_names_are_replaced_once_and_unknown_ones_stay(text: str, result: str) -> None:
    assert substitute(text, {"RANK": "3", "WORLD_SIZE": "8", "NESTED": "${RANK}"}) == result


def test_command_directory_and_env_may_name_what_the_worker_sees() -> None:
    one = group(
        command=("serve", "--port=80${RANK}", "--of", "${WORLD_SIZE}", "--cache", "${CACHE}", "${HOME}", "$${HOME}"),
        cwd="/srv/${ROLE_NAME}/${LOCAL_RANK}",
        env={"CACHE": "/tmp/${RANKD_GROUP}.${RANK}"},
    )
    plan = planned(one, 1, {"HOME": "/root"})
    assert plan.argv == ("serve", "--port=801", "--of", "2", "--cache", "/tmp/trainer.1", "/root", "${HOME}")
    assert plan.cwd == "/srv/trainer/1"
    assert plan.env["CACHE"] == "/tmp/trainer.1"


def test_a_value_of_env_may_name_those_above_it_and_what_it_was_before() -> None:
    env = {
        "PATH": "/opt/bin:${PATH}",
        "BELOW": "${LATER}",
        "ROOT": "/data",
        "SHARD": "${ROOT}/${RANK}",
        "INDEX": "${SHARD}/index",
        "LATER": "x",
        "LATEST": "${RANK}",
        "EARLIEST": "${NONE}",
    }
    seen = planned(group(env=env), 1, {"PATH": "/bin"}).env
    assert seen["PATH"] == "/opt/bin:/bin"
    assert (seen["SHARD"], seen["INDEX"]) == ("/data/1", "/data/1/index")
    assert seen["EARLIEST"] == "${NONE}"


def test_a_value_that_names_another_with_names_in_it_needs_it_above() -> None:
    seen = planned(group(env={"A": "${B}", "B": "${RANK}", "C": "${B}"}), 1).env
    assert (seen["A"], seen["C"]) == ("${B}", "1")
    assert planned(group(env={"PATH": "/opt/bin:${PATH}"}, inherit_env=False)).env["PATH"] == "/opt/bin:${PATH}"


def test_each_worker_has_the_port_of_its_local_rank_whatever_it_is_told_of_its_device() -> None:
    ports = [planned(group(first_port=8001, virtual_local_rank=True), rank).env["PORT"] for rank in range(2)]
    assert ports == ["8001", "8002"]
    assert planned(group(first_port=8001, env={"URL": "http://h:${PORT}"}), 1).env["URL"] == "http://h:8002"
    assert "PORT" not in planned(group(inherit_env=False)).env


# ---- what the host is given


def test_a_workers_directory_is_named_by_group_run_attempt_and_local_rank() -> None:
    one = group(user="train", group="ml", umask=0o027)
    plan = planned(one, 1, attempt=12)
    assert plan.directory == "/state/logs/trainer/job-42/attempt_12/1"
    assert plan.env["TORCHELASTIC_ERROR_FILE"] == f"{plan.directory}/error.json"
    assert plan.env["RANKD_ATTEMPT"] == "12"
    assert (plan.local_rank, plan.user, plan.group, plan.umask) == (1, "train", "ml", 0o027)
    assert plan.logs is one.logs
    assert plan.labels == {
        "group": "trainer", "role_name": "trainer", "rank": "1", "local_rank": "1", "attempt": "12"
    }  # fmt: skip


def test_two_workers_share_nothing_that_one_could_change() -> None:
    one = group(env={"X": "${RANK}"})
    shared = group_environment(daemon(one), one, {}) | world_environment(single_host_world(one, 0, "::1", 1))
    before = dict(shared)
    world = single_host_world(one, 0, "::1", 1)
    plans = [worker_plan(daemon(one), one, world, shared, rank, attempt=0, restarts=0) for rank in range(2)]
    assert shared == before
    assert [plan.env["X"] for plan in plans] == ["0", "1"]


def test_ranks_count_on_where_the_world_says_this_host_begins() -> None:
    (_, seat) = assign_seats([("ps", 4), ("trainer", 2)])
    one = group(workers=2)
    world = single_host_world(one, 1, "10.0.0.1", 29500)
    world = type(world)(
        round=1, master_addr="10.0.0.1", master_port=29500, local_world_size=2, group_rank=1, group_world_size=2,
        base_rank=seat.base_rank, world_size=seat.world_size, base_role_rank=seat.base_role_rank,
        role_world_size=seat.role_world_size,
    )  # fmt: skip
    env = rank_environment(
        one, world, 1, attempt=0, restarts=0, error_file="/e", visible_devices=None
    ) | world_environment(world)
    assert (env["RANK"], env["LOCAL_RANK"], env["ROLE_RANK"]) == ("5", "1", "1")
    assert (env["WORLD_SIZE"], env["ROLE_WORLD_SIZE"], env["GROUP_RANK"], env["GROUP_WORLD_SIZE"]) == (
        "6", "2", "1", "2"
    )  # fmt: skip


def test_a_probe_is_told_where_its_own_worker_is() -> None:
    def asked(probe: Probe) -> Probe | None:
        one = group(workers=2, env={"PORT": "80${LOCAL_RANK}"}, probe=probe)
        world = single_host_world(one, 0, "127.0.0.1", 1)
        return worker_plan(daemon(one), one, world, {}, 1, attempt=0, restarts=0).probe

    assert asked(Probe(http="http://127.0.0.1:${PORT}/")) == Probe(http="http://127.0.0.1:801/")
    assert asked(Probe(tcp="127.0.0.1:${PORT}")) == Probe(tcp="127.0.0.1:801")
    assert asked(Probe(exec=("ask", "${RANK}", "$${RANK}"))) == Probe(exec=("ask", "1", "${RANK}"))


def test_streams_are_looked_up_by_local_rank_with_one_rule_for_the_rest() -> None:
    streams = Streams(rest=3, of={10: 1})
    assert [streams[rank] for rank in (0, 10, 11)] == [3, 1, 3]


@pytest.mark.parametrize(
    ("redirects", "tee", "shown", "inherits"),
    [
        (0, 3, (), [False, False]),
        (3, 0, (), [False, False]),
        (1, 2, (), [False, False]),
        (0, 1, (), [True, True]),
        (0, 0, (), [True, True]),
        (0, 0, (1,), [False, True]),
    ],
)
def test_a_stream_in_no_file_is_where_rankds_own_goes_unless_the_rank_is_filtered_out(
    redirects: int, tee: int, shown: tuple[int, ...], inherits: list[bool]
) -> None:
    rules = LogRules("/logs", Streams(redirects), Streams(tee), local_ranks_filter=frozenset(shown))
    assert [rules.inherits(rank) for rank in (0, 1)] == inherits
