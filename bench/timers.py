"""Watchdogs in one interleaved run: torch's FileTimerServer and rankd, and the bars that rankd has to reach.

  PYTHON_WITH_TORCH_AND_RANKD timers.py [--reps 3] [--pairs 3000] [--samples 40] [--beats 1000] [--seconds 10]

- requests a second from 8 clients of torch's own (FileTimerClient), a pair is acquire + release, and failed sends;
  on few cores that measures the clients, each of which costs more than the server;
- requests a second from 8 small clients (worker.c), which write prepared bytes to either server as fast as they can;
- the highest rate (2500, 5000, ... a second) that either takes from these for a second without a failed send;
- expiry to kill with 1,000 live timers, beside those of torch's server with one;
- CPU of a daemon with 1,000 live timers, of which none is due;
- CPU of a daemon that hears a heartbeat a second from each of so many workers.

Needs a C compiler. Exits with 1 when a bar is not reached.
"""
import argparse
import json
import os
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
LIVE = 1000

CLIENT = """
import os, sys, time
from torch.distributed.elastic.timer import FileTimerClient
pairs, folder = int(sys.argv[1]), sys.argv[2]
rank, mine = os.environ["RANK"], FileTimerClient(os.environ["TORCHELASTIC_TIMER_FILE"])
open(f"{folder}/up{rank}", "w").close()
while not os.path.exists(f"{folder}/go"):
    time.sleep(0.001)
began, failed = time.monotonic(), 0
def send(call, *arguments):
    global failed
    while True:
        try:
            return call("s", *arguments)
        except (BrokenPipeError, BlockingIOError):
            failed += 1
            time.sleep(0.001)
for _ in range(pairs):
    send(mine.acquire, time.time() + 600)
    send(mine.release)
send(mine.acquire, time.time() + 600)
with open(f"{folder}/new{rank}", "w") as file:
    file.write(f"{began} {failed}")
os.rename(f"{folder}/new{rank}", f"{folder}/done{rank}")
time.sleep(1000)
"""

HANGS = """
import json, os, random, sys, time
folder, live, attempt = sys.argv[1], int(sys.argv[2]), os.environ["TORCHELASTIC_RESTART_COUNT"]
def timer(scope, at):
    return json.dumps(dict(version=1, pid=os.getpid(), scope_id=scope, expiration_time=at, signal=9)) + chr(10)
with open(os.environ["TORCHELASTIC_TIMER_FILE"], "w") as pipe:
    for number in range(live):
        pipe.write(timer(f"live {number}", time.time() + 600))
        pipe.flush()
    at = time.time() + 0.3 + random.random() * 0.2
    if live:
        with open(f"{folder}/new", "w") as file:
            file.write(f"{os.getpid()} {at}")
        os.rename(f"{folder}/new", f"{folder}/at{attempt}")
    if sys.argv[3] == "hang":
        pipe.write(timer("due", at))
time.sleep(1000)
"""


class Daemon:
    """One rankd run of one group, with its health listener on a port of its own."""

    def __init__(self, folder, command, workers, watchdog="", restarts=0, env=()):
        with open(os.path.join(folder, "rankd.toml"), "w") as file:
            file.write(f"""[daemon]
state_dir = "{folder}"
runtime_dir = "{folder}/run"
[log]
format = "json"
[health]
listen = ["127.0.0.1:0"]
[groups.w]
command = {json.dumps(command)}
workers = {workers}
[groups.w.restart]
max_restarts = {restarts}
backoff = {{ initial = "0s", max = "0s" }}
[groups.w.watchdog]
{watchdog}
[groups.w.logs]
redirects = "0"
tee = "0"
""")
        os.makedirs(f"{folder}/run", mode=0o700, exist_ok=True)
        self.records = open(f"{folder}/records", "w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "supervisor", "run", f"{folder}/rankd.toml"],
            stdout=self.records, stderr=subprocess.DEVNULL, env={**os.environ, **dict(env)},
        )
        (self.address,) = self.wait_for("health.listening")["addresses"]

    def wait_for(self, event, timeout=60):
        limit = time.monotonic() + timeout
        while time.monotonic() < limit:
            with open(self.records.name) as file:
                for line in file:
                    if line.endswith("\n") and f'"event":"{event}"' in line:
                        return json.loads(line)
            time.sleep(0.01)
        raise TimeoutError(event)

    def metric(self, name):
        address = self.address.removeprefix("http://")
        with urllib.request.urlopen(f"http://{address}/metrics") as answer:
            found = re.search(rf"^{name}{{[^}}]*}} ([0-9.e+]+)$", answer.read().decode(), re.MULTILINE)
        return float(found[1])

    def cpu(self):
        """Seconds of CPU so far, to the nanosecond (proc_pid_schedstat)."""
        with open(f"/proc/{self.process.pid}/schedstat") as file:
            return int(file.read().split()[0]) / 1e9

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.records.close()


