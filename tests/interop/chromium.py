"""A headless Chromium on loopback, by its DevTools protocol: what a person in front of it would see."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.end_to_end.rankd import PATIENCE

NAME = next(filter(shutil.which, ("chromium-headless-shell", "chromium")), "")
needed = pytest.mark.skipif(not NAME, reason="needs Chromium: apt-get install chromium-headless-shell")


class Tab:
    """One page. ``complaints`` are what a console would show: errors, and what the page's policy has blocked."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.complaints: list[str] = []
        self._socket = socket
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._loaded = asyncio.Event()
        self._session = ""
        self._asked = 0

    async def listen(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
            elif told["method"] == "Page.loadEventFired":
                self._loaded.set()
            elif told["method"] in {"Runtime.exceptionThrown", "Log.entryAdded"}:
                self.complaints.append(json.dumps(told["params"]))

    async def call(self, method: str, **parameters: Any) -> Any:
        self._asked += 1
        number = self._asked
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json(
            {"id": number, "method": method, "params": parameters}
            | ({"sessionId": self._session} if self._session else {})
        )
        told = await asyncio.wait_for(answer, PATIENCE)
        assert "result" in told, told
        return told["result"]

    async def attach(self) -> None:
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        attached = await self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")

    async def open(self, url: str) -> None:
        """Returns when the page is loaded."""
        self._loaded.clear()
        told = await self.call("Page.navigate", url=url)
        assert not told.get("errorText"), told
        await asyncio.wait_for(self._loaded.wait(), PATIENCE)

    async def ask(self, expression: str) -> Any:
        """The value of an expression of JavaScript; of what a promise gives, if it is one."""
        told = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait until an expression is true: it is asked again whenever anything on the page has changed."""
        true = await self.ask(
            f"""new Promise((resolve) => {{
                let watch, late;
                const look = () => {{
                    if (!({condition})) return;
                    watch.disconnect(); clearTimeout(late); resolve(true);
                }};
                watch = new MutationObserver(look);
                watch.observe(document, {{subtree: true, childList: true, attributes: true, characterData: true}});
                late = setTimeout(() => resolve(false), {PATIENCE * 900});
                look();
            }})"""
        )
        assert true, f"never: {condition}; the page: {await self.ask('document.body.innerText')}"

    async def look_like(self, *, width: int, height: int, dark: bool = False, phone: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        scheme = "dark" if dark else "light"
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def picture(self, file: Path) -> None:
        """A PNG of the whole page, for people to look at."""
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        await asyncio.to_thread(file.write_bytes, base64.b64decode(shot["data"]))


@asynccontextmanager
async def tab(folder: Path) -> AsyncIterator[Tab]:
    """A browser of its own, with nothing of an earlier one."""
    browser = await asyncio.create_subprocess_exec(
        NAME, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--remote-debugging-port=0", f"--user-data-dir={folder}", stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    assert browser.stderr is not None
    try:
        address = await asyncio.wait_for(_address(browser.stderr), PATIENCE)
        async with aiohttp.ClientSession() as http, http.ws_connect(address, max_msg_size=0) as socket:
            page = Tab(socket)
            listening = asyncio.create_task(page.listen())
            await page.attach()
            yield page
            listening.cancel()
    finally:
        os.killpg(browser.pid, signal.SIGKILL)  # it has a session of its own, and a dozen children
        await browser.wait()


async def _address(told: asyncio.StreamReader) -> str:
    async for line in told:
        if found := re.search(rb"DevTools listening on (ws://127\.0\.0\.1:\S+)", line):
            return found[1].decode()
    raise AssertionError("Chromium has ended")
