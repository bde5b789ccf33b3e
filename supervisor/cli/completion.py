"""``rankd completion bash|zsh|fish``: a script that has the shell complete verbs, options and the names of groups."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping

from supervisor.cli.words import VERBS, parser_of
from supervisor.control.client import Daemon
from supervisor.errors import OK, RankdError

HELP = "print a script that has a shell complete rankd's command line"

BASH = """\
_rankd() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} verb=${{COMP_WORDS[1]}} options=
    if [ "$COMP_CWORD" = 1 ]; then
        COMPREPLY=($(compgen -W "{verbs}" -- "$word"))
        return
    fi
    case $verb in
{options}
    esac
    case $word in
        -*) COMPREPLY=($(compgen -W "$options" -- "$word")); return ;;
    esac
    case $verb in
        {of_a_group}) COMPREPLY=($(compgen -W "$(rankd completion groups)" -- "$word")) ;;
        {of_a_file}) COMPREPLY=($(compgen -f -X '!*.toml' -- "$word") $(compgen -d -- "$word")) ;;
        completion) COMPREPLY=($(compgen -W "bash zsh fish" -- "$word")) ;;
        launch) COMPREPLY=($(compgen -f -- "$word")) ;;
    esac
}}
complete -o filenames -F _rankd rankd
"""

ZSH = "#compdef rankd\nautoload -U +X bashcompinit && bashcompinit\n"
"""zsh takes bash's (zshcompsys(1), bashcompinit)."""

FISH = """\
function __rankd_verb_is
    set -l words (commandline -opc)
    test (count $words) -gt 1; and contains -- $words[2] $argv
end
complete -c rankd -f
complete -c rankd -n 'test (count (commandline -opc)) = 1' -a '{verbs}'
complete -c rankd -n '__rankd_verb_is {of_a_group}' -a '(rankd completion groups)'
complete -c rankd -n '__rankd_verb_is {of_a_file} launch' -F
complete -c rankd -n '__rankd_verb_is completion' -a 'bash zsh fish'
{options}
"""

OF_A_FILE = ("run", "check", "plan", "doctor")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish", "groups"), help="groups: the names of what runs here")


def main(arguments: argparse.Namespace) -> int:
    if arguments.shell == "groups":
        sys.stdout.write("".join(f"{name}\n" for name in _groups()))
        return OK
    _, verbs = parser_of(VERBS)
    sys.stdout.write(fish(verbs) if arguments.shell == "fish" else bash(verbs, zsh=arguments.shell == "zsh"))
    return OK


def bash(verbs: Mapping[str, argparse.ArgumentParser], *, zsh: bool) -> str:
    """The script for bash, or for zsh."""
    options = "\n".join(f"        {name}) options='{' '.join(_options(verb))}' ;;" for name, verb in verbs.items())
    return (ZSH if zsh else "") + BASH.format(
        verbs=" ".join(verbs), options=options, of_a_group="|".join(_of_a_group(verbs)), of_a_file="|".join(OF_A_FILE)
    )


def fish(verbs: Mapping[str, argparse.ArgumentParser]) -> str:
    """The script for fish."""
    options = [
        f"complete -c rankd -n '__rankd_verb_is {name}' {'-l' if option.startswith('--') else '-s'} {option.strip('-')}"
        for name, verb in verbs.items()
        for option in _options(verb)
    ]
    return FISH.format(
        verbs=" ".join(verbs), options="\n".join(options), of_a_group=" ".join(_of_a_group(verbs)),
        of_a_file=" ".join(OF_A_FILE),
    )  # fmt: skip


def _options(verb: argparse.ArgumentParser) -> list[str]:
    return [option for action in verb._actions for option in action.option_strings]  # noqa: SLF001 - told nowhere else


def _of_a_group(verbs: Mapping[str, argparse.ArgumentParser]) -> list[str]:
    return [name for name, verb in verbs.items() if any(action.dest == "group" for action in verb._actions)]  # noqa: SLF001


def _groups() -> list[str]:
    """Nobody's, where no daemon answers: a shell that completes a line has no room for words."""
    try:
        return list(Daemon.find(None, os.environ).status()["groups"])
    except RankdError:
        return []
