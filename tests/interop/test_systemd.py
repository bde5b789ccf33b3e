"""rankd as a service of a real systemd: its units, its records in the journal, and every way in which it can end."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.end_to_end.configs import SLEEP, group, ladder, table
from tests.interop.booted import CHECKOUT, Entry, Machine, missing

pytestmark = [
    pytest.mark.booted,
    pytest.mark.slow,
    pytest.mark.timeout(600),  # the first test of all may have to make the root file system
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

PRIORITIES = {"error": "3", "warning": "4", "info": "6", "debug": "7"}
TO_JOURNAL = {"redirects": "0", "tee": "0"}
"""A worker's output is neither redirected nor teed: it goes where the daemon's own stderr goes."""

# systemd's own catalog, sd-messages.h
WILL_RESTART = "5eb03494b6584870a536b337290809b3"
MAIN_EXITED = "98e322203f7a4ed290d09fe03c09fe15"

Record = dict[str, Any]


@pytest.fixture
def machine(booted: Machine) -> Machine:
    """rankd's user and units are installed as README says; no configuration yet, nothing started."""
    for path in (
        "sysusers.d/rankd.conf",
        "systemd/system/rankd.service",
        "systemd/system/rankd@.service",
        "systemd/system/rankd.socket",
    ):
        ours = CHECKOUT / "systemd" / path.removeprefix("systemd/system/")
        booted.write(f"/etc/{path}", ours.read_text())
    booted.run("systemd-sysusers")
    booted.run("systemctl", "daemon-reload")
    return booted


def configure(machine: Machine, config: str, name: str = "rankd") -> None:
    machine.write(f"/etc/rankd/{name}.toml", config)


def drop_in(machine: Machine, **settings: object) -> None:
    """Settings of [Service] over those of rankd.service."""
    lines = [f"{key}={value}" for key, value in settings.items()]
    machine.write("/etc/systemd/system/rankd.service.d/test.conf", "\n".join(["[Service]", *lines, ""]))
    machine.run("systemctl", "daemon-reload")


def harden(machine: Machine) -> None:
    ours = CHECKOUT / "systemd/rankd.service.d/hardened.conf"
    machine.write("/etc/systemd/system/rankd.service.d/hardened.conf", ours.read_text())
    machine.run("systemctl", "daemon-reload")


def python(script: str) -> list[str]:
    """The argv of a worker written in Python, for the Python in there."""
    return ["/usr/bin/python3", "-S", "-E", "-u", "-c", script]


def record(entry: Entry, unit: str = "rankd") -> Record:
    """What rankd has said in this entry; nothing if it was not rankd, or is a line of a worker's."""
    text = entry.get("MESSAGE")
    if entry.get("_SYSTEMD_UNIT") == f"{unit}.service" and isinstance(text, str) and text.startswith("{"):
        said: Record = json.loads(text)
        return said
    return {}


def wait_for(machine: Machine, event: str, *, count: int = 1, **fields: object) -> Record:
    wanted = {"event": event} | fields
    return record(
        machine.wait_for(lambda entry: wanted.items() <= record(entry).items(), f"{event} {fields}", count=count)
    )


def said_by_systemd(machine: Machine, text: str) -> list[str]:
    """systemd's own messages about the unit with that text in them."""
    return [
        entry["MESSAGE"] for entry in machine.journal("rankd") if entry.get("_PID") == "1" and text in entry["MESSAGE"]
    ]


def everything_running(machine: Machine) -> list[str]:
    return list(machine.processes("-.slice").values())


def ask(machine: Machine, path: str) -> str:
    script = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
    return machine.run("python3", "-c", script, f"http://127.0.0.1:8080{path}").stdout.strip()


# ---- it is installed and starts


def test_systemd_finds_nothing_wrong_with_the_units(machine: Machine) -> None:
    harden(machine)
    for unit in ("rankd.service", "rankd@job.service", "rankd.socket"):
        verified = machine.run("systemd-analyze", "verify", "--man=no", unit)
        assert verified.stdout + verified.stderr == ""


