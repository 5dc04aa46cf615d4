"""Exported encoders run where this package is not, and give what the embedder gives."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from align_jax.cli import main
from align_jax.inference.embedder import Embedder
from align_jax.inference.export import export_model
from tests.inference.tiny_align import write_folder

TOLERANCE = 1e-5
GROUPED = r"feature_group_count = (?!1 )\d+"
TEXTS = ["a cat on the mat", "photo of dogs", "a dog"]

CHECK = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("align_jax", "flax", "transformers", "orbax", "safetensors"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refused())
{code}
inputs = np.load("inputs.npz")
squares, input_ids, attention_mask = (inputs[name] for name in ("squares", "input_ids", "attention_mask"))
np.savez("outputs.npz", images=embed_images(squares), texts=embed_texts(input_ids, attention_mask),
         one=embed_images(squares[:1]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "encoders"
    assert main(["export", str(folder), str(output)]) == 0
    return output


def test_programs_run_without_this_package_as_their_readme_says(folder, exported) -> None:
    embedder = Embedder.from_pretrained(folder, batch_size=8, mesh=None)
    squares = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    input_ids, attention_mask = embedder._encoder.tokenize(TEXTS)
    np.savez(exported / "inputs.npz", squares=squares, input_ids=input_ids, attention_mask=attention_mask)
    (code,) = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    code = code[: code.index("images = embed_images")]
    subprocess.run([sys.executable, "-I", "-c", CHECK.format(code=code)], cwd=exported, check=True, timeout=300)
    outputs = np.load(exported / "outputs.npz")
    np.testing.assert_allclose(outputs["texts"], embedder.texts(TEXTS), rtol=0, atol=TOLERANCE)
    padded = np.concatenate([squares, np.zeros((5, 32, 32, 3), np.uint8)])
    rows, _ = embedder._encoder.start_images(embedder._variables, padded, np.arange(8) < 3)()
    np.testing.assert_allclose(outputs["images"], rows[:3], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(outputs["one"], rows[:1], rtol=0, atol=TOLERANCE)


def test_every_platform_gets_its_own_convolutions(exported, folder, tmp_path) -> None:
    export_model(folder, tmp_path / "cpu", platforms=["cpu"])
    for_cpu = jax.export.deserialize(bytearray((tmp_path / "cpu" / "image_encoder.bin").read_bytes()))
    assert not re.search(GROUPED, for_cpu.mlir_module())
    program = jax.export.deserialize(bytearray((exported / "image_encoder.bin").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    module = program.mlir_module()
    assert "stablehlo.case" in module  # the branch of the platform that runs it
    assert re.search(GROUPED, module)  # for cuda
    assert program.in_avals[-1].shape[0] != 1  # any number of rows


def test_description_tells_shapes_types_and_preprocessing(exported, folder) -> None:
    described = json.loads((exported / "export.json").read_text())
    assert described["encoders"]["image"]["inputs"] == [{"name": "images", "shape": ["B", 32, 32, 3], "dtype": "uint8"}]
    assert described["encoders"]["text"]["output"]["shape"] == ["B", Embedder.from_pretrained(folder).embedding_size]
    assert described["preprocessing"]["size"] == {"height": 36, "width": 36}
    assert described["platforms"] == ["cpu", "cuda", "tpu"]
    assert (exported / "vocab.txt").is_file() or (exported / "tokenizer.json").is_file()


def test_wrong_platform_and_taken_folder_are_refused_in_one_line(folder, exported, capsys) -> None:
    assert main(["export", str(folder), str(exported.parent / "other"), "--platforms", "cpu,abacus"]) == 2
    assert "platform 'abacus' is not supported; use some of cpu, cuda, tpu" in capsys.readouterr().err
    assert main(["export", str(folder), str(exported)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert not (exported.parent / "other").exists()
