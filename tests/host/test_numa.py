"""Which CPUs each local rank is bound to, on machines made of files: torch's four bindings, without torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from supervisor.host.topology import bind_workers, visible_gpus
from supervisor.plan import Binding, GroupPlan, LogRules, rank_environment, single_host_world


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


class Host:
    """Two sockets of two nodes of two cores of two threads: CPUs n and n + 8 are one core."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for node in range(4):
            write(
                root / f"sys/devices/system/node/node{node}/cpulist",
                f"{2 * node}-{2 * node + 1},{2 * node + 8}-{2 * node + 9}",
            )
        for cpu in range(16):
            about = root / f"sys/devices/system/cpu/cpu{cpu}"
            core = cpu % 8
            write(about / "topology/physical_package_id", core // 4)
            write(about / "topology/thread_siblings_list", f"{core},{core + 8}")
            for index, (kind, level, shared) in enumerate(
                [("Data", 1, f"{core},{core + 8}"), ("Instruction", 4, f"{core}"), ("Unified", 2, f"{core},{core + 8}")]
            ):
                write(about / f"cache/index{index}/type", kind)
                write(about / f"cache/index{index}/level", level)
                write(about / f"cache/index{index}/shared_cpu_list", shared)

    def plug_in(self, *nodes: int) -> None:
        """A GPU at each of these nodes, in the order of PCI addresses; and a network card before them all."""
        write(self.root / "sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de")
        write(self.root / "sys/bus/pci/devices/0000:01:00.0/class", "0x020000")
        for number, node in enumerate(nodes):
            gpu = self.root / f"sys/bus/pci/devices/0000:{number + 16:02x}:00.0"
            write(gpu / "vendor", "0x10de")
            write(gpu / "class", "0x030200")
            write(gpu / "numa_node", node)
            about = self.root / f"proc/driver/nvidia/gpus/{gpu.name}/information"
            write(about, f"Model: \t\t A100\nGPU UUID: \t GPU-{number}ab-cd\nDevice Minor: \t {number}")

    def bound(
        self, how: Binding, workers: int, *, visible: str | None = None, ours: Sequence[int] = range(16)
    ) -> list[list[int]]:
        environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        return [sorted(cpus) for cpus in bind_workers(how, workers, environ, ours, str(self.root))]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_node_is_the_node_of_the_workers_gpu(host: Host) -> None:
    host.plug_in(3, 0)
    assert host.bound("node", 2) == [[6, 7, 14, 15], [0, 1, 8, 9]]


def test_a_gpu_whose_node_the_firmware_does_not_say_is_at_the_first(host: Host) -> None:
    host.plug_in(-1)
    assert host.bound("node", 1) == [[0, 1, 8, 9]]


@pytest.mark.parametrize(
    ("visible", "order"),
    [
        ("1,0", [1, 0]),
        (" 2 ", [2]),
        ("GPU-2ab-cd,GPU-0", [2, 0]),
        ("MIG-GPU-1ab-cd/7/0,MIG-GPU-1ab-cd/8/0,0", [1, 1, 0]),
        ("1,-1,0", [1]),
        ("", []),
        ("${LOCAL_RANK}", [0, 1, 2]),
    ],
)
def test_cuda_visible_devices_says_which_gpu_a_local_rank_has(host: Host, visible: str, order: list[int]) -> None:
    host.plug_in(0, 1, 2)
    found = visible_gpus({"CUDA_VISIBLE_DEVICES": visible}, str(host.root))
    assert found == [f"0000:{number + 16:02x}:00.0" for number in order]


@pytest.mark.parametrize("visible", ["9", "GPU-ffff", "MIG-0", "GPU-", "MIG-GPU-", "MIG-1ab-cd"])
def test_a_device_that_is_not_known_here_is_refused_by_name(host: Host, visible: str) -> None:
    host.plug_in(0, 1)
    with pytest.raises(ValueError, match=f"which GPU '{visible}' of CUDA_VISIBLE_DEVICES is cannot be told"):
        host.bound("node", 1, visible=visible)


def test_in_a_container_gpus_are_numbered_as_it_has_device_nodes(host: Host) -> None:
    """/sys and the driver show all of the host's."""
    host.plug_in(0, 1, 2, 3)
    for name in ("nvidia1", "nvidia3", "nvidiactl"):
        write(host.root / "dev" / name, "")
    assert [visible_gpus(environ, str(host.root)) for environ in ({}, {"CUDA_VISIBLE_DEVICES": "1,0"})] == [
        ["0000:11:00.0", "0000:13:00.0"],
        ["0000:13:00.0", "0000:11:00.0"],
    ]
    assert host.bound("node", 2) == [[2, 3, 10, 11], [6, 7, 14, 15]]
    with pytest.raises(ValueError, match="which GPU 'GPU-0ab-cd' of CUDA_VISIBLE_DEVICES is cannot be told"):
        host.bound("node", 1, visible="GPU-0ab-cd")


def test_a_gpu_that_has_been_given_to_a_guest_is_not_counted(host: Host) -> None:
    host.plug_in(0, 1)
    (host.root / "proc/driver/nvidia/gpus/0000:10:00.0/information").unlink()
    (host.root / "proc/driver/nvidia/gpus/0000:10:00.0").rmdir()
    assert visible_gpus({}, str(host.root)) == ["0000:11:00.0"]


@pytest.mark.parametrize(
    ("visible", "devices", "cpus"),
    [
        (None, ["0", "1"], [[0, 1, 8, 9], [2, 3, 10, 11]]),
        ("2, 0", ["2", "0"], [[4, 5, 12, 13], [0, 1, 8, 9]]),
        ("GPU-2ab-cd,MIG-GPU-1ab-cd/7/0", ["GPU-2ab-cd", "MIG-GPU-1ab-cd/7/0"], [[4, 5, 12, 13], [2, 3, 10, 11]]),
    ],
)
def test_a_virtual_local_rank_sees_just_the_gpu_that_it_is_bound_to(
    host: Host, visible: str | None, devices: list[str], cpus: list[list[int]]
) -> None:
    """Both are chosen by the real local rank, from the list that the group has."""
    host.plug_in(0, 1, 2)
    group = GroupPlan("job", ("job",), 2, "job", LogRules("/logs"), virtual_local_rank=True)
    world = single_host_world(group, 0, "127.0.0.1", 1)
    seen = [
        rank_environment(group, world, rank, attempt=0, restarts=0, error_file="", visible_devices=visible)
        for rank in range(2)
    ]
    assert [(env["LOCAL_RANK"], env["RANK"], env["CUDA_VISIBLE_DEVICES"]) for env in seen] == [
        ("0", str(rank), device) for rank, device in enumerate(devices)
    ]
    assert host.bound("node", 2, visible=visible) == cpus
    assert [host.bound("node", 1, visible=device) for device in devices] == [[one] for one in cpus], "its own view"


def test_without_a_gpu_for_each_neighbouring_ranks_share_a_node(host: Host) -> None:
    assert host.bound("node", 5) == [[0, 1, 8, 9], [0, 1, 8, 9], [2, 3, 10, 11], [4, 5, 12, 13], [6, 7, 14, 15]]
    host.plug_in(3)
    assert host.bound("node", 2) == [[0, 1, 8, 9], [4, 5, 12, 13]]


def test_without_gpus_nodes_on_which_rankd_may_not_run_are_passed_over(host: Host) -> None:
    assert host.bound("node", 2, ours=[3, 6]) == [[3], [6]]


def test_socket_is_all_nodes_in_the_socket_of_the_workers_node(host: Host) -> None:
    host.plug_in(1, 2)
    assert host.bound("socket", 2) == [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]


def test_exclusive_shares_out_whole_cores_and_the_first_get_one_more(host: Host) -> None:
    write(host.root / "sys/devices/system/node/node0/cpulist", "0-3,8-11")
    write(host.root / "sys/devices/system/node/node1/cpulist", "")
    host.plug_in(0, 0, 0)
    assert host.bound("exclusive", 3) == [[0, 1, 8, 9], [2, 10], [3, 11]]
    assert host.bound("exclusive", 1) == [[0, 1, 8, 9]]  # a GPU without a worker keeps its share, as in torch


def test_exclusive_takes_of_each_core_the_threads_that_rankd_may_use(host: Host) -> None:
    host.plug_in(0, 0)
    assert host.bound("exclusive", 2, ours=[0, 1, 9]) == [[0], [1, 9]]


def test_exclusive_without_a_core_for_each_is_refused_with_both_numbers(host: Host) -> None:
    with pytest.raises(ValueError, match="NUMA node 0 has 2 cores that rankd may use, for 3 workers"):
        host.bound("exclusive", 9)


def test_core_complexes_are_dealt_in_turn_the_largest_first(host: Host) -> None:
    for cpu in (2, 3, 4, 5, 10, 11, 12, 13):
        write(host.root / f"sys/devices/system/cpu/cpu{cpu}/cache/index2/shared_cpu_list", "2-5,10-13")
    write(host.root / "sys/devices/system/node/node0/cpulist", "0-5,8-13")
    host.plug_in(0, 0, 0, 0)
    large = [2, 3, 4, 5, 10, 11, 12, 13]
    assert host.bound("core-complex", 4) == [large, [0, 8], [1, 9], large]


def test_an_instruction_cache_makes_no_complex_and_no_cache_at_all_makes_each_cpu_one(host: Host) -> None:
    assert host.bound("core-complex", 4)[0] == [0, 8]
    write(host.root / "sys/devices/system/node/node0/cpulist", "0,77")
    assert host.bound("core-complex", 1, ours=[77]) == [[77]]


def test_a_kernel_that_knows_no_nodes_is_one_node(tmp_path: Path) -> None:
    assert bind_workers("node", 2, {}, [0, 5], str(tmp_path)) == (frozenset({0, 5}),) * 2


def test_a_gpu_at_a_node_where_rankd_may_not_run_is_refused_with_what_it_may(host: Host) -> None:
    host.plug_in(0, 3)
    with pytest.raises(ValueError, match=r"none of the CPUs of NUMA node 3, where a GPU is \(allowed: 0-3\)"):
        host.bound("node", 1, visible="1", ours=[0, 1, 2, 3])


def test_nodes_that_have_none_of_our_cpus_are_refused(host: Host) -> None:
    with pytest.raises(ValueError, match="names none of the CPUs that rankd may run on"):
        host.bound("node", 1, ours=[99])


def test_this_machine_itself_can_be_bound_in_every_way() -> None:
    ours = os.sched_getaffinity(0)
    for how in ("node", "socket", "exclusive", "core-complex"):
        (cpus,) = bind_workers(how, 1, {"CUDA_VISIBLE_DEVICES": ""}, ours)
        assert cpus
        assert cpus <= ours
