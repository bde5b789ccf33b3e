"""``rankd launch`` does what torchrun does with the same command line, and ends with the job."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.host.topology import bind_workers
from tests.end_to_end.launching import COMMAND, environment, launch, launched, tree
from tests.end_to_end.rankd import PATIENCE, until

pytestmark = pytest.mark.end_to_end

SAYS = """
import os, sys
# each line at once, for under -u print() writes word by word, and several ranks may share a pipe
sys.stdout.write(" ".join(["rank", os.environ["RANK"], *sys.argv[1:]]) + "\\n")
sys.stderr.write("err of rank " + os.environ["RANK"] + "\\n")
"""
FAILS_ONCE = """
import os, signal
if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    os._exit(3)
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    signal.pause()
"""
WAITS = """
import os, signal, sys
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, lambda got, _: (print("got", signal.Signals(got).name, flush=True), os._exit(0)))
print("pid", os.getpid(), flush=True)
while True:
    signal.pause()
"""


def script(directory: Path, text: str) -> Path:
    path = directory / "job.py"
    path.write_text(text)
    return path


def test_a_job_runs_and_says_nothing_of_its_own(tmp_path: Path) -> None:
    done = launch(tmp_path, "--standalone", "--nproc-per-node=2", script(tmp_path, SAYS), "--lr", "${local_rank}")
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == ["rank 0 --lr 0", "rank 1 --lr 1"]
    assert sorted(done.stderr.splitlines()) == ["err of rank 0", "err of rank 1"]
    assert tree(tmp_path / "tmp") == [], "a temporary directory with nothing in it is not left behind"


def test_a_worker_reads_what_is_given_to_the_launch(tmp_path: Path) -> None:
    """A debugger's prompt, or the end of a pipe."""
    assert launch(tmp_path, "--no-python", "/bin/cat", stdin="hello").stdout == "hello"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--no-python", "/bin/sh", "-c", "exit 7"], 7),
        (["--no-python", "/bin/sh", "-c", "kill -SEGV $$$$"], 128 + signal.SIGSEGV),
        (["--no-python", "/not/there"], 127),
        (["--torchrun-exit-codes", "--no-python", "/bin/sh", "-c", "exit 7"], 1),
        (["--torchrun-exit-codes", "--no-python", "/bin/true"], 0),
        (["--nproc-per-node=none", "/bin/true"], 64),
        (["--torchrun-exit-codes", "--nproc-per-node=none", "/bin/true"], 1),
        (["--max-restarts", "many", "--torchrun-exit-codes", "/bin/true"], 2),
        (["--torchrun_exit_codes", "--no-such-flag", "/bin/true"], 2),
        (["--torchrun-exit-codes"], 2),
        (["--no-such-flag", "/bin/true"], 64),
    ],
)
def test_the_exit_code_is_the_root_causes(words: list[str], code: int, tmp_path: Path) -> None:
    done = launch(tmp_path, *words)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""


def test_records_go_to_stderr_from_the_level_that_loglevel_says(tmp_path: Path) -> None:
    job = script(tmp_path, SAYS)
    done = launch(tmp_path, job, env={"LOGLEVEL": "INFO"})
    assert done.stdout == "rank 0\n"
    assert re.search(r"^\S+ +default +is ready", done.stderr, re.MULTILINE), done.stderr
    assert "is ready" not in launch(tmp_path, job, env={"LOGLEVEL": "WARNING"}).stderr


def test_the_log_tree_is_torchruns_with_an_attempt_for_each_start(tmp_path: Path) -> None:
    done = launch(
        tmp_path, "--rdzv-backend=c10d", "--rdzv-id=job7", "--nproc_per_node=2", "--max_restarts=1",
        "--log-dir=logs", "-r", "0:3,1:1", script(tmp_path, FAILS_ONCE),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "logs").iterdir()
    assert run.name.startswith("job7_")
    files = {"0/stdout.log", "0/stderr.log", "1/stdout.log"}
    assert {path for path in tree(run) if path.endswith(".log")} == {
        f"attempt_{attempt}/{file}" for attempt in (0, 1) for file in files
    }
    assert tree(tmp_path / "tmp") == []


