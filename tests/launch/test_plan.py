"""What each flag and variable does to the plan."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from supervisor.host.topology import bind_workers
from supervisor.launch.plan import launch_of
from supervisor.launch.refused import WrongUsage
from supervisor.plan import Binding, RendezvousRules, Rung, StorePlan, Streams, attempts_dir, torch_macros
from tests.launch.commands import PLACES, group, launch, parsed, plan

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


# ---- what runs


@pytest.mark.parametrize(
    ("words", "environ", "command"),
    [
        ([], {}, [sys.executable, "-u", "train.py"]),
        (["-m"], {}, [sys.executable, "-u", "-m", "train.py"]),
        ([], {"PYTHON_EXEC": "/opt/python"}, ["/opt/python", "-u", "train.py"]),
        (["--no-python"], {}, ["train.py"]),
        (["--run-path"], {"PYTHON_EXEC": "/opt/python"}, [sys.executable, ..., "--run-path", "train.py"]),
        (["--no-python", "--run-path"], {}, [sys.executable, ..., "--run-path", "train.py"]),
    ],
)
def test_the_script_is_run_as_torchrun_would(words: list[str], environ: dict[str, str], command: list[object]) -> None:
    got = group(*words, environ=environ).command
    assert [word if wanted is not ... else ... for word, wanted in zip(got, command, strict=True)] == command


@pytest.mark.parametrize(
    ("word", "becomes"),
    [
        ("--lr=${local_rank}", "--lr=3"),
        ("$local_rank", "3"),
        ("${RANK} ${unknown} ${local_ranks}", "${RANK} ${unknown} ${local_ranks}"),
        ("$$ $${local_rank}", "$ ${local_rank}"),
        ("100$", "100$"),
    ],
)
def test_torchs_one_macro_is_replaced_and_nothing_else(word: str, becomes: str) -> None:
    assert group().macros == "torch"
    assert torch_macros(word, 3) == becomes


def test_workers_are_so_many_as_asked_for() -> None:
    assert group("--nproc-per-node", "12").workers == 12
    assert group("--nproc-per-node", "cpu").workers == len(os.sched_getaffinity(0))
    assert group("--nproc-per-node", "gpu", environ={"CUDA_VISIBLE_DEVICES": "2,5"}).workers == 2


def test_the_role_names_the_group_where_it_can() -> None:
    assert (group("--role", "ps").role, group("--role", "ps").name) == ("ps", "ps")
    assert (group("--role", "a b").role, group("--role", "a b").name) == ("a b", "workers")


def test_a_virtual_local_rank_is_handed_on() -> None:
    assert group("--virtual-local-rank").virtual_local_rank
    assert not group().virtual_local_rank


# ---- who meets


def test_alone_on_a_host_run_id_and_port_are_chosen() -> None:
    for words in ([], ["--standalone", "--rdzv-id", "mine", "--rdzv-endpoint", "far:1"], ["--nnodes", "1:1"]):
        assert re.fullmatch(UUID, plan(*words).run_id)
        assert (group(*words).master_addr, group(*words).master_port) == ("localhost", 0)
        assert plan(*words).rdzv_backend == "c10d", "as torchrun does"


def test_static_numbers_the_hosts_by_hand() -> None:
    """As torchrun does it: without a port 29500, and only host 0 has to have the address."""
    words = ["--nnodes", "3", "--node-rank", "2", "--master-addr", "10.0.0.1", "--rdzv-id", "job7"]
    found = group(*words)
    assert (found.master_addr, found.master_port) == ("10.0.0.1", 29500)
    assert found.rendezvous == RendezvousRules("static", hosts=3, node_rank=2)
    assert plan(*words).run_id == "job7"


def test_etcd_is_where_hosts_that_come_and_go_meet() -> None:
    words = ["--nnodes", "2:4", "--rdzv-backend", "etcd", "--rdzv-endpoint", "a:1,[::1]:2,c", "--rdzv-id", "job7"]
    found = plan(*words, "--local-addr", "10.0.0.1")
    assert found.store == StorePlan(("http://a:1", "http://[::1]:2", "http://c:2379"), addr="10.0.0.1")
    assert (found.run_id, found.node_id) == ("job7", f"host-a_{os.getpid()}")
    assert group(*words).rendezvous == RendezvousRules("etcd", 4, min_hosts=2)
    assert plan("--rdzv-backend", "etcd", "--rdzv-id", "x").store == StorePlan(("http://localhost:2379",))


def test_torchs_other_word_for_etcd_is_taken_for_it_with_a_note() -> None:
    words = ["--nnodes", "2:4", "--rdzv-endpoint", "a:1", "--rdzv-id", "job7", "--rdzv-backend"]
    assert group(*words, "etcd-v2").rendezvous == group(*words, "etcd").rendezvous
    assert plan(*words, "etcd-v2").store == plan(*words, "etcd").store
    assert launch(*words, "etcd").notes == ()
    (note,) = launch(*words, "etcd-v2").notes
    assert "version 3" in note


def test_the_words_of_torchs_etcd_backends_are_understood(tmp_path: Path) -> None:
    conf = (
        "timeout=60, last_call_timeout=1.5,close_timeout=5s,lease_ttl=2,exit_barrier_timeout=1m,etcd_prefix=/p,"
        f"protocol=https,cacert=/ca,ssl_cert=/c,ssl_cert_key=/k,username=u,password_file={tmp_path},on_store_loss=stop"
    )
    words = ["--nnodes", "2", "--rdzv-backend", "etcd", "--rdzv-id", "job", "--rdzv-endpoint", "e", "--rdzv-conf", conf]
    assert group(*words).rendezvous == RendezvousRules("etcd", 2, 0, 2, 60.0, 1.5, 2.0, 60.0, 5.0)
    assert plan(*words).store == StorePlan(
        ("https://e:2379",), "/p", "", "/ca", "/c", "/k", "u", str(tmp_path), "stop"
    )  # fmt: skip
    (note,) = launch(*words[:-1], "heartbeat_timeout=5").notes
    assert "lease_ttl" in note


def test_c10d_on_one_host_has_the_run_id_it_is_given() -> None:
    words = [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "host-a:29400",
        "--rdzv-id",
        "job7",
        "--local-addr",
        "10.0.0.1",
    ]
    assert (plan(*words).run_id, plan(*words).rdzv_backend) == ("job7", "c10d")
    assert (group(*words).master_addr, group(*words).master_port) == ("10.0.0.1", 0)


@pytest.mark.parametrize(
    ("words", "addr", "port"),
    [
        (["--master-port", "1234"], "127.0.0.1", 1234),
        (["--master-addr", "10.0.0.1", "--master-port", "1234"], "10.0.0.1", 1234),
        (["--master-addr", "[::1]", "--master-port", "1234"], "::1", 1234),
        (["--rdzv-endpoint", "host-a:99"], "host-a", 99),
        (["--rdzv-endpoint", "[::1]:99", "--master-port", "1"], "::1", 99),
    ],
)
def test_static_on_one_host_says_where_rank_0_listens(words: list[str], addr: str, port: int) -> None:
    assert (group(*words).master_addr, group(*words).master_port) == (addr, port)
    assert plan(*words, "--rdzv-id", "mine").run_id == "mine"
    assert plan(*words).rdzv_backend == "static"


# ---- when it fails or stops


def test_restarts_are_the_whole_groups_at_once_and_counted_for_the_run() -> None:
    rules = group("--max-restarts", "4").restart
    assert (rules.policy, rules.scope, rules.max_restarts, rules.window) == ("on-failure", "group", 4, 0.0)
    assert rules.backoff.initial == 0.0
    assert group().restart.max_restarts == 0


@pytest.mark.parametrize(
    ("words", "environ", "seconds"),
    [
        ([], {}, 30.0),
        (["--shutdown-timeout", "5"], {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "7"}, 5.0),
        ([], {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "7"}, 7.0),
        (["--shutdown-timeout", "0"], {}, 0.0),
    ],
)
def test_the_shutdown_timeout_is_how_long_workers_have(
    words: list[str], environ: dict[str, str], seconds: float
) -> None:
    first, last = group(*words, environ=environ).stop.ladder
    assert first == Rung(signal.SIGTERM, seconds)
    assert last.signal == signal.SIGKILL


def test_signals_to_handle_stop_the_job_and_workers_are_told_of_them() -> None:
    found = plan("--signals-to-handle", "SIGUSR1, TERM")
    assert set(found.stop_signals) == {signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
    assert found.as_job
    (only,) = found.groups.values()
    assert only.env == {"TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGUSR1, TERM"}
    assert group().env == {"TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT"}


# ---- what it writes


def test_streams_go_where_the_flags_say_for_local_ranks_of_any_length() -> None:
    logs = group("-r", "3", "-t", "0:1,12:3", "--local-ranks-filter", "0,12").logs
    assert (logs.redirects, logs.tee) == (Streams(3), Streams(0, {0: 1, 12: 3}))
    assert logs.local_ranks_filter == {0, 12}
    assert (group().logs.redirects, group().logs.tee) == (Streams(0), Streams(0)), "torchrun's default is the console"


def test_without_a_place_for_logs_streams_go_to_the_console() -> None:
    logs = group("-r", "3", "-t", "3", "--log-dir", "/dev/null").logs
    assert (logs.redirects, logs.tee) == (Streams(0), Streams(0))


@pytest.mark.parametrize(
    ("words", "environ", "texts"),
    [
        ([], {}, ()),
        (["--duplicate-stdout-filters", "loss=,a,,b"], {}, ("loss=", "a,b")),
        (["--duplicate_stdout_filters", "a,,,b"], {}, ("a,", "b")),
        (["--duplicate-stdout-filters", ""], {}, ("",)),
        ([], {"PET_DUPLICATE_STDOUT_FILTERS": "x"}, ("x",)),
    ],
)
def test_texts_to_look_for_are_separated_as_torchrun_does(
    words: list[str], environ: dict[str, str], texts: tuple[str, ...]
) -> None:
    assert group("-t", "3", *words, environ=environ).logs.duplicate_stdout_filters == texts
    errors = [word.replace("stdout", "stderr") for word in words]
    environ = {name.replace("STDOUT", "STDERR"): value for name, value in environ.items()}
    assert group("-t", "3", *errors, environ=environ).logs.duplicate_stderr_filters == texts


@pytest.mark.parametrize("how", ["node", "socket", "exclusive", "core-complex"])
def test_a_numa_binding_says_on_which_cpus_each_worker_runs(how: Binding) -> None:
    ours = os.sched_getaffinity(0)
    assert group("--numa-binding", how).resources.cpus == bind_workers(how, 1, {}, ours)
    assert group().resources.cpus == ()


@pytest.mark.parametrize(
    ("template", "prefix"),
    [
        (None, "[${role_name}${local_rank}]:"),
        ("<${role_name}|$rank|${local_rank}> ", "<${role_name}|${rank}|${local_rank}> "),
        ("$$5 ${unknown} $", "$5 ${unknown} $"),
        ("", "[${role_name}${local_rank}]:"),
    ],
)
def test_the_prefix_template_is_pythons(template: str | None, prefix: str) -> None:
    environ = {} if template is None else {"TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": template}
    assert group(environ=environ).logs.prefix == prefix


def test_attempts_are_right_below_the_runs_directory() -> None:
    assert attempts_dir(plan(), group()) == PLACES.run_dir
    assert (plan().state_dir, plan().runtime_dir) == (PLACES.state_dir, PLACES.state_dir)


@pytest.mark.parametrize(
    ("name", "level"), [(None, "warning"), ("INFO", "info"), ("debug", "debug"), ("CRITICAL", "error"), ("", "warning")]
)
def test_loglevel_is_the_level_of_records(name: str | None, level: str) -> None:
    assert plan(environ={} if name is None else {"LOGLEVEL": name}).log_level == level


@pytest.mark.parametrize(
    ("given", "place"), [("null", ""), ("console", "console"), ("file:a/b", os.path.abspath("a/b")), ("file:/c", "/c")]
)
def test_torchelastics_events_and_metrics_go_where_they_are_asked_to(given: str, place: str) -> None:
    asked = plan("--event-log-handler", given, environ={"PET_TORCHELASTIC_METRICS": given})
    assert (asked.torchelastic_events, asked.torchelastic_metrics) == (place, place)
    assert (plan().torchelastic_events, plan().torchelastic_metrics) == ("", "")


def test_health_is_served_on_torchelastics_port_and_nowhere_without_it() -> None:
    assert plan().listen == ()
    assert plan(environ={"TORCHELASTIC_HEALTH_CHECK_PORT": "8080"}).listen == (":8080",)


# ---- what it says


@pytest.mark.parametrize(
    ("words", "environ", "word"),
    [
        (["--monitor-interval", "5"], {}, "--monitor-interval"),
        ([], {"PET_MONITOR_INTERVAL": "5"}, "--monitor-interval"),
        (["--standalone", "--node-rank", "1"], {}, "--node-rank"),
        (["-t", "2", "--duplicate-stdout-filters", "x"], {}, "--duplicate-stdout-filters"),
        (["--standalone", "--master-port", "1"], {}, "--master-port"),
    ],
)
def test_what_has_no_effect_is_said_to_have_none(words: list[str], environ: dict[str, str], word: str) -> None:
    (note,) = launch(*words, environ=environ).notes
    assert word in note
    assert launch(*words, environ=environ | {"LOGLEVEL": "ERROR"}).notes == ()


def test_several_workers_without_omp_num_threads_are_told_of_it() -> None:
    found = parsed("--nproc-per-node", "2", "train.py")
    (note,) = launch_of(found, {}, "host-a").notes
    assert "OMP_NUM_THREADS" in note
    assert launch_of(found, {"OMP_NUM_THREADS": "1"}, "host-a").notes == ()
    assert launch_of(parsed("train.py"), {}, "host-a").notes == ()


# ---- what it refuses

ETCD = ["--rdzv-backend", "etcd", "--rdzv-id", "job"]


@pytest.mark.parametrize(
    ("words", "environ", "said"),
    [
        (["--nnodes", "2:4"], {}, "--nnodes 2:4: static .*allowed: N"),
        (["--nnodes", "1:4", "--rdzv-backend", "c10d"], {}, "--nnodes 1:4: .*static"),
        (["--standalone", "--nnodes", "2"], {}, "--nnodes 2: --standalone is for one host"),
        (["--nnodes", "2", "--node-rank", "2"], {}, "--node-rank 2: of 2 hosts .*0 to 1"),
        (["--nnodes", "2", "--node-rank", "-1"], {}, "--node-rank -1"),
        (["--nnodes", "0"], {}, "--nnodes 0: .*MIN:MAX"),
        (["--nnodes", "3:2"], {}, "--nnodes 3:2: .*MIN:MAX"),
        (["--nnodes", "1:2:3"], {}, "--nnodes 1:2:3: .*MIN:MAX"),
        (["--rdzv-backend", "etcd"], {}, "--rdzv-id is missing"),
        ([*ETCD, "--rdzv-endpoint", "a:b"], {}, "--rdzv-endpoint a:b: "),
        ([*ETCD, "--rdzv-conf", "join_timeot=1"], {}, "--rdzv-conf join_timeot: .*join_timeout"),
        ([*ETCD, "--rdzv-conf", "join_timeout=soon"], {}, "--rdzv-conf join_timeout: "),
        ([*ETCD, "--rdzv-conf", "lease_ttl=1"], {}, "--rdzv-conf lease_ttl: "),
        ([*ETCD, "--rdzv-conf", "protocol=ftp"], {}, "--rdzv-conf protocol: 'ftp' is none of http, https"),
        ([*ETCD, "--rdzv-conf", "protocol=https,cert=c"], {}, "--rdzv-conf: cert and key go together"),
        ([*ETCD, "--rdzv-conf", "ca=c"], {}, "--rdzv-conf: ca is for protocol=https, and etcd is asked by http"),
        (["--rdzv-backend", "etcd-v2"], {}, "--rdzv-id is missing"),
        (["--rdzv-backend", "mine"], {}, "--rdzv-backend mine: .*torch.*allowed: c10d, etcd, static"),
        (["--rdzv-endpoint", "host-a"], {}, "--rdzv-endpoint host-a: .*HOST:PORT"),
        (["--master-port", "70000"], {}, "MASTER_PORT 70000"),
        (["--master-port", "1", "--node-rank", "1"], {}, "--node-rank 1"),
        (["--rdzv-backend", "c10d", "--rdzv-id", "a/b"], {}, "--rdzv-id 'a/b'"),
        (["--rdzv-conf", "join_timeout"], {}, "--rdzv-conf: 'join_timeout'"),
        (["--rdzv-conf", "a=1,"], {}, "--rdzv-conf: ''"),
        (["--rdzv-conf", "is_host=false"], {}, "--rdzv-conf: is_host"),
        (["--nproc-per-node", "0"], {}, "--nproc-per-node: .*at least 1"),
        (["--nproc-per-node", "hpu"], {}, "--nproc-per-node: 'hpu'.*auto, cpu, gpu, xpu"),
        (["--nproc-per-node", "gpu"], {"CUDA_VISIBLE_DEVICES": ""}, "--nproc-per-node: gpu: CUDA_VISIBLE_DEVICES=''"),
        (["--max-restarts", "-1"], {}, "--max-restarts -1"),
        (["--shutdown-timeout", "-1"], {}, "--shutdown-timeout: '-1' is no time"),
        ([], {"PET_SHUTDOWN_TIMEOUT": "-2"}, "--shutdown-timeout: '-2' is no time"),
        ([], {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "soon"}, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT: 'soon' is no time"),
        (["--signals-to-handle", "SIGNOPE"], {}, "--signals-to-handle: .*SIGNOPE"),
        (["--signals-to-handle", "SIGKILL"], {}, "--signals-to-handle: signal 9"),
        (["--redirects", "4"], {}, "--redirects: "),
        (["--tee", "0:1,"], {}, "--tee: "),
        (["--local-ranks-filter", "0-3"], {}, "--local-ranks-filter: '0-3'"),
        (["--no-python", "-m"], {}, "--no-python and --module"),
        (
            ["--numa-binding", "exclusive", "--nproc-per-node", "65000"],
            {},
            "--numa-binding: exclusive is not possible",
        ),
        (["--run-path", "--start-method", "fork"], {}, "--start-method fork"),
        (["--logs-specs", "mine"], {}, "--logs-specs mine: no package has such an entry point .*default"),
        ([], {"LOGLEVEL": "LOUD"}, "LOGLEVEL: 'LOUD'"),
        ([], {"TORCHELASTIC_HEALTH_CHECK_PORT": "http"}, "TORCHELASTIC_HEALTH_CHECK_PORT: 'http'"),
        (
            ["--nproc-per-node=1000", "--numa-binding=exclusive"],
            {},
            "--numa-binding: exclusive is not possible",
        ),
        (
            ["--event-log-handler", "kafka"],
            {},
            "--event-log-handler: 'kafka'.*null, console, dynamic_rendezvous, file:PATH",
        ),
        (["--event-log-handler", "file:"], {}, "--event-log-handler: 'file:'"),
        (["--torchelastic-metrics", "x"], {}, "--torchelastic-metrics: 'x'.*null, console, file:PATH"),
    ],
)
def test_what_cannot_be_had_is_refused_with_words(words: list[str], environ: dict[str, str], said: str) -> None:
    with pytest.raises(WrongUsage) as wrong:
        launch(*words, environ=environ)
    assert wrong.value.exit_code == 64
    assert re.match(said, str(wrong.value)), wrong.value
    assert len(str(wrong.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        (["--event-log-handler", "dynamic_rendezvous", "--logs-specs", "default", "--start-method", "fork"], {}),
        (["--rdzv-conf", " join_timeout = 600 , is_host=1"], {}),
        ([], {"TORCHELASTIC_ENABLE_FILE_TIMER": "0", "TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT": "off"}),
    ],
)
def test_what_changes_nothing_on_one_host_is_taken(words: list[str], environ: dict[str, str]) -> None:
    assert launch(*words, environ=environ).notes == ()


def test_each_logs_specs_that_may_be_asked_for_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch itself installs one that is called default."""
    package = tmp_path / "some_logs-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Name: some-logs\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[torchrun.logs_specs]\ndefault = a:B\nmine = a:C\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WrongUsage, match=r"\(allowed: default, mine\)"):
        launch("--logs-specs", "yours")


