"""A HAProxy on loopback, and what it thinks of its servers."""

from __future__ import annotations

import csv
import io
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.rankd import until
from tests.ports import free_port

NAME = "haproxy"
needed = pytest.mark.skipif(
    shutil.which(NAME, path="/usr/sbin:/usr/bin") is None, reason="needs HAProxy: apt-get install haproxy"
)

GLOBAL = """
global
    stats socket {folder}/admin.sock level admin
defaults
    mode http
    timeout connect 2s
    timeout client 10s
    timeout server 10s
    timeout check 2s
    retries 3
    option redispatch
frontend all
    bind 127.0.0.1:{port}
    default_backend jobs
backend jobs
"""


class Proxy:
    """One that runs. ``port`` is where its clients connect."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self._admin = folder / "admin.sock"

    def listens(self) -> bool:
        """Its socket is there before anybody listens on it."""
        with socket.socket(socket.AF_UNIX) as plug:
            return plug.connect_ex(str(self._admin)) == 0

    def server(self, name: str) -> dict[str, str]:
        """What ``show stat`` says of one server: status, weight, check_status, agent_status and more."""
        with socket.socket(socket.AF_UNIX) as plug:
            plug.settimeout(10)
            plug.connect(str(self._admin))
            plug.sendall(b"show stat\n")
            with plug.makefile() as answer:
                text = answer.read()
        rows = csv.DictReader(io.StringIO(text.removeprefix("# ")))
        (found,) = [row for row in rows if row["svname"] == name]
        return {key: value.removeprefix("* ") for key, value in found.items()}  # the star: a check is under way

    def until(self, name: str, **shown: str) -> None:
        """Wait until HAProxy shows the server so."""
        last: dict[str, str] = {}

        def is_shown() -> bool:
            last.update(self.server(name))
            return all(last[key] == value for key, value in shown.items())

        try:
            until(is_shown, f"{name} with {shown}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {last}") from None


@contextmanager
def haproxy(folder: Path, backend: str) -> Iterator[Proxy]:
    """Run it with these lines as its backend."""
    port = free_port()
    file = folder / "haproxy.cfg"
    lines = "".join(f"    {line.strip()}\n" for line in backend.strip().splitlines())
    file.write_text(GLOBAL.format(folder=folder, port=port) + lines)
    program = shutil.which(NAME, path="/usr/sbin:/usr/bin")
    assert program is not None
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([program, "-db", "-f", str(file)], stdout=log, stderr=log)
        try:
            proxy = Proxy(folder, port)
            until(proxy.listens, "HAProxy")
            yield proxy
        finally:
            process.terminate()
            process.wait(10)
