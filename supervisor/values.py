"""How people write a duration, a size, a signal, a set of streams, a number of workers: text in, value out.

Every function takes whatever TOML (or a command line) has given and raises ``ValueError`` with words for people:
what is wrong, what is allowed. No pydantic here, so that a command line can ask as cheaply as a file.
"""

from __future__ import annotations

import json
import math
import re
import signal as signals
import socket
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, get_args

from supervisor.plan import UNLIMITED, Limit, Streams

Counted = Literal["cpu", "gpu", "auto"]
"""Workers that the machine counts."""

MOST_WORKERS = 65536
"""More workers on one host than this is a slip of the finger: it would be paid for in memory before it fails."""

# What a text has to match as a whole; the JSON Schema says the same to editors.
DURATION = r"[0-9]+(\.[0-9]+)? ?(ms|s|m|h)"
SIZE = r"[0-9]+(\.[0-9]+)? ?(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)"
CPUS = r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*"
CPU_SETS = rf"auto|none|{CPUS}(;{CPUS})*"
STREAMS = r"[0-3]|[0-9]{1,9}:[0-3](,[0-9]{1,9}:[0-3])*"
CPU_MAX = r"[0-9]{1,5}(\.[0-9]{1,6})?|[0-9]{1,10} [0-9]{1,7}"
UMASK = r"0?[0-7]{3}"
PORTS = r"[0-9]{1,5}(-[0-9]{1,5})?"
GROUP_NAME = r"[A-Za-z0-9_.-]+"

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"k": 1000, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_BYTES_BINARY = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_CPU_PERIOD = 100_000  # microseconds, the kernel's default; its bounds are those below (sched/cpu.max)
_LEAST_CPU_QUOTA = 1_000
_MOST_CPU_PERIOD = 1_000_000
_LAST_ID = 2**32 - 2  # credentials(7): -1 means "no change" to the kernel

Unit = Literal["number", "bytes", "seconds"]
"""What a resource limit counts."""

_MOST = 2**63 - 1  # what a limit can be beside unlimited, as Python's resource module has it
_AMOUNTS = {
    "number": "a whole number",
    "bytes": 'a number of bytes such as 65536, "64KiB" or "10MB"',
    "seconds": 'whole seconds as a number or "5m", "2h"',
}


def shown(value: object) -> str:
    """A value as it stands in TOML, shortened: for "X is not a ..."."""
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 60 else value[:57] + "...", ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a table"
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """The one of ``allowed`` that was probably meant."""
    from difflib import get_close_matches  # noqa: PLC0415  (only mistakes need it)

    by_small = {one.lower(): one for one in allowed}
    found = get_close_matches(word.lower(), by_small, n=1, cutoff=0.6)
    return by_small[found[0]] if found else None


def choices(word: object, allowed: Iterable[str]) -> str:
    """``(allowed: a, b; did you mean "a"?)``."""
    names = list(allowed)
    meant = nearest(word, names) if isinstance(word, str) else None
    return f"(allowed: {', '.join(names)}{f'; did you mean {shown(meant)}?' if meant else ''})"


def is_number(value: object) -> bool:
    """Whether it is a number as people understand it: ``True`` is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def duration(value: object) -> float:
    """Seconds, from a number of them or ``500ms``, ``30s``, ``5m``, ``2h``; finite and not negative."""
    seconds = math.nan
    if isinstance(value, str):
        if re.fullmatch("-?" + DURATION, value):
            number, unit = re.split(r" ?(?=[a-z])", value, maxsplit=1)
            seconds = float(number) * _SECONDS[unit]
    elif is_number(value):
        seconds = float(value)  # type: ignore[arg-type]
    if seconds < 0 and math.isfinite(seconds):
        raise ValueError(f"{shown(value)} is negative (allowed: 0 and more)")
    if not math.isfinite(seconds):
        raise ValueError(
            f'{shown(value)} is not a duration (allowed: seconds as a number, or "500ms", "30s", "5m", "2h")'
        )
    return seconds


def section_limit(value: object) -> float | Literal["auto"]:
    """Seconds as ``duration`` reads them, or ``auto``: to be learnt."""
    return "auto" if value == "auto" else duration(value)


def size(value: object) -> int:
    """Bytes, from a number of them, as text too, or ``64KiB``, ``10MB``, ``1.5 GiB``; rounded down."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST:
        return value
    if isinstance(value, str) and len(value) <= 40 and re.fullmatch(f"{SIZE}|[0-9]+", value):
        number, unit = re.split("(?<=[0-9]) ?(?![0-9.])", value, maxsplit=1)
        scale = (_BYTES_BINARY if "i" in unit else _BYTES).get(unit[:1], 1)
        whole, _, part = number.partition(".")
        found: int = int(whole + part) * scale // 10 ** len(part)  # a float would be exact up to 8 PiB only
        if found <= _MOST:
            return found
    raise ValueError(f'{shown(value)} is not a size (allowed: bytes as a number, or "64KiB", "10MB", "1.5GiB")')


