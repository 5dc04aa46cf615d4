"""The README's commands and links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_links_and_pictures_exist():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if not target.startswith("http")]
    assert len(targets) >= 3
    assert not [target for target in targets if not (ROOT / target).exists()]


def test_every_path_it_names_exists():
    named = set(re.findall(r"\b(?:configs|benchmarks|docs)/[\w/]+\.\w+", README))
    assert len(named) >= 4
    assert not [path for path in named if not (ROOT / path).exists()]


def test_map_names_every_part_of_the_package():
    parts = {path.name for path in (ROOT / "align_jax").iterdir() if not path.name.startswith("__")}
    missing = {part for part in parts if part not in README}
    assert not missing


def test_make_knows_the_two_commands():
    for target in ("quickstart", "test"):
        assert f"make {target}" in README
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^    align-jax (\w+ ?\w*)", README, re.MULTILINE))))
def test_commands_have_help(command):
    words = command.split()[:2] if command.startswith("data") else command.split()[:1]
    subprocess.run([sys.executable, "-m", "align_jax", *words, "--help"], cwd=ROOT, check=True, capture_output=True)


def test_it_is_short():
    assert len(README.splitlines()) < 150