@pytest.mark.parametrize(("hardened", "most"), [(False, 4.5), (True, 3.0)], ids=["as it is", "hardened"])
def test_systemd_finds_the_service_little_exposed(machine: Machine, hardened: bool, most: float) -> None:
    if hardened:
        harden(machine)
    # As one file: with --offline=true drop-ins are not read.
    text = machine.run("systemctl", "cat", "rankd.service").stdout
    machine.write("/run/look/rankd.service", text)
    said = machine.run("systemd-analyze", "security", "--offline=true", "--no-pager", "/run/look/rankd.service").stdout
    level = float(said.splitlines()[-1].split(": ")[1].split()[0])
    assert level <= most, said


def test_hardened_it_still_runs_what_trains_models(machine: Machine) -> None:
    """Code written at run time, shared memory, threads, devices, a rendezvous, memory read from another process."""
    harden(machine)
    script = """
import ctypes, mmap, os, socket, subprocess, threading, time
from multiprocessing import shared_memory
mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
shared_memory.SharedMemory(create=True, size=4096).unlink()
open("/tmp/shared", "a").close()
thread = threading.Thread(target=int)
thread.start()
thread.join()
os.sched_setaffinity(0, os.sched_getaffinity(0))
os.open("/dev/fuse", os.O_RDONLY) if os.access("/dev/fuse", os.R_OK) else None
subprocess.run(["true"], check=True)
libc = ctypes.CDLL(None, use_errno=True)
child = subprocess.Popen(["sleep", "1000"])
word = ctypes.create_string_buffer(8)
vector = (ctypes.c_ulong * 2)(ctypes.addressof(word), 8)
assert libc.process_vm_readv(os.getpid(), vector, 1, vector, 1, 0) == 8
child.kill()
child.wait()
port = int(os.environ["MASTER_PORT"])
if os.environ["RANK"] == "0":
    server = socket.create_server(("127.0.0.1", port))
    server.accept()
else:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port))
            break
        except ConnectionRefusedError:
            time.sleep(0.01)
print("all of it")
time.sleep(1000)
"""
    configure(machine, group("job", python(script), workers=2, logs=TO_JOURNAL))
    machine.run("systemctl", "start", "rankd")
    machine.wait_for(lambda entry: entry.get("MESSAGE") == "all of it", "worker that could do all of it", count=2)
    assert wait_for(machine, "daemon.started")["containment"].startswith("cgroup v2")
    machine.run("systemctl", "stop", "rankd")
    wait_for(machine, "daemon.stopped", exit_code=0)


def test_start_returns_when_the_workers_run_and_status_says_how_it_is(machine: Machine) -> None:
    configure(machine, group("job", SLEEP, workers=2))
    machine.run("systemctl", "enable", "--now", "rankd")
    assert len(machine.processes("rankd")) == 4, "the daemon, its fork server, two workers"
    wait_for(machine, "daemon.ready")
    assert ask(machine, "/readyz") == "ok"
    assert machine.show("rankd", "StatusText")
    assert f'Status: "{machine.show("rankd", "StatusText")}"' in machine.run("systemctl", "status", "rankd").stdout


def test_it_runs_as_its_own_user_with_its_own_directories(machine: Machine) -> None:
    script = (
        "import os, pwd, time; print(pwd.getpwuid(os.getuid()).pw_name, os.getcwd(), os.environ['RANKD_STATE_DIR'])\n"
        "time.sleep(1000)"
    )
    configure(machine, group("job", python(script), logs=TO_JOURNAL))
    machine.run("systemctl", "start", "rankd")
    printed = machine.wait_for(lambda entry: str(entry.get("MESSAGE")).startswith("rankd / "), "line of the worker's")
    state = printed["MESSAGE"].split()[2]
    assert state.startswith("/var/lib/rankd")
    for path in (state, "/var/lib/rankd", "/run/rankd", "/var/log/rankd"):
        owner, mode = machine.run("stat", "--format=%U %a", path).stdout.split()
        assert owner == "rankd"
        assert mode.endswith("0"), f"{path} is open to others"


def test_two_instances_run_beside_each_other(machine: Machine) -> None:
    for port, name in ((8081, "a"), (8082, "b")):
        configure(machine, table("health", listen=[f"127.0.0.1:{port}"]) + group(name, SLEEP), name)
        machine.run("systemctl", "start", f"rankd@{name}")
    machine.run("systemctl", "stop", "rankd@a")
    assert machine.show("rankd@a", "Result") == "success"
    assert len(machine.processes("rankd@b")) == 3, "the daemon, its fork server, a worker"


# ---- what it says is in the journal


