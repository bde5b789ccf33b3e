"""The validated tables of a file -> the plan; and the mistakes that show only in several keys together, or on the
machine: local ranks that no worker has, users that do not exist, workers that the host has no devices for."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Mapping
from signal import SIGKILL
from typing import TYPE_CHECKING

from supervisor import values
from supervisor.config import control, defaults, files, meeting, probes, programs, relations
from supervisor.config.mistakes import Mistakes
from supervisor.config.places import Path
from supervisor.host import names
from supervisor.plan import (
    AutoRules,
    Backoff,
    DaemonPlan,
    DumpRules,
    GroupPlan,
    HookPlan,
    LogRules,
    Resources,
    RestartRules,
    Rotation,
    Rung,
    StopRules,
    Streams,
    WatchdogRules,
    World,
    group_environment,
    rank_environment,
    world_environment,
)

if TYPE_CHECKING:
    from supervisor.config import tables

LOOPBACK = "127.0.0.1"
"""MASTER_ADDR of a world on one host."""

ENDLESS_PAUSE = 1.0
"""Seconds before the first restart when there is no limit to them: an endless loop needs a pause."""


def assemble(file: tables.File, folder: str, environ: Mapping[str, str], mistakes: Mistakes) -> DaemonPlan:
    """The plan of a file that is in ``folder``. It is to be used only if ``mistakes`` has none afterwards."""
    daemon = file.daemon

    def directory(key: str, given: str | None, default: Callable[[Mapping[str, str]], str]) -> str:
        try:
            return os.path.join(folder, given) if given is not None else default(environ)
        except ValueError as error:
            mistakes.say(("daemon", key), str(error))
            return folder

    state_dir = directory("state_dir", daemon.state_dir, defaults.state_dir)
    _check_listeners(file.health, mistakes)
    relations.check(file.groups, file.health, mistakes)
    runtime_dir = directory("runtime_dir", daemon.runtime_dir, defaults.runtime_dir)
    return DaemonPlan(
        name=daemon.name,
        node_id=daemon.node_id or names.node_id(),
        run_id=daemon.run_id or defaults.run_id(),
        state_dir=state_dir,
        runtime_dir=runtime_dir,
        groups={
            name: _group(name, group, file, folder, state_dir, environ, mistakes) for name, group in file.groups.items()
        },
        when_done=daemon.when_done,
        drain_delay=daemon.drain_delay,
        log_level=file.log.level,
        log_format=file.log.format,
        listen=tuple(file.health.listen),
        drain_status=file.health.drain_status,
        torchelastic_events=_place(file.log.torchelastic_events, state_dir),
        torchelastic_metrics=_place(file.log.torchelastic_metrics, state_dir),
        hooks={name: _hook(name, hook, file.groups, mistakes) for name, hook in file.hooks.items()},
        agent_check=file.health.agent_check or "",
        control=control.socket(file.control, runtime_dir, mistakes),
        control_users=control.users(file.control, mistakes),
        store=meeting.store(file.rendezvous, folder, mistakes),
        rdzv_backend=file.rendezvous.backend,
        state_dir_is_common=daemon.state_dir is None and not defaults.names_state_dir(environ),
    )


def _place(given: str, state_dir: str) -> str:
    """Absolute, or the word for our stderr, or nothing."""
    return given if given in ("", "console") else os.path.normpath(os.path.join(state_dir, given))


def _group(
    name: str, group: tables.Group, file: tables.File, folder: str, state_dir: str, environ: Mapping[str, str],
    mistakes: Mistakes,
) -> GroupPlan:  # fmt: skip
    workers = _workers(name, group, environ, mistakes)
    _check_enough_ports(name, group, workers, mistakes)
    env = _env(name, group, folder, mistakes)
    seen = {**(environ if group.inherit_env else {}), **env}
    plan = GroupPlan(
        name=name,
        command=programs.command(name, group, seen, mistakes),
        workers=workers,
        role=group.role or name,
        logs=_logs(name, group.logs, workers, state_dir, mistakes),
        cwd=_cwd(group.cwd, folder),
        user=_user(name, group, mistakes),
        group=_account(name, "group", group.group, mistakes),
        umask=-1 if group.umask is None else group.umask,
        env=env,
        inherit_env=group.inherit_env,
        depends_on=group.depends_on,
        required=group.required,
        ready_after=group.ready_after,
        unready_after=group.unready_after,
        virtual_local_rank=group.virtual_local_rank,
        master_addr=group.rendezvous.master_addr or LOOPBACK,
        master_port=group.rendezvous.master_port or group.master_port,
        first_port=group.ports.start if group.ports else 0,
        restart=_restart(name, group.restart, workers, mistakes),
        stop=StopRules(_ladder(group.stop), group.stop.scope),
        watchdog=_watchdog(name, group.watchdog, mistakes),
        probe=probes.probe_of(("groups", name, "probe"), group.probe, mistakes),
        resources=_resources(name, group.resources, workers, seen, mistakes),
        returns=group.function is not None,
        rendezvous=meeting.rules(name, group, file, mistakes),
    )
    probes.check_addresses(("groups", name, "probe"), plan, environ, mistakes)
    return plan


def _watchdog(name: str, given: tables.Watchdog, mistakes: Mistakes) -> WatchdogRules:
    auto = given.auto
    if auto.floor > auto.ceiling:
        mistakes.say(("groups", name, "watchdog", "auto", "floor"), f"is above the ceiling, {auto.ceiling:g} s")
    learnt = frozenset(section for section, limit in given.sections.items() if limit == "auto")
    return WatchdogRules(
        **{
            **dict(given),
            "sections": {section: limit for section, limit in given.sections.items() if limit != "auto"},
            "auto": AutoRules(learnt, auto.floor, auto.ceiling, auto.factor),
            "dump": DumpRules(given.dump.signal or 0, tuple(given.dump.command), given.dump.wait),
        }
    )


LAST_WAIT = 10.0
"""Seconds that a SIGKILL nobody wrote may take."""


def _ladder(stop: tables.Stop) -> tuple[Rung, ...]:
    """The rungs as written, and SIGKILL at the end if it is not there: nothing less is sure to end a worker.

    Its wait is a second at least. What dies at once needs some time to be gone, and is not to be called unkillable.
    """
    rungs = [Rung(rung.signal, rung.wait) for rung in stop.ladder]
    if rungs[-1].signal != SIGKILL:
        rungs.append(Rung(SIGKILL, LAST_WAIT))
    rungs[-1] = Rung(SIGKILL, max(rungs[-1].wait, 1.0))
    return tuple(rungs)


def _workers(name: str, group: tables.Group, environ: Mapping[str, str], mistakes: Mistakes) -> int:
    if isinstance(group.workers, int):
        return group.workers
    from supervisor.host.topology import count_workers  # noqa: PLC0415  (most files give a number)

    try:
        return count_workers(group.workers, environ)
    except ValueError as error:
        mistakes.say(("groups", name, "workers"), str(error))
        return 1


def _check_enough_ports(name: str, group: tables.Group, workers: int, mistakes: Mistakes) -> None:
    if group.ports and len(group.ports) < workers and not mistakes.about("groups", name, "workers"):
        has = f"{len(group.ports)} port{'s' * (len(group.ports) > 1)} for {workers} workers"
        last = group.ports.start + workers - 1
        hint = f" (allowed: {group.ports.start}-{last} and more)" if last <= 65535 else ""
        mistakes.say(("groups", name, "ports"), f"has {has}{hint}")


def _cwd(given: str | None, folder: str) -> str:
    """Absolute, unless it begins with a variable: that one is to bring an absolute path."""
    if given is None:
        return ""
    return given if given.startswith("${") else os.path.normpath(os.path.join(folder, given))


def _restart(name: str, rules: tables.Restart, workers: int, mistakes: Mistakes) -> RestartRules:
    path = ("groups", name, "restart")
    both = sorted(set(rules.fatal_exit_codes) & set(rules.success_exit_codes))
    if both:
        codes = ", ".join(map(str, both))
        mistakes.say((*path, "fatal_exit_codes"), f"{codes} cannot be fatal and among success_exit_codes")
    backoff = rules.backoff
    initial = backoff.initial
    if rules.max_restarts == -1 and "initial" not in backoff.model_fields_set:
        initial = min(ENDLESS_PAUSE, backoff.max)
    if initial > backoff.max and not mistakes.about(*path, "backoff", "max"):
        mistakes.say((*path, "backoff", "initial"), f"is longer than backoff.max ({backoff.max:g} s)")
    return RestartRules(
        policy=rules.policy,
        scope=rules.scope,
        max_restarts=rules.max_restarts,
        window=rules.window,
        backoff=Backoff(initial, backoff.factor, backoff.max, backoff.jitter),
        reset_after=rules.reset_after,
        fatal_exit_codes=frozenset(rules.fatal_exit_codes),
        success_exit_codes=frozenset(rules.success_exit_codes),
        max_unavailable=values.of(rules.max_unavailable, workers),
        drain=rules.drain,
    )


def _logs(name: str, logs: tables.Logs, workers: int, state_dir: str, mistakes: Mistakes) -> LogRules:
    path = ("groups", name, "logs")

    def check(key: str, rank: int) -> None:
        if rank >= workers and not mistakes.about("groups", name, "workers"):
            have = f"{workers} workers: 0 to {workers - 1}" if workers > 1 else "1 worker: 0"
            mistakes.say((*path, key), f"there is no local rank {rank} (the group has {have})")

    def of(key: str, streams: Streams) -> Streams:
        for rank in streams.of:
            check(key, rank)
        return streams

    for rank in logs.local_ranks_filter:
        check("local_ranks_filter", rank)
    return LogRules(
        dir=os.path.normpath(os.path.join(state_dir, logs.dir)),
        redirects=of("redirects", logs.redirects),
        tee=of("tee", logs.tee),
        prefix=logs.prefix,
        local_ranks_filter=frozenset(logs.local_ranks_filter),
        duplicate_stdout_filters=tuple(logs.duplicate_stdout_filters),
        duplicate_stderr_filters=tuple(logs.duplicate_stderr_filters),
        rotate=Rotation(logs.rotate.max_bytes, logs.rotate.keep),
        journal=logs.journal,
        when_full=logs.when_full,
    )


def _resources(
    name: str, given: tables.Resources, workers: int, environ: Mapping[str, str], mistakes: Mistakes
) -> Resources:
    path = ("groups", name, "resources")
    sets = len(given.cpu_affinity or ())
    if sets > 1 and sets != workers and not mistakes.about("groups", name, "workers"):
        mistakes.say(
            (*path, "cpu_affinity"),
            f"has {sets} sets of CPUs for {workers} worker{'s' * (workers > 1)} "
            "(allowed: one set for all, or one for each)",
        )
    wanted = Resources(
        nice=given.nice,
        oom_score_adj=given.oom_score_adj,
        rlimits={limit.rstrip("_"): value for limit, value in given.rlimits if value is not None},
        cpus=_numa(path, given, workers, environ, mistakes) if given.cpu_affinity is None else given.cpu_affinity,
        memory_max=given.memory_max,
        memory_high=given.memory_high,
        cpu_max=given.cpu_max,
        pids_max=given.pids_max,
    )
    if given.numa != "none" and given.cpu_affinity is not None:
        mistakes.say(
            (*path, "numa"), f'{given.numa} says which CPUs, so that cpu_affinity has to be "auto" (its default)'
        )
    if wanted != Resources():
        from supervisor.host.resources import refusals  # noqa: PLC0415  (most files ask for nothing)

        for key, what in refusals(wanted):
            mistakes.say((*path, *key), what)
    return wanted


def _numa(
    path: Path, given: tables.Resources, workers: int, environ: Mapping[str, str], mistakes: Mistakes
) -> tuple[frozenset[int], ...]:
    if given.numa == "none" or mistakes.about(*path[:2], "workers"):
        return ()
    from supervisor.host.topology import bind_workers  # noqa: PLC0415  (most files do not bind)

    try:
        return bind_workers(given.numa, workers, environ, os.sched_getaffinity(0))
    except ValueError as error:
        mistakes.say((*path, "numa"), f"{given.numa} is not possible here: {error}")
        return ()


def _user(name: str, group: tables.Group, mistakes: Mistakes) -> str:
    if group.user is not None and group.user.isdecimal() and group.group is None and os.geteuid() == 0:
        try:
            pwd.getpwuid(int(group.user))
        except KeyError:
            mistakes.say(("groups", name, "user"), f"{group.user} has no name here, so its group has to be given, too")
    return _account(name, "user", group.user, mistakes)


def _account(name: str, key: str, given: str | None, mistakes: Mistakes) -> str:
    """A user or group that exists (an id needs no name), and that we may change to."""
    if given is None:
        return ""
    path = ("groups", name, key)
    try:
        number = _id_of(key, given)
    except KeyError:
        mistakes.say(path, f"there is no {key} {values.shown(given)} on this host")
        return given
    ours = os.geteuid() if key == "user" else os.getegid()
    if number == ours:
        return given
    from supervisor.host.resources import missing_powers  # noqa: PLC0415  (most files ask for nobody)

    if missing := missing_powers():
        without = f"rankd runs as uid {os.geteuid()} without {', '.join(missing)}"
        mistakes.say(path, f"only root may run workers as another {key} ({without})")
    return given


def _id_of(key: str, given: str) -> int:
    if given.isdecimal():
        return int(given)
    return pwd.getpwnam(given).pw_uid if key == "user" else grp.getgrnam(given).gr_gid


def _set_by_us() -> frozenset[str]:
    """Variables that every worker gets from us whatever the configuration says: asked from those who set them."""
    group, world = GroupPlan("", (), 1, "", LogRules("")), World(0, "", 0, 1)
    shared = group_environment(DaemonPlan("", "", "", "", "", {}), group, {})
    ours = rank_environment(group, world, 0, attempt=1, restarts=0, error_file="", visible_devices=None)
    return frozenset(shared | world_environment(world) | ours) - {"TORCH_NCCL_ASYNC_ERROR_HANDLING"}


SET_BY_US = _set_by_us()


def _env(name: str, group: tables.Group, folder: str, mistakes: Mistakes) -> dict[str, str]:
    path = ("groups", name)
    ours = SET_BY_US | {"PORT"} if group.ports else SET_BY_US
    env: dict[str, str] = {}
    for number, given in enumerate(group.env_files):
        file = os.path.join(folder, given)
        try:
            found, wrong = files.parse_environment(file, files.read(file), ours)
        except ValueError as error:
            mistakes.say((*path, "env_files", number), f"{values.shown(file)} {error}")
            continue
        env |= found
        mistakes.elsewhere += wrong
    for variable in group.env:
        try:
            values.env_name(variable)
        except ValueError as error:
            mistakes.say((*path, "env", variable), str(error))
        if variable in ours:
            mistakes.say((*path, "env", variable), files.OURS)
    return _of_account(group.user) | env | group.env


def _of_account(user: str | None) -> dict[str, str]:
    """What login(1) would tell that user, and systemd tells the processes of ``User=`` (systemd.exec(5)).

    Without it a worker would look for its files in the daemon's home. A user without a name has none.
    """
    if user is None:
        return {}
    try:
        account = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        return {"HOME": "/", "USER": user, "LOGNAME": user, "SHELL": "/bin/sh"}
    return {
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": account.pw_shell or "/bin/sh",
    }


def _hook(name: str, hook: tables.Hook, groups: Mapping[str, tables.Group], mistakes: Mistakes) -> HookPlan:
    misread = mistakes.about("hooks", name, "url") or mistakes.about("hooks", name, "command")
    if not misread and bool(hook.command) == (hook.url is not None):
        mistakes.say(("hooks", name), "needs either command or url" + (", not both" if hook.command else ""))
    if hook.headers and hook.url is None:
        mistakes.say(("hooks", name, "headers"), "is for url; a command gets none")
    if not hook.timeout:
        mistakes.say(("hooks", name, "timeout"), "must be more than 0")
    for number, group in enumerate(hook.groups):
        if group not in groups:
            mistakes.say(("hooks", name, "groups", number), f"there is no group {values.shown(group)}")
    return HookPlan(
        events=tuple(hook.events),
        groups=tuple(hook.groups),
        command=tuple(hook.command),
        url=hook.url or "",
        headers=hook.headers,
        timeout=hook.timeout,
        retries=hook.retries,
        backoff=hook.backoff,
        queue=hook.queue,
    )


def _check_listeners(health: tables.Health, mistakes: Mistakes) -> None:
    for number, address in enumerate(health.listen):
        if address in health.listen[:number] and not address.endswith(":0"):
            mistakes.say(("health", "listen", number), f"{values.shown(address)} is listed twice")
    agent = health.agent_check
    if agent and agent in health.listen and not agent.endswith(":0"):
        mistakes.say(("health", "agent_check"), f"{values.shown(agent)} is in listen, and HTTP is another protocol")
