"""A toy training job to watch: the ranks fit a line together, one crashes on purpose, all resume from a checkpoint.

It does with plain sockets what a real job does with torch.distributed. Rank 0 listens on MASTER_ADDR:MASTER_PORT and
the others connect; every step sums the gradients of all ranks; every few steps rank 0 saves a checkpoint. Rank 2
crashes once, in the first attempt. Standard library only.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

STEPS = 30
STEP_TAKES = 0.08
SAVE_EVERY = 5
CRASH = {"rank": 2, "step": 18, "exit_code": 3}
PATIENCE = 15.0
"""Seconds to wait for another rank before giving up: a worker that waits for ever cannot be told from a hung one."""

RANK = int(os.environ["RANK"])
WORLD_SIZE = int(os.environ["WORLD_SIZE"])
MASTER = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
RESTARTS = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
RUN_ID = os.environ.get("TORCHELASTIC_RUN_ID", "by-hand")
CHECKPOINT = os.path.join(os.environ.get("RANKD_STATE_DIR", os.curdir), "checkpoints", f"quickstart-{RUN_ID}.json")


class Line:
    """A connection that carries one JSON value a line."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self.file = connection.makefile("r", encoding="utf-8")

    def send(self, value: Any) -> None:
        self.connection.sendall(json.dumps(value).encode() + b"\n")

    def receive(self) -> Any:
        line = self.file.readline()
        if not line.endswith("\n"):
            raise ConnectionError("the other side has closed the connection")
        return json.loads(line)


class World:
    """All ranks: a star with rank 0 in the middle (``lines`` has the others there, and rank 0 alone elsewhere)."""

    def __init__(self) -> None:
        self.lines = _accept_the_others() if RANK == 0 else [_connect_to_rank_0()]

    def broadcast(self, value: Any) -> Any:
        """Everybody gets what rank 0 has."""
        if RANK != 0:
            return self.lines[0].receive()
        for line in self.lines:
            line.send(value)
        return value

    def sum(self, values: Sequence[float]) -> list[float]:
        """Everybody gets the element-wise sum over all ranks."""
        if RANK != 0:
            self.lines[0].send(values)
            return self.broadcast(None)  # type: ignore[no-any-return]
        columns = zip(values, *(line.receive() for line in self.lines), strict=True)
        return self.broadcast([sum(column) for column in columns])  # type: ignore[no-any-return]


def _accept_the_others() -> list[Line]:
    with socket.create_server(MASTER, backlog=WORLD_SIZE) as server:
        server.settimeout(PATIENCE)
        return [Line(server.accept()[0]) for _ in range(WORLD_SIZE - 1)]


def _connect_to_rank_0() -> Line:
    give_up_at = time.monotonic() + PATIENCE
    while True:
        try:
            return Line(socket.create_connection(MASTER, timeout=PATIENCE))
        except ConnectionRefusedError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.02)  # rank 0 is still on its way


def load() -> dict[str, float]:
    """The last checkpoint of this run, or a start from nothing."""
    try:
        with open(CHECKPOINT, encoding="utf-8") as file:
            state: dict[str, float] = json.load(file)
    except FileNotFoundError:
        return {"step": 0, "slope": 0.0, "offset": 0.0}
    print(f"resuming from the checkpoint of step {state['step']}")
    return state


def save(state: dict[str, float]) -> None:
    """Replace the checkpoint in one move: a crash in the middle leaves the old one."""
    os.makedirs(os.path.dirname(CHECKPOINT), exist_ok=True)
    with open(CHECKPOINT + ".new", "w", encoding="utf-8") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(CHECKPOINT + ".new", CHECKPOINT)


def shard() -> list[tuple[float, float]]:
    """This rank's part of the data: points near y = 3 x + 1."""
    chance = random.Random(RANK)
    xs = [chance.uniform(-1, 1) for _ in range(250)]
    return [(x, 3 * x + 1 + chance.gauss(0, 0.1)) for x in xs]


def gradients(points: list[tuple[float, float]], slope: float, offset: float) -> tuple[float, float, float, float]:
    """Sums over this rank's points: squared error, its two derivatives, and how many points."""
    errors = [slope * x + offset - y for x, y in points]
    by_slope = sum(2 * error * x for error, (x, _) in zip(errors, points, strict=True))
    return sum(error * error for error in errors), by_slope, 2 * sum(errors), len(points)


def train() -> None:
    world = World()
    state = world.broadcast(load() if RANK == 0 else None)
    points = shard()
    print(f"here with {len(points)} points, {WORLD_SIZE} ranks in all")
    while state["step"] < STEPS:
        time.sleep(STEP_TAKES)  # so that there is something to watch
        step = state["step"] + 1
        if RESTARTS == 0 and (RANK, step) == (CRASH["rank"], CRASH["step"]):
            print(f"step {step}: crashing on purpose, this once")
            os._exit(CRASH["exit_code"])
        loss, by_slope, by_offset, count = world.sum(gradients(points, state["slope"], state["offset"]))
        slope, offset = state["slope"] - 0.3 * by_slope / count, state["offset"] - 0.3 * by_offset / count
        state = {"step": step, "slope": slope, "offset": offset}
        if RANK == 0:
            saved = step % SAVE_EVERY == 0
            if saved:
                save(state)
            bar = "#" * round(24 * step / STEPS)
            print(f"step {step:2}/{STEPS} {bar:<24} loss {loss / count:.4f}{'  saved' if saved else ''}")
    if RANK == 0:
        print(f"done: y = {state['slope']:.2f} x + {state['offset']:.2f}")


def leave(number: int, _frame: object) -> None:
    """SIGTERM: the supervisor wants us gone. The last checkpoint is whole, so there is nothing to save."""
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, leave)
    try:
        train()
    except OSError as error:
        print(f"lost the others: {error}", file=sys.stderr)
        time.sleep(1)  # whoever broke the connection is the one to blame: let its end be seen first
        sys.exit(1)
