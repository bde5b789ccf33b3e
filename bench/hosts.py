"""Hosts of one job that come, go and die, on a real etcd, and the bars that they have to reach.

  hosts.py [--reps 5] [--workers 4] [--ttls 2,5] [--seconds 10]

Three daemons with addresses 127.0.0.1 to 127.0.0.3, and an etcd on loopback, all in a temporary folder:

- from SIGKILL of a host, daemon and workers, to the first instruction of the survivors' last new worker, with each lease_ttl;
  the hosts die in turn, so that the one that leads is among them;
- the same from SIGTERM of a host, and from an arrival; workers end at once when told to;
- from the arrival of the last of three to the last one's knowledge of their round;
- what etcd is asked while nothing happens, by its own counters.

A host has arrived when etcd has its record, which a watch of this program is told. How long a daemon takes from its start
until then, most of it for the modules of Python that it loads, is said as well.

Needs etcd (apt-get install etcd-server) and a C compiler. Exits with 1 when a bar is not reached.
"""
import argparse
import base64
import collections
import contextlib
import datetime
import http.client
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
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
PATIENCE = 60


class Etcd:
    """One member with a data folder of its own, and a watch of who arrives."""

    def __init__(self, folder):
        self.url, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        with open(f"{folder}/etcd.log", "wb") as log:
            self._process = subprocess.Popen(
                ["etcd", "--data-dir", f"{folder}/etcd", "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
                 "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}"],
                stdout=log, stderr=log, env={**os.environ, "ETCD_UNSUPPORTED_ARCH": os.uname().machine},
            )
        self._watching = None
        limit = time.monotonic() + PATIENCE
        while True:
            try:
                watch = self._watch()
                break
            except OSError:
                if time.monotonic() > limit or self._process.poll() is not None:
                    self.close()
                    with open(f"{folder}/etcd.log") as log:
                        sys.exit(f"etcd does not answer:\n{log.read()[-2000:]}")
                time.sleep(0.05)
        self._arrivals, self._arrived = [], threading.Condition()
        self._watching = threading.Thread(target=self._note, args=(watch,), daemon=True)
        self._watching.start()

    def _watch(self):
        """Lines of JSON, from now on until etcd ends."""
        begin, end = (base64.b64encode(key).decode() for key in (b"/rankd/", b"/rankd0"))
        body = json.dumps({"create_request": {"key": begin, "range_end": end}}).encode()
        watch = urllib.request.urlopen(urllib.request.Request(f"{self.url}/v3/watch", body), timeout=None)
        watch.readline()
        return watch

    def _note(self, watch):
        with watch, contextlib.suppress(OSError, http.client.HTTPException):
            for line in watch:
                at = time.monotonic()
                news = [event["kv"] for event in json.loads(line).get("result", {}).get("events", ())]
                with self._arrived:
                    self._arrivals += [(at, base64.b64decode(kv["key"]).decode()) for kv in news if kv.get("version") == "1"]
                    self._arrived.notify_all()

    def arrival(self, key, after):
        """When that key came to be, after that instant."""
        def found():
            return next((at for at, name in self._arrivals if name == key and at > after), None)

        with self._arrived:
            if not self._arrived.wait_for(found, PATIENCE):
                raise TimeoutError(key)
            return found()

    def asked(self):
        """How many messages it has had, by the name of the call."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = re.findall(r'^grpc_server_msg_received_total\{grpc_method="(\w+)".*\} (\S+)$', text, re.M)
        counts = collections.Counter()
        for name, count in found:
            counts[name] += int(float(count))
        return counts

    def close(self):
        self._process.terminate()
        self._process.wait(PATIENCE)
        if self._watching is not None:
            self._watching.join(PATIENCE)


class Host:
    """One daemon of the job."""

    def __init__(self, folder, number, job):
        self.number, self._job = number, job
        self._folder = tempfile.mkdtemp(dir=folder)
        with open(f"{self._folder}/rankd.toml", "w") as file:
            file.write(f"""[daemon]
