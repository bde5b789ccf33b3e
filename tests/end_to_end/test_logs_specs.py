"""``rankd launch --logs-specs``: somebody else's class says where output goes, and whatever it does, rankd goes on."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.end_to_end.configs import python
from tests.end_to_end.launching import Done, launch, launched, tree
from tests.end_to_end.rankd import ROOT, until

pytestmark = pytest.mark.end_to_end

FLAT = """
import os, types
class Specs:
    def __init__(self, log_dir, redirects, tee, local_ranks_filter):
        assert (redirects, tee, local_ranks_filter) == ({0: 3, 1: 1}, 2, {0, 1}), (redirects, tee, local_ranks_filter)
        self.dir, self.attempts = log_dir, 0
        print("whatever it prints is no answer")
    def reify(self, envs):
        self.attempts += 1
        os.makedirs(self.dir, exist_ok=True)
        world = {rank: f"{env['RANK']}-of-{env['WORLD_SIZE']}" for rank, env in envs.items()}
        path = lambda rank, name: f"{self.dir}/{self.attempts}-{world[rank]}.{name}"
        for rank, env in envs.items():
            env["TORCHELASTIC_ERROR_FILE"] = path(rank, "error")
            env["TOLD"] = env["ROLE_NAME"] + "!"
        of = lambda name: {rank: path(rank, name) for rank in envs}
        return types.SimpleNamespace(
            stdouts=of("out"), stderrs=of("err"), tee_stdouts={}, tee_stderrs={1: path(1, "err")},
            error_files=of("error"), filtered_stdout="", filtered_stderr=f"{self.dir}/{self.attempts}.found",
        )
