"""The commands of docs/evaluation.md are commands that exist, with options that they know."""

import re
import shlex
from pathlib import Path

import pytest

from align_jax.cli import embed, evaluate

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "evaluation.md").read_text()
COMMANDS = re.findall(r"^    align-jax (.+)$", GUIDE, re.MULTILINE)
PARSERS = {"evaluate": evaluate.parse, "embed": embed.parse}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command: str) -> None:
    name, *arguments = shlex.split(command)
    parsed = PARSERS[name](arguments)
    assert parsed.data if name == "evaluate" else parsed.input


def test_every_task_has_a_command_and_every_option_is_real() -> None:
    assert {evaluate.parse(shlex.split(line)[1:]).task for line in COMMANDS if line.startswith("evaluate")} == {
        *evaluate.TASKS
    }
    help_text = (ROOT / "align_jax" / "cli" / "evaluate.py").read_text() + (
        ROOT / "align_jax" / "cli" / "embed.py"
    ).read_text()
    unknown = [option for option in set(re.findall(r"--[a-z][a-z0-9-]+", GUIDE)) if f'"{option}"' not in help_text]
    assert not unknown


def test_links_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", GUIDE) if not target.startswith("http")]
    assert targets
    assert not [target for target in targets if not (ROOT / "docs" / target).exists()]


def test_published_numbers_are_there() -> None:
    for number in ("68.6", "88.1", "73.2", "61.2", "43.1", "76.4", "69.3", "92.2", "86.72", "89.84", "87.24", "90.03"):
        assert number in GUIDE
