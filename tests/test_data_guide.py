"""The commands of docs/data.md are commands that exist, with options that they know."""

import re
import shlex
import textwrap
from pathlib import Path

import pytest

from align_jax.cli import data_coyo, data_filter, data_img2dataset, embed
from align_jax.cli.train import load_config
from align_jax.data.coyo import COYO_700M, COYO_LABELED_300M, parse_rule
from align_jax.data.coyo.download import download_command
from align_jax.data.records import PairDataset
from align_jax.data.tar_pairs import TarPairs

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "data.md").read_text()
COMMANDS = [shlex.split(line) for line in re.findall(r"^ {4,6}align-jax data (.+)$", GUIDE, re.MULTILINE)]
PARSERS = {"coyo": data_coyo.parse, "filter": data_filter.parse, "img2dataset": data_img2dataset.parse}
EMBED = [shlex.split(line) for line in re.findall(r"^ +align-jax embed (.+)$", GUIDE, re.MULTILINE)]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command[0] in PARSERS], ids=" ".join)
def test_command_parses(command: list[str]) -> None:
    assert PARSERS[command[0]](command[1:]).input


def test_embed_commands_parse() -> None:
    assert all(embed.parse(command).input for command in EMBED)
    assert len(EMBED) == 2


def test_every_rule_is_explained_with_its_default() -> None:
    defaults = data_filter.parse(["--input", "a", "--output", "b"])
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|.*\| `--[a-z-]+` \| (\S+)", GUIDE, re.MULTILINE))
    assert set(rows) == set(data_filter.RULES)
    for name, shown in rows.items():
        value = defaults.cosine if name == "near-evaluation" else getattr(defaults, name.replace("-", "_"))
        value = ",".join(map(str, value)) if isinstance(value, tuple) else f"{value:,}"
        assert value.removesuffix(".0") == shown


def test_rules_and_columns_are_of_their_release() -> None:
    for command in (command for command in COMMANDS if command[0] == "coyo"):
        arguments = data_coyo.parse(command[1:])
        release = COYO_LABELED_300M if "labeled" in str(arguments.input[0]) else COYO_700M
        assert [parse_rule(rule, release).text for rule in arguments.keep] == arguments.keep
        for column in (arguments.columns or "").split(","):
            assert not column or release.column(column)
    for column in (*COYO_700M.columns, *COYO_LABELED_300M.columns):
        assert f"`{column.name}`" in GUIDE or column.name == "imagehash"


def test_training_commands_and_the_mixture_build(tmp_path: Path) -> None:
    configs = re.findall(r"^ +align-jax train --config (\S+)", GUIDE, re.MULTILINE)
    assert len(configs) == 3
    experiments = [load_config(config) for config in configs]
    assert experiments[0].data.train == PairDataset("coyo700m", "train", "data")
    assert experiments[1].data.train == TarPairs("selected/images")
    (source,) = re.findall(r"^    import dataclasses\n(?:    .*\n|\n)+", GUIDE, re.MULTILINE)
    (tmp_path / "mixed.py").write_text(textwrap.dedent(source))
    parts = load_config(str(tmp_path / "mixed.py")).data.train.parts
    assert [(part.pairs.description, part.weight) for part in parts] == [("cc3m, train", 0.2), ("tars of images", 0.8)]


def test_download_command_is_the_one_that_is_printed() -> None:
    chain, line = re.findall(r"^    img2dataset-env/bin/(img2dataset .+)$", GUIDE, re.MULTILINE)
    columns = ["id", "clip_similarity_vitl14"]
    assert line == download_command(Path("selected/urls"), Path("selected/images"), COYO_700M, columns)
    columns.insert(1, "image_phash")
    assert chain == download_command(Path("urls/kept"), Path("images"), COYO_700M, columns)


def test_links_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", GUIDE) if not target.startswith("http")]
    assert targets
    assert not [target for target in targets if not (ROOT / "docs" / target).exists()]