def test_every_line_in_the_journal_is_a_json_record_and_none_is_lost(machine: Machine) -> None:
    configure(machine, group("job", ["/bin/sh", "-c", "echo teed; exec sleep 1000"], workers=3))
    machine.run("systemctl", "start", "rankd")
    machine.run("systemctl", "stop", "rankd")
    machine.run("journalctl", "--sync")
    lines = machine.run("journalctl", "-o", "cat", "_SYSTEMD_UNIT=rankd.service").stdout.splitlines()
    records = [json.loads(line) for line in lines]
    assert [one["seq"] for one in records] == list(range(1, len(records) + 1))
    assert records[-1]["event"] == "daemon.stopped"


def test_a_records_priority_follows_its_level(machine: Machine) -> None:
    configure(machine, group("job", ["/bin/sh", "-c", "exit 3"], workers=2, restart={"max_restarts": 0}))
    drop_in(machine, Restart="no")
    machine.run("systemctl", "start", "rankd", check=False)
    wait_for(machine, "daemon.stopped")
    told = [(record(entry), entry["PRIORITY"]) for entry in machine.journal("rankd") if record(entry)]
    assert {one["event"] for one, _ in told} >= {"daemon.started", "worker.failed", "group.gave_up"}
    for one, priority in told:
        assert priority == PRIORITIES[one["level"]], one
    errors = machine.run("journalctl", "-u", "rankd", "-p", "err", "-o", "cat").stdout
    assert '"event":"worker.failed"' in errors
    assert '"level":"info"' not in errors


def test_what_is_not_redirected_is_in_the_journal_as_the_workers_own_line(machine: Machine) -> None:
    configure(machine, group("job", ["/bin/sh", "-c", "echo out; echo err >&2; exec sleep 1000"], logs=TO_JOURNAL))
    machine.run("systemctl", "start", "rankd")
    worker = wait_for(machine, "worker.started")["pid"]
    for line in ("out", "err"):
        entry = machine.wait_for(lambda entry, line=line: entry.get("MESSAGE") == line, line)  # type: ignore[misc]
        assert (entry["_SYSTEMD_UNIT"], entry["_PID"], entry["PRIORITY"]) == ("rankd.service", str(worker), "6")


def test_a_line_of_a_group_with_journal_is_found_by_its_rank_and_a_restarted_journald_gets_the_next(
    machine: Machine,
) -> None:
    script = 'echo "out of $RANK"; echo "err of $RANK" >&2; while read -r _ <"$1"; do echo "again $RANK"; done'
    pipe = "/run/rankd-test.pipe"
    machine.run("mkfifo", "-m", "666", pipe)
    logs = TO_JOURNAL | {"journal": True}
    configure(machine, group("job", ["/bin/sh", "-c", script, "sh", pipe], workers=2, logs=logs))
    machine.run("systemctl", "start", "rankd")
    pids = {one: wait_for(machine, "worker.started", rank=one)["pid"] for one in range(2)}

    def lines_of(rank: int) -> list[tuple[object, ...]]:
        found = machine.run("journalctl", "-u", "rankd", f"RANK={rank}", "RANKD_GROUP=job", "-o", "json").stdout
        entries = [entry for entry in map(json.loads, found.splitlines()) if not record(entry)]
        return [(entry["MESSAGE"], entry["PRIORITY"], entry["RANKD_STREAM"], entry["WORKER_PID"]) for entry in entries]

    for rank, pid in pids.items():
        machine.wait_for(lambda entry, rank=rank: entry.get("MESSAGE") == f"err of {rank}", "stderr")  # type: ignore[misc]
        assert sorted(lines_of(rank)) == [
            (f"err of {rank}", "4", "stderr", str(pid)), (f"out of {rank}", "6", "stdout", str(pid))
        ]  # fmt: skip
    machine.run("systemctl", "restart", "systemd-journald")
    machine.run("sh", "-c", f"echo go >{pipe}")
    machine.wait_for(lambda entry: str(entry.get("MESSAGE")).startswith("again "), "a line after the restart")


