"""The health listener as balancers load it, and the bars that it has to reach.

  health.py [--seconds 5] [--workers 1000] [--rounds 5] [--samples 30]

- requests a second of /readyz from wrk on an idle daemon, and the 99th percentile of their latency;
- the same percentile of single probes while that many workers start again, 8 others flood their logs and 200 clients
  hold half a request each;
- from a worker's death, and from its group's being ready again, to the first answer of /readyz that says so.

Needs wrk (apt-get install wrk) and a C compiler. Exits with 1 when a bar is not reached.
"""
import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
HALF_OPEN = 200
FLOODERS = 8
PROBE = b"GET /readyz HTTP/1.1\r\nHost: here\r\n\r\n"


class Daemon:
    """One rankd run with its health listener on a port of its own."""

    def __init__(self, folder, groups):
        with open(os.path.join(folder, "rankd.toml"), "w") as file:
            file.write(f"""[daemon]
state_dir = "{folder}/state"
runtime_dir = "{folder}/run"
[log]
format = "json"
[health]
listen = ["127.0.0.1:0"]
{groups}""")
        os.makedirs(f"{folder}/run", mode=0o700, exist_ok=True)
        self._told = open(f"{folder}/records", "w")
        self._read = open(f"{folder}/records")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "supervisor", "run", f"{folder}/rankd.toml"],
            stdout=self._told, stderr=subprocess.DEVNULL,
        )
        (address,) = self.wait_for("health.listening")["addresses"]
        host, port = address.split(":")
        self.url, self.address = f"http://{address}", (host, int(port))

    def wait_for(self, event, timeout=120):
        """The next record of that name that has not been read yet."""
        limit, line = time.monotonic() + timeout, ""
        while time.monotonic() < limit:
            line += self._read.readline()
            if not line.endswith("\n"):
                time.sleep(0.001)
                continue
            record, line = json.loads(line), ""
            if record["event"] == event:
                return record
        raise TimeoutError(event)

    def skip(self):
        """What has been told so far is not waited for."""
        self._read.seek(0, os.SEEK_END)

    def wait_until_ready(self):
        while True:
            with socket.create_connection(self.address, 30) as plug:
                if ask(plug) == 200:
                    return
            time.sleep(0.01)

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self._told.close()
        self._read.close()


@contextlib.contextmanager
def daemon(groups):
    with tempfile.TemporaryDirectory() as folder:
        running = Daemon(folder, groups)
        try:
            yield running
        finally:
            running.close()


def group(name, command, workers, more="", pause="0s"):
    return f"""[groups.{name}]
command = {json.dumps(command)}
workers = {workers}
{more}
[groups.{name}.restart]
max_restarts = -1
backoff = {{ initial = "{pause}", max = "{pause}" }}
"""


def ask(plug):
    """The status of one probe on a connection that stays."""
    plug.sendall(PROBE)
    answer = plug.recv(65536)
    while b"\r\n\r\n" not in answer:
        answer += plug.recv(65536)
    return int(answer[9:12])


def probe(address):
    """Seconds that a probe takes with a connection of its own, as balancers make them."""
    began = time.monotonic()
    with socket.create_connection(address, 30) as plug:
        ask(plug)
    return time.monotonic() - began


def idle(program, seconds):
    with daemon(group("trainer", [program, "sleep"], 8)) as running:
        running.wait_until_ready()
        told = subprocess.run(
            ["wrk", "-t1", "-c16", f"-d{seconds}s", "--latency", f"{running.url}/readyz"],
            capture_output=True, text=True, check=True,
        ).stdout
        value, unit = re.search(r"99%\s+([0-9.]+)(us|ms|s)\b", told).groups()
        return float(re.search(r"Requests/sec:\s+([0-9.]+)", told)[1]), float(value) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]


