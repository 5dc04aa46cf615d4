import json
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from align_jax.cli.data import main
from align_jax.data import vocabulary
from align_jax.data.builders import openmoji
from align_jax.data.records import DatasetNotPreparedError, PairDataset
from align_jax.data.text import Tokenizer
from align_jax.data.vocabulary import VocabularyError

CAPTIONS = {"train": ["red hat", "red bus", "blue bus"], "held_out": ["quiz", "red quiz"]}


class Words(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = "words"
    code_path = None
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(shape=(None, None, None)), "text": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(texts) for split, texts in CAPTIONS.items()}

    def _generate_examples(self, texts):
        for number, text in enumerate(texts):
            yield number, {"image": b"\x89PNG", "text": text}


@pytest.fixture(scope="module")
def words_dir(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("words")
    Words(data_dir=str(data_dir), file_format="array_record").download_and_prepare()
    return data_dir


@pytest.fixture
def train(words_dir):
    def run(output, *arguments):
        return main(
            ["vocabulary", "--data", "words", "--data-dir", str(words_dir), "--output", str(output), *arguments]
        )

    return run


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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


def test_vocabulary_has_no_token_of_a_split_that_is_not_named(train, words_dir, tmp_path):
    assert train(tmp_path / "all", "--split", "train+held_out") == 0
    assert {"quiz", "bus"} <= set((tmp_path / "all" / "vocab.txt").read_text().split())
    assert train(tmp_path / "train") == 0  # the default split
    tokens = (tmp_path / "train" / "vocab.txt").read_text().split()
    assert {"red", "bus"} <= set(tokens)
    letters = set("".join(token.removeprefix("##") for token in tokens if token[0] != "["))
    assert letters == set("".join(CAPTIONS["train"])) - {" "}

    held_out = [*words_dir.glob("words/*/*held_out*")]
    assert held_out
    try:
        for file in held_out:
            file.rename(file.with_name(f"away {file.name}"))
        assert train(tmp_path / "alone") == 0  # the files of the other split are not even opened
    finally:
        for file in held_out:
            file.with_name(f"away {file.name}").rename(file)
    assert files(tmp_path / "alone") == files(tmp_path / "train")


def test_vocabulary_says_what_it_was_made_from_and_is_not_made_twice(train, tmp_path, capsys):
    assert train(tmp_path / "v", "--size", "40") == 0
    assert json.loads((tmp_path / "v" / "vocabulary.json").read_text()) == {
        "data": "words", "split": "train", "size": 40, "records": 3,
    }  # fmt: skip
    before = files(tmp_path / "v")
    assert set(before) == {"tokenizer.json", "vocab.txt", "tokenizer_config.json", "vocabulary.json"}
    capsys.readouterr()
    assert train(tmp_path / "v", "--size", "40") == 0
    assert "already" in capsys.readouterr().out
    assert files(tmp_path / "v") == before


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["--size", "41"], "3 records of 'words', split 'train', with size 41"),
        (["--size", "40", "--split", "held_out"], "2 records of 'words', split 'held_out', with size 40"),
    ],
)
def test_vocabulary_of_something_else_is_an_error_that_names_both(train, tmp_path, arguments, asked):
    train(tmp_path / "v", "--size", "40")
    before = files(tmp_path / "v")
    made = "made from 3 records of 'words', split 'train', with size 40"
    with pytest.raises(VocabularyError, match=rf"{made}; this command asks for {asked}; remove the folder"):
        train(tmp_path / "v", *arguments)
    assert files(tmp_path / "v") == before


@pytest.mark.parametrize("left", [{"tokenizer.json": "{}"}, {"vocabulary.json": "{"}, {"vocabulary.json": '{"a": 1}'}])
def test_folder_that_was_not_made_as_a_whole_is_not_taken_for_a_vocabulary(train, tmp_path, left):
    (tmp_path / "v").mkdir()
    for name, text in left.items():
        (tmp_path / "v" / name).write_text(text)
    with pytest.raises(VocabularyError, match=r"has no vocabulary\.json that says what it was made from"):
        train(tmp_path / "v")


def test_interrupted_vocabulary_leaves_nothing_and_can_be_made_again(train, tmp_path, monkeypatch):
    def interrupted(captions, size, directory):
        directory.mkdir()
        (directory / "tokenizer.json").write_text("{}")
        raise KeyboardInterrupt

    output = tmp_path / "deep" / "v"
    with monkeypatch.context() as patch:
        patch.setattr(vocabulary, "train_vocabulary", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(output)
    assert [*output.parent.iterdir()] == []
    output.mkdir()  # an empty folder is as good as none
    assert train(output) == 0
    assert [path.name for path in output.parent.iterdir()] == ["v"]
    assert Tokenizer(output).vocab_size > 5


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
