"""Every table and key of a configuration file: its type, its default as people write it, and what it does.

A new key is one line here, a new table one class and one field; ``assemble`` turns them into the plan and
``config/rankd.toml`` shows them. What concerns several keys at once, or the machine, is ``assemble``'s, so that every
mistake can be told at once.
"""
# Annotations are real objects here: pydantic would have to evaluate strings at every start.

import re
from functools import partial
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from supervisor import values
from supervisor.plan import (
    Backend,
    Binding,
    Condition,
    Format,
    Limit,
    OnStoreLoss,
    Policy,
    Reach,
    Scope,
    Streams,
    WhenFull,
)
from supervisor.report.listen import parse_address


def key(default: Any, description: str | None = None) -> Any:
    """A key with its default as it would stand in the file, and a sentence for editors; tables bring their own."""
    return Field(default=default, description=description)


def _text(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^({pattern})$"}


def _address(text: str) -> str:
    """An address that the health listener can take, unchanged."""
    try:
        address = parse_address(text)
    except ValueError as error:
        raise ValueError(f"{values.shown(text)}: {error}") from None
    if len(address.path.encode()) > 107 or "\0" in text:
        raise ValueError(f"{values.shown(text)}: a unix socket's path has at most 107 bytes and no NUL (unix(7))")
    return text


NonNegative: dict[str, Any] = {"type": "number", "minimum": 0}
Duration = Annotated[
    float, PlainValidator(values.duration), WithJsonSchema({"anyOf": [NonNegative, _text(values.DURATION)]})
]
SectionLimit = Annotated[
    float | Literal["auto"],
    PlainValidator(values.section_limit),
    WithJsonSchema({"anyOf": [NonNegative, _text(values.DURATION), {"const": "auto"}]}),
]
Signal = Annotated[
    int,
    PlainValidator(values.signal_number),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 64}, _text("[A-Za-z0-9]+")]}),
]
StreamsByRank = Annotated[Streams, PlainValidator(values.streams), WithJsonSchema(_text(values.STREAMS))]
Workers = Annotated[
    int | values.Counted,
    PlainValidator(values.workers),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": values.MOST_WORKERS},
                {"type": "string", "enum": list(get_args(values.Counted))},
            ]
        }
    ),
]
AtATime = Annotated[
    int | values.Share,
    PlainValidator(values.at_a_time),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, _text(values.SHARE)]}),
]
Ports = Annotated[range, PlainValidator(values.ports), WithJsonSchema(_text(values.PORTS))]
Nodes = Annotated[
    tuple[int, int],
    PlainValidator(values.nodes),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, _text(values.NODES)]}),
]
Umask = Annotated[int, PlainValidator(values.umask), WithJsonSchema(_text(values.UMASK))]
Account = Annotated[
    str,
    PlainValidator(values.account),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}]}),
]
CpuSets = Annotated[
    tuple[frozenset[int], ...] | None, PlainValidator(values.cpu_sets), WithJsonSchema(_text(values.CPU_SETS))
]
Size = Annotated[
    int,
    PlainValidator(values.size),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, _text(f"{values.SIZE}|[0-9]+")]}),
]
CpuMax = Annotated[str, PlainValidator(values.cpu_max), WithJsonSchema({"anyOf": [NonNegative, _text(values.CPU_MAX)]})]
Listen = Annotated[
    str, AfterValidator(_address), WithJsonSchema(_text(r"unix:/.+|(\[[^\[\]]+\]|[^:\[\]]*):[0-9]{1,5}"))
]


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#]+[^\s]*", text):
        raise ValueError(f"{values.shown(text)} is not a URL (write https://host/path)")
    return text


Url = Annotated[str, AfterValidator(_url), WithJsonSchema(_text(r"https?://.+"))]
ENDPOINT = r"https?://(\[[0-9A-Fa-f:.]+\]|[^\s/:?#@\[\]]+)(:[0-9]{1,5})?/?"


def _endpoint(text: str) -> str:
    found = re.fullmatch(ENDPOINT, text)
    if found is None or not 0 < int((found[2] or ":1")[1:]) < 65536:
        raise ValueError(f"{values.shown(text)} is not an endpoint of etcd (write http://host:2379)")
    return text