"""
SAYS = """
import os, sys
print("out", os.environ["RANK"], os.environ["TOLD"]); print("err", os.environ["RANK"], file=sys.stderr)
"""
FAILS = """
import json, os, sys
error = {"message": "ValueError: lost", "extraInfo": {"py_callstack": "in main", "timestamp": "1"}}
open(os.environ["TORCHELASTIC_ERROR_FILE"], "w").write(json.dumps({"message": error}))
sys.exit(1)
"""
FLAGS = ("--logs-specs", "mine", "--log-dir", "logs", "-r", "0:3,1:1", "-t", "2", "--local-ranks-filter", "0,1")


def install(directory: Path, module: str) -> dict[str, str]:
    """A package with that class; the variables by which Python finds it."""
    package = directory / "site" / "somebody_elses-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Name: somebody-elses\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[torchrun.logs_specs]\nmine = somebody_elses:Specs\n")
    (directory / "site" / "somebody_elses.py").write_text(module)
    return {"PYTHONPATH": f"{directory / 'site'}:{ROOT}"}


def job(directory: Path, module: str, script: str, *flags: str) -> Done:
    words = ("--nproc-per-node", "2", *FLAGS, *flags, "--no-python", *python(script))
    return launch(directory, *words, env=install(directory, module))


def test_files_are_where_the_class_says_and_teed_streams_are_on_the_console_too(tmp_path: Path) -> None:
    done = job(tmp_path, FLAT, SAYS, "--duplicate-stderr-filters", "err 1", "--role", "part")
    assert done.returncode == 0, done.stderr
    assert {name: (tmp_path / "logs" / name).read_text() for name in tree(tmp_path / "logs")} == {
        "1-0-of-2.out": "out 0 part!\n",
        "1-1-of-2.out": "out 1 part!\n",
        "1-0-of-2.err": "err 0\n",
        "1-1-of-2.err": "err 1\n",
        "1.found": "[part1]:err 1\n",
    }
    assert done.stdout == ""
    assert "[part1]:err 1\n" in done.stderr
    assert "[part0]:" not in done.stderr
    assert "whatever it prints is no answer" in done.stderr


def test_each_attempt_has_files_of_its_own_and_a_failure_names_them(tmp_path: Path) -> None:
    done = job(tmp_path, FLAT, FAILS, "--max-restarts", "1")
    assert done.returncode == 1
    assert {name.split("-")[0] for name in tree(tmp_path / "logs")} == {"1", "2"}
    logs = tmp_path / "logs"
    (rank,) = set(re.findall(r"rank +: (\d)", done.stderr))
    assert (
        f"logs      : {logs}/2-{rank}-of-2.out, {logs}/2-{rank}-of-2.err, {logs}/2-{rank}-of-2.error\n" in done.stderr
    )
    assert "error     : ValueError: lost\n" in done.stderr


def test_files_that_are_named_again_begin_anew_and_an_old_error_is_not_told_as_new(tmp_path: Path) -> None:
    specs = FLAT.replace("{self.attempts}-{world[rank]}", "{world[rank]}")
    fails_by_word_once = "import os\nif os.environ['TORCHELASTIC_RESTART_COUNT'] == '1': print('again'); os._exit(9)\n"
    done = job(tmp_path, specs, fails_by_word_once + "print('first', flush=True)" + FAILS, "--max-restarts", "1")
    assert done.returncode == 9
    assert "first" not in "".join(path.read_text() for path in (tmp_path / "logs").glob("*.out"))
    assert "error     : " not in done.stderr
    assert not list((tmp_path / "logs").glob("*.error"))


def test_its_error_file_is_handed_on_to_whoever_supervises_rankd(tmp_path: Path) -> None:
    env = install(tmp_path, FLAT) | {"TORCHELASTIC_ERROR_FILE": str(tmp_path / "ours.json")}
    launch(tmp_path, "--nproc-per-node", "2", *FLAGS, "--no-python", *python(FAILS), env=env)
    assert "ValueError: lost" in (tmp_path / "ours.json").read_text()


def test_what_has_no_file_is_on_the_console_and_what_is_for_nobody_is_nowhere(tmp_path: Path) -> None:
    specs = FLAT[: FLAT.index("        return")] + (
        "        return types.SimpleNamespace(stdouts={0: '', 1: os.devnull}, stderrs={1: path(1, 'err')},\n"
        "            tee_stdouts={1: os.devnull}, error_files={0: os.devnull})\n"
    )
    done = job(tmp_path, specs, SAYS)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out 0 default!\n"
    assert "err 0\n" in done.stderr
    assert tree(tmp_path / "logs") == ["1-1-of-2.err"]


@pytest.mark.parametrize(
    ("reify", "said"),
    [
        ("raise RuntimeError('disk quota')", "RuntimeError: disk quota"),
        ("return types.SimpleNamespace(stdouts=['a'])", "stdouts is list, not a mapping by local rank"),
        (
            "return types.SimpleNamespace(stdouts={0: '/a'}, tee_stdouts={0: '/b'})",
            "tee_stdouts[0] is '/b', and the worker writes to '/a'",
        ),
        ("return types.SimpleNamespace(stdouts={0: '/no/such/out'})", "'/no/such/out': No such file or directory"),
        ("os._exit(3)", "its process has ended with exit code 3"),
        ("os.kill(os.getpid(), 9)", "its process has ended with signal 9"),
        ("import sys; sys.exit(3)", "its process has ended with exit code 3"),
    ],
)
def test_a_class_that_gives_no_answer_is_the_reason_why_the_group_fails(reify: str, said: str, tmp_path: Path) -> None:
    specs = FLAT[: FLAT.index("        self.attempts += 1")] + f"        {reify}\n"
    done = job(tmp_path, specs, SAYS, "--max-restarts", "0")
    assert done.returncode == 75
    assert f"--logs-specs mine: {said}" in done.stderr


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("import a_module_that_nobody_has", "cannot be loaded without what it imports: No module named"),
        ("raise RuntimeError('not today')", "cannot be made: RuntimeError: not today"),
        ("class Other: pass", "cannot be made: AttributeError"),
        ("class Specs: pass", "cannot be made: TypeError"),
        ("import os\nos._exit(3)", "its process has ended with exit code 3"),
    ],
)
def test_a_class_that_cannot_be_had_is_refused_before_anything_is_begun(module: str, said: str, tmp_path: Path) -> None:
    done = job(tmp_path, module, SAYS)
    assert done.returncode == 64
    assert re.search(f"^rankd: --logs-specs mine: (it )?{re.escape(said)}", done.stderr, re.MULTILINE)
    assert not (tmp_path / "logs").exists()


def test_a_stop_is_obeyed_while_the_class_has_no_answer(tmp_path: Path) -> None:
    specs = FLAT[: FLAT.index("        self.attempts += 1")] + (
        "        import time; open('asked', 'w').close(); time.sleep(1000)\n"
    )
    words = ("--nproc-per-node", "2", *FLAGS, "--no-python", "/bin/true")
    with launched(tmp_path, *words, env=install(tmp_path, specs)) as process:
        until((tmp_path / "asked").exists, "the question")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
