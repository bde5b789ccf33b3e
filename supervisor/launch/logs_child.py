"""The process that somebody else's ``LogsSpecs`` live in: there they can neither hold up the daemon nor end it.

A line of JSON each way. First what it is made with comes by the command line, and ``{"ready": true}`` or ``{"wrong":
words}`` goes back; then, for each attempt, the variables of the workers by local rank, and their ``Places`` or what is
wrong with these. It ends with its stdin.
"""

from __future__ import annotations

import enum
import json
import os
import sys
from importlib import metadata
from typing import Any

from supervisor.logs_dest import Reifies, Unusable, places_by

GROUP = "torchrun.logs_specs"


class Std(enum.IntFlag):
    """As torch's, for a class that has come without torch."""

    NONE = 0
    OUT = 1
    ERR = 2
    ALL = OUT | ERR


def main(name: str, log_dir: str, redirects: str, tee: str, ranks: str) -> int:
    """``log_dir`` "" is None, ``redirects`` and ``tee`` are as torchrun's, ``ranks`` a JSON list or null."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever it prints is no answer
        try:
            specs = _made(name, log_dir or None, redirects, tee, json.loads(ranks))
        except ImportError as error:
            return _say(answers, {"wrong": f"it cannot be loaded without what it imports: {error}"})
        except Exception as error:  # noqa: BLE001 - somebody else's code: whatever it raises is the reason
            return _say(answers, {"wrong": f"it cannot be made: {type(error).__name__}: {error}"})
        _say(answers, {"ready": True})
        for line in sys.stdin:
            envs = {int(rank): env for rank, env in json.loads(line).items()}
            try:
                answer: dict[str, Any] = {"places": places_by(specs, envs)}
            except Unusable as error:
                answer = {"wrong": str(error)}
            except Exception as error:  # noqa: BLE001 - likewise
                answer = {"wrong": f"{type(error).__name__}: {error}"}
            _say(answers, answer)
    return 0


def _made(name: str, log_dir: str | None, redirects: str, tee: str, ranks: list[int] | None) -> Reifies:
    made_by = next(iter(metadata.entry_points(group=GROUP, name=name))).load()
    torchs = sys.modules.get("torch.distributed.elastic.multiprocessing.api")
    std = Std if torchs is None else torchs.Std
    specs: Reifies = made_by(
        log_dir=log_dir,
        redirects=_streams(redirects, std),
        tee=_streams(tee, std),
        local_ranks_filter=None if ranks is None else set(ranks),
    )
    return specs


def _streams(text: str, std: Any) -> Any:
    if ":" not in text:
        return std(int(text))
    pairs = (pair.split(":") for pair in text.split(","))
    return {int(rank): std(int(bits)) for rank, bits in pairs}


def _say(answers: Any, answer: dict[str, Any]) -> int:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    return 0