Endpoint = Annotated[str, AfterValidator(_endpoint), WithJsonSchema(_text(ENDPOINT))]
Prefix = Annotated[str, Field(pattern=r"^/[A-Za-z0-9_./-]*$")]
LeaseTtl = Annotated[
    float, PlainValidator(values.lease_ttl), WithJsonSchema({"anyOf": [NonNegative, _text(values.DURATION)]})
]
SUBJECTS = "daemon|health|control|group|worker|timer|rendezvous|exit_barrier"
EVENT_PATTERN = rf"\*|({SUBJECTS})\.(\*|[a-z_]+)"


def _event_pattern(text: str) -> str:
    if not re.fullmatch(EVENT_PATTERN, text):
        subjects = SUBJECTS.replace("|", ", ")
        raise ValueError(f"{values.shown(text)} is no record's name (allowed: *, SUBJECT.* and names of {subjects})")
    return text


EventPattern = Annotated[str, AfterValidator(_event_pattern), WithJsonSchema(_text(EVENT_PATTERN))]


def _limit(text: str) -> dict[str, Any]:
    amount = [{"type": "integer", "minimum": 0}, _text(f"unlimited{text}")]
    both = {"soft": {"anyOf": amount}, "hard": {"anyOf": amount}}
    return {"anyOf": [*amount, {"type": "object", "properties": both, "additionalProperties": False}]}


Number = Annotated[Limit, PlainValidator(partial(values.limit, unit="number")), WithJsonSchema(_limit(""))]
Bytes = Annotated[
    Limit, PlainValidator(partial(values.limit, unit="bytes")), WithJsonSchema(_limit(f"|{values.SIZE}|[0-9]+"))
]
Seconds = Annotated[
    Limit, PlainValidator(partial(values.limit, unit="seconds")), WithJsonSchema(_limit(f"|{values.DURATION}"))
]
String = Annotated[str, AfterValidator(values.no_nul)]
Word = Annotated[String, Field(min_length=1)]
SectionName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
Function = Annotated[str, AfterValidator(values.function), WithJsonSchema(_text(values.FUNCTION))]
Path = Annotated[str, Field(min_length=1), AfterValidator(values.path)]
Place = Annotated[str, AfterValidator(values.no_nul)]
DirectoryName = Annotated[str, Field(min_length=1), AfterValidator(values.directory_name)]
Port = Annotated[int, Field(ge=0, le=65535)]
LocalRank = Annotated[int, Field(ge=0)]
ExitCode = Annotated[int, Field(ge=0, le=255)]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)


class Daemon(Table):
    """The daemon itself."""

    name: Word = key("rankd", "Service name in records and metrics.")
    node_id: Word | None = key(None, "This host's name among others. Default: its fully qualified name.")
    run_id: DirectoryName | None = key(None, "TORCHELASTIC_RUN_ID, and a folder of the logs. Default: random.")
    state_dir: Path | None = key(
        None, "Logs and state. Default: $STATE_DIRECTORY, else $XDG_STATE_HOME/rankd, else ~/.local/state/rankd."
    )
    runtime_dir: Path | None = key(
        None, "Sockets and pipes, mode 0700. Default: $RUNTIME_DIRECTORY, else $XDG_RUNTIME_DIR/rankd, else /run/rankd."
    )
    when_done: Literal["exit", "stay"] = key(
        "exit", "When every group has finished: exit, or stay and keep serving health."
    )
    drain_delay: Duration = key("0s", "/readyz says no for this long before the first worker is told to stop.")


class Log(Table):
    """The daemon's own records."""

    level: Literal["debug", "info", "warning", "error"] = key("info", "The least important level that is written.")
    format: Format = key("auto", "auto: journal under journald, console on a terminal, else json.")
    torchelastic_events: Place = key(
        "",
        "torchelastic's own event records as well: to the console (stderr) or to a file below state_dir; empty: no.",
    )
    torchelastic_metrics: Place = key("", "The same for torchelastic's metrics.")


