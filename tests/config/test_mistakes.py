"""Every mistake is told, all at once, each with its line, its key, what is wrong and what was probably meant."""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config import load, tables
from supervisor.errors import ConfigError
from supervisor.host import resources

ENVIRON = {"HOME": "/home/somebody"}
CPU = min(os.sched_getaffinity(0))
HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
NR_OPEN = Path("/proc/sys/fs/nr_open").read_text().strip()
MINIMAL = '[groups.trainer]\ncommand = ["true"]\n'


def told(path: Path, text: str | bytes) -> list[str]:
    """What is said of a file with that text, each mistake less the file's name."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o644)
    with pytest.raises(ConfigError) as refused:
        load(str(path), ENVIRON)
    assert refused.value.exit_code == 78
    lines = str(refused.value).splitlines()
    assert all(line.startswith(f"{path}:") for line in lines), lines
    return [line.removeprefix(f"{path}:").strip() for line in lines]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rankd.toml"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("workres = 4", 'groups.trainer.workres: unknown key (did you mean "workers"?)'),
        ("workers = 0", "groups.trainer.workers: must be at least 1"),
        ("workers = true", "groups.trainer.workers: true is not a number of workers (allowed: 1 and more"),
        ('env = { A = 1, B = "x" }', 'groups.trainer.env.A: must be a string: quote it (A = "...")'),
        ("env = { A = true }", 'groups.trainer.env.A: must be a string: quote it (A = "...")'),
        ('env = { "A=B" = "x" }', 'groups.trainer.env."A=B": "A=B" cannot name an environment variable'),
        ('env = { A = "x\\u0000" }', "groups.trainer.env.A: has a NUL character"),
        ('env = { RANK = "1" }', "groups.trainer.env.RANK: rankd sets this variable for every worker itself"),
        ('env = { TORCHELASTIC_RUN_ID = "1" }', "groups.trainer.env.TORCHELASTIC_RUN_ID: rankd sets this variable"),
        ("env = { command = 1 }", "groups.trainer.env.command: must be a string"),
        ("inherit_env = 1", "groups.trainer.inherit_env: 1 is neither true nor false"),
        ('inherit_env = "no"', 'groups.trainer.inherit_env: "no" is neither true nor false (remove the quotes)'),
        ('master_port = "1"', 'groups.trainer.master_port: "1" is not a whole number (remove the quotes)'),
        ("master_port = 65536", "groups.trainer.master_port: must be at most 65535"),
        ("role = 3", 'groups.trainer.role: 3 is not a string: quote it ("3")'),
        ('role = ""', "groups.trainer.role: must not be empty"),
        ("umask = 22", "groups.trainer.umask: 22 is not a umask"),
        ('user = "no-such-user"', 'groups.trainer.user: there is no user "no-such-user" on this host'),
        ('group = "no-such-group"', 'groups.trainer.group: there is no group "no-such-group" on this host'),
        ('cwd = "~/job"', 'groups.trainer.cwd: "~/job": "~" is not expanded here (write the whole path)'),
        ('env_files = ["none.env"]', "groups.trainer.env_files[0]: "),
        ("args = 5", "groups.trainer.args: 5 is not a list (write [5])"),
        ('depends_on = { trainr = "ready" }', 'groups.trainer.depends_on.trainr: there is no group "trainr" (allowed'),
        ('depends_on = { trainr = "ready" }', 'did you mean "trainer"?)'),
        ('depends_on = { trainer = "ready" }', "groups.trainer.depends_on.trainer: a group cannot wait for itself"),
        ('depends_on = { b = "redy" }', 'groups.trainer.depends_on.b: "redy" is not a condition (allowed: started, '),
        ("depends_on = []", "groups.trainer.depends_on: a list is not a table"),
        ("restart = 3", "groups.trainer.restart: 3 is not a table"),
        (
            'restart.policy = "allways"',
            'restart.policy: "allways" is not a policy (allowed: always, on-failure, never;',
        ),
        ('restart.policy = "allways"', 'did you mean "always"?)'),
        ("restart.policy = 3", "restart.policy: 3 is not a policy (allowed: always, on-failure, never)"),
        ("restart.max_restarts = -2", "groups.trainer.restart.max_restarts: must be at least -1"),
        ("restart.max_unavailable = '0%'", 'max_unavailable: "0%" is no number of workers (allowed: 1 and more, or'),
        ("restart.max_restarts = 1.0", "groups.trainer.restart.max_restarts: 1.0 is not a whole number"),
        ("restart.max_restarts = true", "groups.trainer.restart.max_restarts: true is not a whole number"),
        ('restart.window = "1 hour"', 'groups.trainer.restart.window: "1 hour" is not a duration (allowed: '),
        ("restart.window = -1", "groups.trainer.restart.window: -1 is negative"),
        ("restart.backoff = { factor = 0.5 }", "groups.trainer.restart.backoff.factor: must be at least 1"),
        ("restart.backoff = { factor = inf }", "groups.trainer.restart.backoff.factor: inf is not a number to count"),
        ("restart.backoff = { jitter = 1.1 }", "groups.trainer.restart.backoff.jitter: must be at most 1"),
        (
            "restart.backoff = { jitter = nan }",
            "groups.trainer.restart.backoff.jitter: nan is not a number to count with",
        ),
        ("restart.backoff = { jitter = true }", "groups.trainer.restart.backoff.jitter: true is not a number"),
        ('restart.backoff = { initial = "2m" }', "groups.trainer.restart.backoff.initial: is longer than backoff.max"),
        ("restart.fatal_exit_codes = [256]", "groups.trainer.restart.fatal_exit_codes[0]: must be at most 255"),
        (
            "restart.fatal_exit_codes = [3, 0]",
            "restart.fatal_exit_codes: 0 cannot be fatal and among success_exit_codes",
        ),
        ("stop.ladder = []", "groups.trainer.stop.ladder: must not be empty"),
        ("stop.ladder = [{ signal = 15 }]", "groups.trainer.stop.ladder[0].wait: is missing"),
        ('stop.ladder = [{ signal = "TREM", wait = 1 }]', 'stop.ladder[0].signal: "TREM" is not a signal'),
        ('stop.ladder = [{ signal = "TREM", wait = 1 }]', 'did you mean "SIGTERM"?)'),
        (
            'stop.scope = "trees"',
            'groups.trainer.stop.scope: "trees" is not a scope (allowed: tree, group, leader; did',
        ),
        ('logs.redirects = "0:1,2:2"', "logs.redirects: there is no local rank 2 (the group has 1 worker: 0)"),
        ('logs.tee = "1:1"\nworkers = 1', "groups.trainer.logs.tee: there is no local rank 1"),
        ("logs.local_ranks_filter = [0, 9]", "groups.trainer.logs.local_ranks_filter: there is no local rank 9"),
        ("logs.local_ranks_filter = [-1]", "groups.trainer.logs.local_ranks_filter[0]: must be at least 0"),
        ("logs.tee = 3", "groups.trainer.logs.tee: 3 does not say which streams"),
        ("resources.nice = 20", "groups.trainer.resources.nice: must be at most 19"),
        ('resources.nice = "5"', 'groups.trainer.resources.nice: "5" is not a whole number (remove the quotes)'),
        ("resources.oom_score_adj = -1001", "groups.trainer.resources.oom_score_adj: must be at least -1000"),
        (
            'resources.numa = "nodes"',
            'numa: "nodes" is not a numa (allowed: none, node, socket, exclusive, core-complex; did you mean "node"?)',
        ),
        (
            f'resources.numa = "node"\nresources.cpu_affinity = "{CPU}"',
            'resources.numa: node says which CPUs, so that cpu_affinity has to be "auto" (its default)',
        ),
        (
            'resources.numa = "socket"\nresources.cpu_affinity = "none"',
            'resources.numa: socket says which CPUs, so that cpu_affinity has to be "auto"',
        ),
        (
            'resources.numa = "exclusive"\nworkers = 60000',
            "resources.numa: exclusive is not possible here: NUMA node 0 has ",
        ),
        ("resources.cpu_affinity = 0", "groups.trainer.resources.cpu_affinity: 0 does not say which CPUs"),
        ('resources.cpu_affinity = "9999"', "resources.cpu_affinity: rankd may not run on CPU 9999 (allowed: "),
        (
            'resources.cpu_affinity = "9997-9999"',
            "resources.cpu_affinity: rankd may not run on CPU 9997-9999 (allowed: ",
        ),
        (
            f'resources.cpu_affinity = "{CPU};{CPU}"',
            "has 2 sets of CPUs for 1 worker (allowed: one set for all, or one for each)",
        ),
        ("resources.rlimits.nofiles = 5", 'resources.rlimits.nofiles: unknown key (did you mean "nofile"?)'),
        ("resources.rlimits.x = 5", "unknown key (allowed: nofile, nproc, core, memlock, stack, as, data, fsize, "),
        ('resources.rlimits.as = "64 kib"', 'groups.trainer.resources.rlimits.as: "64 kib" is not a limit (allowed: '),
        ("resources.rlimits.nofile = { soft = 2, hard = 1 }", "resources.rlimits.nofile: soft (2) is above hard (1)"),
        (
            'resources.rlimits.nofile = "unlimited"',
            f"rlimits.nofile: unlimited is above {NR_OPEN}, the most that this host allows (sysctl fs.nr_open)",
        ),
        (
            'resources.rlimits.nofile = { soft = "unlimited" }',
            f"nofile: soft (unlimited) is above rankd's own hard limit ({HARD}): give hard as well",
        ),
        ("zz = {}", "groups.trainer.zz: unknown key (allowed: command, function, args, kwargs, workers, "),
        ('watchdog = { heartbeat = "soon" }', "watchdog.heartbeat: "),
        ('watchdog = { sections = { "" = "3m" } }', "watchdog.sections"),
        ('watchdog = { sections = { step = "automatic" } }', "watchdog.sections.step: "),
        ('watchdog = { auto = { floor = "2h" } }', "watchdog.auto.floor: is above the ceiling, 3600 s"),
        (
            'probe = { http = "http://127.0.0.1:8000", tcp = "127.0.0.1:8000" }',
            "groups.trainer.probe.tcp: there is http already (allowed: one of http, tcp, exec)",
        ),
        ("probe.liveness = true", "groups.trainer.probe.liveness: there is nobody to ask (needs http, tcp or exec)"),
        (
            'probe.http = "https://127.0.0.1/"',
            'probe.http: "https://127.0.0.1/" is not a URL to ask (allowed: "http://',
        ),
        ('probe.http = "https://127.0.0.1/"', "; https is not spoken here)"),
        ('probe.http = "http://example.org/"', 'probe.http: "example.org:80" is not an address to ask (allowed: an IP'),
        ('probe.http = "http://127.0.0.1:${NO_SUCH_PORT}/"', "groups.trainer.probe.http: "),
        ('probe.tcp = "127.0.0.1"', 'groups.trainer.probe.tcp: "127.0.0.1" is not an address to ask (allowed: an IP'),
        ('probe.tcp = "127.0.0.1:0"', 'groups.trainer.probe.tcp: "127.0.0.1:0" is not an address to ask'),
        ("probe.exec = []", "groups.trainer.probe.exec: must not be empty"),
        ('probe.exec = [""]', "groups.trainer.probe.exec[0]: must not be empty"),
        ("probe.interval = 0.01", 'groups.trainer.probe.interval: is too short (allowed: "100ms" and more)'),
        ("probe.timeout = 0", "groups.trainer.probe.timeout: leaves no time for an answer (allowed: more than 0)"),
        ("probe.rise = 0", "groups.trainer.probe.rise: must be at least 1"),
    ],
)
def test_a_wrong_key_of_a_group_is_the_only_mistake_and_in_its_line(file: Path, line: str, words: str) -> None:
    found = told(file, MINIMAL + line + '\n[groups.b]\ncommand = ["true"]\n')
    assert len(found) == 1
    assert found[0].startswith("3: groups.trainer.")
    assert words in found[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[daemon]\nname = ''", "2: daemon.name: must not be empty"),
        ("[daemon]\nrun_id = 'a/b'", '2: daemon.run_id: "a/b" cannot be the name of a directory'),
        ("[daemon]\nwhen_done = 'quit'", '2: daemon.when_done: "quit" is not a when_done (allowed: exit, stay'),
        ("[daemon]\ndrain_delay = 'x'", '2: daemon.drain_delay: "x" is not a duration'),
        ("daemon = 1979-05-27", "1: daemon: 1979-05-27 is not a table"),
        ("[log]\nlevel = 'warn'", '2: log.level: "warn" is not a level (allowed: debug, info, warning, error; did you'),
        ("[log]\nformat = 'text'", '2: log.format: "text" is not a format (allowed: auto, json, console, journal)'),
        ("[health]\nlisten = ['x']", '2: health.listen[0]: "x": expected host:port'),
        ("[health]\nlisten = [\n'x:0',\n'::1:8080']", "4: health.listen[1]: "),
        ("[health]\nlisten = ['unix:x']", '2: health.listen[0]: "unix:x": a unix socket needs an absolute path'),
        (f"[health]\nlisten = ['unix:/{'x' * 107}']", "a unix socket's path has at most 107 bytes"),
        ("[health]\nlisten = ['h:1', 'h:1']", '2: health.listen[1]: "h:1" is listed twice'),
        ("[health]\nlisten = ['h:1']\nagent_check = 'h:1'", '3: health.agent_check: "h:1" is in listen'),
        ("[health]\nagent_check = 'h'", '2: health.agent_check: "h": expected host:port'),
        ("[health]\nlisten = 'x:1'", '2: health.listen: "x:1" is not a list (write ["x:1"])'),
        ("[health]\ndrain_status = 200", "2: health.drain_status: must be at least 400"),
        ("[hooks.a]\nevents = ['group.failed']", "1: hooks.a: needs either command or url"),
        ("[hooks.a]\ncommand = ['x']\nurl = 'http://h/'", "1: hooks.a: needs either command or url, not both"),
        ("[hooks.a]\nurl = 'h/x'", '2: hooks.a.url: "h/x" is not a URL (write https://host/path)'),
        ("[hooks.a]\ncommand = ['x']\nevents = ['grop.*']", '3: hooks.a.events[0]: "grop.*" is no record\'s name'),
        ("[hooks.a]\ncommand = ['x']\ngroups = ['b']", '3: hooks.a.groups[0]: there is no group "b"'),
        ("[hooks.a]\ncommand = ['x']\nheaders = { A = 'b' }", "3: hooks.a.headers: is for url"),
        ("[hooks.a]\ncommand = ['x']\ntimeout = 0", "3: hooks.a.timeout: must be more than 0"),
        ("[healht]\n", '1: healht: unknown key (did you mean "health"?)'),
        ("[metrics]\n", "1: metrics: unknown key (allowed: daemon, log, health, control, rendezvous, hooks, groups)"),
        (f"[control]\nsocket = '{'x' * 107}'", "a unix socket's path has at most 107 bytes"),
        ("[control]\nallow_users = ['root', 'no-such']", '2: control.allow_users[1]: there is no user "no-such"'),
        ("[control]\nallow_users = [-1]", "2: control.allow_users[0]: "),
        ("[control]\nallow_users = 'root'", '2: control.allow_users: "root" is not a list (write ["root"])'),
    ],
)
def test_a_wrong_key_elsewhere_is_the_only_mistake_and_in_its_line(file: Path, text: str, words: str) -> None:
    (found,) = told(file, f"{text}\n{MINIMAL}")
    assert words in found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["1: groups: there is no group (begin one with [groups.NAME] and its command)"]),
        ("[groups]", ["1: groups: there is no group (begin one with [groups.NAME] and its command)"]),
        ("groups.command = 5", ["1: groups.command: 5 is not a table"]),
        ("groups = 0", ["1: groups: 0 is not a table"]),
        ("[[groups]]", ["1: groups: a list is not a table"]),
        ("\ngroups.a = 1", ["2: groups.a: 1 is not a table"]),
        ("\n[groups.a]\nworkers = 2", ["2: groups.a.command: is missing"]),
        ("[groups.a]\ncommnad = ['x']", ['2: groups.a.commnad: unknown key (did you mean "command"?)']),
        ("[groups.a]\ncommand = []", ["2: groups.a.command: must not be empty"]),
        ("[groups.a]\ncommand = ['', 'x']", ["2: groups.a.command[0]: must not be empty"]),
        ("[groups.a]\ncommand = ['x',\n5]", ['3: groups.a.command[1]: 5 is not a string: quote it ("5")']),
        ("[groups.a]\ncommand = 'x -u y'", ['2: groups.a.command: "x -u y" is not a list (write ["x", "-u", "y"])']),
    ],
)
def test_a_file_needs_a_group_and_a_group_a_command(file: Path, text: str, words: list[str]) -> None:
    assert told(file, text) == words


WORDS = [*tables.File.model_fields, *tables.Group.model_fields, *tables.Restart.model_fields, "x", "ladder", "wait"]
KEYS = st.sampled_from(sorted(set(WORDS)))
JUNK: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(["x", "", "1", "ready", 0, 1, -1, True, 0.5]),
    lambda below: st.lists(below, max_size=2) | st.dictionaries(KEYS, below, max_size=3),
    max_leaves=8,
)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(one)}" for name, one in value.items()) + "}"
    return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else json.dumps(value)


@given(st.dictionaries(KEYS, JUNK, max_size=3), st.dictionaries(KEYS, st.dictionaries(KEYS, JUNK, max_size=6)))
def test_whatever_is_in_a_file_it_is_read_or_refused(document: dict[str, Any], groups: dict[str, Any]) -> None:
    text = "".join(f"{name} = {toml(value)}\n" for name, value in ({"groups": groups} | document).items())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rankd.toml")
        file.write_text(text)
        file.chmod(0o644)
        mistakes = []
        try:
            assert load(str(file), ENVIRON).groups
        except ConfigError as refused:
            mistakes = refused.mistakes
    assert all(1 <= mistake.line <= text.count("\n") + 1 and mistake.key for mistake in mistakes)


@pytest.mark.parametrize("name", ["a b", "a:0", "a/b", "ä", "", "..", "x" * 256])
def test_a_groups_name_can_be_a_folder_and_a_label(file: Path, name: str) -> None:
    (found,) = told(file, f'[groups."{name}"]\ncommand = ["true"]')
    assert found.startswith("1: groups.")
    assert "cannot name a group" in found


def group(name: str, *lines: str) -> str:
    return "\n".join([f"[groups.{name}]", 'command = ["true"]', *lines, ""])


def test_groups_that_wait_for_each_other_are_named_once(file: Path) -> None:
    text = (
        group("a", 'depends_on.b = "ready"')
        + group("b", 'depends_on = { c = "started", d = "ready" }')
        + group("c", 'depends_on.a = "ready"')
        + group("d")
        + group("e", 'depends_on.a = "ready"')
    )
    assert told(file, text) == ["3: groups.a.depends_on.b: groups wait for each other: a -> b -> c -> a"]


def test_two_circles_are_two_mistakes(file: Path) -> None:
    text = (
        group("a", 'depends_on.b = "ready"')
        + group("b", 'depends_on.a = "ready"')
        + group("c", 'depends_on.d = "ready"')
        + group("d", 'depends_on.c = "ready"')
    )
    assert [one.rpartition(": ")[2] for one in told(file, text)] == ["a -> b -> a", "c -> d -> c"]


def test_a_chain_longer_than_the_stack_is_no_circle(file: Path) -> None:
    names = [f"g{number}" for number in range(sys.getrecursionlimit() + 100)]
    chain = "".join(group(name, f'depends_on.{after} = "ready"') for name, after in itertools.pairwise(names))
    file.write_text(chain + group(names[-1]))
    assert len(load(str(file), ENVIRON).groups) == len(names)
    (found,) = told(file, chain + group(names[-1], 'depends_on.g0 = "ready"'))
    assert found.endswith(f"{names[-2]} -> {names[-1]} -> g0")


def test_nobody_waits_for_the_success_of_what_never_ends(file: Path) -> None:
    text = group("a", 'restart.policy = "always"') + group("b", 'depends_on.a = "succeeded"')
    assert told(file, text) == ['6: groups.b.depends_on.a: a never succeeds: its restart policy is "always"']


def test_a_fixed_port_belongs_to_one_group(file: Path) -> None:
    text = group("a", "master_port = 29500") + group("b", "master_port = 29500") + group("c") + group("d")
    assert told(file, text) == ["6: groups.b.master_port: 29500 is the port of group a already"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("workers = 3", 'ports = "8001-8002"'), "has 2 ports for 3 workers (allowed: 8001-8003 and more)"),
        (("workers = 2", 'ports = "65535"'), "has 1 port for 2 workers"),
        (
            ('ports = "8002-8001"',),
            '"8002-8001" is not a range of ports (allowed: "8001-8016", "8001", from 1 to 65535)',
        ),
        (('ports = "0-9"',), '"0-9" is not a range of ports'),
        (('ports = "65535-65536"',), '"65535-65536" is not a range of ports'),
        (("ports = 8001",), "8001 is not a range of ports"),
        (('ports = "8001-8009"', "master_port = 8003"), "8003 is the master_port of group a"),
        (('ports = "8079-8080"',), "8080 is the health listener's ([::1]:8080)"),
        (('ports = "8090"',), "8090 is agent_check's (127.0.0.1:8090)"),
    ],
)
def test_a_range_of_ports_has_one_for_each_worker_and_none_that_is_taken(
    file: Path, lines: tuple[str, ...], words: str
) -> None:
    listeners = '[health]\nlisten = ["unix:/h", "127.0.0.1:0", "[::1]:8080"]\nagent_check = "127.0.0.1:8090"\n'
    (mistake,) = told(file, group("a", *lines) + listeners)
    assert mistake.partition(": ")[2].startswith(f"groups.a.ports: {words}")


def test_no_two_groups_have_a_port_in_common(file: Path) -> None:
    ranges = {"a": "8001-8004", "b": "8005", "c": "8003-8009", "d": "8010-8011"}
    assert told(file, "".join(group(name, f'ports = "{ports}"') for name, ports in ranges.items())) == [
        "9: groups.c.ports: 8003-8004 belongs to group a already",
        "9: groups.c.ports: 8005 belongs to group b already",
    ]


def test_with_a_range_nobody_else_sets_port(file: Path, tmp_path: Path) -> None:
    (tmp_path / "job.env").write_text("PORT=1\n")
    ours = "rankd sets this variable for every worker itself (leave it out)"
    assert told(file, group("a", 'ports = "8001"', 'env = { PORT = "1" }')) == [f"4: groups.a.env.PORT: {ours}"]
    file.write_text(group("a", 'ports = "8001"', 'env_files = ["job.env"]'))
    with pytest.raises(ConfigError, match=r"job\.env:1: PORT: rankd sets this variable"):
        load(str(file), ENVIRON)
    file.write_text(group("a", 'env = { PORT = "1" }'))
    assert load(str(file), ENVIRON).groups["a"].env["PORT"] == "1"


def test_an_environment_file_is_told_of_by_its_own_lines(file: Path, tmp_path: Path) -> None:
    (tmp_path / "job.env").write_text('# fine\nA=1\nB\nexport C=2\nD=\'x\nE="\nRANK=1\nF=a\0b\n=3\nG="\'"\n')
    file.write_text(group("a", 'env_files = ["job.env"]') + group("b", 'env_files = ["job.env"]'))
    with pytest.raises(ConfigError) as refused:
        load(str(file), ENVIRON)
    assert [str(mistake).removeprefix(f"{tmp_path}/") for mistake in refused.value.mistakes] == [
        "job.env:3: is not NAME=VALUE",
        "job.env:4: the name before = is not one of a variable (leave out export)",
        "job.env:5: D: the quote at its beginning is not closed",
        "job.env:6: E: the quote at its beginning is not closed",
        "job.env:7: RANK: rankd sets this variable for every worker itself (leave it out)",
        "job.env:8: F: has a NUL character",
        "job.env:9: the name before = is not one of a variable",
    ]


def test_environment_values_are_never_repeated(file: Path, tmp_path: Path) -> None:
    (tmp_path / "job.env").write_text("my secret\nPASSWORD='my secret\n")
    text = group("a", "env = { PASSWORD = 424242, Q = ['my secret'] }", 'env_files = ["job.env"]')
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(str(file), ENVIRON)
    assert len(refused.value.mistakes) == 4
    assert "secret" not in str(refused.value)
    assert "424242" not in str(refused.value)


def test_every_mistake_is_told_at_once_in_the_order_of_the_file(file: Path) -> None:
    text = """\
