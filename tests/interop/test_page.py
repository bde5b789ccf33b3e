"""The status page in a real browser, of a real daemon."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.end_to_end.configs import SLEEP, group, python
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import ROOT, Rankd
from tests.interop import chromium
from tests.interop.chromium import Tab

pytestmark = [pytest.mark.end_to_end, chromium.needed]

AGAIN = {"max_restarts": 5, "backoff": {"initial": "0s"}}
HOSTILE = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from supervisor.worker import ready, status
status("<img src=x onerror=document.title='owned'><script>document.title='owned'</script>&amp;")
ready()
os.read(os.pipe()[0], 1)
"""


@pytest.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    async with chromium.tab(tmp_path / "chromium") as page:
        yield page
        assert not page.complaints


def url(daemon: Rankd) -> str:
    return f"http://{daemon.wait_for('health.listening')['addresses'][0]}/"


async def test_the_first_view_needs_no_script(rankd: Start, tab: Tab) -> None:
    daemon = rankd(group("trainer", SLEEP, workers=4) + group("cache", SLEEP, required=False))
    daemon.wait_for("daemon.ready")
    await tab.call("Emulation.setScriptExecutionDisabled", value=True)
    await tab.open(url(daemon))
    seen = await tab.ask("document.querySelector('main').innerText")
    for words in ("ready", "trainer", "running", "4/4", "cache", "1/1"):
        assert words in seen
    assert await tab.ask("document.querySelectorAll('#group-trainer .ranks .ready').length") == 4


async def test_what_happens_is_on_the_page_without_loading_it_again(rankd: Start, tab: Tab) -> None:
    daemon = rankd(group("trainer", SLEEP, workers=2, restart=AGAIN))
    daemon.wait_for("daemon.ready")
    await tab.open(url(daemon))
    await tab.ask("window.mine = true, document.querySelector('details').open = true")
    os.kill(daemon.all("worker.started")[1]["pid"], signal.SIGSEGV)
    await tab.until("document.querySelector('.reason')?.innerText.includes('SIGSEGV')")
    await tab.until("document.querySelectorAll('.ranks .ready').length == 2")
    assert await tab.ask("window.mine") is True
    assert await tab.ask("document.querySelector('details').open") is True, "what somebody opened stays open"
    assert await tab.ask("document.querySelectorAll('.life .cause').length") == 1
    assert await tab.ask("document.querySelectorAll('.life .starting').length") == 2


async def test_a_daemon_that_has_gone_is_not_shown_as_if_it_were_there(rankd: Start, tab: Tab) -> None:
    daemon = rankd(group("trainer", SLEEP))
    daemon.wait_for("daemon.ready")
    await tab.open(url(daemon))
    assert await tab.ask("document.getElementById('contact').hidden") is True
    assert daemon.stop() == 0
    await tab.until("!document.getElementById('contact').hidden")
    assert "No contact" in await tab.ask("document.getElementById('contact').innerText")
    tab.complaints.clear()  # of connections refused


async def test_what_a_worker_says_is_text_whatever_it_says(rankd: Start, tab: Tab) -> None:
    daemon = rankd(group("trainer", python(HOSTILE), watchdog={"start_timeout": "60s"}))
    daemon.wait_for("worker.ready")
    await tab.open(url(daemon))
    seen = await tab.ask("document.querySelector('details').open = true, document.querySelector('table').innerText")
    assert "<img src=x onerror=document.title='owned'>" in seen
    assert "&amp;" in seen
    assert await tab.ask("document.querySelectorAll('main img, main script').length") == 0
    assert "owned" not in await tab.ask("document.title")


async def test_the_policy_stops_a_script_that_got_in_all_the_same(rankd: Start, tab: Tab) -> None:
    daemon = rankd(group("trainer", SLEEP))
    daemon.wait_for("daemon.ready")
    await tab.open(url(daemon))
    await tab.ask(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.owned = true'}))"
    )
    assert await tab.ask("window.owned === undefined") is True
    assert any("Content Security Policy" in complaint for complaint in tab.complaints)
    tab.complaints.clear()


@pytest.mark.parametrize(
    ("dark", "width", "red"), [(False, 1100, "rgb(201, 37, 45)"), (True, 390, "rgb(255, 107, 102)")]
)
async def test_it_is_readable_by_day_and_by_night_on_a_screen_and_on_a_phone(
    dark: bool, width: int, red: str, rankd: Start, tab: Tab, tmp_path: Path
) -> None:
    crash = python("import os, signal\nif os.environ['RANK'] == '3': os.abort()\nsignal.pause()")
    daemon = rankd(
        group("trainer", SLEEP, workers=256)
        + group("exporter", crash, workers=4, required=False, restart={"max_restarts": 0})
    )
    daemon.wait_for("group.failed")
    daemon.wait_for("daemon.ready")
    await tab.look_like(width=width, height=900, dark=dark, phone=width < 500)
    await tab.open(url(daemon))
    assert await tab.ask("getComputedStyle(document.querySelector('.ranks .failed')).backgroundColor") == red
    assert await tab.ask("document.documentElement.scrollWidth") <= width, "nobody has to scroll sideways"
    assert await tab.ask("parseFloat(getComputedStyle(document.body).fontSize)") >= 14
    await tab.picture(tmp_path / "page.png")
