"""What is to run: groups, ranks and the environment that a worker sees. Pure values and functions.

``config.py`` makes a ``DaemonPlan`` from TOML; everybody else only reads it. A ``World`` is the answer of a
rendezvous; with the two, ``worker_environment`` spells out torch's contract
(torch.distributed.elastic.agent.server.local_elastic_agent, ``_start_workers``) and ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from string import Template
from types import MappingProxyType
from typing import Literal, NamedTuple

Scope = Literal["group", "worker"]
Policy = Literal["always", "on-failure", "never"]
Reach = Literal["tree", "group", "leader"]
Condition = Literal["started", "ready", "succeeded"]
Format = Literal["auto", "json", "console", "journal"]
WhenFull = Literal["drop", "block"]
Binding = Literal["node", "socket", "exclusive", "core-complex"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pause before a restart: ``initial * factor**k`` seconds, at most ``max``, less up to ``jitter`` of itself."""

    initial: float = 0.0
    factor: float = 2.0
    max: float = 60.0
    jitter: float = 0.25


@dataclass(frozen=True, slots=True)
class RestartRules:
    """When and how often to restart. ``max_restarts`` -1: no limit; ``window`` 0: the budget is for the run's life.

    A restart that somebody asks for takes at most ``max_unavailable`` workers away at a time (``scope`` "worker"), each
    of which is said to be not ready for ``drain`` seconds before it is stopped.
    """

    policy: Policy = "on-failure"
    scope: Scope = "group"
    max_restarts: int = 3
    window: float = 0.0
    backoff: Backoff = Backoff()
    reset_after: float = 600.0
    fatal_exit_codes: frozenset[int] = frozenset()
    success_exit_codes: frozenset[int] = frozenset({0})
    max_unavailable: int = 1
    drain: float = 0.0


@dataclass(frozen=True, slots=True)
class DumpRules:
    """More evidence of a worker that hangs, before it is ended: a signal (its number; 0: none) upon which workers write
    to stderr what they do, and a command, whose words may name ``${pid}``, ``${rank}`` and ``${local_rank}``. For each
    worker of the group, and all of it within ``wait`` seconds."""

    signal: int = 0
    command: tuple[str, ...] = ()
    wait: float = 5.0


@dataclass(frozen=True, slots=True)
class AutoRules:
    """The ``sections`` whose limits are learnt: ``factor`` times what 99.9 % of them did not exceed, within bounds.

    ``floor`` and ``ceiling`` in seconds; until enough of them were seen, the limit is the ceiling.
    """

    sections: frozenset[str] = frozenset()
    floor: float = 10.0
    ceiling: float = 3600.0
    factor: float = 3.0


@dataclass(frozen=True, slots=True)
class WatchdogRules:
    """How long a worker may be silent, in seconds; 0: for ever. ``sections`` are limits by the section's name.

    ``boot``: from its start to its first word. ``start_timeout``: from its start to READY=1, or to the first good
    answer to its probe. ``heartbeat``: between two WATCHDOG=1. ``out_of_section``: with no section open that has a
    limit. ``stopping``: from STOPPING=1 to its end; 0: the waits of the stop ladder. ``uninterruptible``: in a sleep
    that no signal ends; who is, is not healthy.
    ``timer_file``: torch's timers are taken, from a pipe at ``timer_path`` if that is not empty. ``notify``: so are
    words by sd_notify(3).
    """

    timer_file: bool = True
    timer_path: str = ""
    notify: bool = True
    boot: float = 0.0
    start_timeout: float = 0.0
    heartbeat: float = 0.0
    out_of_section: float = 0.0
    stopping: float = 0.0
    uninterruptible: float = 0.0
    sections: Mapping[str, float] = field(default_factory=dict)
    dump: DumpRules = DumpRules()
    auto: AutoRules = AutoRules()


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of a stop ladder: send ``signal`` (its number), then wait so many seconds for the tree to be gone."""

    signal: int
    wait: float


@dataclass(frozen=True, slots=True)
class StopRules:
    """How to stop a worker; ``scope`` says whom the signals reach. The last rung always reaches the whole tree."""

    ladder: tuple[Rung, ...] = (Rung(15, 30.0), Rung(9, 10.0))
    scope: Reach = "tree"


@dataclass(frozen=True, slots=True)
class Probe:
    """How a worker is asked whether it is ready; one of ``http``, ``tcp`` and ``exec`` says whom to ask.

    ``http`` is a URL, ``tcp`` an address HOST:PORT, ``exec`` a command; each may name variables of the worker's.
    Durations in seconds. So many answers in a row make it ready (``rise``), or not ready (``fall``); with ``liveness``,
    one that is not ready any more has failed.
    """

    http: str = ""
    tcp: str = ""
    exec: tuple[str, ...] = ()
    interval: float = 5.0
    timeout: float = 1.0
    rise: int = 1
    fall: int = 3
    liveness: bool = False


Source = Literal["probe", "notify"]
"""Who says that a worker is ready."""


@dataclass(frozen=True, slots=True)
class Streams:
    """torch's redirect syntax, parsed: bit 1 stdout, bit 2 stderr; ``of`` by local rank, ``rest`` for all others."""

    rest: int = 0
    of: Mapping[int, int] = field(default_factory=dict)

    def __getitem__(self, local_rank: int) -> int:
        return self.of.get(local_rank, self.rest)


