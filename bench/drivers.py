"""One driver per supervisor: how to start N workers under it, and what to expect of it.

To add one: subclass Driver, implement command(), put it in DRIVERS. command() may write config files
in job.dir; it returns argv. Everything machine-specific comes from job.path(NAME), which
reads $BENCH_<NAME> and else looks NAME up on PATH.
"""
import os
import shutil
import signal
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


class Job:
    """What a driver is asked to run. logs: None, or how its output is captured ("file", "tee")."""

    def __init__(self, directory, worker, count, logs=None, tools=None):
        self.dir, self.worker, self.count, self.logs = directory, worker, count, logs
        self.tools = tools or {}

    def path(self, name):
        found = os.environ.get("BENCH_" + name.upper().replace("-", "_")) or self.tools.get(name) or shutil.which(name)
        if not found:
            raise FileNotFoundError(f"{name}: not on PATH, set BENCH_{name.upper()}")
        return found

    def sub(self, *names):
        return os.path.join(self.dir, *names)

    def write(self, name, text, mode=0o644):
        path = self.sub(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, mode)
        return path


class Driver:
    """Defaults for a supervisor that restarts a single worker and stops on SIGTERM."""

    name = ""
    gang = False            # one failure restarts all workers
    restarts = True
    settle = 0.3            # seconds after start before a worker may be killed (startsecs and the like)
    phase = 0               # its polling period in seconds: kills and stops are spread evenly over it
    stop_signal = signal.SIGTERM
    log_modes = ()          # of "file", "tee"
    exits_alone = False     # in a log run it ends by itself when the workers are done
    env = {}

    def command(self, job):
        raise NotImplementedError

    def prefix(self, job, rank):
        """What is put before each line: in its file with "file", on the console with "tee"."""
        return ""

    def log_bytes(self, job):
        """Bytes captured so far under job.dir/logs."""
        return sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(job.sub("logs")) for f in fs)


class RawC(Driver):
    name = "raw-c"

    def command(self, job):
        return [job.path("rawspawn"), str(job.count), job.worker]


class RawCGang(RawC):
    name, gang, env = "raw-c-gang", True, {"RAW_GANG": "1"}


class RawPy(Driver):
    name, gang, env = "raw-py-gang", True, {"RAW_GANG": "1"}
    log_modes, exits_alone = ("file",), True

    def prefix(self, job, rank):
        return f"[{rank}]: "

    def command(self, job):
        logs = ["--logs", job.sub("logs")] if job.logs else []
        return [sys.executable, "-S", os.path.join(HERE, "rawspawn.py"), str(job.count), job.worker, *logs]


class Torchrun(Driver):
    name, gang, log_modes, exits_alone, phase = "torchrun", True, ("file", "tee"), True, 0.1

    def prefix(self, job, rank):
        return f"[default{rank}]:" if job.logs == "tee" else ""

    def command(self, job):
        logs = {None: [], "file": ["--redirects", "3", "--log-dir", job.sub("logs")],
                "tee": ["--tee", "3", "--log-dir", job.sub("logs")]}[job.logs]
        return [job.path("torchrun"), "--standalone", "--nproc-per-node", str(job.count),
                "--max-restarts", "1", *logs, "--no-python", job.worker]


class Rankd(Driver):
    """One gang, as torchrun runs it; its health listener is on, and without a log mode nobody captures output."""

    name, gang, log_modes, exits_alone = "rankd", True, ("file", "tee"), True

    def prefix(self, job, rank):
        return f"[w{rank}]:" if job.logs == "tee" else ""

    def command(self, job):
        streams = {None: (0, 0), "file": (3, 0), "tee": (0, 3)}[job.logs]
        return [job.path("rankd"), "run", job.write("rankd.toml", f"""[daemon]
state_dir = "{job.dir}"
runtime_dir = "{job.sub("run")}"
[log]
format = "{"console" if job.logs == "tee" else "json"}"
[health]
listen = ["127.0.0.1:0"]
[groups.w]
command = ["{job.worker}"]
workers = {job.count}
[groups.w.restart]
max_restarts = 1
[groups.w.logs]
redirects = "{streams[0]}"
tee = "{streams[1]}"
""")]


class Supervisord(Driver):
    name, settle, phase, log_modes = "supervisord", 1.3, 1, ("file",)
    env = {"PYTHONPATH": ""}    # its import package has the name of rankd's

    def command(self, job):
        restart = "autorestart=false\nstartsecs=0" if job.logs else "autorestart=true"
        return [job.path("supervisord"), "-n", "-c", job.write("supervisord.conf", f"""[supervisord]
logfile={job.sub("supervisord.log")}
pidfile={job.sub("supervisord.pid")}
minfds={max(1024, 6 * job.count + 200)}
childlogdir={job.dir}
[program:w]
command={job.worker}
numprocs={job.count}
process_name=w%(process_num)d
environment=RANK="%(process_num)d",LOCAL_RANK="%(process_num)d"
{restart}
redirect_stderr=true
stdout_logfile={job.sub("logs")}/w%(process_num)d.log
stdout_logfile_maxbytes=0
""")]


class Circus(Driver):
    name, log_modes, check, phase = "circus", ("file",), 5, 5

    def command(self, job):
        stream = f"stdout_stream.class = FileStream\nstdout_stream.filename = {job.sub('logs')}/all.log\n"
        return [job.path("circusd"), job.write("circus.ini", f"""[circus]
check_delay = {self.check}
endpoint = ipc://{job.sub("c")}
pubsub_endpoint = ipc://{job.sub("p")}
[watcher:w]
cmd = {job.worker}
numprocesses = {job.count}
copy_env = True
{"respawn = False" if job.logs else ""}
{stream if job.logs else ""}
[env:w]
RANK = $(circus.wid)
""")]


class CircusFast(Circus):
    name, check, phase = "circus-fast", 0.1, 0.1


class Runit(Driver):
    name, settle, stop_signal, log_modes = "runit", 1.2, signal.SIGHUP, ("file",)

    def command(self, job):
        for rank in range(job.count):
            os.makedirs(job.sub("sv", f"w{rank}"))
            os.symlink(job.worker, job.sub("sv", f"w{rank}", "run"))
            if job.logs:
                logs = job.sub("logs", str(rank))
                os.makedirs(logs)
                with open(os.path.join(logs, "config"), "w") as file:
                    file.write("s0\n")          # no rotation
                job.write(f"sv/w{rank}/log/run", f"#!/bin/sh\nexec svlogd {logs}\n", 0o755)
        os.utime(job.sub("sv"), (0, 0))         # runsvdir waits 1 s on a directory changed this second
        return [job.path("runsvdir"), job.sub("sv")]

    def log_bytes(self, job):
        return sum(os.path.getsize(os.path.join(d, "current"))
                   for d, _, fs in os.walk(job.sub("logs")) if "current" in fs)


class Honcho(Driver):
    name, restarts, log_modes = "honcho", False, ("tee",)
    exits_alone = True

    def command(self, job):
        return [job.path("honcho"), "-d", job.dir, "-f", job.write("Procfile", f"w: exec {job.worker}\n"),
                "start", "-c", f"w={job.count}"]


DRIVERS = {d.name: d for d in (RawC(), RawCGang(), RawPy(), Rankd(), Torchrun(), Supervisord(), Circus(),
                               CircusFast(), Runit(), Honcho())}
