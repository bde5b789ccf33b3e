"""Why a group has failed is told by the daemon itself: in records, in a file, to people, and to its own launcher."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.configs import SLEEP, group, ladder, python, table
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import ROOT, Rankd

pytestmark = pytest.mark.end_to_end

BOOM = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from supervisor.worker import record
@record
def main():
    if os.environ["RANK"] == "1":
        raise RuntimeError("boom of attempt " + os.environ["RANKD_ATTEMPT"])
    import signal
    signal.pause()
main()
"""


def kept(daemon: Rankd, name: str = "job") -> list[dict[str, Any]]:
    """The records of ``failures.jsonl``."""
    file = daemon.log(name, 0, 0).parents[2] / "failures.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_exception_of_the_root_cause_is_told_everywhere(rankd: Start, tmp_path: Path) -> None:
    """The first attempt fails, and so does the second: two failures are kept, and the last one is explained."""
    ours = tmp_path / "ours.json"
    daemon = rankd(
        group("job", python(BOOM), workers=3, restart={"max_restarts": 1}, stop=ladder("10s")),
        env={"TORCHELASTIC_ERROR_FILE": str(ours)},
    )
    assert daemon.wait() == 1

    told = daemon.all("worker.failed")
    assert [(one["rank"], one["root_cause"], one["error"]) for one in told] == [
        (1, True, "RuntimeError: boom of attempt 0"),
        (1, True, "RuntimeError: boom of attempt 1"),
    ]
    assert told[0]["traceback"].endswith("RuntimeError: boom of attempt 0\n")
    assert abs(told[0]["error_timestamp"] - time.time()) < 60

    assert [(one["attempt"], one["error"], one["traceback"]) for one in kept(daemon)] == [
        (one["attempt"], one["error"], one["traceback"]) for one in told
    ]
    assert Path(kept(daemon)[1]["directory"], "error.json").exists()

    text = "\n".join(daemon.console)
    assert "Root cause (first failure of attempt 1):\n  rank      : 1 (local rank 1)" in text
    assert (
        "  error     : RuntimeError: boom of attempt 1\n  traceback :\n    Traceback (most recent call last):" in text
    )
    assert "no failures of their own:\n  ranks 0, 2\n" in text
    assert "attempt 0, rank 1: exited with code 1" in text

    handed_on = json.loads(ours.read_text())["message"]
    assert handed_on["message"] == "RuntimeError: boom of attempt 1"
    assert handed_on["extraInfo"]["py_callstack"] == told[1]["traceback"]
    assert handed_on["errorCode"] == 1


def test_a_worker_that_dies_of_a_signal_is_handed_on_without_a_file_of_its_own(rankd: Start, tmp_path: Path) -> None:
    ours = tmp_path / "ours.json"
    crash = python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    daemon = rankd(group("job", crash, restart={"max_restarts": 0}), env={"TORCHELASTIC_ERROR_FILE": str(ours)})
    assert daemon.wait() == 128 + 11
    assert "error" not in daemon.wait_for("worker.failed")
    handed_on = json.loads(ours.read_text())["message"]
    assert handed_on["message"].startswith("rank 0 was killed by SIGSEGV")
    assert handed_on["errorCode"] == -11
    assert abs(int(handed_on["extraInfo"]["timestamp"]) - time.time()) < 60
    assert any("hint      : an invalid memory access" in line for line in daemon.console)


@pytest.mark.parametrize("what", ["{", "[" * 100_000, "x" * (2 << 20), '{"message": {"message": 7}}', "\udcff"])
def test_a_bad_error_file_is_a_note_and_the_group_is_restarted_all_the_same(rankd: Start, what: str) -> None:
    """torchrun dies of this, and restarts nothing."""
    writes = python(
        "import os, sys\n"
        "with open(os.environ['TORCHELASTIC_ERROR_FILE'], 'w', errors='surrogateescape') as file:\n"
        f"    file.write({what[:1]!r} * {len(what)} if {len(set(what)) == 1} else {what[:99]!r})\n"
        "sys.exit(0 if os.environ['RANKD_ATTEMPT'] == '1' else 3)"
    )
    daemon = rankd(group("job", writes, restart={"max_restarts": 1}))
    assert daemon.wait() == 0
    failed = daemon.wait_for("worker.failed")
    assert failed["error_note"].startswith("the error file")
    assert failed["exit_code"] == 3
    daemon.wait_for("group.succeeded", attempt=1)