[groups.trainer]
workres = 4
depends_on = { eval = "succeeded", cache = "soon" }
user = "no-such-user"
logs.tee = "3:1"
[log]
level = "loud"
[groups.eval]
command = "python eval.py"
workers = 4.0
depends_on = { trainer = "ready" }
restart = { policy = "always", max_restarts = -3 }
logs.redirects = "3:1"
[groups.cache]
command = ["cache"]
workers = 2
logs.redirects = "3:1"
"""
    assert told(file, text) == [
        "1: groups.trainer.command: is missing",
        '2: groups.trainer.workres: unknown key (did you mean "workers"?)',
        '3: groups.trainer.depends_on.cache: "soon" is not a condition (allowed: started, ready, succeeded)',
        '3: groups.trainer.depends_on.eval: eval never succeeds: its restart policy is "always"',
        "3: groups.trainer.depends_on.eval: groups wait for each other: trainer -> eval -> trainer",
        '4: groups.trainer.user: there is no user "no-such-user" on this host',
        '7: log.level: "loud" is not a level (allowed: debug, info, warning, error)',
        '9: groups.eval.command: "python eval.py" is not a list (write ["python", "eval.py"])',
        '10: groups.eval.workers: 4.0 is not a number of workers (allowed: 1 and more, "cpu", "gpu", "auto")',
        "12: groups.eval.restart.max_restarts: must be at least -1",
        "17: groups.cache.logs.redirects: there is no local rank 3 (the group has 2 workers: 0 to 1)",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[groups.a]\ncommand = [", "2: column 12: "),
        ("[groups.a]\ncommand = ['x']\nworkers 4\n", "3: column 9: expected '=' after a key in a key/value pair"),
        ("[groups.a\n", "1: column 10: "),
        ("[a]\n[a]\n", "2: column 3: cannot declare ('a',) twice"),
        ("\ufeff[a]\n", "1: begins with a byte order mark (save it as UTF-8 without one)"),
        (b"[a]\nb = '\xff'\n", "is not UTF-8: byte 0xff in line 2"),
        ("a = " + "[" * 100_000, "is nested too deeply"),
        ("a = " + "9" * 5000, "Exceeds the limit"),
    ],
)
def test_a_syntax_error_has_its_line_and_column(file: Path, text: str | bytes, words: str) -> None:
    (found,) = told(file, text)
    assert found.startswith(words)


def test_a_file_that_cannot_be_believed_is_not_read(tmp_path: Path) -> None:
    def why(path: Path) -> str:
        with pytest.raises(ConfigError) as refused:
            load(str(path), ENVIRON)
        (mistake,) = refused.value.mistakes
        assert (mistake.file, mistake.line, mistake.key) == (str(path), 0, "")
        return mistake.what

    assert why(tmp_path / "none.toml") == "cannot be read: No such file or directory"
    assert why(tmp_path) == "is not a file"
    os.mkfifo(tmp_path / "fifo")
    assert why(tmp_path / "fifo") == "is not a file"
    assert re.fullmatch("cannot be read: .*embedded null.*", why(tmp_path / "a\0b"))
    (tmp_path / "large.toml").write_text("#" * ((1 << 20) + 1))
    assert why(tmp_path / "large.toml") == "is too large (at most 1048576 bytes)"


def test_root_does_not_do_what_everybody_may_write(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(MINIMAL)
    file.chmod(0o666)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ConfigError, match="is writable by everybody"):
        load(str(file), ENVIRON)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert load(str(file), ENVIRON).groups["trainer"].command == ("true",)


def test_only_root_may_change_to_another_user(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(os, "getegid", lambda: 4242)
    monkeypatch.setattr(resources, "missing_powers", lambda: ["CAP_SETUID"])
    why = "(rankd runs as uid 4242 without CAP_SETUID)"
    assert told(file, MINIMAL + 'user = "root"\ngroup = "root"') == [
        f"3: groups.trainer.user: only root may run workers as another user {why}",
        f"4: groups.trainer.group: only root may run workers as another group {why}",
    ]
    file.write_text(MINIMAL + "user = 4242\ngroup = 4242")
    plan = load(str(file), ENVIRON).groups["trainer"]
    assert (plan.user, plan.group) == ("4242", "4242")


def test_who_has_roots_capabilities_for_it_may_change_users_without_being_root(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with AmbientCapabilities=CAP_CHOWN CAP_SETGID CAP_SETUID in the unit."""
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(resources, "missing_powers", list)
    file.write_text(MINIMAL + 'user = "root"')
    assert load(str(file), ENVIRON).groups["trainer"].user == "root"


def test_an_id_without_a_name_needs_a_group(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert told(file, MINIMAL + "user = 4000000000") == [
        "3: groups.trainer.user: 4000000000 has no name here, so its group has to be given, too"
    ]
    file.write_text(MINIMAL + "user = 4000000000\ngroup = 4000000000")
    assert load(str(file), ENVIRON).groups["trainer"].user == "4000000000"


def test_workers_that_the_host_has_no_devices_for_are_a_mistake(file: Path) -> None:
    file.write_text(MINIMAL + 'workers = "gpu"\nlogs.tee = "7:1"')
    with pytest.raises(ConfigError, match=r'rankd.toml:3: groups\.trainer\.workers: workers = "gpu", but') as refused:
        load(str(file), ENVIRON | {"CUDA_VISIBLE_DEVICES": ""})
    assert len(refused.value.mistakes) == 1
