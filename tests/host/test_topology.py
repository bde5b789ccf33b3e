"""How many workers ``cpu``, ``gpu`` and ``auto`` mean, on hosts made of empty files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.host.topology import count_gpus, count_workers


def host(root: Path, nodes: int = 0, listed: int = 0) -> str:
    """A root with so many device nodes and so many GPUs in the driver's list; returns its path."""
    (root / "dev").mkdir()
    for name in ("null", "nvidiactl", "nvidia-uvm", "nvidia-modeset", *(f"nvidia{n}" for n in range(nodes))):
        (root / "dev" / name).touch()
    for n in range(listed):
        (root / f"proc/driver/nvidia/gpus/0000:{n:02x}:00.0").mkdir(parents=True)
    return str(root)


def test_cpu_counts_the_cpus_that_we_may_run_on() -> None:
    some = min(os.sched_getaffinity(0))
    script = (
        f"import os; os.sched_setaffinity(0, [{some}])\n"
        "from supervisor.host.topology import count_workers; print(count_workers('cpu', {}))"
    )
    out = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=30,
    ).stdout
    assert int(out) == 1
    assert count_workers("cpu", {}) == len(os.sched_getaffinity(0))


def test_gpu_counts_device_nodes_and_nothing_else_that_begins_like_one(tmp_path: Path) -> None:
    assert count_workers("gpu", {}, host(tmp_path, nodes=11)) == 11


def test_a_container_with_one_node_has_one_gpu_whatever_the_driver_lists(tmp_path: Path) -> None:
    assert count_workers("gpu", {}, host(tmp_path, nodes=1, listed=8)) == 1


def test_before_the_nodes_are_made_the_drivers_list_counts(tmp_path: Path) -> None:
    assert count_workers("gpu", {}, host(tmp_path, listed=4)) == 4


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        ("0", 1),
        ("0,1,2", 3),
        (" 3 , 5 ", 2),
        ("", 0),
        ("-1", 0),
        ("0,-1,1", 1),
        ("NoDevFiles", 0),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,1", 2),
        ("MIG-GPU-8932f937/1/2", 1),
    ],
)
def test_cuda_visible_devices_counts_up_to_the_first_that_is_none(tmp_path: Path, visible: str, count: int) -> None:
    assert count_gpus({"CUDA_VISIBLE_DEVICES": visible}, host(tmp_path, nodes=8)) == count


def test_gpu_without_gpus_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no NVIDIA GPU: no /dev/nvidia0"):
        count_workers("gpu", {}, host(tmp_path))


def test_gpu_with_all_devices_hidden_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES='-1' leaves none"):
        count_workers("gpu", {"CUDA_VISIBLE_DEVICES": "-1"}, host(tmp_path, nodes=8))


def test_auto_is_gpus_where_there_are_any_and_cpus_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    assert count_workers("auto", {}, host(tmp_path / "with", nodes=3)) == 3
    assert count_workers("auto", {}, host(tmp_path / "without")) == count_workers("cpu", {})
    assert count_workers("auto", {"CUDA_VISIBLE_DEVICES": ""}, str(tmp_path / "with")) == count_workers("cpu", {})
