"""A time limit learnt from how long something takes when it goes well: a high quantile, times a factor, in bounds.

The durations are kept as a histogram whose buckets grow by ``GROWTH``, so that its size does not depend on how many
there were, and a quantile is read with that error, always upwards: a limit that is too wide costs seconds, one that is
too tight kills a healthy worker.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from supervisor.plan import AutoRules

GROWTH = 1.05
SHORTEST = 0.001
LONGEST = 1e7
"""Seconds: what is shorter or longer is counted with these."""

REMEMBERED = 1 << 20
"""Durations after which all counts are halved: what a job did long ago weighs less and less."""

_LAST = math.ceil(math.log(LONGEST / SHORTEST) / math.log(GROWTH))


class Learning(NamedTuple):
    """How a limit follows from what was seen. Bounds in seconds; until ``least`` durations were seen, ``ceiling``."""

    floor: float
    ceiling: float
    factor: float = 3.0
    quantile: float = 0.999
    least: int = 100


class Durations:
    """How long it took each time that it went well. What ended badly is not for here.

    ``longest`` is never forgotten: 0 while nothing was seen.
    """

    __slots__ = ("_counts", "longest", "seen")

    def __init__(self) -> None:
        self.longest = 0.0
        self.seen = 0
        self._counts: dict[int, int] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Durations) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    def add(self, lasted_for: float) -> None:
        """One more, in seconds, finite and not negative."""
        self.longest = max(self.longest, lasted_for)
        bucket = _bucket(lasted_for)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self.seen += 1
        if self.seen >= REMEMBERED:
            self._counts = {bucket: (count + 1) // 2 for bucket, count in self._counts.items()}
            self.seen = sum(self._counts.values())

    def quantile(self, share: float) -> float:
        """A duration that at least this share of them did not exceed, and at most ``GROWTH`` times the least such."""
        wanted = math.ceil(share * self.seen)
        found = 0
        for bucket in sorted(self._counts):
            found += self._counts[bucket]
            if found >= wanted and bucket < _LAST:
                return min(SHORTEST * GROWTH**bucket, self.longest)
        return self.longest

    def limit(self, rules: Learning) -> float:
        """Seconds. Never less than the longest that went well, whatever the ceiling."""
        return self._limit(rules)[0]

    def explained(self, rules: Learning) -> dict[str, Any]:
        """The limit and where it comes from, for people: JSON values, seconds to the millisecond."""
        limit, because = self._limit(rules)
        return {
            "limit_s": round(limit, 3),
            "because": because,
            "seen": self.seen,
            "longest_s": round(self.longest, 3),
            "quantile": rules.quantile,
            "quantile_s": round(self.quantile(rules.quantile), 3),
            "factor": rules.factor,
            "floor_s": rules.floor,
            "ceiling_s": rules.ceiling,
        }

    def _limit(self, rules: Learning) -> tuple[float, str]:
        if self.seen < rules.least:
            limit, because = rules.ceiling, f"the ceiling, until {rules.least} were seen"
        else:
            learnt = rules.factor * self.quantile(rules.quantile)
            limit, because = learnt, f"{rules.factor:g} times what {rules.quantile:.4g} of them did not exceed"
            if learnt < rules.floor:
                limit, because = rules.floor, "the floor"
            elif learnt > rules.ceiling:
                limit, because = rules.ceiling, "the ceiling"
        return (self.longest, "the longest that went well") if limit < self.longest else (limit, because)

    # ---- from one daemon to the next

    def to_json(self) -> dict[str, Any]:
        """What ``json.dumps`` takes, and ``from_json``."""
        return {
            "longest": self.longest,
            "counts": {str(bucket): self._counts[bucket] for bucket in sorted(self._counts)},
        }

    @classmethod
    def from_json(cls, written: object) -> Durations:
        """What ``to_json`` has written. Raises ``ValueError`` for anything else, however large."""
        if not isinstance(written, Mapping) or written.keys() != {"longest", "counts"}:
            raise ValueError("not a histogram of durations")
        longest, counts = written["longest"], written["counts"]
        if type(longest) is not float or not 0 <= longest < math.inf:
            raise ValueError("the longest duration is none")
        if not isinstance(counts, Mapping) or len(counts) > _LAST + 1:
            raise ValueError("the counts are none")
        durations = cls()
        durations.longest = longest
        durations._counts = {_number(bucket): _count(count) for bucket, count in counts.items()}
        durations.seen = sum(durations._counts.values())
        if durations.seen >= REMEMBERED:
            raise ValueError("more durations than are remembered")
        if max(durations._counts, default=_bucket(0.0)) != _bucket(durations.longest):
            raise ValueError("the longest duration is not among the counted ones")
        return durations


class Learnt:
    """The limits of those sections of one group that are to be learnt."""

    def __init__(self, rules: AutoRules) -> None:
        self._rules = Learning(rules.floor, rules.ceiling, rules.factor)
        self._durations = {name: Durations() for name in sorted(rules.sections)}
        self._limits: dict[str, float] = {}
        self._good_until: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._durations)

    def go_by(self, rules: AutoRules) -> None:
        """From here on these are the rules. What is known of sections that are still to be learnt stays known."""
        self._rules = Learning(rules.floor, rules.ceiling, rules.factor)
        self._durations = {name: self._durations.get(name, Durations()) for name in sorted(rules.sections)}
        self._limits.clear()

    def limit(self, name: str) -> float | None:
        """Seconds; None for a section that is not to be learnt."""
        durations = self._durations.get(name)
        if durations is None:
            return None
        if name not in self._limits or durations.seen >= self._good_until[name]:
            self._limits[name] = durations.limit(self._rules)
            later = durations.seen + durations.seen // 16 + 1
            self._good_until[name] = min(later, self._rules.least) if durations.seen < self._rules.least else later
        return self._limits[name]

    def add(self, name: str, lasted_for: float) -> bool:
        """A section of that name has gone well, which took so many seconds; whether that was worth knowing."""
        durations = self._durations.get(name)
        if durations is None:
            return False
        if lasted_for > durations.longest or durations.seen + 1 >= REMEMBERED:
            self._limits.pop(name, None)
        durations.add(lasted_for)
        return True

    def explained(self) -> dict[str, Any]:
        """By the section's name, its limit and where that comes from: see ``Durations.explained``."""
        return {name: durations.explained(self._rules) for name, durations in self._durations.items()}

    def to_json(self) -> dict[str, Any]:
        """What ``json.dumps`` takes, and ``restore``."""
        return {name: durations.to_json() for name, durations in self._durations.items()}

    def restore(self, written: object) -> None:
        """Know what an earlier daemon has written of these sections. Raises ``ValueError``, and knows nothing then."""
        if not isinstance(written, Mapping):
            raise ValueError("not a table of sections")  # noqa: TRY004 - wrong data, and no wrong call
        known = {name: Durations.from_json(written[name]) for name in self._durations if name in written}
        self._durations |= known
        self._limits.clear()


def _bucket(seconds: float) -> int:
    """The number of the bucket whose upper edge, ``SHORTEST * GROWTH**bucket``, is the first not below it."""
    if seconds <= SHORTEST:
        return 0
    return min(math.ceil(math.log(seconds / SHORTEST) / math.log(GROWTH)), _LAST)


def _number(text: object) -> int:
    if isinstance(text, str) and len(text) <= 4 and text.isascii() and text.isdigit() and int(text) <= _LAST:
        return int(text)
    raise ValueError("a bucket has no number")


def _count(value: object) -> int:
    if type(value) is int and 0 < value < REMEMBERED:
        return value
    raise ValueError("a count is none")