@dataclass(frozen=True, slots=True)
class Rotation:
    """A log file begins anew once it has ``max_bytes`` (0: never); so many old ones are kept."""

    max_bytes: int = 0
    keep: int = 5


@dataclass(frozen=True, slots=True)
class LogRules:
    """Where a group's output goes. ``dir`` is absolute; ``local_ranks_filter`` empty: every rank on the console.

    ``duplicate_stdout_filters``: lines with one of these texts in them are also written to one file for all ranks.
    ``when_full`` "block": a worker waits for a file or console that takes nothing, instead of losing lines.
    """

    dir: str
    redirects: Streams = Streams(0)
    tee: Streams = Streams(3)
    prefix: str = "[${role_name}${local_rank}]:"
    local_ranks_filter: frozenset[int] = frozenset()
    duplicate_stdout_filters: tuple[str, ...] = ()
    duplicate_stderr_filters: tuple[str, ...] = ()
    rotate: Rotation = Rotation()
    journal: bool = False
    when_full: WhenFull = "drop"

    def inherits(self, local_rank: int) -> bool:
        """Whether that worker has a stream in no file, so that it writes where rankd's own goes by itself."""
        shown = not self.local_ranks_filter or local_rank in self.local_ranks_filter
        return shown and (self.redirects[local_rank] | self.tee[local_rank]) != 3


UNLIMITED = -1


@dataclass(frozen=True, slots=True)
class Limit:
    """A resource limit (setrlimit(2)), which may be ``UNLIMITED``. None: rankd's own, but soft is never above hard."""

    soft: int | None = None
    hard: int | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """What the kernel grants a group's workers. None and empty: what it grants rankd.

    ``rlimits`` by name: RLIMIT_NOFILE is "nofile". ``cpus``: one set for all workers, or one a local rank. The last
    four are of each worker's control group, in the kernel's own words (cgroups v2, cpu.max: "QUOTA PERIOD").
    """

    nice: int | None = None
    oom_score_adj: int | None = None
    rlimits: Mapping[str, Limit] = field(default_factory=dict)
    cpus: tuple[frozenset[int], ...] = ()
    memory_max: int = 0
    memory_high: int = 0
    cpu_max: str = ""
    pids_max: int = 0

    def cpus_of(self, local_rank: int) -> frozenset[int]:
        """Where that worker may run; empty: wherever rankd may."""
        if not self.cpus:
            return frozenset()
        return self.cpus[0] if len(self.cpus) == 1 else self.cpus[local_rank]


Backend = Literal["local", "static", "etcd"]
OnStoreLoss = Literal["keep", "stop"]


@dataclass(frozen=True, slots=True)
class RendezvousRules:
    """Which hosts make the group's world.

    ``backend`` "local": this one alone; "static": ``hosts`` of them, each with as many workers, of which this is number
    ``node_rank``; "etcd": from ``min_hosts`` to ``hosts`` of them, as they come and go.

    Timeouts in seconds: of a host for a world, of enough hosts for more, of a host that says nothing until it is taken
    for dead, of one that has succeeded for the others, and of one that leaves for the store.
    """

    backend: Backend = "local"
    hosts: int = 1
    node_rank: int = 0
    min_hosts: int = 1
    join_timeout: float = 600.0
    last_call_timeout: float = 30.0
    lease_ttl: float = 5.0
    exit_barrier_timeout: float = 300.0
    close_timeout: float = 30.0

    @property
    def is_elastic(self) -> bool:
        """Whether hosts come and go, and agree in a store on what follows."""
        return self.backend == "etcd"