def test_all_reasons_are_told_at_once() -> None:
    with pytest.raises(WrongUsage) as wrong:
        launch("--nnodes", "0", "--tee", "9", "--max-restarts", "-3")
    assert [line.removeprefix("rankd: ").split()[0] for line in str(wrong.value).splitlines()] == [
        "--nnodes", "--tee:", "--max-restarts",
    ]  # fmt: skip


def test_somebody_elses_logs_specs_are_not_loaded_where_the_daemon_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "somebody_elses_logs-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Name: somebody-elses-logs\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[torchrun.logs_specs]\nmine = somebody_elses_logs:Specs\n")
    (tmp_path / "somebody_elses_logs.py").write_text("raise SystemExit('not here')")
    monkeypatch.syspath_prepend(tmp_path)
    assert launch("--logs-specs", "mine").logs_specs == "mine"
    assert launch("--logs-specs", "default").logs_specs == ""


def test_torchs_watchdog_is_what_its_variables_say() -> None:
    off = group().watchdog
    assert (off.timer_file, off.notify, off.uninterruptible) == (False, False, 0.0)
    environ = {
        "TORCHELASTIC_ENABLE_FILE_TIMER": "1", "TORCHELASTIC_TIMER_FILE": "/tmp/timers",
        "TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT": "2.5",
    }  # fmt: skip
    on = group(environ=environ).watchdog
    assert (on.timer_file, on.timer_path, on.uninterruptible) == (True, "/tmp/timers", 2.5)


@pytest.mark.parametrize("text", ["", "off", "0", "-1", "nan"])
def test_no_positive_time_in_d_state_is_no_limit(text: str) -> None:
    assert group(environ={"TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT": text}).watchdog.uninterruptible == 0.0
