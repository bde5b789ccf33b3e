"""How many workers this host is good for: CPUs we may run on, GPUs we may see."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Literal

_DEVICE_NODE = re.compile(r"nvidia[0-9]+")


def count_workers(kind: Literal["cpu", "gpu", "auto"], environ: Mapping[str, str], root: str = "/") -> int:
    """The number of workers that ``workers = "cpu" | "gpu" | "auto"`` means here and now; at least 1.

    cpu: the CPUs of our affinity mask (sched_getaffinity(2)); a cgroup's CPU quota is not counted, as torch does not.
    gpu: the devices that CUDA would see; ``ValueError`` when there is none. auto: gpu if there is any, else cpu.
    ``root`` is where /dev and /proc are found.
    """
    cpus = len(os.sched_getaffinity(0))
    if kind == "cpu":
        return cpus
    gpus = count_gpus(environ, root)
    if gpus or kind == "auto":
        return gpus or cpus
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        raise ValueError(f'workers = "gpu", but CUDA_VISIBLE_DEVICES={visible!r} leaves none')
    raise ValueError(
        'workers = "gpu", but this host has no NVIDIA GPU: no /dev/nvidia0, nothing in /proc/driver/nvidia/gpus'
    )


def count_gpus(environ: Mapping[str, str], root: str = "/") -> int:
    """The entries of ``CUDA_VISIBLE_DEVICES`` up to the first invalid one, as CUDA reads it; unset: the host's GPUs.

    The variable is believed: whether the host has so many devices is CUDA's to say.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return _installed_gpus(root)
    count = 0
    for entry in visible.split(","):
        device = entry.strip()
        if not (device.isdecimal() or device.startswith(("GPU-", "MIG-"))):
            break
        count += 1
    return count


def _installed_gpus(root: str) -> int:
    """Device nodes, which a container has for its own GPUs only; before those are made, the driver's list."""
    nodes = sum(1 for name in _names(os.path.join(root, "dev")) if _DEVICE_NODE.fullmatch(name))
    return nodes or len(_names(os.path.join(root, "proc/driver/nvidia/gpus")))


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
