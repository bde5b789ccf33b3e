"""What the project hands out works as it says: the quickstart, README's commands, the units, every configuration."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import ROOT, rankd_command

pytestmark = pytest.mark.end_to_end

MANUAL = "\n".join(path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))))
UNITS = ROOT / "systemd"


def blocks(language: str) -> list[str]:
    """The fenced blocks of that language in README and docs."""
    return re.findall(rf"^```{language}\n(.*?)^```$", MANUAL, re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[str]:
    """Lines of README's sh blocks that call it."""
    lines = [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.split()[:1] == [program]]


def test_the_quickstart_crashes_once_resumes_and_succeeds(rankd: Start) -> None:
    daemon = rankd(ROOT / "config" / "quickstart.toml")
    assert daemon.wait() == 0
    daemon.wait_for("worker.failed", rank=2, exit_code=3, root_cause=True)
    assert len(daemon.all("worker.failed")) == 1
    daemon.wait_for("group.restarting", group="trainer", restarts_left=2)
    daemon.wait_for("group.succeeded", group="trainer", restarts=1)
    daemon.wait_for_line("resuming from the checkpoint of step 15")
    daemon.wait_for_line("step 30/30")
    assert "[trainer 0] done: y = 3.00 x + 1.00" in daemon.console
    again = rankd(ROOT / "config" / "quickstart.toml", env={"STATE_DIRECTORY": str(daemon.directory / "state")})
    assert again.wait() == 0
    again.wait_for_line("step  1/30")


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.toml")), ids=lambda path: path.name)
def test_every_configuration_is_valid(path: Path) -> None:
    done = rankd_command("check", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", commands("make"))
def test_the_make_commands_of_readme_exist(command: str) -> None:
    target = command.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", [line for line in commands("rankd") if line.split()[1] != "run"])
def test_the_rankd_commands_of_readme_run(command: str) -> None:
    done = rankd_command(*command.split()[1:])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("text", blocks("toml"))
def test_the_configurations_of_readme_are_valid(text: str, tmp_path: Path) -> None:
    path = tmp_path / "readme.toml"
    path.write_text(text)
    done = rankd_command("check", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd")
@pytest.mark.parametrize("unit", ["rankd.service", "rankd@.service"])
def test_systemd_has_nothing_to_say_about_the_units(unit: str, tmp_path: Path) -> None:
    text = (UNITS / unit).read_text()
    program = "/opt/rankd/bin/rankd"
    assert f"ExecStart={program} run /etc/rankd/" in text
    placed = tmp_path / unit
    placed.write_text(text.replace(program, "/bin/true"))  # verify looks for the program
    instance = str(placed).replace("@.", "@job.")
    done = subprocess.run(["systemd-analyze", "verify", instance], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="needs systemd-sysusers: apt-get install systemd")
def test_sysusers_makes_the_units_user(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    shutil.copytree(UNITS / "sysusers.d", tmp_path / "etc/sysusers.d")
    done = subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", "rankd.conf"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    user = (tmp_path / "etc/passwd").read_text().split(":")
    assert (user[0], user[5], user[6].strip()) == ("rankd", "/var/lib/rankd", "/usr/sbin/nologin")
    assert re.search("^User=rankd$", (UNITS / "rankd.service").read_text(), re.MULTILINE)


def test_the_unit_waits_longer_than_the_default_ladder() -> None:
    unit = (UNITS / "rankd.service").read_text()
    (waits,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(waits) > 30 + 10


def test_both_units_are_the_same_but_for_their_names() -> None:
    one = (UNITS / "rankd.service").read_text()
    many = (UNITS / "rankd@.service").read_text().partition("\n")[2]
    assert many.replace("rankd-%i", "rankd").replace("%i.toml", "rankd.toml").replace(" (%i)", "") == one
