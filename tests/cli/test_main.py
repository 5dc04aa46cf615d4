import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from align_jax.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in COMMANDS)


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)], ids=" ".join)
def test_help_answers_without_loading_jax(arguments):
    program = (
        "import sys; from align_jax.cli import main\n"
        f"try: code = main({arguments!r})\nexcept SystemExit as stop: code = stop.code\n"
        "heavy = {'jax', 'flax', 'transformers', 'tensorflow_datasets', 'grain'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "align-jax" in finished.stdout


def test_unknown_command_names_the_known_ones(capsys):
    assert main(["trian"]) == 2
    message = capsys.readouterr().err
    assert "'trian'" in message
    assert "train" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--config", "configs/absent.py", "--workdir", "w"], "configs/absent.py"),
        (["train", "--config", "configs/openmoji.py:nonsense=1", "--workdir", "w"], "nonsense"),
        (["data", "vocabulary", "--data", "absent", "--data-dir", "nowhere", "--output", "v"], "absent"),
    ],
)
def test_wrong_input_is_one_line_and_status_two(arguments, expected, capsys):
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["train"], "--workdir"),
        (["train", "--config", "configs/openmoji.py"], "--workdir"),
        (["convert", "x"], "OUTPUT"),
    ],
)
def test_missing_arguments_are_named_in_one_line(arguments, missing, capsys):
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert missing in message
    assert message.count("\n") == 1


def test_top_level_script_is_the_convert_command():
    finished = subprocess.run(
        [sys.executable, "convert_weights.py", "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "SOURCE OUTPUT" in finished.stdout


def test_top_level_script_is_the_train_command():
    finished = subprocess.run(
        [sys.executable, "train.py", "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "align-jax train" in finished.stdout


def test_console_script_points_at_main():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"align-jax": "align_jax.cli:main"}