def wait(found, timeout=120):
    limit = time.monotonic() + timeout
    while not found():
        if time.monotonic() > limit:
            raise TimeoutError("nothing came")
        time.sleep(0.002)


def throughput(pairs, clients=8):
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", CLIENT, str(pairs // clients), folder]
        daemon = Daemon(folder, command, clients)
        try:
            wait(lambda: all(os.path.exists(f"{folder}/up{rank}") for rank in range(clients)))
            open(f"{folder}/go", "w").close()
            wait(lambda: all(os.path.exists(f"{folder}/done{rank}") for rank in range(clients)))
            wait(lambda: daemon.metric("rankd_timers_active") == clients)
            ended = time.monotonic()
            said = [open(f"{folder}/done{rank}").read().split() for rank in range(clients)]
            sent = (2 * (pairs // clients) + 1) * clients
            return sent / (ended - min(float(began) for began, _ in said)), sum(int(failed) for _, failed in said)
        finally:
            daemon.close()


def small_throughput(program, requests, rate=0, clients=8):
    """Requests a second and failed sends; ``rate`` is offered by all clients together, 0 for what they can."""
    with tempfile.TemporaryDirectory() as folder:
        os.mkfifo(f"{folder}/gate")
        each = requests // clients // 2 * 2  # the last one releases
        daemon = Daemon(folder, [program, f"timers:{each}:{rate // clients}"], clients,
                        env={"BENCH_EVENTS": f"{folder}/events", "BENCH_GATE": f"{folder}/gate"})
        try:
            wait(lambda: len(said(f"{folder}/events", "S")) == clients)
            time.sleep(0.5)
            gate = os.open(f"{folder}/gate", os.O_WRONLY)
            wait(lambda: len(said(f"{folder}/events", "D")) == clients)
            wait(lambda: daemon.metric("rankd_timers_active") == 10 * clients)
            ended = time.monotonic()
            os.close(gate)
            done = said(f"{folder}/events", "D")
            sent = (each + 10) * clients
            return sent / (ended - min(int(line[4]) for line in done) / 1e9), sum(int(line[3]) for line in done)
        finally:
            daemon.close()


def without_failure(run):
    """The highest rate of 2500, 5000, ... a second that is taken for a second without a failed send; 0 if none is."""
    rate = 2500
    while not run(rate, rate):
        rate *= 2
    return rate // 2 if rate > 2500 else 0


def said(events, kind):
    """The lines of that kind that the workers have written so far."""
    if not os.path.exists(events):
        return []
    with open(events) as file:
        return [line.split() for line in file if line.startswith(kind)]


def latency(samples, live=LIVE):
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(folder, [sys.executable, "-S", "-c", HANGS, folder, str(live), "hang"], 1, restarts=samples)
        try:
            for attempt in range(samples):
                wait(lambda: os.path.exists(f"{folder}/at{attempt}"))
                pid, at = open(f"{folder}/at{attempt}").read().split()
                fd = os.pidfd_open(int(pid))
                poll = select.poll()
                poll.register(fd, select.POLLIN)
                poll.poll(20000)
                yield (time.time() - float(at)) * 1000
                os.close(fd)
        finally:
            daemon.close()


def idle(seconds):
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(folder, [sys.executable, "-S", "-c", HANGS, folder, str(LIVE), "wait"], 1)
        try:
            wait(lambda: daemon.metric("rankd_timers_active") == LIVE)
            time.sleep(1)
            before = daemon.cpu()
            time.sleep(seconds)
            return (daemon.cpu() - before) * 1000
        finally:
            daemon.close()


def heartbeats(workers, seconds, program):
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(folder, [program, "beat:1000"], workers, 'heartbeat = "30s"')
        try:
            daemon.wait_for("group.ready")
            wait(lambda: daemon.metric("rankd_heartbeats_total") > workers)
            before, beats = daemon.cpu(), daemon.metric("rankd_heartbeats_total")
            time.sleep(seconds)
            took, heard = daemon.cpu() - before, daemon.metric("rankd_heartbeats_total") - beats
            return heard / seconds, 100 * took / seconds
        finally:
            daemon.close()


def torch(pairs, samples, program, requests):
    with tempfile.NamedTemporaryFile("r") as file:
        subprocess.run([sys.executable, os.path.join(HERE, "timerbench.py"), "--reps", "1", "--clients", "8",
                        "--pairs", str(pairs), "--samples", str(samples), "--program", program,
                        "--requests", str(requests), "--out", file.name],
                       check=True, stdout=subprocess.DEVNULL)
        rows = [json.loads(line) for line in file]
    (many,) = [row for row in rows if row["suite"] == "timer"]
    (small,) = [row for row in rows if row["suite"] == "timersmall"]
    return (many["requests_per_s"], many["client_failed"], small["requests_per_s"], small["client_failed"], small["sustained_per_s"],
            [row["expiry_to_kill_ms"] for row in rows if row["suite"] == "timerkill"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--requests", type=int, default=400000, help="of the small clients together")
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--beats", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10)
    args = parser.parse_args()
    compiler = shutil.which("cc") or shutil.which("gcc") or sys.exit("no C compiler found: apt-get install gcc libc6-dev")
    theirs, ours, kills, failed = [], [], {"torch": [], "rankd": []}, 0
    small_theirs, small_ours, sustained_theirs, sustained_ours = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "worker")
        subprocess.run([compiler, "-O2", "-static", "-o", program, os.path.join(HERE, "worker.c")], check=True)
        for rep in range(args.reps):
            rate, torch_failed, small, small_failed, sustained, late = torch(
                args.pairs, max(1, args.samples // 4), program, args.requests)
            sustained_theirs.append(sustained)
            theirs.append(rate)
            small_theirs.append(small)
            kills["torch"] += late
            rate, ours_failed = throughput(args.pairs)
            ours.append(rate)
            failed += ours_failed
            rate, flat_out_failed = small_throughput(program, args.requests)
            small_ours.append(rate)
            sustained_ours.append(without_failure(
                lambda requests, rate: small_throughput(program, requests, rate)[1]))
            kills["rankd"] += latency(args.samples)
            print(f"rep {rep}: requests/s (failed sends): torch's clients: torch {theirs[-1]:.0f} ({torch_failed}), "
                  f"rankd {ours[-1]:.0f} ({ours_failed}); small clients: torch {small:.0f} ({small_failed}), "
                  f"rankd {small_ours[-1]:.0f} ({flat_out_failed}); "
                  f"without a failed send: torch {sustained_theirs[-1]}, rankd {sustained_ours[-1]}", flush=True)
        heard, share = heartbeats(args.beats, args.seconds, program)
    quiet = idle(args.seconds)
    ratio = statistics.median(ours) / statistics.median(theirs)
    small_ratio = statistics.median(small_ours) / statistics.median(small_theirs)
    without_fail = statistics.median(sustained_ours) / max(2500, statistics.median(sustained_theirs))
    late = sorted(kills["rankd"])
    p99 = late[min(len(late) - 1, int(len(late) * 0.99))]
    bars = [
        ("requests a second from torch's clients, of torch's", ratio, 8.0, ratio >= 8, "x"),
        ("requests a second from small clients, of torch's", small_ratio, 8.0, small_ratio >= 8, "x"),
        ("requests a second without a failed send, of torch's", without_fail, 8.0, without_fail >= 8, "x"),
        ("failed sends of torch's own clients", failed, 0, failed == 0, ""),
        ("expiry to kill, median", statistics.median(late), 5.0, statistics.median(late) <= 5, " ms"),
        ("expiry to kill, p99", p99, 20.0, p99 <= 20, " ms"),
        (f"CPU in {args.seconds:g} s with {LIVE} timers", quiet, 5.0, quiet <= 5, " ms"),
        (f"CPU at {heard:.0f} heartbeats a second", share, 10.0, share < 10, " % of a core"),
    ]
    print(f"torch's own expiry to kill, median: {statistics.median(kills['torch']):.1f} ms")
    for what, found, bar, reached, unit in bars:
        print(f"{'reached' if reached else 'MISSED '}  {what}: {found:.2f}{unit} (bar: {bar:g}{unit})")
    return 0 if all(reached for *_, reached, _ in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