@dataclass(frozen=True, slots=True)
class StorePlan:
    """Where hosts meet: etcd, by URLs. Files by absolute path, empty: none. ``prefix`` begins every key.

    ``addr``: under which other hosts reach this one; empty: the address by which it reaches the store itself.
    ``on_store_loss``: what becomes of workers when the store has been away for so long that others may take this host
    for dead.
    """

    endpoints: tuple[str, ...]
    prefix: str = "/rankd"
    addr: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    username: str = ""
    password_file: str = ""
    on_store_loss: OnStoreLoss = "keep"


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """One worker group as configured.

    ``env`` and ``env_files`` are already merged, the files first. ``user`` and ``group`` are names or decimal ids.
    ``macros`` says what ``${NAME}`` in ``command`` stands for: a variable of the worker's environment, or nothing but
    torch's one macro, ``${local_rank}``. ``run_dir``, absolute: where this run's attempts are, if not in ``logs.dir``.
    ``returns``: the command runs a function, whose return value is kept. ``ready_after`` and ``unready_after``: seconds
    that the group has to be ready, or not, before others are told so. ``first_port``: PORT of local rank 0, the others'
    follow it; 0: workers get none.
    """

    name: str
    command: tuple[str, ...]
    workers: int
    role: str
    logs: LogRules
    cwd: str = ""
    user: str = ""
    group: str = ""
    umask: int = -1
    env: Mapping[str, str] = field(default_factory=dict)
    inherit_env: bool = True
    depends_on: Mapping[str, Condition] = field(default_factory=dict)
    required: bool = True
    ready_after: float = 0.0
    unready_after: float = 0.0
    virtual_local_rank: bool = False
    master_addr: str = "127.0.0.1"
    master_port: int = 0
    first_port: int = 0
    macros: Literal["environment", "torch"] = "environment"
    run_dir: str = ""
    restart: RestartRules = RestartRules()
    stop: StopRules = StopRules()
    watchdog: WatchdogRules = WatchdogRules()
    probe: Probe | None = None
    resources: Resources = Resources()
    returns: bool = False
    rendezvous: RendezvousRules = RendezvousRules()

    @property
    def disk(self) -> str:
        """Where the files of its workers are: a name for that file system."""
        return self.run_dir or self.logs.dir

    @property
    def readiness(self) -> frozenset[Source]:
        """Who has to say of a worker that it is ready: its probe, or else itself; empty: it is as soon as it runs."""
        if self.probe is not None:
            return frozenset({"probe"})
        return frozenset({"notify"}) if self.watchdog.start_timeout > 0 else frozenset()


STOP_SIGNALS = (15, 2, 3)
"""SIGTERM, SIGINT and SIGQUIT ask any daemon to stop."""


@dataclass(frozen=True, slots=True)
class HookPlan:
    """Who is handed which records: either ``command`` or ``url`` is set.

    ``events`` are names, or patterns such as ``group.*``; no ``groups``: of all. ``timeout`` is for each try; before
    the first of ``retries`` further ones ``backoff`` seconds pass, then twice as many each time. ``queue``: how many
    records may wait.
    """

    events: tuple[str, ...]
    groups: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 10.0
    retries: int = 3
    backoff: float = 1.0
    queue: int = 100


