"""Inputs (what happened, past tense) and effects (what to do, imperative) of one worker group: two closed unions.

Workers are named by their local rank; ``attempt`` says which start of that worker a message is about, so that a
late report of an earlier attempt can be told from news. Instants are monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from supervisor.plan import GroupPlan, Reach, Source, World


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended, by wait4(2): either ``code`` or ``signal`` (its number) is set, never both."""

    code: int | None
    signal: int | None = None
    core_dumped: bool = False
    max_rss_bytes: int = 0
    user_cpu_s: float = 0.0
    system_cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """What a failed worker has written to its error file; its own words, bounded and otherwise unchecked.

    ``timestamp``: the worker's, in seconds since the epoch. ``note``: what is wrong with the file.
    """

    message: str = ""
    traceback: str = ""
    timestamp: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Returned:
    """What a worker's function has returned, as JSON, bounded; or a ``note`` why that is not known."""

    text: str = "null"
    note: str = ""


class Worker(NamedTuple):
    """One start of one worker: the address on every message about it. (A named tuple, for its hash takes 0.1 us.)"""

    rank: int
    attempt: int


# ---- inputs


@dataclass(frozen=True, slots=True)
class StartRequested:
    """The group may start now: what it depends on is there, or somebody asked."""


@dataclass(frozen=True, slots=True)
class DependencyLost:
    """What the group waits for will never come (``name`` has finished otherwise than was needed)."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The group is to stop and stay stopped. ``reason`` goes into records: "SIGTERM", "operator" ...

    ``hurry``: asked a second time; go to the last rung of the ladder. ``by``: the person who wants this group stopped,
    and it alone; until somebody wants it to run, nothing else starts it.
    """

    reason: str
    hurry: bool = False
    by: str = ""


@dataclass(frozen=True, slots=True)
class RunRequested:
    """A person wants the group to run; with ``anew`` by workers started from now on: one after the other where each
    serves for itself, else all. No budget is charged for it.

    ``reason`` goes into records.
    """

    reason: str
    anew: bool = False


@dataclass(frozen=True, slots=True)
class RankRequested:
    """A person wants that local rank to run; with ``anew`` by a worker started from now on. Charged to nobody."""

    rank: int
    reason: str
    anew: bool = False


@dataclass(frozen=True, slots=True)
class PlanChanged:
    """The configuration was read anew, and has another plan for the group.

    ``restart``: what differs holds only for workers started anew. ``wanted``: it is to run even if it was stopped.
    """

    plan: GroupPlan
    restart: bool
    wanted: bool = False


@dataclass(frozen=True, slots=True)
class WorldFormed:
    """The rendezvous asked for by ``FormWorld(attempt)`` has an answer.

    ``restarts``: how many a job of several hosts has used; None: this group counts its own.
    """

    attempt: int
    world: World
    restarts: int | None = None


@dataclass(frozen=True, slots=True)
class WorldRefused:
    """No rendezvous for this attempt, and why."""

    attempt: int
    reason: str


Because = Literal["arrived", "left", "failed", "asked"]
HowItEnded = Literal["closed", "timed_out", "unreachable"]


@dataclass(frozen=True, slots=True)
class WorldLost:
    """The world of this attempt is no more: ``host`` has arrived, has left, has a worker that failed, or has asked.

    ``restarts``: how many the whole job has used with this one; None: nobody has said. ``last``: there will be no other
    world, unless a host of this one turns out to be gone.
    """

    attempt: int
    reason: str
    because: Because = "asked"
    host: str = ""
    restarts: int | None = None
    last: bool = False


@dataclass(frozen=True, slots=True)
class JobEnded:
    """There will be no further world. ``how`` "closed": all hosts say so; else this one has waited in vain."""

    outcome: Literal["succeeded", "failed"]
    why: str
    exit_code: int = 0
    how: HowItEnded = "closed"


@dataclass(frozen=True, slots=True)
class PeersAwaited:
    """There is no world for that attempt yet, and what is waited for."""

    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class PeersLost:
    """Nothing is heard of the other hosts any more, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class PeersFound:
    """They are heard of again."""


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """The worker's program is running."""

    worker: Worker
    pid: int


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """``source`` finds that the worker can do its work."""

    worker: Worker
    source: Source


@dataclass(frozen=True, slots=True)
class WorkerUnready:
    """``source`` finds that the worker cannot do its work, or not any more, and why.

    ``output``: the last lines that it has printed to say so.
    """

    worker: Worker
    source: Source
    reason: str
    output: str = ""


SilentBy = Literal["timer", "heartbeat"]
Overdue = Literal["boot", "start", "heartbeat", "section", "out_of_section", "stopping"]


@dataclass(frozen=True, slots=True)
class WorkerSilent:
    """The worker has not said in time what it was to say, and is to be ended with ``signal`` (its number).

    ``reason``: what it was, in words; ``what``: in one, for machines. ``name``: of its section, or the timer's scope.
    ``limit``: how many seconds it had; 0 when it has itself said that it hangs.
    """

    worker: Worker
    by: SilentBy
    reason: str
    signal: int
    what: Overdue | Literal["timer"] = "heartbeat"
    name: str = ""
    limit: float = 0.0