class Health(Table):
    """Who may ask how things are, over HTTP."""

    listen: list[Listen] = key(
        ["127.0.0.1:8080"],
        "host:port, [v6]:port, :port or unix:/path; port 0 takes a free one; an empty list: no listener.",
    )
    drain_status: Annotated[int, Field(ge=400, le=599)] = key(
        503, "HTTP status of /readyz while draining; 404 for HAProxy's disable-on-404."
    )
    agent_check: Listen | None = key(
        None, "An address of its own for HAProxy's agent-check: up with a weight, drain or down. Default: none."
    )


class Control(Table):
    """Who may ask the daemon for something: rankd status, stop, restart and their like."""

    socket: Place = key("control.sock", "A unix socket, relative to runtime_dir; empty: none.")
    allow_users: list[Account] = key(
        [], "Names or uids of those who may use it, besides root and the user that the daemon runs as."
    )


class Backoff(Table):
    """Pause before a restart: initial * factor^k, at most max, less up to jitter of itself."""

    initial: Duration = key("0s", "The first pause. With max_restarts = -1 the default is 1s.")
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = key(2.0, "Each pause is so many times the last one.")
    max: Duration = key("60s", "No pause is longer.")
    jitter: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = key(
        0.25, "Each pause is up to this part of itself shorter."
    )


class Restart(Table):
    """When and how often workers are restarted."""

    policy: Policy = key("on-failure", "always, on-failure or never.")
    scope: Scope = key("group", "group: one fails, all restart; worker: only the one.")
    max_restarts: Annotated[int, Field(ge=-1)] = key(3, "How many restarts are allowed; -1: no limit.")
    window: Duration = key(
        "0s", "0: max_restarts is for the run's life; else: at most max_restarts within any time so long."
    )
    backoff: Backoff = key({})
    reset_after: Duration = key(
        "10m", "Healthy for so long: backoff and, with a window, the budget start afresh. 0: never."
    )
    fatal_exit_codes: list[ExitCode] = key([], "Exit codes that are never retried.")
    success_exit_codes: list[ExitCode] = key([0], "Exit codes that are a success.")
    max_unavailable: AtATime = key(
        1, 'scope worker: how many may be away at a time while all are replaced; or a share, "25%", rounded down.'
    )
    drain: Duration = key("0s", "So long /readyz/GROUP/LOCAL_RANK says no before one that is replaced is stopped.")


class Rung(Table):
    """One step of a stop ladder."""

    signal: Signal = Field(description='The signal to send: "SIGTERM", "TERM" or 15.')
    wait: Duration = Field(description="How long to wait for the workers to be gone before the next step.")


class Stop(Table):
    """How workers are stopped."""

    ladder: Annotated[list[Rung], Field(min_length=1)] = key(
        [{"signal": "SIGTERM", "wait": "30s"}, {"signal": "SIGKILL", "wait": "10s"}],
        "Signals, one after the other, each with the time to wait for its effect; SIGKILL comes last, written or not.",
    )
    scope: Reach = key(
        "tree", "Whom the signals reach: tree: all descendants, group: the process group, leader: the worker alone."
    )


class Dump(Table):
    """More evidence before a worker that hangs is ended; what /proc tells is taken in any case."""

    signal: Signal | Literal[""] = key("", "Sent to every worker of the group: SIGUSR1, for faulthandler.register().")
    command: list[String] = key([], "Run for every worker of the group; knows ${pid} ${rank} ${local_rank}.")
    wait: Duration = key("5s", "How long all of it may take; the worker is ended after it.")


class Auto(Table):
    """Limits of sections that are learnt: factor times what 99.9 % of them did not exceed, from floor to ceiling."""

    floor: Duration = key("10s", "No learnt limit is shorter.")
    ceiling: Duration = key("1h", "None is longer, unless one that long went well; the limit until 100 were seen.")
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = key(3.0, "So many times what nearly all took.")


