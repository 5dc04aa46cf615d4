import subprocess
import sys

import pytest

from align_jax.cli.data import main
from align_jax.data.builders import openmoji
from align_jax.data.records import DatasetNotPreparedError, PairDataset
from align_jax.data.text import Tokenizer


def test_openmoji_then_vocabulary_then_nothing_twice(tmp_path, monkeypatch, capsys):
    emoji = openmoji.read_emoji()[:40]
    monkeypatch.setattr(openmoji, "read_emoji", lambda: emoji)
    monkeypatch.setattr(openmoji, "held_out_variants", lambda keys: frozenset({emoji[7].key}))
    data_dir, folder = str(tmp_path / "data"), str(tmp_path / "vocabulary")
    prepare = ["openmoji", "--data-dir", data_dir, "--size-px", "16"]
    train = ["vocabulary", "--data", "openmoji", "--data-dir", data_dir, "--output", folder, "--size", "150"]
    assert main(prepare) == main(train) == 0
    assert "39 pairs in train, 1 pairs in compositional" in capsys.readouterr().out
    assert len(PairDataset("openmoji", "train", data_dir).open()) == 39
    assert 50 < Tokenizer(folder).vocab_size <= 150
    assert main(prepare) == main(train) == 0
    assert capsys.readouterr().out.count("already") == 2


def test_folder_prepares_a_named_data_set(tmp_path, capsys):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    emoji = openmoji.read_emoji()[0]
    (pictures / "a.png").write_bytes(openmoji.render(emoji.svg_file, 16))
    (pictures / "a.txt").write_text("a cat\n")
    (pictures / "b.png").write_bytes(b"broken")
    (pictures / "b.txt").write_text("a dog\n")
    arguments = ["folder", "--input", str(pictures), "--name", "mine", "--data-dir", str(tmp_path / "data")]
    assert main(arguments) == 0
    assert "1 pairs in train; 1 left out because it does not decode" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "already" in capsys.readouterr().out
    (record,) = PairDataset("mine", "train", str(tmp_path / "data")).open()
    assert (record.key, record.texts) == ("a.png", ("a cat",))


def test_vocabulary_of_a_data_set_that_is_not_there_names_the_command(tmp_path):
    with pytest.raises(DatasetNotPreparedError, match="align-jax data openmoji"):
        main(["vocabulary", "--data", "openmoji", "--data-dir", str(tmp_path), "--output", str(tmp_path / "v")])


@pytest.mark.parametrize("arguments", [["--help"], ["folder", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys, contextlib\nfrom align_jax.cli.data import main\n"
        f"with contextlib.suppress(SystemExit): main({arguments})\n"
        "heavy = {'jax', 'tensorflow_datasets', 'transformers', 'grain'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "usage: align-jax data" in found.stdout