def test_records_are_asked_for_by_rank_group_and_event(machine: Machine) -> None:
    """The commands of README; and ``journalctl -x`` explains what a record means."""
    machine.write("/usr/local/lib/systemd/catalog/rankd.catalog", (CHECKOUT / "systemd/rankd.catalog").read_text())
    machine.run("journalctl", "--update-catalog")
    configure(machine, group("job", ["/bin/sh", "-c", "[ $RANK = 1 ] && exit 3; exec sleep 1000"], workers=2))
    machine.run("systemctl", "start", "rankd")
    wait_for(machine, "worker.failed", rank=1)
    machine.run("journalctl", "--sync")

    def asked(*matches: str) -> list[Record]:
        lines = machine.run("journalctl", "-u", "rankd", "-o", "cat", *matches).stdout.splitlines()
        return [json.loads(line) for line in lines]

    assert {one["rank"] for one in asked("RANK=1")} == {1}
    assert {one["event"] for one in asked("RANK=1", "RANKD_EVENT=worker.failed")} == {"worker.failed"}
    assert {one["group"] for one in asked("RANKD_GROUP=job")} == {"job"}
    explained = machine.run("journalctl", "-x", "-u", "rankd", "RANKD_EVENT=worker.failed").stdout
    assert "Subject: A worker has failed" in explained
    assert "Group job, rank 1 (attempt " in explained


def test_what_is_said_while_journald_restarts_is_not_lost(machine: Machine) -> None:
    configure(machine, group("job", ["/bin/sh", "-c", "exit 3"], restart={"max_restarts": -1}))
    machine.run("systemctl", "start", "rankd", check=False)
    wait_for(machine, "group.restarting")
    machine.run("systemctl", "restart", "systemd-journald")
    after = len(machine.journal("rankd"))
    machine.wait_for(lambda entry: record(entry).get("event") == "group.restarting", "more", count=3)
    machine.run("systemctl", "stop", "rankd")
    machine.run("journalctl", "--sync")
    lines = machine.run("journalctl", "-o", "cat", "_SYSTEMD_UNIT=rankd.service").stdout.splitlines()
    assert len(lines) >= after
    seqs = sorted(json.loads(line)["seq"] for line in lines)
    assert seqs == list(range(1, len(seqs) + 1))


# ---- it reloads, and its socket is systemd's


def test_reload_is_gone_by_and_a_wrong_file_is_told_in_journal_and_status(machine: Machine) -> None:
    stays = group("stays", SLEEP, workers=2)
    configure(machine, stays)
    machine.run("systemctl", "start", "rankd")
    before = machine.processes("rankd")
    configure(machine, stays + group("comes", ["/bin/sleep", "1001"]))
    machine.run("systemctl", "reload", "rankd")
    wait_for(machine, "daemon.reloaded", added=["comes"])
    wait_for(machine, "group.ready", group="comes")
    assert before.items() <= machine.processes("rankd").items(), "what has not changed is not touched"
    configure(machine, stays + "wrokers = 3\n")
    assert machine.run("systemctl", "reload", "rankd", check=False).returncode != 0
    assert "wrokers: unknown key" in machine.run("journalctl", "-u", "rankd", "-o", "cat").stdout
    refused = wait_for(machine, "daemon.reload_refused")
    assert refused["reason"].startswith("/etc/rankd/rankd.toml:")
    machine.wait_for(lambda entry: record(entry).get("event") == "daemon.reload_refused", "refusal")
    assert machine.show("rankd", "ActiveState") == "active"
    machine.run("systemctl", "stop", "rankd")
    assert machine.show("rankd", "Result") == "success"


def test_a_probe_that_comes_while_nothing_runs_starts_rankd_and_one_during_a_restart_waits(machine: Machine) -> None:
    configure(machine, group("job", SLEEP))
    machine.run("systemctl", "enable", "--now", "rankd.socket")
    assert machine.show("rankd", "ActiveState") == "inactive"
    assert ask(machine, "/livez") == "ok"
    assert wait_for(machine, "health.listening")["addresses"] == ["127.0.0.1:8080"]
    first = machine.show("rankd", "MainPID")
    machine.run("systemctl", "--no-block", "restart", "rankd")
    assert ask(machine, "/livez") == "ok"
    wait_for(machine, "daemon.ready", count=2)
    assert ask(machine, "/livez") == "ok"
    assert machine.show("rankd", "MainPID") != first


# ---- it stops


