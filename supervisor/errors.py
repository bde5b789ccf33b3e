"""The few exceptions that end the daemon, each with its exit code (sysexits.h where it has a word for it)."""

from __future__ import annotations

from dataclasses import dataclass

OK = 0
USAGE = 64
UNAVAILABLE = 69
BUG = 70
TRY_AGAIN = 75
NOT_PERMITTED = 77
CONFIG = 78


class RankdError(Exception):
    """Whatever ends the daemon with words for the person who started it."""

    exit_code = BUG


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong in a configuration file.

    ``line`` is 1-based and 0 when it is not known; ``key`` is dotted (``groups.trainer.workers``), empty for a
    syntax error.
    """

    file: str
    line: int
    key: str
    what: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}: {self.what}" if self.key else f"{place}: {self.what}"


class ConfigError(RankdError):
    """The configuration is wrong; carries every mistake, in the order of the file."""

    exit_code = CONFIG

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(str(mistake) for mistake in mistakes))


class AddressUnavailable(RankdError):
    """A listener's address is taken or cannot be bound."""

    exit_code = UNAVAILABLE


class SupervisorBug(RankdError):
    """The supervisor itself went wrong: not the workers, not the configuration."""

    exit_code = BUG