def cpu_max(value: object) -> str:
    """What cpu.max takes, from a number of CPUs (``1.5``, as text too) or its own ``QUOTA PERIOD``; empty for none."""
    text = str(value) if is_number(value) else value
    if isinstance(text, str) and len(text) <= 40 and re.fullmatch(CPU_MAX, text):
        quota, _, period = text.partition(" ")
        if not period:
            quota, period = str(round(float(quota) * _CPU_PERIOD)), str(_CPU_PERIOD)
        if float(text.partition(" ")[0]) == 0:
            return ""
        if int(quota) >= _LEAST_CPU_QUOTA and _LEAST_CPU_QUOTA <= int(period) <= _MOST_CPU_PERIOD:
            return f"{quota} {period}"
    raise ValueError(
        f'{shown(value)} is no limit of CPU time (allowed: a number of CPUs such as 1.5, at least 0.01; or "QUOTA '
        'PERIOD" in microseconds such as "150000 100000", at least 1000 each and a period of a second at most; 0: none)'
    )


def limit(value: object, unit: Unit) -> Limit:
    """A resource limit: one amount or ``unlimited`` for both its values, or a table of them.

    ``{ soft = 1024 }`` leaves the other one as it is.
    """
    if isinstance(value, dict) and value:
        for name in value.keys() - {"soft", "hard"}:
            raise ValueError(f"{shown(name)} is neither of a limit's values {choices(name, ['soft', 'hard'])}")
        limit = Limit(**{name: _amount(one, unit) for name, one in value.items()})
        if limit.soft is not None and limit.hard is not None and _above(limit.soft, limit.hard):
            raise ValueError(f"soft ({shown(value['soft'])}) is above hard ({shown(value['hard'])})")
        return limit
    amount = _amount(value, unit)
    return Limit(amount, amount)


def _amount(value: object, unit: Unit) -> int:
    if value == "unlimited":
        return UNLIMITED
    read: Any = {"number": _whole, "bytes": size, "seconds": _whole_seconds}[unit]
    try:
        return int(read(value))
    except ValueError:
        raise ValueError(
            f'{shown(value)} is not a limit (allowed: {_AMOUNTS[unit]}, "unlimited", or {{ soft = ..., hard = ... }})'
        ) from None


def _whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST:
        return value
    raise ValueError


def _whole_seconds(value: object) -> int:
    seconds = duration(value)
    if seconds != int(seconds) or seconds > _MOST:
        raise ValueError
    return int(seconds)


def _above(one: int, other: int) -> bool:
    return other != UNLIMITED and (one == UNLIMITED or one > other)


def cpu_sets(value: object) -> tuple[frozenset[int], ...] | None:
    """Sets of CPUs, one for all workers or one a local rank: ``0-3;4-7``, each as in cpuset(7).

    ``none`` is no set: workers run wherever rankd may. ``auto`` is None: what ``numa`` says.
    """
    if not isinstance(value, str) or not re.fullmatch(CPU_SETS, value):
        raise ValueError(
            f"{shown(value)} does not say which CPUs "
            '(allowed: "auto", "none", or CPUs for all workers "0-3,8", or by local rank "0-3;4-7")'
        )
    if value in ("auto", "none"):
        return None if value == "auto" else ()
    return tuple(frozenset(_cpus(one)) for one in value.split(";"))


