"""Every flag of torchrun is understood: in both spellings, abbreviated, and from the environment."""

from __future__ import annotations

import pytest

from supervisor.__main__ import main
from supervisor.launch.flags import FLAGS, Flag
from tests.launch.commands import parsed

SAMPLES: dict[type, tuple[str, object]] = {str: ("3", "3"), int: ("3", 3), float: ("0.5", 0.5)}


def sample(flag: Flag) -> tuple[list[str], str, object]:
    """A value of the flag: as words after it, as text in the environment, and as it is parsed."""
    if flag.kind is bool:
        return [], "1", True
    text, value = (flag.choices[-1],) * 2 if flag.choices else SAMPLES[flag.kind]
    return [str(text)], str(text), value


SPELLINGS = [(flag, spelling) for flag in FLAGS for spelling in flag.spellings]


@pytest.mark.parametrize(("flag", "spelling"), SPELLINGS, ids=[spelling for _, spelling in SPELLINGS])
def test_a_flag_has_its_value_in_each_spelling(flag: Flag, spelling: str) -> None:
    words, _, value = sample(flag)
    assert getattr(parsed(spelling, *words, "train.py"), flag.key) == value


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_a_flag_has_its_default_from_the_environment_if_torchruns_has(flag: Flag) -> None:
    _, text, value = sample(flag)
    without = getattr(parsed("train.py"), flag.key)
    assert without == (False if flag.kind is bool else flag.default)
    assert getattr(parsed("train.py", environ={flag.variable: text}), flag.key) == (value if flag.env else without)


def test_the_variable_is_named_for_the_long_form() -> None:
    assert parsed("train.py", environ={"PET_MODULE": "1", "PET_M": "0"}).module


def test_the_command_line_goes_before_the_environment() -> None:
    assert parsed("--nnodes", "1", "train.py", environ={"PET_NNODES": "7"}).nnodes == "1"
    assert parsed("--standalone", "train.py", environ={"PET_STANDALONE": "0"}).standalone


def test_what_comes_after_the_script_is_the_scripts() -> None:
    arguments = parsed("--nproc-per-node=2", "train.py", "--lr", "0.1", "--standalone", "-m", "--", "x")
    assert arguments.training_script == "train.py"
    assert arguments.training_script_args == ["--lr", "0.1", "--standalone", "-m", "--", "x"]
    assert not arguments.standalone


def test_a_flag_may_be_abbreviated_as_long_as_it_is_clear() -> None:
    assert parsed("--stand", "--max-r", "2", "train.py").max_restarts == 2
    assert parsed("--stand", "train.py").standalone


@pytest.mark.parametrize(
    ("words", "environ", "said"),
    [
        (["--nope", "train.py"], {}, "--nope"),
        ([], {}, "SCRIPT"),
        (["--max-restarts", "many", "train.py"], {}, "--max-restarts"),
        (["--start-method", "thread", "train.py"], {}, "--start-method"),
        (["--rdzv-", "x", "train.py"], {}, "ambiguous"),
        (["train.py"], {"PET_MAX_RESTARTS": "many"}, "--max-restarts"),
        (["train.py"], {"PET_STANDALONE": "yes"}, "PET_STANDALONE"),
        (["train.py"], {"PET_START_METHOD": "thread"}, "PET_START_METHOD"),
    ],
)
def test_wrong_usage_ends_with_64_and_names_the_flag(
    words: list[str], environ: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(*words, environ=environ)
    assert ended.value.code == 64
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--frobnicate", "train.py"], ["-x", "train.py"]])
def test_wrong_usage_is_told_in_two_lines_of_the_verbs_own(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["launch", *words])
    assert ended.value.code == 64
    usage, said = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: rankd launch [FLAG...] SCRIPT [ARG...]")
    assert said == f"rankd launch: unrecognized arguments: {words[0]}"
