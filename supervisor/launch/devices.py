"""``--nproc-per-node``: a number of workers, or what the machine answers, without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping

from supervisor import values
from supervisor.host.topology import count_gpus

_INTEL = "0x8086"
_XPU_DRIVERS = frozenset({"i915", "xe"})


def count_workers(wanted: str, environ: Mapping[str, str], root: str = "/") -> int:
    """How many workers ``wanted`` means here and now; ``ValueError`` with words if it is no such number.

    cpu: the CPUs of our affinity mask. gpu, xpu: the devices that CUDA or Level Zero would show. auto: gpu if there is
    any, else xpu, else cpu. ``root`` is where /dev, /proc and /sys are found.
    """
    match wanted:
        case "cpu":
            return _cpus()
        case "gpu":
            return count_gpus(environ, root) or _none("gpu", "NVIDIA GPU", "CUDA_VISIBLE_DEVICES", environ)
        case "xpu":
            return count_xpus(environ, root) or _none("xpu", "Intel GPU", "ZE_AFFINITY_MASK", environ)
        case "auto":
            return count_gpus(environ, root) or count_xpus(environ, root) or _cpus()
    try:
        number = int(wanted)
    except ValueError:
        raise ValueError(f"{wanted!r} is not a number of workers (allowed: 1 and more, auto, cpu, gpu, xpu)") from None
    workers = values.workers(number)
    assert isinstance(workers, int), "a number stays one"
    return workers


def count_xpus(environ: Mapping[str, str], root: str = "/") -> int:
    """The devices that ``ZE_AFFINITY_MASK`` names (tiles of one device, ``0.0,0.1``, count as one); unset: the render
    nodes in /dev/dri, which a container has for its own GPUs only, that Intel's drivers have made."""
    mask = environ.get("ZE_AFFINITY_MASK")
    if mask is not None:
        return len({entry.strip().partition(".")[0] for entry in mask.split(",") if entry.strip()})
    try:
        nodes = os.listdir(os.path.join(root, "dev/dri"))
    except OSError:
        return 0
    return sum(_is_xpu(os.path.join(root, "sys/class/drm", node, "device")) for node in nodes if node[:7] == "renderD")


def _is_xpu(device: str) -> bool:
    try:
        with open(os.path.join(device, "vendor"), encoding="ascii") as file:
            vendor = file.read().strip()
        return vendor == _INTEL and os.path.basename(os.readlink(os.path.join(device, "driver"))) in _XPU_DRIVERS
    except OSError:
        return False


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


def _none(kind: str, device: str, variable: str, environ: Mapping[str, str]) -> int:
    if variable in environ:
        raise ValueError(f"{kind}: {variable}={environ[variable]!r} leaves none")
    raise ValueError(f"{kind}: this host has no {device}")