def _cpus(text: str) -> Iterator[int]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        if int(last or first) < int(first):
            raise ValueError(f"{shown(part)} is no range of CPUs: it ends before it begins")
        yield from range(int(first), int(last or first) + 1)


def signal_number(value: object) -> int:
    """A signal's number, from ``SIGTERM``, ``TERM`` or 15 (signal(7); real-time signals by number)."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= signals.SIGRTMAX:
        return value
    names = {name: number for name, number in signals.__dict__.items() if re.match(r"SIG[A-Z]", name)}
    if isinstance(value, str):
        name = value.upper()
        number = names.get(name) or names.get("SIG" + name)
        if number is not None:
            return int(number)
        meant = nearest(name if name.startswith("SIG") else "SIG" + name, names)
        hint = f"; did you mean {shown(meant)}?" if meant else ""
    else:
        hint = ""
    raise ValueError(
        f'{shown(value)} is not a signal (allowed: a name such as "SIGTERM" or "TERM", '
        f"or a number from 1 to {int(signals.SIGRTMAX)}{hint})"
    )


def tcp_address(value: str) -> tuple[str, int]:
    """Host and port of ``127.0.0.1:8000``, ``[::1]:8000`` or ``localhost:8000``.

    A name would have to be looked up, which takes a thread, and time that no probe has.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*)):([0-9]{1,5})", value)
    host = (match[1] or match[2]) if match else ""
    port = int(match[3]) if match else 0
    if not 0 < port < 65536 or not (host == "localhost" or _is_ip(host, match is not None and match[1] is not None)):
        raise ValueError(
            f'{shown(value)} is not an address to ask (allowed: an IP address or "localhost", and a port: '
            '"127.0.0.1:8000", "[::1]:8000")'
        )
    return host, port


def _is_ip(host: str, is_v6: bool) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6 if is_v6 else socket.AF_INET, host)
    except OSError:
        return False
    return True


def http_url(value: str) -> tuple[str, int, str]:
    """Host, port and path of ``http://127.0.0.1:8000/health?full=1``; the port is 80 and the path ``/`` if left out."""
    match = re.fullmatch(r"http://([^/?#]+)((?:[/?][!-~]*)?)", value, re.ASCII)
    if match is None or "#" in match[2]:
        hint = "; https is not spoken here" if value.startswith("https:") else ""
        raise ValueError(f'{shown(value)} is not a URL to ask (allowed: "http://127.0.0.1:8000/health"{hint})')
    authority, path = match[1], match[2]
    host, port = tcp_address(authority if re.search(r":[0-9]+$", authority) else f"{authority}:80")
    return host, port, path if path.startswith("/") else f"/{path}"


def streams(value: object) -> Streams:
    """torch's redirect syntax (``Std.from_str`` in torch.distributed.elastic.multiprocessing.api), parsed.

    One digit for every worker, or digits by local rank, and then 0 for all others. Local ranks may have any number
    of digits here.
    """
    if not isinstance(value, str) or not re.fullmatch(STREAMS, value):
        quote = f"; quote it: {shown(str(value))}" if is_number(value) else ""
        raise ValueError(
            f"{shown(value)} does not say which streams "
            f'(allowed: "0" none, "1" stdout, "2" stderr, "3" both, or by local rank "0:1,3:2"{quote})'
        )
    if ":" not in value:
        return Streams(int(value))
    of: dict[int, int] = {}
    for part in value.split(","):
        rank, _, bits = part.partition(":")
        if int(rank) in of:
            raise ValueError(f"{shown(value)} names local rank {int(rank)} twice")
        of[int(rank)] = int(bits)
    return Streams(0, of)


