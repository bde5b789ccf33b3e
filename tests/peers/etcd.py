"""A real etcd on loopback: one member or several, each with ports and a data directory of its own."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from supervisor.peers.etcd import EtcdStore
from tests.ports import free_port

INSTALLED = shutil.which("etcd") is not None

needs_etcd = pytest.mark.skipif(not INSTALLED, reason="no etcd here; install it with: apt-get install etcd-server")

MEMORY = "/dev/shm"
"""etcd waits for its disk with every transaction, and other tests keep that busy: no power failure is tested here."""


class Member:
    """One member of a cluster, started and ended at will."""

    def __init__(
        self, name: str, directory: Path, scheme: str = "http", flags: Sequence[str] = (),
        address: str = "127.0.0.1", through: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.name = name
        self.client_url = f"{scheme}://{address}:{free_port()}"
        self.peer_url = f"http://127.0.0.1:{free_port()}"
        self._through = through
        self.directory = directory
        self.data = tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
        self.flags = list(flags)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, cluster: str) -> None:
        with open(self.directory / f"{self.name}.log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._through, "etcd", "--name", self.name, "--data-dir", self.data.name,
                    "--listen-client-urls", self.client_url, "--advertise-client-urls", self.client_url,
                    "--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url,
                    "--initial-cluster", cluster, "--heartbeat-interval", "50", "--election-timeout", "500",
                    *self.flags,
                ],
                stdout=log, stderr=log, env={**os.environ, "ETCD_UNSUPPORTED_ARCH": os.uname().machine},
            )  # fmt: skip

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Etcd:
    """A cluster of ``members``. ``address`` is where clients find them; ``through``: argv to put before etcd's own."""

    def __init__(
        self, directory: Path, members: int = 1, scheme: str = "http", flags: Sequence[str] = (),
        address: str = "127.0.0.1", through: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.members = [Member(f"m{number}", directory, scheme, flags, address, through) for number in range(members)]
        self._cluster = ",".join(f"{member.name}={member.peer_url}" for member in self.members)

    @property
    def endpoints(self) -> list[str]:
        return [member.client_url for member in self.members]

    def start(self) -> None:
        for member in self.members:
            self.start_member(member)

    def start_member(self, member: Member) -> None:
        member.start(self._cluster)

    async def answers(self) -> None:
        """Returns once the cluster does."""
        store = EtcdStore(self.endpoints, chance=random.Random(1))
        try:
            await ready(store)
        finally:
            await store.close()

    def stop(self) -> None:
        for member in self.members:
            member.kill()
            member.data.cleanup()


async def ready(store: EtcdStore) -> None:
    """Returns once etcd answers; the time limit of the test bounds it."""
    async with asyncio.timeout(30):
        while True:
            try:
                await store.range("ready")
            except Exception as error:  # noqa: BLE001 - whatever it is, etcd is not there yet
                print(f"not yet: {error}")
            else:
                return


async def ask(endpoint: str, path: str, body: dict[str, object], token: str = "") -> dict[str, object]:
    """What an administrator would do: one plain request, past the client under test."""
    headers = {"Authorization": token} if token else {}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{endpoint}/v3/{path}", json=body, headers=headers) as got,
    ):
        answer: dict[str, object] = await got.json()
        assert got.status == 200, answer
        return answer
