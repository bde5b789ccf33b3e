"""The phase diagram in README is the one that the machine has."""

from __future__ import annotations

import re
from pathlib import Path

from supervisor.core.state import TRANSITIONS, Phase, phase_diagram

README = Path(__file__).parents[2] / "README.md"


def test_readme_shows_the_phases_as_they_are() -> None:
    """When this fails: put what ``supervisor.core.state.phase_diagram()`` says between the two marks."""
    shown = re.search(r"<!-- phases -->\n```mermaid\n(.*?)\n```\n<!-- /phases -->", README.read_text(), re.DOTALL)
    assert shown is not None
    assert shown[1] == phase_diagram()


def test_the_diagram_has_every_phase_and_every_transition() -> None:
    lines = phase_diagram().splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> waiting"]
    arrows = [line.split(" : ")[0].split() for line in lines[2:]]
    assert [(Phase(source), Phase(target)) for source, _, target in arrows] == [
        (source, target) for source, following in TRANSITIONS.items() for target in following
    ]
    assert "    waiting --> starting : start requested" in lines
