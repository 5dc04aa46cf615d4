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


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


# As the papers and model cards have them: the heading, the begin of the row, and its numbers.
@pytest.mark.parametrize(
    ("heading", "model", "cells"),
    [
        ("Retrieval", "COYO-ALIGN-B7-Base", ["COYO-700M", "88.1", "73.2", "61.2", "43.1"]),
        ("Retrieval", "ALIGN-B7-Base (Google)", ["ALIGN 1.8B", "–", "–", "55.4", "41.7"]),
        ("Retrieval", "ALIGN-L2-Large (Google)", ["ALIGN 1.8B", "88.6", "75.7", "58.6", "45.6"]),
        ("Retrieval", "COYO-ALIGN-B3-Mini", ["CC3M (86 %)", "42.8", "35.0", "21.2", "17.0"]),
        ("Retrieval", "ALIGN-B3-Mini (Google)", ["CC3M", "–", "–", "22.1", "17.3"]),
        ("Zero-shot classification", "ALIGN-L2-Large (Google)", ["76.4", "70.1", "92.2", "75.8"]),
        ("kNN", "COYO-ALIGN-B7-Base", ["COYO-700M", "68.6"]),
        ("kNN", "ALIGN-B7-Base (Google)", ["ALIGN 1.8B", "69.3"]),
        ("kNN", "COYO-ALIGN-B3-Mini", ["CC3M (86 %)", "46.2"]),
        ("kNN", "ALIGN-B3-Mini (Google)", ["CC3M", "48.9"]),
        ("Classification", "COYO-Labeled-300M (`kakaobrain/vit-large-patch16-384`)", ["384", "86.72", "89.84"]),
        ("Classification", "COYO-Labeled-300M (`kakaobrain/vit-large-patch16-512`)", ["512", "87.24", "90.03"]),
    ],
)
def test_published_numbers_are_in_their_cells(heading: str, model: str, cells: list[str]) -> None:
    section = GUIDE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [_cells(line) for line in section.splitlines() if line.startswith("|")]
    assert [row[1:] for row in rows if row[0].startswith(model)] == [cells]