def test_a_pipe_in_the_error_files_place_holds_nobody_up(rankd: Start) -> None:
    script = "import os, sys; os.mkfifo(os.environ['TORCHELASTIC_ERROR_FILE']); sys.exit(3)"
    daemon = rankd(group("job", python(script), restart={"max_restarts": 0}))
    assert daemon.wait() == 3
    assert daemon.wait_for("worker.failed")["error_note"] == "the error file is not used: it is not a regular file"


def test_the_exit_code_is_the_root_causes_and_not_that_of_who_follows(rankd: Start) -> None:
    """Rank 0 ends with 7 upon our SIGTERM, because rank 1 has ended with 3."""
    script = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
there = os.environ["RANKD_STATE_DIR"] + "/there"
if os.environ["RANK"] == "0":
    open(there, "w").close()
    signal.pause()
give_up_at = time.monotonic() + 20
while not os.path.exists(there) and time.monotonic() < give_up_at:
    time.sleep(0.01)
sys.exit(3)
"""
    daemon = rankd(group("job", python(script), workers=2, restart={"max_restarts": 0}, stop=ladder("10s")))
    assert daemon.wait() == 3
    assert [one["rank"] for one in daemon.all("worker.failed")] == [1]
    assert daemon.wait_for("worker.exited", rank=0)["by"] == "daemon"
    assert "  rank 0" in daemon.console


def test_who_stops_us_finds_no_error_file_of_ours(rankd: Start, tmp_path: Path) -> None:
    """A stop that was asked for is a success, whatever has failed before."""
    ours = tmp_path / "ours.json"
    config = group("job", SLEEP) + group("other", ["/bin/false"], required=False, restart={"max_restarts": 0})
    daemon = rankd(config, env={"TORCHELASTIC_ERROR_FILE": str(ours)})
    daemon.wait_for("group.failed", group="other")
    daemon.wait_for_line("group other FAILED")
    assert daemon.stop() == 0
    assert not ours.exists()
    assert [one["rank"] for one in kept(daemon, "other")] == [0]


def test_an_error_file_of_ours_that_cannot_be_written_changes_no_exit_code(rankd: Start, tmp_path: Path) -> None:
    daemon = rankd(
        group("job", ["/bin/false"], restart={"max_restarts": 0}),
        env={"TORCHELASTIC_ERROR_FILE": str(tmp_path / "nowhere" / "ours.json")},
    )
    assert daemon.wait() == 1
    assert any("cannot write the error file" in line for line in daemon.console)


def test_failures_that_cannot_be_written_stop_nothing(rankd: Start) -> None:
    """Somebody has put a directory in the file's place."""
    script = """
import os, sys
os.makedirs(os.path.dirname(os.environ["TORCHELASTIC_ERROR_FILE"]) + "/../../failures.jsonl", exist_ok=True)
sys.exit(0 if os.environ["RANKD_ATTEMPT"] == "2" else 3)
"""
    daemon = rankd(group("job", python(script), restart={"max_restarts": 2}))
    assert daemon.wait() == 0
    assert len(daemon.all("worker.failed")) == 2
    assert len(daemon.all("group.failures_unwritten")) == 1


def test_a_rankd_below_a_rankd_hands_its_root_cause_up(rankd: Start, tmp_path: Path) -> None:
    inner = tmp_path / "inner.toml"
    inner.write_text(
        table("health", listen=[])
        + table("daemon", state_dir=str(tmp_path / "state"), runtime_dir=str(tmp_path / "run"))
        + group("inner", python(BOOM), workers=2, restart={"max_restarts": 0}, stop=ladder("10s"))
    )
    command = [*python("")[:1], "-m", "supervisor", "run", str(inner)]
    daemon = rankd(group("job", command, restart={"max_restarts": 0}, stop=ladder("20s")))
    assert daemon.wait() == 1
    failed = daemon.wait_for("worker.failed", group="job")
    assert failed["error"] == "RuntimeError: boom of attempt 0"
    assert "in main" in failed["traceback"]


def test_a_silent_worker_is_told_how_it_could_speak(rankd: Start) -> None:
    daemon = rankd(group("job", ["/bin/false"], restart={"max_restarts": 0}))
    assert daemon.wait() == 1
    assert any("supervisor.worker.record" in line for line in daemon.console)
