"""The flags, statuses and links of docs/tpu_pod.md are those of the commands."""

import re
from pathlib import Path

import pytest

from align_jax.cli import main
from align_jax.training.interruption import InterruptedRunError

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "tpu_pod.md").read_text()
OTHER_TOOLS = """
--accelerator-type --cluster --command --docker-image --gpus-per-node --implicit-dirs --node-id --nodes
--ntasks-per-node --num-slices --requeue --runtime-version --signal --tpu-type --worker --workload --zone
"""


def help_of(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--config", "configs/align_b7_base_coyo.py:debug", "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_every_flag_is_one_of_the_commands(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for command in ("train", "doctor", "plan"):
        main([command, "--help"])
    known = capsys.readouterr().out + help_of("train", capsys)
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z.-]*[a-z]", GUIDE)) - set(OTHER_TOOLS.split())
    assert len(flags) > 20
    assert not [flag for flag in flags if not re.search(rf"{re.escape(flag)}(?![\w.-])", known)]


def test_statuses_are_those_of_the_commands():
    assert f"status **{InterruptedRunError.exit_status}**" in GUIDE
    assert f"{InterruptedRunError.exit_status} stopped by SIGTERM" in GUIDE


def test_links_and_files_are_there():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", GUIDE) if not target.startswith("http")]
    assert targets
    assert not [target for target in targets if not (ROOT / "docs" / target).exists()]
    named = set(re.findall(r"\b(?:configs|benchmarks|tests)/[\w/]+\.py", GUIDE))
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]
