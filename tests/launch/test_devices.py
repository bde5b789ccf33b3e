"""``--nproc-per-node`` on hosts made of empty files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.launch.devices import count_workers, count_xpus

INTEL, AMD = "0x8086", "0x1002"


def host(root: Path, *cards: tuple[str, str], nvidia: int = 0) -> str:
    """A host with these render nodes (vendor, driver) and so many NVIDIA GPUs; returns its root."""
    (root / "dev/dri").mkdir(parents=True)
    (root / "dev/dri/card0").touch()
    for number in range(nvidia):
        (root / f"dev/nvidia{number}").touch()
    for number, (vendor, driver) in enumerate(cards, 128):
        (root / f"dev/dri/renderD{number}").touch()
        device = root / f"sys/class/drm/renderD{number}/device"
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")
    return str(root)


def test_xpu_counts_the_render_nodes_of_intels_drivers(tmp_path: Path) -> None:
    root = host(tmp_path, (INTEL, "xe"), (INTEL, "i915"), (INTEL, "vfio-pci"), (AMD, "amdgpu"))
    assert count_workers("xpu", {}, root) == 2


@pytest.mark.parametrize(("mask", "devices"), [("0,2", 2), ("0.0,0.1,1.0", 2), ("", 0), ("1", 1)])
def test_level_zeros_mask_is_believed(mask: str, devices: int, tmp_path: Path) -> None:
    assert count_xpus({"ZE_AFFINITY_MASK": mask}, host(tmp_path)) == devices


def test_auto_takes_the_best_there_is(tmp_path: Path) -> None:
    both, intel, none = (tmp_path / name for name in ("both", "intel", "none"))
    assert count_workers("auto", {}, host(both, (INTEL, "xe"), nvidia=3)) == 3
    assert count_workers("auto", {}, host(intel, (INTEL, "xe"))) == 1
    assert count_workers("auto", {}, host(none)) == len(os.sched_getaffinity(0))
    assert count_workers("auto", {"CUDA_VISIBLE_DEVICES": ""}, host(tmp_path / "hidden", (INTEL, "xe"), nvidia=3)) == 1


@pytest.mark.parametrize(
    ("wanted", "environ", "said"),
    [
        ("gpu", {}, "gpu: this host has no NVIDIA GPU"),
        ("gpu", {"CUDA_VISIBLE_DEVICES": "-1"}, "gpu: CUDA_VISIBLE_DEVICES='-1' leaves none"),
        ("xpu", {}, "xpu: this host has no Intel GPU"),
        ("xpu", {"ZE_AFFINITY_MASK": ""}, "xpu: ZE_AFFINITY_MASK='' leaves none"),
    ],
)
def test_a_kind_of_device_that_is_not_there_is_refused(
    wanted: str, environ: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        count_workers(wanted, environ, host(tmp_path))