class Watchdog(Table):
    """How long workers may be silent before they are ended and restarted; 0: for ever."""

    timer_file: bool = key(True, "Take torch's expires() timers, from a named pipe that each group has for them.")
    boot: Duration = key("0s", "From its start to its first word, whatever that is.")
    start_timeout: Duration = key(
        "0s",
        "From its start to READY=1, or to a first good answer to its probe; only then is a worker ready. "
        "0: without a probe it is ready when it has started.",
    )
    heartbeat: Duration = key("0s", "Between two WATCHDOG=1; from the start on where nobody is to say that it is up.")
    sections: dict[SectionName, SectionLimit] = key(
        {}, "The longest that a section of that name may last; auto: learnt from those that ended in time."
    )
    auto: Auto = key({})
    out_of_section: Duration = key("0s", "The longest time with no section open, from the first word on.")
    stopping: Duration = key("0s", "From STOPPING=1 to the worker's end; 0s: as long as its stop ladder takes.")
    uninterruptible: Duration = key(
        "0s", "In uninterruptible sleep (state D) for so long a worker is not healthy. Looked at four times within it."
    )
    dump: Dump = key({})


class Rotate(Table):
    """When a log file begins anew, and how many old ones are kept."""

    max_bytes: Size = key("0", "After the line with which it has reached this size; 0: never.")
    keep: Annotated[int, Field(ge=1, le=1000)] = key(5, "So many old files: stdout.log.1 is the youngest.")


class Logs(Table):
    """Where the workers' output goes."""

    dir: Path = key("logs", "Folder of the log files, relative to state_dir.")
    redirects: StreamsByRank = key("0", "To files only: 0 none, 1 stdout, 2 stderr, 3 both, or by local rank 0:1,3:2.")
    tee: StreamsByRank = key("3", "To the console and to files, written as redirects.")
    prefix: String = key(
        "[${role_name}${local_rank}]:",
        "Before each console line; knows ${role_name} ${local_rank} ${rank} ${group} ${attempt} ${pid} ${timestamp}.",
    )
    local_ranks_filter: list[LocalRank] = key([], "Only these local ranks on the console; empty: all.")
    duplicate_stdout_filters: list[Word] = key(
        [], "Lines of teed stdout with one of these texts are also written to filtered_stdout.log, for all ranks."
    )
    duplicate_stderr_filters: list[Word] = key([], "The same for stderr and filtered_stderr.log.")
    rotate: Rotate = key({})
    journal: bool = key(False, "Lines of all workers also to journald, with RANKD_GROUP, RANK and so on as fields.")
    when_full: WhenFull = key(
        "drop", "A file or console takes nothing: drop and count what comes, or block the worker until it does."
    )


class Probe(Table):
    """How each worker is asked whether it is ready: by one of http, tcp and exec. Without any it is once it runs."""

    http: Word | None = key(None, "A URL, such as http://127.0.0.1:${PORT}/health; ready is 200 to 399.")
    tcp: Word | None = key(None, "An address, such as 127.0.0.1:${PORT}; ready is who takes a connection.")
    exec: Annotated[list[String], Field(min_length=1)] | None = key(
        None, "A command, run as the worker is; ready is exit code 0."
    )
    interval: Duration = key("5s", "From one question to the next; the first ones come sooner.")
    timeout: Duration = key("1s", "An answer that takes longer is none.")
    rise: Annotated[int, Field(ge=1)] = key(1, "So many good answers in a row: ready.")
    fall: Annotated[int, Field(ge=1)] = key(3, "So many bad ones in a row: not ready.")
    liveness: bool = key(False, "Whether a worker that was ready and is not any more has failed, and is restarted.")


