"""A real training job for two ranks: a small network under DistributedDataParallel (gloo, CPU) with checkpoints.

Arguments: a folder for the checkpoint and for what each rank says at its end (``rank_<n>.json``), and what rank 1 does
in the middle of a step of the first attempt: it ``dies``, or ``hangs`` under one of torch's timers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.elastic import timer
from torch.nn.parallel import DistributedDataParallel

STEPS = 40
SAVE_EVERY = 5
DIES_AT = 23


def make_data(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """This rank's shard of y = sin(3 a) + b * c, 512 points."""
    generator = torch.Generator().manual_seed(1000 + rank)
    x = torch.rand(512, 3, generator=generator) * 2 - 1
    return x, torch.sin(3 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]


def checksum(model: nn.Module) -> torch.Tensor:
    """One number of the weights; ranks that trained one model have the same, to the last bit."""
    return torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()]).sum()


def go_wrong(how: str, rank: int, step: int) -> None:
    """In the way that is wanted; does not return."""
    print(f"rank {rank} {how} at step {step}", flush=True)
    if how == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    timer.configure(timer.FileTimerClient(os.environ["TORCHELASTIC_TIMER_FILE"]))
    with timer.expires(after=600, scope="epoch"), timer.expires(after=1, scope="step"):
        with timer.expires(after=0.5, scope="forward"):
            pass
        while True:
            signal.pause()


def main(folder: str, how: str = "dies") -> None:
    dist.init_process_group("gloo", init_method="env://", timeout=timedelta(seconds=60))
    rank, attempt = dist.get_rank(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    checkpoint = os.path.join(folder, "checkpoint.pt")

    torch.manual_seed(rank)  # different weights on each rank: DDP must make them one
    model = DistributedDataParallel(nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 1)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    begun_at = 0
    if os.path.exists(checkpoint):
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        begun_at = state["step"]

    x, y = make_data(rank)
    losses: dict[int, float] = {}
    for step in range(begun_at + 1, STEPS + 1):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        if attempt == 0 and rank == 1 and step == DIES_AT:
            go_wrong(how, rank, step)
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses[step] = float(mean) / dist.get_world_size()
        if rank == 0:
            print(f"step {step} loss {losses[step]:.6f}", flush=True)
            if step % SAVE_EVERY == 0:
                saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                torch.save(saved, checkpoint + ".new")
                os.replace(checkpoint + ".new", checkpoint)

    checksums = [torch.zeros((), dtype=torch.float64) for _ in range(dist.get_world_size())]
    dist.all_gather(checksums, checksum(model))
    with open(os.path.join(folder, f"rank_{rank}.json"), "w", encoding="utf-8") as file:
        json.dump(
            {
                "launched_by_torchelastic": dist.is_torchelastic_launched(),
                "agent_store": os.environ["TORCHELASTIC_USE_AGENT_STORE"],
                "restarts": attempt,
                "world_size": dist.get_world_size(),
                "begun_at": begun_at,
                "losses": losses,
                "checksums": [float(one) for one in checksums],
            },
            file,
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
    # Once in twenty times a thread of gloo's ends the interpreter's own end with SIGABRT, without rankd as well
    sys.stdout.flush()
    os._exit(0)