node_id = "h{number}"
run_id = "{job.run_id}"
state_dir = "{self._folder}/state"
runtime_dir = "{self._folder}/run"
[log]
format = "json"
[health]
listen = ["127.0.0.1:0"]
[rendezvous]
backend = "etcd"
endpoints = ["{job.etcd.url}"]
addr = "127.0.0.{number}"
[groups.job]
command = ["{job.program}", "sleep"]
workers = {job.workers}
logs = {{ redirects = "3", tee = "0" }}
[groups.job.rendezvous]
nodes = "{job.nodes}"
lease_ttl = "{job.ttl}s"
""")
        os.mkdir(f"{self._folder}/run", 0o700)
        self._told = open(f"{self._folder}/records", "w")
        self._read = open(f"{self._folder}/records")
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "supervisor", "run", f"{self._folder}/rankd.toml"],
            stdout=self._told, stderr=subprocess.DEVNULL, env={**os.environ, "BENCH_EVENTS": job.events},
        )

    def wait_for(self, event, **fields):
        """The next record of that name and with these values that has not been read yet."""
        limit, line = time.monotonic() + PATIENCE, ""
        while time.monotonic() < limit:
            line += self._read.readline()
            if not line.endswith("\n"):
                time.sleep(0.005)
                continue
            record, line = json.loads(line), ""
            if record["event"] == event and all(record[name] == value for name, value in fields.items()):
                return record
        raise TimeoutError(f"h{self.number}: {event} {fields}")

    def arrival(self):
        """When etcd knew of it."""
        return self._job.etcd.arrival(f"/rankd/{self._job.run_id}/job/hosts/h{self.number}", self.began)

    def formed(self, hosts):
        """The next world of so many hosts, and the workers of this one, by pid."""
        world = self.wait_for("rendezvous.formed", hosts=hosts)
        return world, {self.wait_for("worker.started", attempt=world["attempt"])["pid"] for _ in range(self._job.workers)}

    def die(self):
        """As when its power is cut: all its processes at once."""
        for pid in [self.process.pid, *below(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._end()

    def leave(self):
        self.process.send_signal(signal.SIGTERM)

    def close(self):
        if self.process.poll() is None:
            self.leave()
        self._end()

    def _end(self):
        self.process.wait(PATIENCE)
        self._told.close()
        self._read.close()


class Job:
    """Hosts 1 to 3 of one run on an etcd."""

    def __init__(self, folder, etcd, program, workers, ttl, nodes):
        self.etcd, self.program, self.workers, self.ttl, self.nodes = etcd, program, workers, ttl, nodes
        self.run_id = f"run-{time.monotonic_ns()}"
        self.events = f"{folder}/{self.run_id}.events"
        self._folder, self.hosts = folder, {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for host in self.hosts.values():
            host.close()

    def start(self, number):
        self.hosts[number] = Host(self._folder, number, self)
        return self.hosts[number]

    def formed(self, numbers):
        """When the last of these hosts knew their next common world, and when the last worker of it began."""
        worlds = [self.hosts[number].formed(len(numbers)) for number in numbers]
        pids = set().union(*(pids for _, pids in worlds))
        return max(instant(world) for world, _ in worlds), self._last_start(pids)

    def _last_start(self, pids):
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            with open(self.events) as file:
                lines = [line.split() for line in file if line.startswith("S ") and line.endswith("\n")]
            began = {int(pid): int(at) / 1e9 for _, at, pid, *_ in lines if int(pid) in pids}
            if began.keys() == pids:
                return max(began.values())
            time.sleep(0.005)
        raise TimeoutError("a worker that was started has not begun")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def below(pid):
    """All that descend from it."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                for child in map(int, file.read().split()):
                    found += [child, *below(child)]
    return found


def instant(record):
    """When it was told, on the clock of time.monotonic()."""
    told = datetime.datetime.fromisoformat(record["timestamp"].replace("Z", "+00:00")).timestamp()
    return told - time.time() + time.monotonic()


