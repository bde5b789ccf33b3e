"""Which CPUs each local rank is bound to: ours beside torch's own algorithm, on machines made of files."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from supervisor.host.topology import bind_workers
from supervisor.plan import Binding
from tests.end_to_end.launching import environment
from tests.interop.needed import needs_torch

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300), needs_torch]

MACHINES = 60

TORCHS = """
import builtins, json, os, sys
from types import SimpleNamespace
import torch
from torch.numa import binding
machines = json.load(sys.stdin)
opened, listed = builtins.open, os.listdir
def below(path):
    return root + path if isinstance(path, str) and path.startswith("/sys/") else path
builtins.open = lambda path, *more, **named: opened(below(path), *more, **named)
os.listdir = lambda path=".": listed(below(path))
os.sched_getaffinity = lambda pid: set(ours)
torch.cuda.device_count = lambda: len(gpus)
torch.cuda.get_device_properties = lambda index: SimpleNamespace(
    pci_domain_id=0, pci_bus_id=index + 16, pci_device_id=0
)
found = []
for root, ours, gpus in machines:
    for mode in binding.AffinityMode:
        of_mode = []
        for index in range(len(gpus)):
            try:
                cpus = binding._get_logical_cpus_to_bind_to(
                    gpu_index=index, numa_options=binding.NumaOptions(affinity_mode=mode)
                )
                of_mode.append(sorted(cpus) or None)
            except Exception:
                of_mode.append(None)
        found.append([mode.value, of_mode])
json.dump(found, sys.stdout)
"""
"""torch's functions, told that /sys is elsewhere and which GPUs there are; null: none can be had."""


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def machine(root: Path, chance: random.Random) -> tuple[str, list[int], list[int]]:
    """A host with sockets of nodes of last caches of cores of one or two threads; what we may use; its GPUs' nodes."""
    sockets, nodes, caches, cores = (chance.randint(1, most) for most in (2, 2, 3, 3))
    threads = chance.choice((1, 2))
    whole = sockets * nodes * caches * cores
    core = 0
    for node in range(sockets * nodes):
        of_node = []
        for _ in range(caches):
            some = range(core, core + (cores if chance.random() < 0.7 else 1))
            core = some.stop
            cpus = [cpu + whole * thread for thread in range(threads) for cpu in some]
            of_node += cpus
            for cpu in cpus:
                siblings = ",".join(str(cpu % whole + whole * thread) for thread in range(threads))
                about = root / f"sys/devices/system/cpu/cpu{cpu}"
                write(about / "topology/physical_package_id", node // nodes)
                write(about / "topology/thread_siblings_list", siblings)
                for index, (kind, level, shared) in enumerate(
                    [("Data", 1, siblings), ("Instruction", 1, siblings), ("Unified", 3, ",".join(map(str, cpus)))]
                ):
                    write(about / f"cache/index{index}/type", kind)
                    write(about / f"cache/index{index}/level", level)
                    write(about / f"cache/index{index}/shared_cpu_list", shared)
        write(root / f"sys/devices/system/node/node{node}/cpulist", ",".join(map(str, of_node)))
    write(root / "sys/devices/system/node/possible", f"0-{sockets * nodes - 1}")
    gpus = [chance.choice([-1, *range(sockets * nodes)]) for _ in range(chance.randint(1, 6))]
    for number, node in enumerate(gpus):
        gpu = root / f"sys/bus/pci/devices/0000:{number + 16:02x}:00.0"
        write(gpu / "vendor", "0x10de")
        write(gpu / "class", "0x030200")
        write(gpu / "numa_node", node)
    ours = [cpu + whole * thread for cpu in range(core) for thread in range(threads) if chance.random() < 0.9]
    for node in range(sockets * nodes):  # torch knows no node of which it may use nothing
        first = (root / f"sys/devices/system/node/node{node}/cpulist").read_text().split(",")[0]
        ours.append(int(first))
    return str(root), sorted(set(ours)), gpus


def test_every_binding_is_torchs_on_any_machine(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    machines = [machine(tmp_path / f"machine{number}", chance) for number in range(MACHINES)]
    theirs = json.loads(
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", TORCHS], input=json.dumps(machines), env=environment(tmp_path),
            capture_output=True, text=True, timeout=120, check=True,
        ).stdout
    )  # fmt: skip
    assert sorted({mode for mode, _ in theirs}) == sorted(get_args(Binding))
    compared = 0
    for at, (mode, wanted) in enumerate(theirs):
        root, ours, gpus = machines[at // 4]
        if None in wanted:  # for one of them there is no core: torch refuses that worker, we the whole group
            with pytest.raises(ValueError, match="cores that rankd may use"):
                bind_workers(mode, len(gpus), {}, ours, root)
            continue
        compared += 1
        assert [sorted(cpus) for cpus in bind_workers(mode, len(gpus), {}, ours, root)] == wanted, (mode, root)
    assert compared > MACHINES * 2