def test_stop_leaves_nothing_to_do_for_systemd(machine: Machine) -> None:
    script = "(setsid sleep 4242 &); setsid sleep 4343 & echo up; exec sleep 4444"
    configure(machine, group("job", ["/bin/sh", "-c", script], workers=2, logs=TO_JOURNAL))
    machine.run("systemctl", "start", "rankd")
    machine.wait_for(lambda entry: entry.get("MESSAGE") == "up", "worker that is up", count=2)
    sleeping = [command for command in machine.processes("rankd").values() if command.startswith("sleep")]
    assert sorted(sleeping) == sorted(["sleep 4242", "sleep 4343", "sleep 4444"] * 2)

    machine.run("systemctl", "stop", "rankd")
    assert not [command for command in everything_running(machine) if command.startswith("sleep")]
    assert (machine.show("rankd", "Result"), machine.show("rankd", "ExecMainStatus")) == ("success", "0")
    assert not said_by_systemd(machine, "Killing process"), "rankd left that to systemd"
    wait_for(machine, "daemon.stopped", exit_code=0)


def test_a_stop_longer_than_systemds_patience_is_gone_through_to_its_end(machine: Machine) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up')\nwhile True: signal.pause()"
    job = group("job", python(stubborn), stop=ladder("3s"), logs=TO_JOURNAL)
    configure(machine, table("daemon", drain_delay="2s") + job)
    drop_in(machine, TimeoutStopSec="1s")
    machine.run("systemctl", "start", "rankd")
    machine.wait_for(lambda entry: entry.get("MESSAGE") == "up", "worker that is up")
    began_at = time.monotonic()
    machine.run("systemctl", "stop", "rankd")
    stopped_for = time.monotonic() - began_at
    assert not said_by_systemd(machine, "timed out")
    assert 5 <= stopped_for < 8
    assert (machine.show("rankd", "Result"), machine.show("rankd", "ExecMainStatus")) == ("success", "0")
    wait_for(machine, "worker.killed")


@pytest.mark.parametrize("command", [["/bin/true"], ["/bin/sleep", "5"]], ids=["before it is ready", "in its time"])
def test_when_every_group_has_succeeded_so_has_the_service(machine: Machine, command: list[str]) -> None:
    configure(machine, group("job", command, workers=2))
    drop_in(machine, WatchdogSec="2s")  # which is fed meanwhile
    machine.run("systemctl", "start", "rankd")
    wait_for(machine, "daemon.stopped", exit_code=0)
    machine.wait_for(lambda entry: entry.get("MESSAGE") == "rankd.service: Deactivated successfully.", "good end")
    assert machine.show("rankd", "Result") == "success"
    assert machine.show("rankd", "NRestarts") == "0"


# ---- it fails


def test_a_worker_that_fails_is_rankds_business_alone(machine: Machine) -> None:
    script = '[ "$TORCHELASTIC_RESTART_COUNT" = 0 ] && exit 9; exec sleep 1000'
    configure(machine, group("job", ["/bin/sh", "-c", script], workers=2))
    machine.run("systemctl", "start", "rankd")
    wait_for(machine, "group.ready", attempt=1)
    assert machine.show("rankd", "ActiveState") == "active"
    assert machine.show("rankd", "NRestarts") == "0"


def test_a_job_that_keeps_failing_is_started_again_but_not_for_ever(machine: Machine) -> None:
    configure(machine, group("job", ["/bin/sh", "-c", "exit 7"], restart={"max_restarts": 0}))
    drop_in(machine, RestartSec="100ms")
    machine.run("systemctl", "start", "rankd", check=False)
    machine.wait_for(lambda entry: "Start request repeated too quickly" in str(entry.get("MESSAGE")), "end of it")
    exits = [entry["EXIT_STATUS"] for entry in machine.journal("rankd") if entry.get("MESSAGE_ID") == MAIN_EXITED]
    assert exits == ["7"] * 5
    assert machine.show("rankd", "ActiveState") == "failed"


def test_a_wrong_configuration_is_not_tried_again(machine: Machine) -> None:
    configure(machine, group("job", SLEEP, workers=0, wrokers=2))
    assert machine.run("systemctl", "start", "rankd", check=False).returncode
    assert machine.show("rankd", "ActiveState") == "failed"
    assert machine.show("rankd", "ExecMainStatus") == "78"
    assert machine.show("rankd", "NRestarts") == "0"
    said = [entry["MESSAGE"] for entry in machine.journal("rankd") if entry["PRIORITY"] == "3"]
    mistakes = [line for line in said if line.startswith("/etc/rankd/rankd.toml:")]
    for key in ("workers", "wrokers"):
        assert any(f" groups.job.{key}: " in line for line in mistakes), said


