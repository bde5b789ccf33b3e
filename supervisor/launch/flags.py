"""Every flag of torchrun 2.13.0 (torch.distributed.run), and of ``rankd launch`` beyond it, as a table.

A flag has torchrun's name in dash and underscore form, and its default may come from ``PET_<NAME>`` in the environment
(torch.distributed.argparse_util). What a value means is for ``launch.plan`` to say; here it is taken as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import NamedTuple


class Flag(NamedTuple):
    """``kind`` bool: a switch. ``default`` None: "not given", which ``launch.plan`` tells from a value.

    ``env`` False: torchrun reads no ``PET_`` variable for this one.
    """

    name: str
    help: str
    kind: type = str
    default: str | int | None = None
    short: str = ""
    choices: tuple[str, ...] | None = None
    env: bool = True

    @property
    def key(self) -> str:
        """Its name in the parsed arguments."""
        return self.name.lstrip("-").replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable that has its default."""
        return f"PET_{self.key.upper()}"

    @property
    def spellings(self) -> list[str]:
        forms = dict.fromkeys((self.name, f"--{self.key}"))
        return [*([self.short] if self.short else []), *forms]


FLAGS = (
    Flag("--nnodes", "hosts, N or MIN:MAX", default="1:1"),
    Flag("--nproc-per-node", "workers on this host: a number, auto, cpu, gpu or xpu", default="1"),
    Flag("--rdzv-backend", "static, etcd or etcd-v2 (both: version 3), or on one host c10d", default="static"),
    Flag("--rdzv-endpoint", "HOST:PORT,... of etcd; for static, MASTER_ADDR and MASTER_PORT", default=""),
    Flag("--rdzv-id", "the run's id: TORCHELASTIC_RUN_ID, and the begin of its directory's name", default="none"),
    Flag("--rdzv-conf", "KEY=VALUE,... for etcd: join_timeout, last_call_timeout, lease_ttl ...", default=""),
    Flag("--standalone", "one host that asks nobody: run id and MASTER_PORT are chosen", bool),
    Flag("--max-restarts", "so often the workers are started again when one fails", int, 0),
    Flag("--monitor-interval", "accepted and not needed: an exit is seen when it happens", float),
    Flag("--start-method", "how --run-path is started; always a fresh interpreter", default="spawn",
         choices=("spawn", "fork", "forkserver")),
    Flag("--event-log-handler", "where torchelastic's event records go: null, console (stderr) or file:PATH",
         default="null"),
    Flag("--role", "the workers' role: ROLE_NAME, and the begin of each line", default="default"),
    Flag("--module", "the script is a module, as with python -m", bool, short="-m"),
    Flag("--no-python", "the script is a program of its own", bool),
    Flag("--run-path", "run the script by runpy.run_path; goes before --no-python", bool),
    Flag("--log-dir", "where each run makes a directory for its logs (default: temporary, kept if not empty)"),
    Flag("--redirects", "streams that go to files: 0 none, 1 stdout, 2 stderr, 3 both, or by local rank 0:3,12:1",
         default="0", short="-r"),
    Flag("--tee", "streams that go to files and to the console, as for --redirects", default="0", short="-t"),
    Flag("--local-ranks-filter", "only these local ranks are on the console: 0,1,12", default=""),
    Flag("--duplicate-stdout-filters", "teed lines with one of these texts (a,b) go to filtered_stdout.log as well"),
    Flag("--duplicate-stderr-filters", "teed lines with one of these texts (a,b) go to filtered_stderr.log as well"),
    Flag("--node-rank", "this host's number, for static", int, 0),
    Flag("--master-addr", "MASTER_ADDR, for static (default: 127.0.0.1)"),
    Flag("--master-port", "MASTER_PORT, for static (default: 29500, and on one host one that is free)", int),
    Flag("--local-addr", "this host's address: MASTER_ADDR on one host, or if rank 0 is here"),
    Flag("--logs-specs", "an entry point of torchrun.logs_specs (here: default)", env=False),
    Flag("--numa-binding", "the CPUs that workers may run on, by their GPU", env=False,
         choices=("node", "socket", "exclusive", "core-complex")),
    Flag("--signals-to-handle", "signals that stop the job; workers get the one that came",
         default="SIGTERM,SIGINT,SIGHUP,SIGQUIT"),
    Flag("--shutdown-timeout", "seconds until SIGKILL for what does not stop (default: 30)", int),
    Flag("--virtual-local-rank", "LOCAL_RANK is 0 everywhere, and each worker sees one GPU", bool),
    Flag("--torchelastic-metrics", "where torchelastic's metrics go: null, console (stderr) or file:PATH",
         default="null"),
    Flag("--torchrun-exit-codes", "exit with 0 or 1 as torchrun does, instead of the root cause's code", bool),
)  # fmt: skip


def add(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """Teach the parser all flags, with their defaults in this environment, and the script with its arguments.

    A default that is no value of its flag is wrong usage, as on the command line.
    """
    parser.usage = f"{parser.prog} [FLAG...] SCRIPT [ARG...]   ({parser.prog} --help tells the flags)"
    for flag in FLAGS:
        given = environ.get(flag.variable) if flag.env else None
        if flag.kind is bool:
            parser.add_argument(
                *flag.spellings, action="store_true", default=_switch(parser, flag, given), help=flag.help
            )
            continue
        if given is not None and flag.choices and given not in flag.choices:
            parser.error(f"{flag.variable}: invalid choice: {given!r} (choose from {', '.join(flag.choices)})")
        default = flag.default if given is None else given
        parser.add_argument(
            *flag.spellings, type=flag.kind, default=default, choices=flag.choices, help=flag.help
        )  # argparse gives a default that is text to ``type`` as well
    parser.add_argument("training_script", metavar="SCRIPT", help="the program that every worker runs")
    parser.add_argument("training_script_args", metavar="ARGS", nargs=argparse.REMAINDER, help="its arguments")


def _switch(parser: argparse.ArgumentParser, flag: Flag, given: str | None) -> bool:
    try:
        return bool(int(given or "0"))
    except ValueError:
        parser.error(f"{flag.variable}: {given!r} is not a number (0: off, 1: on)")