def workers(value: object) -> int | Counted:
    """A number of workers, or ``cpu``, ``gpu``, ``auto``, which the machine answers."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ValueError("must be at least 1")
        if value > MOST_WORKERS:
            raise ValueError(f"must be at most {MOST_WORKERS}")
        return value
    for counted in get_args(Counted):
        if value == counted:
            return counted  # type: ignore[no-any-return]
    hint = "; remove the quotes" if isinstance(value, str) and value.isdecimal() else ""
    raise ValueError(f'{shown(value)} is not a number of workers (allowed: 1 and more, "cpu", "gpu", "auto"{hint})')


def ports(value: object) -> range:
    """The ports of ``8001-8016``, both ends included, or of ``8001`` alone."""
    if isinstance(value, str) and re.fullmatch(PORTS, value):
        first, _, last = value.partition("-")
        found = range(int(first), int(last or first) + 1)
        if found and found[0] >= 1 and found[-1] <= 65535:
            return found
    raise ValueError(f'{shown(value)} is not a range of ports (allowed: "8001-8016", "8001", from 1 to 65535)')


def lease_ttl(value: object) -> float:
    """Seconds of a lease: whole ones, because etcd counts in them."""
    seconds = duration(value)
    if not 2 <= seconds <= 3600 or seconds != int(seconds):
        raise ValueError(f"{shown(value)} is not a lease (allowed: whole seconds, from 2s to 1h)")
    return seconds


NODES = r"[0-9]{1,5}(:[0-9]{1,5})?"


def nodes(value: object) -> tuple[int, int]:
    """The least and the largest number of hosts: ``4``, ``"4"`` or ``"2:4"``."""
    text = str(value) if is_number(value) else value
    least, _, most = text.partition(":") if isinstance(text, str) and re.fullmatch(NODES, text) else ("0", "", "")
    if not 0 < int(least) <= int(most or least):
        raise ValueError(f"{shown(value)} is not a number of hosts (allowed: N, or MIN:MAX with 0 < MIN <= MAX)")
    return int(least), int(most or least)


def umask(value: object) -> int:
    """A file mode mask, from its octal digits as text: ``0022``."""
    if isinstance(value, str) and re.fullmatch(UMASK, value):
        return int(value, 8)
    quote = "; quote the octal digits" if is_number(value) else ""
    raise ValueError(f'{shown(value)} is not a umask (allowed: three octal digits such as "022" or "0022"{quote})')


def account(value: object) -> str:
    """A user or group: a name, or a number as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and value and "\0" not in value:
        number = re.fullmatch("-?[0-9]+", value)
        if not number or (len(value) <= 10 and 0 <= int(value) <= _LAST_ID):
            return value
    raise ValueError(f"{shown(value)} is not a name or an id (allowed: a name, or 0 to {_LAST_ID})")


def directory_name(value: str) -> str:
    """Text that can be one directory's name, unchanged."""
    if "/" in value or "\0" in value or value in (".", "..") or len(value.encode()) > 255:
        raise ValueError(f'{shown(value)} cannot be the name of a directory (no "/", at most 255 bytes)')
    return value


def no_nul(value: str) -> str:
    """Text that can be handed to a process, unchanged (execve(2) ends every string at the first NUL)."""
    if "\0" in value:
        raise ValueError("has a NUL character")
    return value


FUNCTION = r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*"


def function(value: str) -> str:
    """Where a function is to be found (``package.module:callable``), unchanged."""
    if not re.fullmatch(FUNCTION, value):
        raise ValueError(f'{shown(value)} does not name a function (write "package.module:callable")')
    return value


def path(value: str) -> str:
    """A path, unchanged; ``~`` is a shell's word, and a folder of that name is never meant."""
    if value.startswith("~"):
        raise ValueError(f'{shown(value)}: "~" is not expanded here (write the whole path)')
    return no_nul(value)


def env_name(value: str) -> str:
    """The name of an environment variable, unchanged (environ(7))."""
    if not value or "=" in value or "\0" in value:
        raise ValueError(f'{shown(value)} cannot name an environment variable (no "=", no NUL, not empty)')
    return value


class Share(NamedTuple):
    """So many percent of the workers."""

    percent: int


SHARE = "[1-9][0-9]?%|100%"


def at_a_time(value: object) -> int | Share:
    """How many workers: a number of 1 and more, or ``25%`` of them."""
    if isinstance(value, str) and re.fullmatch(SHARE, value):
        return Share(int(value[:-1]))
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError(f"{shown(value)} is no number of workers (allowed: 1 and more, or a share of them: 1% to 100%)")


def of(number: int | Share, workers: int) -> int:
    """How many of so many workers that is: a share is rounded down, but 1 at least."""
    return number if isinstance(number, int) else max(1, workers * number.percent // 100)