def test_a_daemon_that_is_killed_takes_its_workers_along_and_starts_anew(machine: Machine) -> None:
    script = "(setsid sleep 4242 &); exec sleep 4444"
    configure(machine, group("job", ["/bin/sh", "-c", script], workers=2))
    drop_in(machine, RestartSec="100ms")
    machine.run("systemctl", "start", "rankd")
    wait_for(machine, "daemon.ready")
    before = machine.processes("rankd")
    machine.run("systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", "rankd")
    assert_replaced(machine, before)


def test_a_daemon_that_hangs_is_ended_by_the_watchdog_and_starts_anew(machine: Machine) -> None:
    configure(machine, group("job", SLEEP, workers=2))
    drop_in(machine, WatchdogSec="3s", RestartSec="100ms", LimitCORE=0)
    machine.run("systemctl", "start", "rankd")
    wait_for(machine, "daemon.ready")
    before = machine.processes("rankd")
    machine.run("systemctl", "kill", "--kill-whom=main", "--signal=SIGSTOP", "rankd")
    machine.wait_for(lambda entry: "Watchdog timeout" in str(entry.get("MESSAGE")), "watchdog")
    assert_replaced(machine, before)
    assert machine.show("rankd", "Result") == "success"


def assert_replaced(machine: Machine, before: dict[int, str]) -> None:
    """A second daemon is up, and of the first no process is left."""
    machine.wait_for(lambda entry: entry.get("MESSAGE_ID") == WILL_RESTART, "restart")
    wait_for(machine, "daemon.ready", count=2)
    after = machine.processes("rankd")
    assert len(after) == len(before)
    assert not after.keys() & before.keys()
    assert machine.show("rankd", "NRestarts") == "1"
    assert sorted(after.values()) == sorted(before.values())


# ---- it is looked at


def doctor(machine: Machine, *arguments: str) -> dict[str, tuple[str, str]]:
    """What ``rankd doctor`` says inside: verdict and words of each check."""
    ran = machine.run("/opt/rankd/bin/rankd", "doctor", "--json", *arguments, check=False)
    told = json.loads(ran.stdout)
    assert ran.returncode == (0 if told["ok"] else 1)
    return {check["check"]: (check["verdict"], check["found"]) for check in told["checks"]}


def test_doctor_finds_the_installed_unit_well_while_it_runs(machine: Machine) -> None:
    configure(machine, group("job", SLEEP, workers=2))
    machine.run("systemctl", "start", "rankd")
    wait_for(machine, "daemon.ready")
    pid = machine.show("rankd", "MainPID")
    told = doctor(machine, "/etc/rankd/rankd.toml")
    rest = {check: words for check, (verdict, words) in told.items() if verdict != "ok"}
    assert rest.keys() <= {"containment"}  # which controllers there are is this kernel's affair
    assert "/system.slice/rankd.service" in told["containment"][1]
    assert told["unit"][1] == "rankd.service: Type=notify, watchdog 30s, KillMode=mixed, delegated"
    assert told["stop"][1] == "TimeoutStopSec=1min; a stop takes at most 40 s, dependents first"
    assert told["open files"][1].startswith("hard limit of rankd.service 1048576; 2 workers take up to 74")
    assert told["state_dir"][1].endswith(f"held by the rankd that runs (pid {pid})")
    assert told["health"][1] == f"127.0.0.1:8080: the rankd that runs listens there (pid {pid})"
    assert told["runtime_dir"][1] == "/run/rankd: mode 0700"


def test_doctor_says_what_a_unit_costs_that_is_not_as_ours(machine: Machine) -> None:
    configure(machine, group("job", SLEEP, stop=ladder("2m")))
    drop_in(machine, Type="exec", WatchdogSec=0, KillMode="control-group", Delegate="no", LimitNOFILE=60)
    told = doctor(machine, "/etc/rankd/rankd.toml")
    assert {check: told[check][0] for check in ("unit", "stop", "open files")} == {
        "unit": "warning",
        "stop": "failed",
        "open files": "failed",
    }
    for words in ("Type=exec", "no watchdog", "KillMode=control-group", "not delegated"):
        assert words in told["unit"][1]
    assert "may take 125 s" in told["stop"][1]
