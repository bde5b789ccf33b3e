"""Fixed hosts without a store: two daemons on one machine, each by the address and the number of its own host."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.end_to_end.configs import python, table
from tests.end_to_end.conftest import Start
from tests.end_to_end.launching import launched
from tests.ports import free_port

NAMES = (
    "RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_RANK",
    "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
TELL = f"import os; print('seen', *(os.environ[name] for name in {NAMES!r}))"
FAILS_ONCE = "import os, sys; sys.exit(3 if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' else 0)"


def host(number: int, port: int, script: str) -> str:
    return (
        table("daemon", node_id=f"host-{number}", run_id="fixed")
        + table("rendezvous", backend="static")
        + table("groups.job", command=python(script), workers=2)
        + table("groups.job.rendezvous", nodes=2, node_rank=number, master_addr="127.0.0.1", master_port=port)
    )


def test_two_hosts_share_one_world(rankd: Start) -> None:
    port = free_port()
    daemons = [rankd(host(number, port, TELL)) for number in range(2)]
    assert [daemon.wait() for daemon in daemons] == [0, 0]
    for number, daemon in enumerate(daemons):
        for local_rank in range(2):
            (line,) = daemon.log("job", 0, local_rank).read_text().splitlines()
            rank = str(2 * number + local_rank)
            told = [rank, str(local_rank), str(number), "4", "2", "2", rank, "4", "127.0.0.1", str(port)]
            assert line.split() == ["seen", *told]
        daemon.wait_for("worker.started", rank=2 * number)


def test_nobody_tells_the_other_hosts_of_a_failure(rankd: Start) -> None:
    """Host 1 restarts its own workers; those of host 0 go on as if nothing had been."""
    port = free_port()
    steady = rankd(host(0, port, "import time; print('up'); time.sleep(1000)"))
    steady.wait_for("group.ready")
    failing = rankd(host(1, port, FAILS_ONCE))
    assert failing.wait() == 0
    failing.wait_for("group.succeeded", restarts=1)
    assert not steady.all("group.restarting")
    assert steady.stop() == 0


def test_launch_takes_torchruns_words_for_it(tmp_path: Path) -> None:
    """``--nnodes``, ``--node-rank``, ``--master-addr``, ``--master-port``, as on each of torchrun's hosts."""
    script, port = tmp_path / "job.py", str(free_port())
    script.write_text(TELL)
    words = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}", "--rdzv-id=fixed"]
    with (
        launched(tmp_path, *words, "--node-rank=0", script) as first,
        launched(tmp_path, *words, "--node-rank=1", script) as second,
    ):
        said = [one.communicate(timeout=45)[0] for one in (first, second)]
        assert (first.returncode, second.returncode) == (0, 0)
    for number, line in enumerate(said):
        assert line.split() == [
            "seen",
            str(number),
            "0",
            str(number),
            "2",
            "1",
            "2",
            str(number),
            "2",
            "127.0.0.1",
            port,
        ]


def test_who_is_not_host_0_needs_no_port_of_its_own(rankd: Start) -> None:
    """MASTER_PORT has to be free where rank 0 is, and only there."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert rankd(host(1, port, TELL)).wait() == 0
        refused = rankd(host(0, port, TELL) + table("groups.job.restart", policy="never"))
        assert refused.wait() == 75
        assert f"port {port} is in use" in refused.wait_for("group.failed")["message"]