def test_a_tee_has_the_prefix_that_the_template_says(tmp_path: Path) -> None:
    job = script(tmp_path, SAYS)
    done = launch(tmp_path, "--nproc-per-node=12", "--log-dir=logs", "-t", "11:1", "--role=ps", job)
    assert "[ps11]:rank 11" in done.stdout.splitlines()
    template = {"TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "<$role_name ${rank}> "}
    done = launch(tmp_path, "--log-dir=logs", "-t3", job, env=template)
    assert done.stdout == "<default 0> rank 0\n"
    assert done.stderr == "<default 0> err of rank 0\n"


def test_only_ranks_of_the_filter_are_on_the_console(tmp_path: Path) -> None:
    job = script(tmp_path, SAYS)
    done = launch(tmp_path, "--nproc-per-node=3", "--log-dir=logs", "-t", "1:1", "--local-ranks-filter=1", job)
    assert (done.stdout, done.stderr) == ("[default1]:rank 1\n", "err of rank 1\n")


def test_lines_that_are_looked_for_go_to_one_file_for_all_ranks(tmp_path: Path) -> None:
    job = script(tmp_path, SAYS)
    words = ("--nproc-per-node=3", "--log-dir=logs", "-t3", "--local-ranks-filter=0,2")
    done = launch(tmp_path, *words, "--duplicate-stdout-filters=rank 1,rank 2", "--duplicate-stderr-filters=err", job)
    assert done.returncode == 0, done.stderr
    (attempt,) = (tmp_path / "logs").glob("*/attempt_0")
    assert (attempt / "filtered_stdout.log").read_text() == "[default2]:rank 2\n", "rank 1 is not on the console"
    lines = (attempt / "filtered_stderr.log").read_text().splitlines()
    assert sorted(lines) == ["[default0]:err of rank 0", "[default2]:err of rank 2"]


def test_a_worker_runs_on_the_cpus_of_its_numa_binding(tmp_path: Path) -> None:
    job = script(tmp_path, "import os; print(sorted(os.sched_getaffinity(0)))")
    (cpus,) = bind_workers("exclusive", 1, {}, {min(os.sched_getaffinity(0))})
    command = ("taskset", "--cpu-list", str(min(cpus)), *COMMAND)
    assert launch(tmp_path, "--numa-binding=exclusive", job, command=command).stdout == f"{sorted(cpus)}\n"


def test_an_error_is_explained_at_the_end_and_handed_on(tmp_path: Path) -> None:
    """To people on stderr; to torchrun, or another rankd, in the error file that it gave us."""
    job = script(
        tmp_path,
        "import os, signal\n"
        "from supervisor.worker import record\n"
        "@record\n"
        "def main():\n"
        "    if os.environ['RANK'] == '1': raise ValueError('no data')\n"
        "    signal.pause()\n"
        "main()\n",
    )
    ours = tmp_path / "ours.json"
    done = launch(tmp_path, "--nproc-per-node=2", job, env={"TORCHELASTIC_ERROR_FILE": str(ours)})
    assert done.returncode == 1
    summary = done.stderr[done.stderr.index("group default FAILED") :]
    assert "ValueError: no data" in summary
    assert "Stopped by rankd, no failures of their own:\n  rank 0\n" in summary
    assert json.loads(ours.read_text())["message"]["message"] == "ValueError: no data"


def test_logs_that_nobody_asked_a_place_for_are_in_a_temporary_directory(tmp_path: Path) -> None:
    assert launch(tmp_path, "-r3", script(tmp_path, SAYS)).returncode == 0
    (stdout,) = (tmp_path / "tmp").glob("torchelastic_*/*/attempt_0/0/stdout.log")
    assert stdout.read_text() == "rank 0\n"


def test_of_logs_to_dev_null_nothing_is_kept(tmp_path: Path) -> None:
    done = launch(tmp_path, "-t3", "--log-dir=/dev/null", script(tmp_path, SAYS))
    assert (done.returncode, done.stdout) == (0, "rank 0\n")
    assert tree(tmp_path / "tmp") == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGTERM, []),
        (signal.SIGINT, []),
        (signal.SIGHUP, []),
        (signal.SIGUSR1, ["--signals-to-handle=SIGTERM,SIGUSR1"]),
    ],
)
def test_a_signal_is_handed_on_and_is_the_exit_code(number: signal.Signals, words: list[str], tmp_path: Path) -> None:
    with launched(tmp_path, *words, script(tmp_path, WAITS)) as job:
        assert job.stdout is not None
        assert job.stdout.readline().startswith("pid ")
        job.send_signal(number)
        assert job.stdout.readline() == f"got {number.name}\n"
        assert job.wait(PATIENCE) == 128 + number
    assert tree(tmp_path / "tmp") == []


