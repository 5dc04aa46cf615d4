"""Converting whole model folders: there and back without a bit of difference, or an error and nothing on disk."""

import hashlib
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from align_jax.cli import main
from align_jax.configuration import AlignConfig, AlignTextConfig, EfficientNetConfig
from align_jax.configuration.labels import numbered_labels
from align_jax.conversion.model_folder import read_model, write_flax, write_hf
from align_jax.data.text import train_vocabulary
from align_jax.inference.initialization import random_variables
from align_jax.models.align import Align


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ALIGN as `transformers` saves it, with tokenizer and image processor."""
    folder = tmp_path_factory.mktemp("models") / "reference"
    torch.manual_seed(0)
    config = transformers.AlignConfig.from_dict(AlignConfig.tiny().to_dict())
    transformers.AlignModel(config).save_pretrained(folder)
    train_vocabulary(["a red apple", "a dark blue disc"], 60, folder)
    processor = transformers.EfficientNetImageProcessorPil(
        size={"height": 36, "width": 36}, crop_size={"height": 32, "width": 32}, resample=2, rescale_factor=1 / 127.5,
        rescale_offset=True, do_normalize=False, include_top=False, do_center_crop=True,
    )  # fmt: skip
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def source(reference: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(reference, tmp_path / "source"))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["convert", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def assert_same_tensors(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert found[name].tobytes() == tensor.tobytes(), name


def test_there_and_back_is_bit_equal_and_loads_in_transformers(source, tmp_path, capsys):
    status, _, error = run(capsys, source, tmp_path / "ours")
    assert (status, error) == (0, "")
    assert (tmp_path / "ours" / "params").is_dir()
    status, _, error = run(capsys, tmp_path / "ours", tmp_path / "back", "--to", "hf")
    assert (status, error) == (0, "")
    assert_same_tensors(load_file(tmp_path / "back" / "model.safetensors"), load_file(source / "model.safetensors"))
    for folder in (tmp_path / "ours", tmp_path / "back"):
        assert (folder / "vocab.txt").read_bytes() == (source / "vocab.txt").read_bytes()
    model, loading = transformers.AlignModel.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert not loading["mismatched_keys"]
    assert model.config.vision_config.image_size == 32
    processor = transformers.AlignProcessor.from_pretrained(tmp_path / "back")
    assert processor.image_processor.crop_size["height"] == 32


def test_bert_and_efficientnet_convert_too(tmp_path, capsys):
    text = AlignTextConfig.tiny().to_dict() | {"model_type": "bert"}
    transformers.BertModel(transformers.BertConfig.from_dict(text)).save_pretrained(tmp_path / "bert")
    image = EfficientNetConfig.tiny(id2label=numbered_labels(7)).to_dict()
    classifier = transformers.EfficientNetForImageClassification(transformers.EfficientNetConfig.from_dict(image))
    classifier.save_pretrained(tmp_path / "efficientnet")
    for name, family in (("bert", transformers.BertModel), ("efficientnet", type(classifier))):
        source, ours, back = (tmp_path / f"{name}{suffix}" for suffix in ("", "-ours", "-back"))
        capsys.readouterr()  # progress of transformers
        assert run(capsys, source, ours, "--verify")[::2] == (0, "")
        assert run(capsys, ours, back, "--to", "hf")[::2] == (0, "")
        assert_same_tensors(load_file(back / "model.safetensors"), load_file(source / "model.safetensors"))
        _, loading = family.from_pretrained(back, output_loading_info=True)
        assert not loading["missing_keys"]
        assert not loading["unexpected_keys"]


def test_network_that_transformers_would_compute_wrongly_is_not_written_for_it(tmp_path, capsys):
    config = EfficientNetConfig.tiny(squeeze_excite=False)
    variables = random_variables(config, seed=0)
    (tmp_path / "mine").mkdir()
    write_flax(config, variables, tmp_path / "mine")
    status, _, error = run(capsys, tmp_path / "mine", tmp_path / "other", "--to", "hf")
    assert status == 2
    assert "squeeze_excite" in error


def test_every_form_of_the_weights_gives_the_same_variables(source, tmp_path):
    expected = read_model(source).variables
    weights = source / "model.safetensors"
    tensors = {f"align.{name}": torch.from_numpy(tensor) for name, tensor in load_file(weights).items()}
    tensors["align.text_model.embeddings.position_ids"] = torch.arange(64)[None]
    weights.unlink()
    torch.save(tensors, source / "pytorch_model.bin")
    jax.tree.map(np.testing.assert_array_equal, read_model(source).variables, expected)
    jax.tree.map(np.testing.assert_array_equal, read_model(source / "pytorch_model.bin").variables, expected)


def test_shards_are_written_above_a_size_and_read_again(source, tmp_path):
    model = read_model(source)
    write_hf(model.config, model.variables, tmp_path, max_shard_bytes=100_000)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    jax.tree.map(np.testing.assert_array_equal, read_model(tmp_path).variables, model.variables)
    _, loading = transformers.AlignModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"]


@pytest.mark.parametrize("model_type", ["align_text_model", "align_vision_model"])
def test_towers_are_taken_out_of_the_whole(source, model_type):
    whole = read_model(source)
    part = {"align_text_model": "text", "align_vision_model": "image"}[model_type]
    tower = read_model(source, model_type=model_type)
    assert tower.config.model_type == model_type
    jax.tree.map(np.testing.assert_array_equal, tower.variables["params"], whole.variables["params"][part])


def test_report_lists_every_tensor_with_its_digest(source, tmp_path, capsys):
    _, output, _ = run(capsys, source, tmp_path / "ours")
    report = json.loads((tmp_path / "ours" / "conversion.json").read_text())
    tensors = load_file(source / "model.safetensors")
    converted = {one["name"]: one for one in report["converted"]}
    ignored = {name for names in report["ignored"].values() for name in names}
    assert converted.keys() | ignored == tensors.keys()
    assert not converted.keys() & ignored
    assert all("num_batches_tracked" in name for name in ignored)
    assert converted["temperature"]["sha256"] == hashlib.sha256(struct.pack("<f", 1.0)).hexdigest()
    sizes = sum(leaf.size for leaf in jax.tree.leaves(read_model(source).variables["params"]))
    assert report["parameters"] == sizes
    assert f"{sizes:,} parameters" in output
    run(capsys, tmp_path / "ours", tmp_path / "back", "--to", "hf")
    back = json.loads((tmp_path / "back" / "conversion.json").read_text())
    assert {one["name"]: one["sha256"] for one in back["converted"]} == {
        name: one["sha256"] for name, one in converted.items()
    }


def test_bfloat16_rounds_parameters_and_keeps_statistics(source, tmp_path, capsys):
    status, output, error = run(capsys, source, tmp_path / "half", "--dtype", "bfloat16", "--verify")
    assert (status, error) == (0, "")
    assert "bfloat16" in output
    model = read_model(tmp_path / "half", param_dtype="bfloat16")
    assert model.variables["params"]["text_projection"]["kernel"].dtype == "bfloat16"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(model.variables["batch_stats"])} == {"float32"}
    status, _, _ = run(capsys, tmp_path / "half", tmp_path / "back", "--to", "hf", "--dtype", "bfloat16")
    assert status == 0
    loaded = transformers.AlignModel.from_pretrained(tmp_path / "back", dtype="auto")
    assert loaded.dtype == torch.bfloat16


@pytest.mark.parametrize("form", ["flax", "hf"])
def test_verification_passes_in_both_directions(source, tmp_path, capsys, form):
    first = source
    if form == "hf":
        run(capsys, source, tmp_path / "ours")
        first = tmp_path / "ours"
    status, output, error = run(capsys, first, tmp_path / "output", "--to", form, "--verify")
    assert (status, error) == (0, "")
    assert "layers compared: all agree" in output


def test_verification_that_fails_leaves_nothing(source, tmp_path, capsys, monkeypatch):
    from align_jax.conversion import convert

    def damaged(config: Any, variables: dict[str, Any], folder: Path) -> None:
        kernel = variables["params"]["text"]["layers_1"]["feed_forward_in"]["kernel"]
        variables["params"]["text"]["layers_1"]["feed_forward_in"]["kernel"] = kernel * 1.01
        write_flax(config, variables, folder)

    monkeypatch.setattr(convert, "write_flax", damaged)
    status, output, error = run(capsys, source, tmp_path / "output", "--verify")
    assert status == 1
    assert "text layer 1" in output
    assert "was not written" in error
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_training_workdir_and_its_image_projection(tmp_path, capsys):
    """Our own form holds what the class of `transformers` cannot."""
    config = AlignConfig.tiny(projection_dim=48)
    images, input_ids = np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 4), np.int32)
    variables = jax.jit(Align(config).init)(jax.random.key(0), images, input_ids)
    (tmp_path / "mine").mkdir()
    write_flax(config, variables, tmp_path / "mine")
    assert run(capsys, tmp_path / "mine", tmp_path / "copy")[0] == 0
    jax.tree.map(np.testing.assert_array_equal, read_model(tmp_path / "copy").variables, variables)
    status, _, error = run(capsys, tmp_path / "mine", tmp_path / "other", "--to", "hf")
    assert status == 2
    assert "image projection" in error


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def damage_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[20:24] = b"\x00\xff{{"
    path.write_bytes(content)


def hide_code_in_pickle(folder: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (folder / "executed",)

    (folder / "model.safetensors").unlink()
    torch.save({"temperature": torch.ones(()), "attack": Attack()}, folder / "pytorch_model.bin")


def lose_a_shard(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[:10]}, folder / "model-00001-of-00002.safetensors")
    shards = {name: f"model-0000{1 if name in names[:10] else 2}-of-00002.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def edit(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def lose_tensors(folder: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        del tensors["temperature"], tensors["text_projection.bias"]

    edit(folder, change)


def add_a_tensor(folder: Path) -> None:
    edit(folder, lambda tensors: tensors.update({"classifier.weight": np.zeros(3, np.float32)}))


def reshape_a_tensor(folder: Path) -> None:
    edit(folder, lambda tensors: tensors.update({"text_projection.bias": np.zeros(3, np.float32)}))


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


BAD_SOURCES = {
    "truncated_safetensors": (truncate, ["truncated"]),
    "damaged_header": (damage_header, ["damaged"]),
    "pickle_that_would_execute_code": (hide_code_in_pickle, ["refused", "pathlib.Path"]),
    "missing_shard": (lose_a_shard, ["model-00002-of-00002.safetensors"]),
    "missing_tensors": (lose_tensors, ["2 missing", "temperature", "text_projection.bias"]),
    "extra_tensor": (add_a_tensor, ["1 unused", "classifier.weight"]),
    "wrong_shape": (reshape_a_tensor, ["wrong shape", "text_projection.bias", "(3,)", "(32,)"]),
    "config_of_another_model": (lambda folder: change_config(folder, model_type="clip"), ["'clip'", "align"]),
    "config_of_a_tower": (lambda folder: change_config(folder, model_type="align_text_model"), ["text_config"]),
    "unknown_field": (lambda folder: change_config(folder, sparkle=3), ["sparkle"]),
    "config_that_is_not_json": (lambda folder: (folder / "config.json").write_text("{"), ["not valid JSON"]),
    "no_config": (lambda folder: (folder / "config.json").unlink(), ["config.json does not exist"]),
    "no_weights": (lambda folder: (folder / "model.safetensors").unlink(), ["model.safetensors"]),
    "nothing_there": (shutil.rmtree, ["source"]),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), BAD_SOURCES.values(), ids=BAD_SOURCES.keys())
def test_bad_source_gives_one_line_and_no_output(source, tmp_path, capsys, damage, words):
    damage(source)
    status, _, error = run(capsys, source, tmp_path / "output")
    assert status == 2
    assert len(error.splitlines()) == 1, error
    for word in words:
        assert word in error
    assert {path.name for path in tmp_path.iterdir()} <= {"source"}
    assert not (source / "executed").exists()


def test_output_inside_the_source_is_refused(source, tmp_path, capsys):
    status, _, error = run(capsys, source, source / "params")
    assert status == 2
    assert "inside the source" in error
    assert not (source / "params").exists()


def test_workdir_without_a_checkpoint_is_bad_input(source, tmp_path, capsys):
    (source / "checkpoints").mkdir()
    status, _, error = run(capsys, source, tmp_path / "output")
    assert status == 2
    assert "no finished checkpoint" in error


def test_saving_again_leaves_no_older_weights_behind(source, tmp_path):
    model = read_model(source)
    write_hf(model.config, model.variables, tmp_path, max_shard_bytes=100_000)
    write_hf(model.config, model.variables, tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"config.json", "model.safetensors"}
    write_hf(model.config, model.variables, tmp_path, max_shard_bytes=100_000)
    assert not (tmp_path / "model.safetensors").exists()
    jax.tree.map(np.testing.assert_array_equal, read_model(tmp_path).variables, model.variables)


def test_output_that_exists_is_left_alone(source, tmp_path, capsys):
    output = tmp_path / "output"
    output.mkdir()
    (output / "mine").write_text("precious")
    status, _, error = run(capsys, source, output)
    assert status == 2
    assert "exists already" in error
    assert [path.name for path in output.iterdir()] == ["mine"]


@pytest.mark.parametrize("form", ["flax", "hf"])
def test_altered_parameters_of_ours_are_refused(source, tmp_path, capsys, form):
    run(capsys, source, tmp_path / "ours")
    path = max((tmp_path / "ours" / "params").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    status, _, error = run(capsys, tmp_path / "ours", tmp_path / "output", "--to", form)
    assert status == 2
    assert "was altered" in error
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("form", ["flax", "hf"])
@pytest.mark.parametrize("size", ["100k", "296k"])  # which is seen before, and which is found out while writing
def test_full_disk_gives_one_line_and_no_output(source, tmp_path, form, size):
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        'mount -t tmpfs -o size=$5 tmpfs "$1" && "$2" -m align_jax convert "$3" "$1/output" --to "$4"; '
        'status=$?; ls -A "$1"; exit $status'
    )
    command = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
        disk,
        sys.executable,
        source,
        form,
        size,
    ]
    if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system lets no user mount a small disk")
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "disk" in done.stderr
    assert "output" not in done.stdout.splitlines()