class Rlimits(Table):
    """Resource limits of each worker: one value for soft and hard, or { soft = ..., hard = ... }. Default: rankd's."""

    nofile: Number | None = key(None, "Open files: no descriptor gets this number or a higher one.")
    nproc: Number | None = key(None, "Processes and threads that the worker's user may have, everywhere. Not for root.")
    core: Bytes | None = key(None, "Size of a core dump; 0: none is written.")
    memlock: Bytes | None = key(None, "Memory that may be locked, as RDMA needs it.")
    stack: Bytes | None = key(None, "The main thread's stack, and the default of the others'.")
    as_: Bytes | None = Field(default=None, alias="as", description="Address space of each process.")
    data: Bytes | None = key(None, "Data segment of each process: heap and private mappings.")
    fsize: Bytes | None = key(None, "Size of a file that is written.")
    cpu: Seconds | None = key(None, "CPU time of each process: SIGXCPU at the soft limit, SIGKILL at the hard one.")
    rss: Bytes | None = key(None, "Resident memory. Linux does not look at this one.")
    msgqueue: Bytes | None = key(None, "POSIX message queues of the worker's user.")
    nice: Number | None = key(None, "How far a worker may lower its own nice value: to 20 less this.")
    rtprio: Number | None = key(None, "The highest real-time priority that a worker may take.")
    sigpending: Number | None = key(None, "Signals that may be queued for the worker's user.")


class Resources(Table):
    """What the kernel grants workers, in force before their first instruction. Default: what it grants rankd."""

    nice: Annotated[int, Field(ge=-20, le=19)] | None = key(None, "Nice value: -20 most, 19 least CPU time.")
    oom_score_adj: Annotated[int, Field(ge=-1000, le=1000)] | None = key(
        None, "-1000: never killed when the host is out of memory; 1000: killed first."
    )
    cpu_affinity: CpuSets = key(
        "auto",
        "CPUs for all workers (0-3,8) or by local rank (0-3;4-7); none: wherever rankd may run; auto: what numa says.",
    )
    numa: Literal["none", Binding] = key(
        "none",
        "Which CPUs a worker runs on: those of its GPU's (or local rank's) NUMA node, of all nodes in the same socket, "
        "a share of the node's cores that is its own, or one group of cores with a cache in common.",
    )
    memory_max: Size = key("0", "A worker that takes more memory is killed, children and all. 0: no limit.")
    memory_high: Size = key("0", "A worker that takes more memory is slowed down until it gives back. 0: no limit.")
    cpu_max: CpuMax = key("0", 'CPU time: a number of CPUs (1.5) or "QUOTA PERIOD" in microseconds. 0: no limit.')
    pids_max: Annotated[int, Field(ge=0, le=2**22)] = key(0, "Processes and threads of a worker. 0: no limit.")
    rlimits: Rlimits = key({})


class Rendezvous(Table):
    """How the hosts of a world find each other."""

    backend: Backend = key(
        "local", "local: this host alone; static: hosts that are numbered by hand; etcd: hosts that come and go."
    )
    endpoints: Annotated[list[Endpoint], Field(min_length=1)] = key(
        ["http://127.0.0.1:2379"], "etcd: where it is, version 3.4 or later; several members, all http or all https."
    )
    prefix: Prefix = key("/rankd", "etcd: how every key begins.")
    addr: String = key(
        "",
        "etcd: where other hosts reach this one; empty: that by which it reaches etcd, or others if that is here.",
    )
    ca: String = key("", "etcd: who has signed its certificate, a file; empty: whom the system trusts.")
    cert: String = key("", "etcd: our certificate, a file.")
    key_: String = Field(default="", alias="key", description="etcd: its private key, a file.")
    username: String = key("", "etcd: whom to log in as.")
    password_file: String = key("", "etcd: a file with the password.")
    on_store_loss: OnStoreLoss = key(
        "keep", "etcd is away for longer than lease_ttl: keep the workers, with no new rounds, or stop them."
    )


class GroupRendezvous(Table):
    """Which hosts make the group's world."""

    nodes: Nodes = key("1", "How many hosts: N, or MIN:MAX with etcd.")
    node_rank: Annotated[int, Field(ge=0)] = key(0, "static: this host's number, from 0.")
    master_addr: String = key("", "static: the address of host 0. MASTER_ADDR.")
    master_port: Port = key(0, "static: a port that is free on host 0. MASTER_PORT.")
    join_timeout: Duration = key("600s", "etcd: how long a host waits for MIN hosts.")
    last_call_timeout: Duration = key("30s", "etcd: how long MIN hosts wait for more, up to MAX.")
    lease_ttl: LeaseTtl = key("5s", "etcd: a host that is not heard of for so long is taken for dead.")
    exit_barrier_timeout: Duration = key("300s", "etcd: how long a host that has succeeded waits for the others.")
    close_timeout: Duration = key("30s", "etcd: how long a host tries to take leave of the others.")