@dataclass(frozen=True, slots=True)
class EvidenceTaken:
    """The answer to ``TakeEvidence``: what the worker and its peers did is in the file ``path``; "" if in none."""

    worker: Worker
    path: str


@dataclass(frozen=True, slots=True)
class WorkerHeld:
    """A thread of the worker has been in uninterruptible sleep for ``limit`` seconds: nobody can end it meanwhile.

    ``pid`` is its process, ``details`` where in the kernel it waits.
    """

    worker: Worker
    pid: int
    limit: float
    details: str


@dataclass(frozen=True, slots=True)
class WorkerLetGo:
    """No thread of the worker's is in uninterruptible sleep for so long any more."""

    worker: Worker


Fault = Literal["permanent", "transient", "abandoned"]


@dataclass(frozen=True, slots=True)
class WorkerNotStarted:
    """The worker never ran.

    ``permanent``: it never will (no such command, directory or user); ``exit_code`` is what a shell would give (127
    not found, 126 not executable or not permitted). ``transient``: the machine is short of something (EAGAIN, EMFILE,
    ENOMEM). ``abandoned``: we no longer wanted it (the answer to ``AbandonStarts``).
    """

    worker: Worker
    fault: Fault
    reason: str
    exit_code: int = 126


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """The worker's own process has ended; children of it may still live.

    ``oom``: proved that the kernel has killed it for want of memory. ``evidence``: what else is known, or who says so.
    ``stderr_tail``: the last lines that it wrote to stderr, where it may have failed and they can be had.
    ``unasked``: it had ended before we sent it any signal. ``error``: its error file, if it has failed so.
    ``returned``: what its function has returned, if it was one and has ended well. ``sent``: the last signal of ours.
    """

    worker: Worker
    status: ExitStatus
    oom: bool = False
    evidence: str = ""
    stderr_tail: str = ""
    unasked: bool = False
    error: ErrorReport | None = None
    returned: Returned | None = None
    sent: int | None = None


@dataclass(frozen=True, slots=True)
class StraysFound:
    """The worker's own process has ended and left others behind: ``processes`` names them ("4711 python3")."""

    worker: Worker
    processes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """The worker's whole tree is gone and all of its output is read. Always after ``WorkerExited``."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The timer set for the instant ``at`` under ``name`` is due. One set anew meanwhile makes this one stale."""

    name: str
    at: float


Input = (
    StartRequested | RunRequested | RankRequested | DependencyLost | StopRequested | PlanChanged | WorldFormed
    | WorldRefused | WorldLost | JobEnded | PeersAwaited | PeersLost | PeersFound | WorkerStarted | WorkerNotStarted
    | WorkerReady | WorkerUnready | WorkerSilent | EvidenceTaken | WorkerHeld | WorkerLetGo | WorkerExited | StraysFound
    | WorkerGone | TimerFired
)  # fmt: skip


# ---- effects


@dataclass(frozen=True, slots=True)
class FormWorld:
    """Agree with the other hosts, if there are any, who has which ranks.

    Answered by ``WorldFormed``, ``WorldRefused`` or ``JobEnded``.
    """

    attempt: int


@dataclass(frozen=True, slots=True)
class StartWorkers:
    """Start these workers by ``plan``. Each is answered once: ``WorkerStarted`` or ``WorkerNotStarted``.

    ``restarts`` is TORCHELASTIC_RESTART_COUNT: restarts used so far.
    """

    workers: tuple[Worker, ...]
    world: World
    restarts: int
    plan: GroupPlan


@dataclass(frozen=True, slots=True)
class AbandonStarts:
    """Do not start what is still waiting to be started; each such worker is answered ``WorkerNotStarted``."""


@dataclass(frozen=True, slots=True)
class SignalWorkers:
    """Send ``signal`` (its number) to these workers, as far as ``reach`` says, and SIGCONT behind it."""

    workers: tuple[Worker, ...]
    signal: int
    reach: Reach


@dataclass(frozen=True, slots=True)
class TakeEvidence:
    """See what this worker, which is ``reason`` (to go on after its name), and its peers do, before it is ended."""

    worker: Worker
    reason: str


@dataclass(frozen=True, slots=True)
class ReportFailure:
    """Tell the other hosts that a worker has failed here; ``final``: no restart can mend it."""

    why: str
    exit_code: int
    final: bool = False


@dataclass(frozen=True, slots=True)
class ReportSuccess:
    """Tell the other hosts that all workers of this one have succeeded."""


@dataclass(frozen=True, slots=True)
class LeaveWorld:
    """This host takes no further part. With an ``exit_code`` it has failed for good, and so has the job."""

    why: str = ""
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Have ``TimerFired(name, at)`` delivered at the instant ``at``; replaces an earlier timer of that name."""

    name: str
    at: float


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Forget the timer of that name, if there is one."""

    name: str


ToPeers = ReportFailure | ReportSuccess | LeaveWorld
"""What is for the other hosts of an elastic group to know."""

Effect = FormWorld | StartWorkers | AbandonStarts | SignalWorkers | TakeEvidence | ToPeers | SetTimer | CancelTimer
