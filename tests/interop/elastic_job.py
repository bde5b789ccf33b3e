"""A training job for as many ranks as there are: it trains on from its checkpoint until a file ``enough`` is there.

Argument: a folder for the checkpoint, for that file, and for the line that each rank writes at its end.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def main(folder: str) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank, size = dist.get_rank(), dist.get_world_size()
    checkpoint, enough = os.path.join(folder, "checkpoint.pt"), os.path.join(folder, "enough")
    torch.manual_seed(rank)  # different weights on each rank: DDP must make them one
    model = DistributedDataParallel(nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    step = 0
    if os.path.exists(checkpoint):
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        step = state["step"]
    x = torch.rand(64, 4, generator=torch.Generator().manual_seed(rank))
    stop = torch.zeros(1)
    while not stop:
        step += 1
        loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        stop = torch.tensor([float(rank == 0 and os.path.exists(enough))])
        dist.all_reduce(stop)  # all stop after the same step
        if rank == 0:
            torch.save({"model": model.state_dict(), "step": step}, checkpoint + ".new")
            os.replace(checkpoint + ".new", checkpoint)
        if rank == 0 and step % 10 == 0:
            print(f"{size} ranks, step {step}, loss {float(loss.detach()):.6f}", flush=True)
    weights = torch.cat([one.detach().flatten() for one in model.parameters()]).sum()
    with open(os.path.join(folder, f"rank_{rank}"), "w", encoding="utf-8") as file:
        file.write(f"{size} {step} {float(weights)!r}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # a thread of gloo's may else end the interpreter's own end with SIGABRT
