"""What people may write for a duration, a signal, streams and the like, and what they are told otherwise."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import values
from supervisor.plan import Limit, Streams

number = partial(values.limit, unit="number")
size_limit = partial(values.limit, unit="bytes")
time_limit = partial(values.limit, unit="seconds")


@pytest.mark.parametrize(
    ("read", "written", "meant"),
    [
        (values.duration, 0, 0.0),
        (values.duration, 1.5, 1.5),
        (values.duration, "500ms", 0.5),
        (values.duration, "30s", 30.0),
        (values.duration, "30 s", 30.0),
        (values.duration, "1.5m", 90.0),
        (values.duration, "2h", 7200.0),
        (values.size, 65536, 65536),
        (values.size, "0", 0),
        (values.size, "512B", 512),
        (values.size, "64KiB", 65536),
        (values.size, "10MB", 10_000_000),
        (values.size, "1.5 GiB", 3 << 29),
        (values.size, "0.3kB", 300),
        (values.size, "8388607.9TiB", (83886079 << 40) // 10),
        (number, 1024, Limit(1024, 1024)),
        (number, "unlimited", Limit(-1, -1)),
        (number, {"soft": 1024}, Limit(1024, None)),
        (number, {"hard": 0}, Limit(None, 0)),
        (number, {"soft": 1024, "hard": "unlimited"}, Limit(1024, -1)),
        (size_limit, "64KiB", Limit(65536, 65536)),
        (size_limit, {"soft": "1MB", "hard": 1_000_000}, Limit(1_000_000, 1_000_000)),
        (time_limit, "2h", Limit(7200, 7200)),
        (time_limit, 90, Limit(90, 90)),
        (values.cpu_max, 1.5, "150000 100000"),
        (values.cpu_max, "2", "200000 100000"),
        (values.cpu_max, "5000 20000", "5000 20000"),
        (values.cpu_max, 0, ""),
        (values.cpu_max, "0", ""),
        (values.cpu_sets, "auto", None),
        (values.cpu_sets, "none", ()),
        (values.cpu_sets, "0-2,8", (frozenset({0, 1, 2, 8}),)),
        (values.cpu_sets, "0-1;2;3,3", (frozenset({0, 1}), frozenset({2}), frozenset({3}))),
        (values.signal_number, "SIGTERM", 15),
        (values.signal_number, "TERM", 15),
        (values.signal_number, "int", 2),
        (values.signal_number, 9, 9),
        (values.signal_number, "SIGRTMAX", signal.SIGRTMAX),
        (values.streams, "3", Streams(3)),
        (values.streams, "0:1,3:2", Streams(0, {0: 1, 3: 2})),
        (values.streams, "123:3,00:1", Streams(0, {123: 3, 0: 1})),
        (values.workers, 4, 4),
        (values.workers, "gpu", "gpu"),
        (values.umask, "0022", 0o22),
        (values.umask, "777", 0o777),
        (values.account, "train", "train"),
        (values.account, 1000, "1000"),
        (values.account, "1000", "1000"),
        (values.path, "a/~b", "a/~b"),
        (values.tcp_address, "127.0.0.1:8000", ("127.0.0.1", 8000)),
        (values.tcp_address, "[::1]:1", ("::1", 1)),
        (values.tcp_address, "localhost:65535", ("localhost", 65535)),
        (values.http_url, "http://127.0.0.1", ("127.0.0.1", 80, "/")),
        (values.http_url, "http://[::1]:81/a/b?c=d", ("::1", 81, "/a/b?c=d")),
        (values.http_url, "http://[::1]", ("::1", 80, "/")),
        (values.http_url, "http://localhost:81?c", ("localhost", 81, "/?c")),
    ],
)
def test_a_value_means_what_people_think(read: Callable[[Any], object], written: object, meant: object) -> None:
    found = read(written)
    assert found == meant
    assert type(found) is type(meant) or isinstance(meant, signal.Signals)


@pytest.mark.parametrize(
    ("read", "written", "words"),
    [
        (values.duration, "30 sec", '"30 sec" is not a duration (allowed: seconds as a number, or "500ms", "30s"'),
        (values.duration, "", '"" is not a duration'),
        (values.duration, "30s\n", "is not a duration"),
        (values.duration, True, "true is not a duration"),
        (values.duration, [5], "a list is not a duration"),
        (values.duration, math.inf, "inf is not a duration"),
        (values.duration, math.nan, "nan is not a duration"),
        (values.duration, "9" * 400 + "s", "is not a duration"),
        (values.duration, -1, "-1 is negative"),
        (values.duration, "-5s", '"-5s" is negative (allowed: 0 and more)'),
        (values.size, "64 kib", '"64 kib" is not a size (allowed: bytes as a number, or "64KiB", "10MB", "1.5GiB")'),
        (values.size, -1, "-1 is not a size"),
        (values.size, True, "true is not a size"),
        (values.size, 1.5, "1.5 is not a size"),
        (values.size, "8388608TiB", "is not a size"),
        (values.size, "9" * 5000, "is not a size"),
        (number, "1024", '"1024" is not a limit (allowed: a whole number, "unlimited", or { soft = ..., hard = ... })'),
        (number, "1KiB", '"1KiB" is not a limit'),
        (number, 2**63, "is not a limit"),
        (number, -1, "-1 is not a limit"),
        (number, {}, "a table is not a limit"),
        (number, {"sfot": 1}, '"sfot" is neither of a limit\'s values (allowed: soft, hard; did you mean "soft"?)'),
        (number, {"soft": "many"}, '"many" is not a limit'),
        (number, {"soft": 2, "hard": 1}, "soft (2) is above hard (1)"),
        (number, {"soft": "unlimited", "hard": 1}, 'soft ("unlimited") is above hard (1)'),
        (size_limit, "much", 'allowed: a number of bytes such as 65536, "64KiB" or "10MB", "unlimited", or'),
        (time_limit, "1.5s", 'allowed: whole seconds as a number or "5m", "2h", "unlimited", or'),
        (time_limit, 1e300, "is not a limit"),
        (values.cpu_max, "0.001", "is no limit of CPU time"),
        (values.cpu_max, "100000 2000000", "is no limit of CPU time"),
        (values.cpu_max, -1, "is no limit of CPU time"),
        (values.cpu_max, True, "is no limit of CPU time"),
        (values.cpu_sets, "", '"" does not say which CPUs (allowed: "auto", "none", or CPUs for all workers "0-3,8"'),
        (values.cpu_sets, 0, "0 does not say which CPUs"),
        (values.cpu_sets, "0;", '"0;" does not say which CPUs'),
        (values.cpu_sets, "0-3;auto", '"0-3;auto" does not say which CPUs'),
        (values.cpu_sets, "0,3-1", '"3-1" is no range of CPUs: it ends before it begins'),
        (values.cpu_sets, "0-99999", "does not say which CPUs"),
        (values.signal_number, "SIGTREM", 'did you mean "SIGTERM"?)'),
        (values.signal_number, "SIG_DFL", '"SIG_DFL" is not a signal'),
        (values.signal_number, 0, "0 is not a signal"),
        (values.signal_number, 65, "or a number from 1 to 64)"),
        (values.signal_number, True, "true is not a signal"),
        (values.streams, "4", 'allowed: "0" none, "1" stdout, "2" stderr, "3" both, or by local rank "0:1,3:2")'),
        (values.streams, 3, 'quote it: "3"'),
        (values.streams, "0:1,", "does not say which streams"),
        (values.streams, "11", "does not say which streams"),
        (values.streams, "0:1,1", "does not say which streams"),
        (values.streams, "1,0:1", "does not say which streams"),
        (values.streams, "0:1,00:2", "names local rank 0 twice"),
        (values.workers, 0, "must be at least 1"),
        (values.workers, 10**9, "must be at most 65536"),
        (values.workers, "4", "remove the quotes"),
        (values.workers, True, "true is not a number of workers"),
        (values.workers, 1.0, "1.0 is not a number of workers"),
        (values.workers, "gpus", 'allowed: 1 and more, "cpu", "gpu", "auto")'),
        (values.umask, 22, "quote the octal digits"),
        (values.umask, "0o22", "is not a umask"),
        (values.umask, "0888", "is not a umask"),
        (values.account, "", "is not a name or an id"),
        (values.account, -1, "is not a name or an id"),
        (values.account, 2**32 - 1, "is not a name or an id"),
        (values.account, "9" * 5000, "is not a name or an id"),
        (values.path, "~/x", "is not expanded"),
        (values.path, "a\0b", "NUL"),
        (values.directory_name, "a/b", "cannot be the name of a directory"),
        (values.directory_name, "..", "cannot be the name of a directory"),
        (values.directory_name, "ä" * 128, "at most 255 bytes"),
        (
            values.tcp_address,
            "127.0.0.1",
            '"127.0.0.1" is not an address to ask (allowed: an IP address or "localhost"',
        ),
        (values.tcp_address, "::1:80", "is not an address to ask"),
        (values.tcp_address, "127.0.0.1:65536", "is not an address to ask"),
        (values.tcp_address, "127.0.0.1:0", "is not an address to ask"),
        (values.tcp_address, "127.0.0.1:${PORT}", "is not an address to ask"),
        (values.tcp_address, "[127.0.0.1]:80", "is not an address to ask"),
        (values.http_url, "127.0.0.1:80", "is not a URL to ask"),
        (values.http_url, "http://u@127.0.0.1/", "is not an address to ask"),
        (values.http_url, "http://127.0.0.1/a b", "is not a URL to ask"),
        (values.http_url, "http://127.0.0.1/\r\nHost: x", "is not a URL to ask"),
        (values.http_url, "http://127.0.0.1/#x", "is not a URL to ask"),
        (values.env_name, "A=B", "cannot name an environment variable"),
        (values.env_name, "", "cannot name an environment variable"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_words(read: Callable[[Any], object], written: object, words: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the words are what is tested
        read(written)
    assert words in str(refused.value)


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()) | st.dates())
def test_whatever_is_written_it_is_read_or_refused(written: object) -> None:
    for read in (
        values.duration, values.signal_number, values.streams, values.workers, values.umask, values.account,
        values.size, number, size_limit, time_limit, values.cpu_sets,
    ):  # fmt: skip
        try:
            assert read(written) is not None
        except ValueError as refused:
            assert str(refused)  # noqa: PT017 - either is fine, and a refusal has words


def test_a_long_value_is_shown_short() -> None:
    assert values.shown("x" * 1000) == '"' + "x" * 57 + '..."'
    assert len(values.shown(10**1000)) == 60


def test_the_nearest_word_is_found_whatever_its_case() -> None:
    assert values.nearest("ON_FAILURE", ["always", "on-failure", "never"]) == "on-failure"
    assert values.nearest("zzz", ["always", "on-failure", "never"]) is None
    assert values.choices("allways", ["always", "never"]) == '(allowed: always, never; did you mean "always"?)'
    assert values.choices(3, ["always", "never"]) == "(allowed: always, never)"


@pytest.mark.parametrize(
    ("written", "workers", "meant"),
    [(1, 8, 1), (9, 8, 9), ("25%", 8, 2), ("25%", 7, 1), ("25%", 3, 1), ("100%", 8, 8), ("1%", 1000, 10)],
)
def test_a_share_of_the_workers_is_rounded_down_but_one_at_least(written: object, workers: int, meant: int) -> None:
    assert values.of(values.at_a_time(written), workers) == meant


@pytest.mark.parametrize("written", [0, -1, True, 1.5, "0%", "101%", "25", "2.5%", "%", "", None])
def test_what_is_no_number_of_workers_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="is no number of workers"):
        values.at_a_time(written)