@dataclass(frozen=True, slots=True)
class DaemonPlan:
    """The whole configuration. Directories are absolute; ``drain_delay`` in seconds. ``agent_check`` empty: none.

    ``state_dir_is_common``: nobody has named one, so that it is that of all this user's daemons. ``stop_signals``: what
    asks for a stop in order, besides a SIGHUP from a terminal that is gone. ``as_job``: somebody waits for this one
    job, as for any command. Stopped by a signal it exits with 128 + signal, that signal is the first that its workers
    get; they read our stdin, and records go to stderr, for stdout is theirs. ``torchelastic_events`` and ``_metrics``:
    "console", a file, or empty for nowhere. ``rdzv_backend``: what those records call the rendezvous. ``control``: the
    path of the control socket, empty for none, and ``control_users`` who may use it besides root and ourselves, by uid.
    """

    name: str
    node_id: str
    run_id: str
    state_dir: str
    runtime_dir: str
    groups: Mapping[str, GroupPlan]
    when_done: Literal["exit", "stay"] = "exit"
    drain_delay: float = 0.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Format = "auto"
    listen: tuple[str, ...] = ("127.0.0.1:8080",)
    drain_status: int = 503
    agent_check: str = ""
    hooks: Mapping[str, HookPlan] = field(default_factory=dict)
    state_dir_is_common: bool = False
    stop_signals: tuple[int, ...] = STOP_SIGNALS
    as_job: bool = False
    torchelastic_events: str = ""
    torchelastic_metrics: str = ""
    rdzv_backend: str = "local"
    control: str = ""
    control_users: tuple[int, ...] = ()
    store: StorePlan | None = None


def attempts_dir(daemon: DaemonPlan, group: GroupPlan) -> str:
    """Where the directories ``attempt_<n>`` of this run of the group are."""
    return group.run_dir or f"{group.logs.dir}/{group.name}/{daemon.run_id}"


@dataclass(frozen=True, slots=True)
class World:
    """A formed rendezvous as this host sees it: ``base`` numbers are those of its local rank 0."""

    round: int
    master_addr: str
    master_port: int
    local_world_size: int
    group_rank: int = 0
    group_world_size: int = 1
    base_rank: int = 0
    world_size: int = 0
    base_role_rank: int = 0
    role_world_size: int = 0


@dataclass(frozen=True, slots=True)
class Seat:
    """The place of one host's workers among all: what torch calls a ``_RoleInstanceInfo`` after assignment."""

    base_rank: int
    world_size: int
    base_role_rank: int
    role_world_size: int


def assign_seats(hosts: Sequence[tuple[str, int]]) -> list[Seat]:
    """Seats for hosts given as (role, number of workers), in the order of their group ranks.

    Torch's rule (``_assign_worker_ranks``): global ranks count through all hosts in order, role ranks through the
    hosts of one role; hosts may have different roles and different numbers of workers.
    """
    world_size = sum(workers for _, workers in hosts)
    role_sizes: dict[str, int] = {}
    for role, workers in hosts:
        role_sizes[role] = role_sizes.get(role, 0) + workers
    seats = []
    base = 0
    role_base: dict[str, int] = {}
    for role, workers in hosts:
        seats.append(Seat(base, world_size, role_base.get(role, 0), role_sizes[role]))
        base += workers
        role_base[role] = role_base.get(role, 0) + workers
    return seats


def single_host_world(group: GroupPlan, round: int, master_addr: str, master_port: int) -> World:
    """The world of a group that lives on this host alone: every group is a world of its own, ranks from 0."""
    return fixed_world(replace(group, master_addr=master_addr, rendezvous=RendezvousRules()), round, master_port)


def fixed_world(group: GroupPlan, round: int, master_port: int) -> World:
    """The world of as many hosts as the plan says, all like this one; nobody is asked whether they are there."""
    rules = group.rendezvous
    seat = assign_seats([(group.role, group.workers)] * rules.hosts)[rules.node_rank]
    return World(
        round=round,
        master_addr=group.master_addr,
        master_port=master_port,
        local_world_size=group.workers,
        group_rank=rules.node_rank,
        group_world_size=rules.hosts,
        base_rank=seat.base_rank,
        world_size=seat.world_size,
        base_role_rank=seat.base_role_rank,
        role_world_size=seat.role_world_size,
    )


NEVER_INHERITED = frozenset(
    {"STATE_DIRECTORY", "RUNTIME_DIRECTORY", "LOGS_DIRECTORY", "CACHE_DIRECTORY", "CONFIGURATION_DIRECTORY",
     "MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID",
     "LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES",
     "JOURNAL_STREAM", "INVOCATION_ID", "MAINPID", "MANAGERPID", "SYSTEMD_EXEC_PID", "CREDENTIALS_DIRECTORY",
     "RANKD_RETURN_FILE"}
)  # fmt: skip
"""What systemd tells the daemon about the daemon (sd_notify(3), sd_listen_fds(3), systemd.exec(5)), and an outer rankd
about what only the worker that it started returns."""