def changes(job, reps):
    """Seconds for each death, leave and arrival."""
    took = collections.defaultdict(list)
    everybody = {1, 2, 3}

    def arrive(number):
        newcomer = job.start(number)
        arrived = newcomer.arrival()
        took["begin"].append(arrived - newcomer.began)
        took["arrive"].append(job.formed(everybody)[1] - arrived)

    for number in everybody:
        job.start(number)
    job.formed(everybody)
    for rep in range(reps):
        number = rep % 3 + 1
        others = everybody - {number}
        began = time.monotonic()
        job.hosts[number].die()
        took["die"].append(job.formed(others)[1] - began)
        arrive(number)
        leaver = job.hosts[number]
        began = time.monotonic()
        leaver.leave()
        took["leave"].append(job.formed(others)[1] - began)
        leaver.close()
        arrive(number)
    return took


def rounds(make_job, reps):
    """Seconds from the arrival of the last host to the last one's knowledge of the round."""
    took = []
    for _ in range(reps):
        with make_job() as job:
            for number in (1, 2):
                job.start(number).arrival()
            arrived = job.start(3).arrival()
            took.append(job.formed({1, 2, 3})[0] - arrived)
    return took


def steady(job, seconds):
    """What etcd was asked in that time by three hosts, by the name of the call."""
    for number in (1, 2, 3):
        job.start(number)
    job.formed({1, 2, 3})
    time.sleep(1)       # the round's last answers
    before = job.etcd.asked()
    time.sleep(seconds)
    return job.etcd.asked() - before


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--workers", type=int, default=4, help="of each host")
    parser.add_argument("--ttls", default="2,5", help="lease_ttl, whole seconds")
    parser.add_argument("--seconds", type=int, default=10, help="of the steady state")
    args = parser.parse_args()
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler or not shutil.which("etcd"):
        sys.exit("needs a C compiler and etcd: apt-get install gcc libc6-dev etcd-server")
    ttls = [int(ttl) for ttl in args.ttls.split(",")]
    deaths, gentle = {}, collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "worker")
        subprocess.run([compiler, "-O2", "-static", "-o", program, os.path.join(HERE, "worker.c")], check=True)
        with contextlib.closing(Etcd(folder)) as etcd:
            def job(ttl=ttls[0], nodes="3"):
                return Job(folder, etcd, program, args.workers, ttl, nodes)

            for ttl in ttls:
                with job(ttl, "2:3") as running:
                    took = changes(running, args.reps)
                deaths[ttl] = took.pop("die")
                for what, values in took.items():
                    gentle[what] += values
            formed = rounds(job, args.reps)
            with job() as running:
                asked = steady(running, args.seconds)
    kept = asked.pop("LeaseKeepAlive", 0) / 3 / (args.seconds / ttls[0])
    print(f"steady state, {args.seconds} s: a host kept its lease alive {kept:.1f} times in each lease_ttl; "
          f"besides that etcd was asked {dict(asked) or 'nothing'}")
    bars = [(f"host death, lease_ttl {ttl} s, to new workers", took, "at most", 1000 * (ttl + 1)) for ttl, took in deaths.items()]
    bars += [
        ("polite leave to the others' new workers", gentle["leave"], "under", 300),
        ("arrival to everybody's new workers", gentle["arrive"], "under", 300),
        ("arrival of the third to a round of three", formed, "under", 100),
    ]
    missed = False

    def line(what, unit, values, how, bar):
        nonlocal missed
        middle, worst = statistics.median(values), max(values)
        reached = middle <= bar if how == "at most" else middle < bar
        missed |= not reached
        print(f"{what:46} {middle:9.1f} {worst:9.1f} {len(values):7}  {how} {bar} {unit:10}  {'reached' if reached else 'MISSED'}")

    print(f"{'':46} {'median':>9} {'worst':>9} {'samples':>7}")
    for what, took, how, bar in bars:
        line(what, "ms", [seconds * 1000 for seconds in took], how, bar)
    begin = [seconds * 1000 for seconds in gentle["begin"]]
    print(f"{'start of a daemon to its arrival':46} {statistics.median(begin):9.1f} {max(begin):9.1f} {len(begin):7}")
    line("steady state: asked of etcd but keep-alives", "messages", [asked.total()], "at most", 0)
    line("steady state: keep-alives a host and lease_ttl", "", [kept], "at most", 3.5)
    return missed


if __name__ == "__main__":
    sys.exit(main())
