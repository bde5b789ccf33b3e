"""How many workers this host is good for, and on which CPUs each runs best: what /sys, /proc and /dev say.

The bindings are torch's (torch/numa/binding.py), which asks CUDA for its GPUs and numactl(8) to bind: neither is needed
here.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from supervisor.host.resources import ranges
from supervisor.plan import Binding

_DEVICE_NODE = re.compile(r"nvidia([0-9]+)")
_DRIVEN = "proc/driver/nvidia/gpus"
_NVIDIA, _DISPLAY = "0x10de", "0x03"  # PCI vendor, and the base class of display controllers


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


Kin = Callable[[int, str], frozenset[int]]
"""All CPUs that share something with one CPU; empty where the kernel does not say. The second is the root."""


class _Place(NamedTuple):
    """One worker's (or GPU's) place: its NUMA node, and which it is of so many on that node."""

    node: int
    at: int
    among: int


def bind_workers(
    how: Binding, workers: int, environ: Mapping[str, str], ours: Collection[int], root: str = "/"
) -> tuple[frozenset[int], ...]:
    """The CPUs of each local rank, out of ``ours``; ``ValueError`` with words when some worker would have none.

    ``node``: those of its NUMA node. ``socket``: of all nodes in the same socket. ``exclusive``: whole cores of the
    node, split evenly, the first get one more. ``core-complex``: those that share the last cache, in turn.
    Local rank n belongs to GPU n and so to its node; where there are fewer GPUs than workers (or none), neighbouring
    ranks share a node. ``environ`` is the workers', for its CUDA_VISIBLE_DEVICES.
    """
    nodes = _nodes(frozenset(ours), root)
    places = _places(workers, environ, nodes, root)
    for place in places:
        if not nodes.get(place.node):
            allowed = f"(allowed: {ranges(ours)})"
            raise ValueError(f"rankd may run on none of the CPUs of NUMA node {place.node}, where a GPU is {allowed}")
    used = {place.node for place in places}
    match how:
        case "node":
            return tuple(nodes[place.node] for place in places)
        case "socket":
            sockets = {node: _socket(node, nodes, root) for node in used}
            return tuple(sockets[place.node] for place in places)
        case "exclusive":
            cores = {node: _together(nodes[node], root, _core) for node in used}
            return tuple(_share(cores[place.node], place) for place in places)
        case "core-complex":
            caches = {node: sorted(_together(nodes[node], root, _last_cache), key=len, reverse=True) for node in used}
            return tuple(caches[place.node][place.at % len(caches[place.node])] for place in places)


def _nodes(ours: frozenset[int], root: str) -> dict[int, frozenset[int]]:
    """Our CPUs by NUMA node. A kernel that knows no nodes is one."""
    folder = os.path.join(root, "sys/devices/system/node")
    numbers = sorted(int(name[4:]) for name in _names(folder) if re.fullmatch("node[0-9]+", name))
    if not numbers:
        return {0: ours}
    return {number: ours & _cpus(_read(f"{folder}/node{number}/cpulist")) for number in numbers}


def _places(workers: int, environ: Mapping[str, str], nodes: Mapping[int, frozenset[int]], root: str) -> list[_Place]:
    gpus = visible_gpus(environ, root)
    if len(gpus) >= workers:
        # -1: the firmware does not say, and then it is the first, as in torch
        homes = [max(0, int(_read(os.path.join(root, f"sys/bus/pci/devices/{gpu}/numa_node")) or -1)) for gpu in gpus]
    else:
        ours = [node for node, cpus in nodes.items() if cpus]
        if not ours:
            raise ValueError("/sys/devices/system/node names none of the CPUs that rankd may run on")
        homes = [ours[rank * len(ours) // workers] for rank in range(workers)]
    among, seen = Counter(homes), Counter[int]()
    places = []
    for home in homes:
        places.append(_Place(home, seen[home], among[home]))
        seen[home] += 1
    return places[:workers]


def visible_gpus(environ: Mapping[str, str], root: str = "/") -> list[str]:
    """PCI addresses of the GPUs that CUDA would number 0, 1, ...: those of CUDA_VISIBLE_DEVICES, or all of them.

    Numbers count in the order of addresses, which is CUDA's own where all GPUs are alike and with
    CUDA_DEVICE_ORDER=PCI_BUS_ID anywhere. Raises ``ValueError`` for an entry that no GPU here goes by.
    """
    devices = os.path.join(root, "sys/bus/pci/devices")
    installed = _reachable(
        [
            name
            for name in sorted(_names(devices))
            if _read(f"{devices}/{name}/vendor") == _NVIDIA and _read(f"{devices}/{name}/class").startswith(_DISPLAY)
        ],
        root,
    )
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or "${" in visible:  # a variable of each worker: it sees its own, which is number LOCAL_RANK
        return installed
    return (
        [_gpu(entry, installed, root) for entry in visible.split(",")[: count_gpus(environ, root)]] if installed else []
    )


def _reachable(gpus: Sequence[str], root: str) -> list[str]:
    """Without those that CUDA does not count: /sys has every GPU of the host, but one that is handed on to a guest has
    another driver, and a container has device nodes for its own only. Where nobody says, a GPU is reachable."""
    driven = _names(os.path.join(root, _DRIVEN))
    nodes = _nodes_of_devices(root)
    minors = {gpu: _information(gpu, "Device Minor", root) for gpu in gpus}
    return [
        gpu for gpu in gpus if (not driven or gpu in driven) and (not nodes or not minors[gpu] or minors[gpu] in nodes)
    ]


def _gpu(entry: str, installed: Sequence[str], root: str) -> str:
    """By number, by UUID or the beginning of one, or by a part of it (MIG) that is named after the whole.

    The UUID of a part by itself (``MIG-`` and no more) is known to the driver's library alone.
    """
    name = entry.strip()
    if name.isdecimal() and int(name) < len(installed):
        return installed[int(name)]
    uuid = name.removeprefix("MIG-").partition("/")[0]
    named = [gpu for gpu in installed if _information(gpu, "GPU UUID", root).startswith(uuid)]
    if not re.match("GPU-.", uuid) or len(named) != 1:
        allowed = "allowed: numbers, GPU-UUID, MIG-GPU-UUID/GI/CI"
        raise ValueError(f"which GPU {name!r} of CUDA_VISIBLE_DEVICES is cannot be told ({allowed})")
    return named[0]


def _information(gpu: str, key: str, root: str) -> str:
    """What NVIDIA's driver says of a GPU; empty where it says nothing."""
    found = re.search(rf"^{key}:\s*(\S+)", _read(os.path.join(root, _DRIVEN, gpu, "information")), re.MULTILINE)
    return found[1] if found else ""


