"""Records go through the store unchanged, and nothing else that may be there comes out of it as one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from supervisor.core.rendezvous import Form, Host, Round, Seat, Verdict
from supervisor.peers.records import Keys, Unreadable, pieces, read_host, read_leader, read_round, read_seat, written
from supervisor.peers.store import Put

DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs/hosts.md"

TEXT = st.text(max_size=50).filter(lambda text: text.isprintable())
NUMBER = st.integers(0, 2**53 - 1)
CLOSED = Round(3, "closed", "over", 1, 2, 4, "a", 9, Verdict("failed", "rank 0 has failed", 3))
HOST = Host("a", "life", "a.example", 4000, 2, "trainer")


@seed(20261122)
@given(st.builds(Host, TEXT, TEXT, TEXT, st.integers(1, 65535), st.integers(1, 99), TEXT, NUMBER, NUMBER))
def test_a_host_is_read_as_it_was_written(host: Host) -> None:
    assert read_host(written(host), host.name, host.arrived) == host


@seed(20261122)
@given(st.builds(Seat, TEXT, TEXT, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, st.booleans()))
def test_a_seat_is_read_as_it_was_written(seat: Seat) -> None:
    assert read_seat(written(seat), seat.host) == seat


@pytest.mark.parametrize("round", [CLOSED, Round(1, "open", "why"), Round(2, "formed", "why", 1, 2, 4, "a", 9)])
def test_a_round_is_read_as_it_was_written(round: Round) -> None:
    assert read_round(written(round)) == round


def test_what_a_later_version_has_added_is_passed_over() -> None:
    assert read_round(json.dumps({**json.loads(written(CLOSED)), "news": [1]}).encode()) == CLOSED


def test_the_documentation_shows_records_as_they_are_written() -> None:
    shown = re.findall(r"^(/rankd/\S+)\n(\{.*\})$", DOCUMENTATION.read_text(), re.MULTILINE)
    keys = Keys.of("/rankd", "job-42", "trainer")
    (_, round), (_, host), (_, seat) = shown
    assert [key for key, _ in shown] == [keys.round, keys.host("host-c"), keys.seat("host-b")]
    assert written(read_round(round.encode())).decode() == round
    assert written(read_host(host.encode(), "host-c", 0)).decode() == host
    assert written(read_seat(seat.encode(), "host-b")).decode() == seat


def test_the_name_of_who_leads_is_cut_where_no_host_name_goes_on() -> None:
    assert read_leader(b"host-a") == "host-a"
    assert len(read_leader(b"\xff" * 10**6)) == 255


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@seed(20261122)
@given(st.sampled_from(sorted(json.loads(written(CLOSED)))), JSON)
def test_a_field_of_another_kind_is_unreadable_and_nothing_worse(name: str, value: Any) -> None:
    data = {**json.loads(written(CLOSED)), name: value}
    try:
        round = read_round(json.dumps(data).encode())
    except Unreadable:
        return
    assert json.loads(written(round))[name] == value


@seed(20261122)
@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_junk_is_unreadable(value: bytes) -> None:
    for read in (read_round, lambda value: read_host(value, "a", 1), lambda value: read_seat(value, "a")):
        with pytest.raises(Unreadable):
            read(value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"v": 2}, "it has version 2, not 1"),
        ({"v": True, "number": 1}, "it has version True, not 1"),
        ({"phase": "ajar"}, "'ajar' is no phase of a round"),
        ({"phase": "formed"}, "a round has a verdict when it is closed, and not when it is formed"),
        ({"verdict": None}, "a round has a verdict when it is closed, and not when it is formed"),
        ({"because": "of"}, "'of' is no reason for a round"),
        ({"verdict": {"outcome": "drawn", "why": "", "exit_code": 0}}, "'drawn' is no outcome"),
        ({"verdict": 5}, "outcome is missing"),
        ({"number": True}, "number is not of type int"),
        ({"number": -1}, "number is out of range"),
        ({"world_size": 2**60}, "world_size is out of range"),
        ({"why": "x" * 5000}, "why is too long"),
        ({"why": "x" * 20000}, "bytes are too many"),
    ],
)  # fmt: skip
def test_why_a_round_is_unreadable_is_said(change: dict[str, Any], why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        read_round(json.dumps({**json.loads(written(CLOSED)), **change}).encode())


def test_a_record_under_another_name_or_of_nothing_is_unreadable() -> None:
    with pytest.raises(Unreadable, match="under the name 'b'"):
        read_host(written(HOST), "b", 1)
    with pytest.raises(Unreadable, match="under the name 'b'"):
        read_seat(written(Seat("a", "1", 1, 0, 0, 0, 2)), "b")
    with pytest.raises(Unreadable, match="0 workers"):
        read_host(written(Host("a", "1", "", 4000, 0, "")), "a", 1)


@pytest.mark.parametrize("name", ["a", "a/b", "ä b", "%2F", ".."])
def test_any_name_is_a_key_of_its_own(name: str) -> None:
    keys = Keys.of("/rankd/", "run/1", "trainer")
    assert keys.base == "/rankd/run%2F1/trainer"
    assert keys.host_of(keys.host(name)) == name
    assert keys.seat_of(keys.seat(name)) == name
    assert keys.host(name).count("/") == keys.round.count("/")
    assert keys.host_of(keys.seat(name)) is keys.seat_of(keys.round) is None


def test_the_round_is_written_after_all_seats_and_what_is_unseated() -> None:
    keys = Keys.of("", "run", "trainer")
    seats = tuple(Seat(f"h{number}", "1", 1, number, 0, 0, 0) for number in range(300))
    batches = pieces(Form(Round(1, "formed", "why"), seats, ("old",)), keys)
    assert [len(batch) for batch in batches] == [128, 128, 46]
    assert batches[-1][-1] == Put(keys.round, written(Round(1, "formed", "why")))
    assert len({operation.key for batch in batches for operation in batch}) == 302