class Group(Table):
    """One group of ranked workers."""

    command: Annotated[list[String], Field(min_length=1)] | None = key(
        None,
        "The program and its arguments; no shell. ${RANK} and the rest of a worker's environment work here. A group "
        "has either this or function.",
    )
    function: Function | None = key(
        None, "package.module:callable, called by each worker in a Python of its own. Its return value is kept."
    )
    args: list[Any] = key([], "Arguments of function, any values; or more of command's, strings.")
    kwargs: dict[str, Any] = key({}, "Arguments of function by name.")
    workers: Workers = key(1, "How many workers: a number, or one for each cpu or gpu; auto: gpu if there is one.")
    role: Word | None = key(None, "ROLE_NAME. Default: the group's name.")
    cwd: Path | None = key(
        None, "Working directory; relative to this file's folder. Default: the daemon's own working directory."
    )
    user: Account | None = key(None, "User to run as: a name or an id. Default: the daemon's.")
    group: Account | None = key(None, "Group to run as: a name or an id. Default: the user's, or the daemon's.")
    umask: Umask | None = key(None, "Octal digits, such as 0022. Default: the daemon's.")
    env: dict[str, String] = key({}, "Environment variables.")
    env_files: list[Path] = key(
        [], "Files of NAME=VALUE lines, relative to this file's folder; later ones win, and env wins over all."
    )
    inherit_env: bool = key(True, "Whether workers see the daemon's own environment, too.")
    depends_on: dict[str, Condition] = key(
        {}, "Groups that must be started, ready or succeeded before this one starts."
    )
    required: bool = key(True, "Whether the group counts for /readyz and for the exit code.")
    ready_after: Duration = key("0s", "Ready for so long before /readyz says so.")
    unready_after: Duration = key(
        "0s", "Running and not ready for so long before /readyz says so; a restart of the group shows at once."
    )
    virtual_local_rank: bool = key(False, "Each worker sees one GPU and LOCAL_RANK 0.")
    master_port: Port = key(0, "MASTER_PORT; 0: a free one, kept for this group.")
    ports: Ports | None = key(
        None, "A range, 8001-8016: each worker's PORT, the first one for local rank 0. Default: PORT is not set."
    )
    restart: Restart = key({})
    stop: Stop = key({})
    watchdog: Watchdog = key({})
    probe: Probe = key({})
    logs: Logs = key({})
    resources: Resources = key({})
    rendezvous: GroupRendezvous = key({})


class Hook(Table):
    """Records that are handed to a command or a webhook."""

    events: Annotated[list[EventPattern], Field(min_length=1)] = key(
        ["group.failed", "group.gave_up"], 'Which records: their names, or "group.*" for all that begin so; "*": all.'
    )
    groups: list[Word] = key([], "Only of these groups; empty: of all, and of the daemon itself.")
    command: list[Word] = key([], "A program and its arguments; no shell. It gets the record as JSON on stdin.")
    url: Url | None = key(None, "Where the record is sent with POST, as JSON. Either this or command.")
    headers: dict[str, String] = key({}, "More headers of the POST, such as Authorization.")
    timeout: Duration = key("10s", "What a try may take.")
    retries: Annotated[int, Field(ge=0, le=100)] = key(3, "How many more tries there are after one that has failed.")
    backoff: Duration = key("1s", "The pause before the first of them; each further one is twice as long, up to 60s.")
    queue: Annotated[int, Field(ge=1, le=10_000)] = key(
        100, "So many records may wait; what comes then is not delivered, and counted."
    )


class File(Table):
    """Configuration of rankd."""

    daemon: Daemon = key({})
    log: Log = key({})
    health: Health = key({})
    control: Control = key({})
    rendezvous: Rendezvous = key({})
    hooks: dict[str, Hook] = key({}, "Who is handed records as they are told, by name.")
    groups: dict[str, Group] = key({}, "The groups of workers, by name.")