def _socket(node: int, nodes: Mapping[int, frozenset[int]], root: str) -> frozenset[int]:
    """The CPUs of all nodes that have a CPU in the socket of this node's first one."""
    socket = _package(min(nodes[node]), root)
    return frozenset[int]().union(
        *(cpus for cpus in nodes.values() if any(_package(cpu, root) == socket for cpu in cpus))
    )


def _package(cpu: int, root: str) -> str:
    return _read(os.path.join(root, f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id"))


def _together(cpus: Collection[int], root: str, kin: Kin) -> list[frozenset[int]]:
    """``cpus`` in sets of those that are ``kin``, ordered by the first that is, ours or not."""
    found: dict[frozenset[int], set[int]] = {}
    for cpu in sorted(cpus):
        found.setdefault(kin(cpu, root) or frozenset({cpu}), set()).add(cpu)
    return [frozenset(found[all_kin]) for all_kin in sorted(found, key=min)]


def _core(cpu: int, root: str) -> frozenset[int]:
    return _cpus(_read(os.path.join(root, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")))


def _last_cache(cpu: int, root: str) -> frozenset[int]:
    folder = os.path.join(root, f"sys/devices/system/cpu/cpu{cpu}/cache")
    levels = {
        int(_read(f"{folder}/{name}/level")): _cpus(_read(f"{folder}/{name}/shared_cpu_list"))
        for name in _names(folder)
        if name.startswith("index") and _read(f"{folder}/{name}/type") in ("Data", "Unified")
    }
    return levels[max(levels)] if levels else frozenset()


def _share(cores: Sequence[frozenset[int]], place: _Place) -> frozenset[int]:
    each, more = divmod(len(cores), place.among)
    if each < 1:
        raise ValueError(f"NUMA node {place.node} has {len(cores)} cores that rankd may use, for {place.among} workers")
    first = place.at * each + min(place.at, more)
    return frozenset[int]().union(*cores[first : first + each + (place.at < more)])


def _cpus(text: str) -> frozenset[int]:
    """A list of CPUs as the kernel writes it: ``0-3,8``; may be empty."""
    pairs = [part.partition("-") for part in text.split(",") if part]
    return frozenset(cpu for first, _, last in pairs for cpu in range(int(first), int(last or first) + 1))


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _installed_gpus(root: str) -> int:
    """Device nodes, which a container has for its own GPUs only; before those are made, the driver's list."""
    return len(_nodes_of_devices(root)) or len(_names(os.path.join(root, _DRIVEN)))


def _nodes_of_devices(root: str) -> set[str]:
    """Their minor numbers: 0 for /dev/nvidia0."""
    matches = map(_DEVICE_NODE.fullmatch, _names(os.path.join(root, "dev")))
    return {found[1] for found in matches if found is not None}


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