def test_what_ignores_the_signal_is_killed_after_the_shutdown_timeout(tmp_path: Path) -> None:
    ignores = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(1000)"
    with launched(tmp_path, "--shutdown-timeout=0", script(tmp_path, ignores)) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "up\n"
        job.send_signal(signal.SIGTERM)
        assert job.wait(10) == 143


def test_a_launch_that_is_killed_takes_its_workers_along(tmp_path: Path) -> None:
    with launched(tmp_path, script(tmp_path, WAITS)) as job:
        assert job.stdout is not None
        pid = int(job.stdout.readline().split()[1])
        job.kill()
        until(lambda: not os.path.exists(f"/proc/{pid}"), "end of the worker")


def test_a_failure_does_not_wait_longer_than_the_shutdown_timeout_for_a_peer(tmp_path: Path) -> None:
    """torchrun waits 30 s here whatever it was told."""
    job = script(
        tmp_path,
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.environ['RANK'] == '0':\n"
        "    open('deaf', 'w').close()\n"
        "    time.sleep(1000)\n"
        "while not os.path.exists('deaf'): time.sleep(0.01)\n"
        "os._exit(5)\n",
    )
    done = launch(tmp_path, "--nproc-per-node=2", "--shutdown-timeout=1", job, timeout=15)
    assert done.returncode == 5


def test_the_children_of_a_worker_that_failed_are_ended(tmp_path: Path) -> None:
    """Under torchrun they live on, with nobody to look after them."""
    job = script(
        tmp_path,
        "import os, subprocess, sys\n"
        "print(subprocess.Popen(['/bin/sleep', '1000'], start_new_session=True).pid, flush=True)\n"
        "os._exit(5)\n",
    )
    done = launch(tmp_path, job)
    assert done.returncode == 5
    assert not os.path.exists(f"/proc/{int(done.stdout)}")


