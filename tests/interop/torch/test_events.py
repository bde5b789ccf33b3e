"""What rankd says in torchelastic's words, beside what real torchrun says of the same job."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.launching import COMMAND, environment, launch
from tests.interop.needed import needs_torch

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(300), needs_torch]

MEASURED = """
import torch.distributed.elastic.metrics as metrics
metrics.configure(metrics.ConsoleMetricHandler())
from torch.distributed.run import main
main()
"""
"""torchrun with the metrics that it has no flag for."""

JOB = """
import os, signal, sys, time
from torch.distributed.elastic.multiprocessing.errors import record
@record
def main():
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    open(f"up_{os.environ['RANK']}_{attempt}", "w").close()
    if attempt < int(sys.argv[1]):
        while os.environ["RANK"] == "0":
            signal.pause()
        while not os.path.exists(f"up_0_{attempt}"):
            time.sleep(0.01)
        time.sleep(0.5)  # torchrun looks every 0.1 s, and shall see that it is healthy
        raise RuntimeError("boom")
main()
"""

PATIENCE = 120.0


class Said:
    """What one launcher has said of the job that fails so often; one restart is allowed."""

    def __init__(self, folder: Path, command: tuple[str, ...], failures: int, *words: str) -> None:
        folder.mkdir()
        (folder / "job.py").write_text(JOB)
        asked = ["--standalone", "--nproc-per-node=2", "--max-restarts=1", "--role=ps", "--event-log-handler=console"]
        self.began_at = time.time()
        done = launch(folder, *asked, *words, "job.py", str(failures), command=command, timeout=PATIENCE)
        self.code = done.returncode
        self.lines = [line for line in done.stderr.splitlines() if line.startswith('{"name": ')]
        self.records: list[dict[str, Any]] = [json.loads(line) for line in self.lines]
        self.metrics = [line for line in (done.stdout + done.stderr).splitlines() if "[torchelastic]: " in line]

    def states(self) -> Counter[tuple[str, str]]:
        return Counter((record["source"], record["metadata"]["state"]) for record in self.records)


def torchrun(folder: Path, failures: int) -> Said:
    return Said(folder / "torchrun", (sys.executable, "-c", MEASURED), failures)


def rankd(folder: Path, failures: int) -> Said:
    return Said(folder / "rankd", COMMAND, failures, "--torchelastic-metrics=console")


@pytest.fixture(scope="module", params=[1, 2], ids=["recovers", "fails"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Said, Said, bool]:
    """torchrun's words, rankd's, and whether the job has succeeded."""
    folder = tmp_path_factory.mktemp("events")
    theirs, ours = torchrun(folder, request.param), rankd(folder, request.param)
    assert (theirs.code == 0, ours.code == 0) == (request.param == 1,) * 2
    assert theirs.records
    return theirs, ours, theirs.code == 0


Both = tuple[Said, Said, bool]


def shapes(said: Said) -> dict[tuple[str, str], list[object]]:
    """The keys of each kind of record, in order, and of the metadata in it."""
    return {
        (record["name"], record["source"]): [
            list(record), list(record["metadata"]), list(json.loads(record["metadata"]["metadata"])),
        ]
        for record in said.records
    }  # fmt: skip


def test_records_have_torchs_names_sources_and_keys_in_torchs_order(both: Both) -> None:
    theirs, ours, _ = both
    known = shapes(theirs)
    # A state that this run of torchrun has not come to looks like any other of the same source.
    like = {source: shape for (_, source), shape in known.items()}
    for (name, source), shape in shapes(ours).items():
        assert re.fullmatch(r"torchelastic\.worker\.status\.[A-Z_]+", name)
        assert shape == known.get((name, source), like[source]), name


def test_values_are_of_torchs_types_and_scalars_where_torch_has_a_list_of_one(both: Both) -> None:
    theirs, ours, _ = both
    allowed: dict[str, set[type]] = {}
    for record in theirs.records:
        inner = json.loads(record["metadata"]["metadata"])
        assert all(isinstance(inner[name], list) for name in inner if name in ("local_rank", "exit_code")), "torch's"
        unpacked = {name: value[0] if isinstance(value, list) else value for name, value in inner.items()}
        for name, value in {**record, **record["metadata"], **unpacked}.items():
            allowed.setdefault(name, {type(None)}).add(type(value))
    allowed["exit_code"].add(int)  # of a run that has not failed, torchrun never says it
    allowed["worker_pid"].add(int)
    allowed["raw_error"].add(str)
    for record in ours.records:
        inner = json.loads(record["metadata"]["metadata"])
        for name, value in {**record, **record["metadata"], **inner}.items():
            assert type(value) in allowed[name], (name, value)


def test_the_same_states_are_told_and_more_of_the_failures(both: Both) -> None:
    theirs, ours, succeeded = both
    more = ours.states() - theirs.states()
    if succeeded:
        assert theirs.states() - ours.states() == Counter()
        assert more == Counter({("WORKER", "FAILED"): 1, ("WORKER", "TERMINATED"): 1}), "the attempt before"
    else:
        # torchrun has the peer that it stopped itself among the failures, and its agent succeed
        assert theirs.states()["WORKER", "FAILED"] == 2
        assert theirs.states()["AGENT", "SUCCEEDED"] == 1
        assert more == Counter({("WORKER", "TERMINATED"): 2, ("AGENT", "FAILED"): 1})
        assert ours.states()["WORKER", "FAILED"] == 2, "rank 1, twice"


def test_timestamps_are_when_it_happened_and_torchs_are_0(both: Both) -> None:
    theirs, ours, _ = both
    assert {record["timestamp"] for record in theirs.records} == {0}
    told = [record["timestamp"] / 1000 for record in ours.records]
    assert told == sorted(told)
    assert ours.began_at - 1 <= told[0]
    assert told[-1] <= ours.began_at + PATIENCE


def test_the_raw_error_of_a_failure_is_the_error_file_as_torch_has_it(both: Both) -> None:
    theirs, ours, succeeded = both
    if succeeded:
        errors = [one for one in ours.records if one["metadata"]["raw_error"]]
    else:
        errors = [one for said in (theirs, ours) for one in said.records if one["metadata"]["global_rank"] == 1]
        errors = [one for one in errors if one["metadata"]["state"] == "FAILED"]
        assert len(errors) == 3
    for error in errors:
        message = json.loads(error["metadata"]["raw_error"])["message"]
        assert message["message"] == "RuntimeError: boom"
        assert message["extraInfo"].keys() == {"py_callstack", "timestamp"}
        assert message["extraInfo"]["timestamp"].isdecimal()


def test_torchs_own_reader_takes_the_records(both: Both, tmp_path: Path) -> None:
    _, ours, _ = both
    read = (
        "import sys\nfrom torch.distributed.elastic.events import Event\n"
        "for line in sys.stdin: print(Event.deserialize(line).serialize())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", read], input="\n".join(ours.lines), env=environment(tmp_path),
        capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ours.lines


def names(lines: list[str]) -> set[str]:
    """The metrics' names; each line has to be written as torch writes it."""
    found = [re.fullmatch(r"\[[0-9]+\.[0-9]+\]\[torchelastic\]: (\S+)=([0-9]+)", line) for line in lines]
    return {match[1] if match is not None else line for match, line in zip(found, lines, strict=True)}


def values(lines: list[str], prefix: str) -> list[str]:
    return sorted(line.partition("]: ")[2] for line in lines if prefix in line)


def test_metrics_have_torchs_names_all_but_those_of_the_poll(both: Both) -> None:
    theirs, ours, _ = both
    polled = {f"LocalElasticAgent._monitor_workers.{what}" for what in ("success", "duration.ms")}
    assert polled <= names(theirs.metrics)
    assert names(ours.metrics) == names(theirs.metrics) - polled


def test_the_outcome_is_measured_as_torch_measures_it(both: Both) -> None:
    theirs, ours, _ = both
    for metric in ("workers.ps.run_", "workers.ps.flakiness", "SimpleElasticAgent.run."):
        found = [[one for one in values(said.metrics, metric) if "duration" not in one] for said in (theirs, ours)]
        assert found[0] == found[1]
        assert found[0]
