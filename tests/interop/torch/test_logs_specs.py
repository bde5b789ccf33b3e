"""``--logs-specs`` with classes made of torch's own: the same files under torchrun and under ``rankd launch``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.end_to_end.launching import COMMAND, Done, launch, tree
from tests.end_to_end.rankd import ROOT
from tests.interop.needed import needs_torch

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(300), needs_torch]

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
PATIENCE = 120.0
MODULE = """
import os
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, LogsDest, LogsSpecs, Std

class ByHost(LogsSpecs):
    def __init__(self, log_dir=None, redirects=Std.NONE, tee=Std.NONE, local_ranks_filter=None):
        assert isinstance(redirects, Std) and isinstance(tee, dict), (redirects, tee)
        super().__init__(log_dir, redirects, tee, local_ranks_filter)
    def reify(self, envs):
        dest = LogsDest()
        for rank, env in envs.items():
            names = "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "RANK"
            begin = f"{self.root_log_dir}/{'-'.join(env[name] for name in names)}"
            dest.stdouts[rank], dest.stderrs[rank] = f"{begin}.out", f"{begin}.err"
            if self._tee.get(rank, Std.NONE) & Std.OUT:
                dest.tee_stdouts[rank] = dest.stdouts[rank]
            env["TORCHELASTIC_ERROR_FILE"] = dest.error_files[rank] = f"{begin}.error"
        return dest
    @property
    def root_log_dir(self):
        return self._root_log_dir
"""
SCRIPT = """
import os, sys
from torch.distributed.elastic.multiprocessing.errors import record
@record
def main():
    print("out", os.environ["RANK"], flush=True)
    print("err", os.environ["RANK"], file=sys.stderr, flush=True)
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
        raise ValueError("once")
main()
"""


def run(directory: Path, command: tuple[str, ...], name: str, *flags: str) -> Done:
    package = directory / "site" / "somebody_elses-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Name: somebody-elses\nVersion: 1\n")
    (package / "entry_points.txt").write_text(
        "[torchrun.logs_specs]\nby_host = somebody_elses:ByHost\ntheirs = somebody_elses:DefaultLogsSpecs\n"
    )
    (directory / "site" / "somebody_elses.py").write_text(MODULE)
    (directory / "train.py").write_text(SCRIPT)
    (directory / "logs").mkdir()
    words = ("--nproc-per-node", "2", "--max-restarts", "1", "--log-dir", "logs", "--logs-specs")
    env = {"PYTHONPATH": f"{directory / 'site'}:{ROOT}"}
    return launch(directory, *words, name, *flags, "train.py", env=env, command=command, timeout=PATIENCE)


def files(directory: Path) -> dict[str, str]:
    """What is in each file of the second attempt: in the first a worker may have been stopped before it had spoken.

    Both find a run id by chance, and torch's class a directory.
    """
    found = ((name, directory / "logs" / name) for name in tree(directory / "logs") if re.search("-1-|attempt_1", name))
    return {re.sub("^[0-9a-f-]{36}(_[^/]*)?", "id", name): path.read_text() for name, path in found if path.is_file()}


@pytest.mark.parametrize(
    ("name", "flags"),
    [("by_host", ("-r", "3", "-t", "0:1")), ("theirs", ("-r", "0:3", "-t", "1:1", "--local-ranks-filter", "1"))],
)
def test_files_and_console_are_as_torchruns(name: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    dones = {}
    for who, command in (("torchrun", TORCHRUN), ("rankd", COMMAND)):
        (tmp_path / who).mkdir()
        dones[who] = run(tmp_path / who, command, name, *flags)
        assert dones[who].returncode == 0, dones[who].stderr
    theirs, ours = (files(tmp_path / who) for who in dones)
    assert len(theirs) > 2
    assert ours == theirs
    said = [set(re.findall(r"^\[default\d\]:out \d$", done.stdout, re.MULTILINE)) for done in dones.values()]
    assert said[0] == said[1]
    assert len(said[0]) == 1