class HalfOpen(threading.Thread):
    """So many clients with half a request each; whoever is thrown out comes back."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self._address, self.over, self.held = address, threading.Event(), 0

    def run(self):
        plugs = []
        while not self.over.wait(0.05):
            kept = []
            for plug in plugs:
                try:
                    plug.recv(1)
                except BlockingIOError:
                    kept.append(plug)
                    continue
                except OSError:
                    pass
                plug.close()
            plugs = kept
            for _ in range(HALF_OPEN - len(plugs)):
                with contextlib.suppress(OSError):
                    plug = socket.create_connection(self._address, 5)
                    plug.sendall(PROBE[:20])
                    plug.setblocking(False)
                    plugs.append(plug)
            self.held = len(plugs)
        for plug in plugs:
            plug.close()


def busy(program, workers, rounds):
    flood = [sys.executable, "-S", "-c", "import os\nwhile True: os.write(1, b'x' * 99 + b'\\n')"]
    groups = group("crowd", [program, "sleep"], workers, 'logs = { redirects = "0", tee = "0" }')
    groups += group("flood", flood, FLOODERS, "required = false")
    with daemon(groups) as running:
        running.wait_until_ready()
        half_open = HalfOpen(running.address)
        half_open.start()
        took = []
        while half_open.held < HALF_OPEN:
            time.sleep(0.01)
        for _ in range(rounds):
            running.skip()
            victim = status(running)["groups"]["crowd"]["workers"][0]["pid"]
            os.kill(victim, signal.SIGKILL)
            ready = threading.Event()

            def wait(ready=ready):
                while running.wait_for("group.ready")["group"] != "crowd":
                    pass
                ready.set()

            threading.Thread(target=wait, daemon=True).start()
            while not ready.wait(0.01):
                took.append(probe(running.address) * 1000)
        half_open.over.set()
        half_open.join()
        took.sort()
        return took[int(len(took) * 0.99)], len(took)


def status(running):
    with socket.create_connection(running.address, 30) as plug:
        plug.sendall(b"GET /status HTTP/1.0\r\n\r\n")
        answer = b""
        while part := plug.recv(1 << 20):
            answer += part
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def change(program, samples):
    """Milliseconds until /readyz is red, and green again; the time of one probe is in them."""
    red, green = [], []
    groups = group("trainer", [program, "sleep"], 2, pause="100ms")
    with daemon(groups) as running, socket.create_connection(running.address) as plug:
        running.wait_until_ready()
        for _ in range(samples):
            running.skip()
            pid = status(running)["groups"]["trainer"]["workers"][0]["pid"]
            os.kill(pid, signal.SIGKILL)
            at = time.monotonic()
            while ask(plug) == 200:
                pass
            red.append((time.monotonic() - at) * 1000)
            while ask(plug) != 200:
                pass
            seen = time.time()
            ready = running.wait_for("group.ready")["timestamp"]
            green.append((seen - timestamp(ready)) * 1000)
    return red, green


def timestamp(text):
    import datetime

    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=30)
    args = parser.parse_args()
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler or not shutil.which("wrk"):
        sys.exit("needs a C compiler and wrk: apt-get install gcc libc6-dev wrk")
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "worker")
        subprocess.run([compiler, "-O2", "-static", "-o", program, os.path.join(HERE, "worker.c")], check=True)
        rate, p99 = idle(program, args.seconds)
        loaded, probes = busy(program, args.workers, args.rounds)
        red, green = change(program, args.samples)
    bars = [
        ("requests a second of wrk, idle", rate, "at least", 2000, ""),
        ("their 99th percentile", p99, "under", 10, "ms"),
        (f"99th percentile of {probes} probes under load", loaded, "under", 50, "ms"),
        ("death to 503, median", statistics.median(red), "under", 5, "ms"),
        ("ready to 200, median", statistics.median(green), "under", 5, "ms"),
    ]
    missed = False
    for what, value, how, bar, unit in bars:
        reached = value >= bar if how == "at least" else value < bar
        missed |= not reached
        print(f"{what:48} {value:10.2f} {unit:2}  {how} {bar} {unit:2}  {'reached' if reached else 'MISSED'}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