def handed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """What of the daemon's own environment is for whoever it starts: not what was said to the daemon alone."""
    return {name: value for name, value in environ.items() if name not in NEVER_INHERITED}


CONTRACT = frozenset(
    {"RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE",
     "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS",
     "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_ERROR_FILE", "RANKD_GROUP", "RANKD_ATTEMPT",
     "RANKD_NODE_ID", "RANKD_ROUND", "RANKD_STATE_DIR"}
)  # fmt: skip
"""What every worker is told in any case: these names mean the same in all jobs, whatever ``env`` says."""


def group_environment(daemon: DaemonPlan, group: GroupPlan, inherited: Mapping[str, str]) -> dict[str, str]:
    """What all workers of a group share, before ranks: the daemon's own environment if wanted, then the group's.

    Values of the group that name other variables are left to ``worker_plan``. ``OMP_NUM_THREADS`` is 1 when unset and
    there is more than one worker (torch.distributed.run).
    """
    env = handed_on(inherited) if group.inherit_env else {}
    env.update({name: value for name, value in group.env.items() if "${" not in value})
    if group.workers > 1 and "OMP_NUM_THREADS" not in group.env:
        env.setdefault("OMP_NUM_THREADS", "1")
    if "TORCH_NCCL_ASYNC_ERROR_HANDLING" not in group.env:
        env.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    env["TORCHELASTIC_RUN_ID"] = daemon.run_id
    env["TORCHELASTIC_MAX_RESTARTS"] = str(group.restart.max_restarts)
    env["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    env["RANKD_GROUP"] = group.name
    env["RANKD_NODE_ID"] = daemon.node_id
    env["RANKD_STATE_DIR"] = daemon.state_dir
    env["ROLE_NAME"] = group.role
    return env


def world_environment(world: World) -> dict[str, str]:
    """What a formed world adds for all of this host's workers."""
    return {
        "GROUP_RANK": str(world.group_rank),
        "GROUP_WORLD_SIZE": str(world.group_world_size),
        "LOCAL_WORLD_SIZE": str(world.local_world_size),
        "WORLD_SIZE": str(world.world_size),
        "ROLE_WORLD_SIZE": str(world.role_world_size),
        "MASTER_ADDR": world.master_addr,
        "MASTER_PORT": str(world.master_port),
        "RANKD_ROUND": str(world.round),
    }


def rank_environment(
    group: GroupPlan, world: World, local_rank: int, *, attempt: int, restarts: int, error_file: str,
    visible_devices: str | None,
) -> dict[str, str]:  # fmt: skip
    """What one worker adds. ``visible_devices`` is the CUDA_VISIBLE_DEVICES it would otherwise have.

    With ``virtual_local_rank`` each worker sees one device and LOCAL_RANK 0; raises ``ValueError`` when the list of
    devices is too short (as torch does).
    """
    env = {
        "RANK": str(world.base_rank + local_rank),
        "LOCAL_RANK": str(local_rank),
        "ROLE_RANK": str(world.base_role_rank + local_rank),
        "TORCHELASTIC_RESTART_COUNT": str(restarts),
        "TORCHELASTIC_ERROR_FILE": error_file,
        "RANKD_ATTEMPT": str(attempt),
    }
    if group.first_port:
        env["PORT"] = str(group.first_port + local_rank)
    if group.virtual_local_rank:
        env["LOCAL_RANK"] = "0"
        if visible_devices is None:
            env["CUDA_VISIBLE_DEVICES"] = str(local_rank)
        else:  # empty: the one that names no device, as torch has it; no worker sees what was hidden from us
            devices = [device.strip() for device in visible_devices.split(",")]
            if local_rank >= len(devices):
                names = f"CUDA_VISIBLE_DEVICES names {len(devices) if visible_devices else 'none'}"
                raise ValueError(f"virtual_local_rank: local rank {local_rank} has no device, {names}")
            env["CUDA_VISIBLE_DEVICES"] = devices[local_rank]
    return env


_REFERENCE = re.compile(r"(\$?)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def substitute(text: str, env: Mapping[str, str]) -> str:
    """``text`` with every ``${NAME}`` replaced from ``env``.

    A name that is not there stays as written (a shell script in ``command`` has variables of its own), and
    ``$${NAME}`` is a literal ``${NAME}``.
    """
    if "${" not in text:
        return text

    def one(match: re.Match[str]) -> str:
        escaped, name = match.groups()
        return match.group(0)[1:] if escaped else env.get(name, match.group(0))

    return _REFERENCE.sub(one, text)


def torch_macros(word: str, local_rank: int) -> str:
    """``word`` as torch would hand it on: ``${local_rank}`` and ``$local_rank`` replaced, ``$$`` halved, no more
    (torch.distributed.elastic.utils.api, ``macros``)."""
    return Template(word).safe_substitute(local_rank=local_rank) if "$" in word else word


class Places(NamedTuple):
    """Where one worker's output goes, if not into files of its own directory. Absolute; "" is the console.

    ``tee``: the streams that are on the console as well (see ``Streams``). ``error_file``: "" for none, None for that
    in its own directory. ``env``: what else the worker is told.
    """

    stdout: str
    stderr: str
    tee: int = 0
    error_file: str | None = None
    filtered_stdout: str = ""
    filtered_stderr: str = ""
    env: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """Everything needed to start one worker: what ``host.process`` is given.

    ``directory`` is the worker's own (``.../attempt_<n>/<local_rank>``), made before the start; ``labels`` are what
    the line prefix may name: group, role_name, rank, local_rank, attempt.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    directory: str
    logs: LogRules
    local_rank: int
    labels: Mapping[str, str]
    user: str = ""
    group: str = ""
    umask: int = -1
    resources: Resources = Resources()
    probe: Probe | None = None
    places: Places | None = None

    def placed(self, places: Places) -> WorkerPlan:
        """The same worker, whose output goes there."""
        env = {**self.env, **places.env}
        if places.error_file is not None:
            env["TORCHELASTIC_ERROR_FILE"] = places.error_file
        return replace(self, env=env, places=places)


def worker_plan(
    daemon: DaemonPlan, group: GroupPlan, world: World, shared: Mapping[str, str], local_rank: int, *,
    attempt: int, restarts: int,
) -> WorkerPlan:  # fmt: skip
    """One worker's plan. ``shared`` is ``group_environment`` and ``world_environment`` together.

    ``command``, ``cwd`` and the probe may name any variable that the worker will see. So may a value of the group's own
    ``env``, but of that ``env`` only what stands above it; its own name means what was inherited
    (``PATH = "/opt/bin:${PATH}"``).
    Raises ``ValueError`` as ``rank_environment`` does.
    """
    directory = f"{attempts_dir(daemon, group)}/attempt_{attempt}/{local_rank}"
    own = rank_environment(
        group, world, local_rank, attempt=attempt, restarts=restarts, error_file=f"{directory}/error.json",
        visible_devices=shared.get("CUDA_VISIBLE_DEVICES"),
    )  # fmt: skip
    if group.returns:
        own["RANKD_RETURN_FILE"] = f"{directory}/return.json"
    env = {**shared, **own}
    for name, value in group.env.items():
        if "${" in value and name not in CONTRACT and name not in own:
            env[name] = substitute(value, env)
    return WorkerPlan(
        argv=tuple(
            substitute(word, env) if group.macros == "environment" else torch_macros(word, local_rank)
            for word in group.command
        ),
        env=env,
        cwd=substitute(group.cwd, env),
        directory=directory,
        logs=group.logs,
        local_rank=local_rank,
        labels={
            "group": group.name,
            "role_name": group.role,
            "rank": str(world.base_rank + local_rank),
            "local_rank": str(local_rank),
            "attempt": str(attempt),
        },
        user=group.user,
        group=group.group,
        umask=group.umask,
        resources=group.resources,
        probe=group.probe and _probe_of(group.probe, env),
    )


def _probe_of(probe: Probe, env: Mapping[str, str]) -> Probe:
    return replace(
        probe,
        http=substitute(probe.http, env),
        tcp=substitute(probe.tcp, env),
        exec=tuple(substitute(word, env) for word in probe.exec),
    )