def test_a_signal_at_any_moment_of_the_start_leaves_nothing(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(6):
        with launched(tmp_path, "--no-python", "/bin/sleep", "1000") as job:
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(chance.uniform(0.0, 0.5))
            job.send_signal(signal.SIGTERM)
            # 143 once there is something to clean up; before, it dies of the signal as any program
            assert job.wait(PATIENCE) in (143, -signal.SIGTERM)
        assert tree(tmp_path / "tmp") == []


def test_under_nohup_the_end_of_the_terminal_is_no_end_of_the_job(tmp_path: Path) -> None:
    with launched(tmp_path, script(tmp_path, WAITS), command=("nohup", *COMMAND)) as job:
        assert job.stdout is not None
        assert job.stdout.readline().startswith("pid ")
        job.send_signal(signal.SIGHUP)
        job.send_signal(signal.SIGTERM)
        assert job.stdout.readline() == "got SIGTERM\n"
        assert job.wait(PATIENCE) == 143


def test_two_launches_with_one_log_dir_know_nothing_of_each_other(tmp_path: Path) -> None:
    job = script(tmp_path, WAITS)
    words = ("--rdzv-backend=c10d", "--rdzv-id=same", "--log-dir=logs", "-r2", job)
    with launched(tmp_path, *words) as one, launched(tmp_path, *words) as other:
        for running in (one, other):
            assert running.stdout is not None
            assert running.stdout.readline().startswith("pid ")
        one.send_signal(signal.SIGTERM)
        assert one.wait(PATIENCE) == 143
        assert other.poll() is None
    assert len(list((tmp_path / "logs").iterdir())) == 2


def test_health_is_answered_on_torchelastics_port_only_if_it_is_set(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = script(tmp_path, WAITS)

    def status() -> int | None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status
        except ConnectionRefusedError:
            return None
        finally:
            connection.close()

    with launched(tmp_path, job, env={"TORCHELASTIC_HEALTH_CHECK_PORT": str(port)}) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("pid ")
        until(lambda: status() == 200, "200 from /readyz")
    with launched(tmp_path, job) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("pid ")
        assert status() is None


def test_a_health_port_that_is_taken_ends_it_before_any_worker(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = launch(tmp_path, script(tmp_path, SAYS), env={"TORCHELASTIC_HEALTH_CHECK_PORT": port})
    assert (done.returncode, done.stdout) == (69, "")
    assert port in done.stderr
    assert tree(tmp_path / "tmp") == []


def test_what_cannot_be_had_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    done = launch(tmp_path, "--nnodes=0", "--tee=9", "--log-dir=logs", script(tmp_path, SAYS))
    assert (done.returncode, done.stdout) == (64, "")
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["--nnodes", "--tee:"]
    assert not (tmp_path / "logs").exists()


def test_several_workers_share_the_cpus_unless_told_otherwise(tmp_path: Path) -> None:
    words = ("--nproc-per-node=2", "--no-python", "/bin/sh", "-c", "echo $OMP_NUM_THREADS")
    env = environment(tmp_path)
    del env["OMP_NUM_THREADS"]
    command = [sys.executable, "-m", "supervisor", "launch", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout == "1\n1\n"
    assert done.stderr.startswith("rankd: OMP_NUM_THREADS is set to 1")
    assert launch(tmp_path, *words, env={"OMP_NUM_THREADS": "5"}).stdout == "5\n5\n"


def test_run_path_and_module_run_the_script_as_main(tmp_path: Path) -> None:
    job = script(tmp_path, "import sys; print(__name__, sys.argv[1:])")
    for words in (["--run-path", job], ["-m", "job"], [job]):
        assert launch(tmp_path, *words, "x").stdout == "__main__ ['x']\n"


def test_what_a_script_run_by_its_path_raises_is_in_its_error_file(tmp_path: Path) -> None:
    """torchrun runs it in a function of its own, under ``record``: the script need not ask for that."""
    job = script(tmp_path, 'raise ValueError("no such step")')
    done = launch(tmp_path, "--log-dir=logs", "--run-path", job)
    assert done.returncode == 1
    (file,) = (tmp_path / "logs").rglob("error.json")
    assert json.loads(file.read_text())["message"]["message"] == "ValueError: no such step"
    assert "error     : ValueError: no such step" in done.stderr


def test_defaults_come_from_pet_variables(tmp_path: Path) -> None:
    env = {"PET_STANDALONE": "1", "PET_NPROC_PER_NODE": "2"}
    assert sorted(launch(tmp_path, script(tmp_path, SAYS), env=env).stdout.split()) == ["0", "1", "rank", "rank"]


def test_torchelastics_events_and_metrics_go_to_the_files_that_are_named(tmp_path: Path) -> None:
    words = ("--event-log-handler=file:events", "--torchelastic-metrics=file:metrics", "--no-python", "/bin/true")
    done = launch(tmp_path, *words)
    assert (done.returncode, done.stderr) == (0, "")
    names = [json.loads(line)["name"] for line in (tmp_path / "events").read_text().splitlines()]
    assert names[-1] == "torchelastic.worker.status.SUCCEEDED"
    assert "workers.default.run_total=1" in (tmp_path / "metrics").read_text()


def test_jobs_on_one_host_have_ports_of_their_own(tmp_path: Path) -> None:
    """torchrun's default is 29500 (or 29400) for each: EADDRINUSE for the second job (pytorch#126510)."""
    job = script(
        tmp_path,
        "import os, signal, socket\n"
        "server = socket.create_server(('', int(os.environ['MASTER_PORT'])))\n"
        "print(os.environ['MASTER_PORT'], flush=True)\n"
        "signal.pause()\n",
    )
    with contextlib.ExitStack() as jobs:
        started = [jobs.enter_context(launched(tmp_path, "--rdzv-id=same", job)) for _ in range(4)]
        ports = [one.stdout.readline() for one in started if one.stdout is not None]
        assert len(set(ports)) == 4
        assert "" not in ports


def test_what_takes_long_to_import_is_not_imported(tmp_path: Path) -> None:
    program = (
        "import json, sys; from supervisor.__main__ import main; "
        "code = main(['launch', '--no-python', '/bin/true']); print(json.dumps([code, list(sys.modules)]))"
    )
    done = launch(tmp_path, "-c", program, command=(sys.executable,))
    code, modules = json.loads(done.stdout)
    assert code == 0
    assert not {"pydantic", "aiohttp", "prometheus_client", "tomllib"} & set(modules)
