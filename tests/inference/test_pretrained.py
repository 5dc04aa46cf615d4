"""Models load from every kind of folder, and what they save is what `transformers` loads."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from jaxtyping import TypeCheckError

from align_jax import AlignConfig, AlignModel, AlignTextModel, AlignVisionModel
from align_jax.checkpoints import Checkpoints
from align_jax.conversion.model_folder import write_flax
from align_jax.json_config import ConfigurationError
from tests.inference.tiny_align import (
    CONFIG,
    assert_same,
    images,
    reference_model,
    reference_variables,
    tensors,
    texts,
    write_folder,
)

TEXT = CONFIG.text_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "align")


def assert_equal_weights(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_loads_what_transformers_saves(folder: Path) -> None:
    model = AlignModel.from_pretrained(folder)
    assert model.config == CONFIG
    assert_equal_weights(model.variables, reference_variables())
    inputs = {"pixel_values": images(3), **texts(9, 6, 1)}
    with torch.no_grad():
        assert_same(model(**inputs), reference_model()(**tensors(inputs)))


def test_loads_our_own_folders_and_workdirs(tmp_path: Path) -> None:
    own, workdir = tmp_path / "own", tmp_path / "workdir"
    own.mkdir()
    write_flax(CONFIG, reference_variables(), own)
    workdir.mkdir()
    CONFIG.to_json(workdir)
    state = jax.tree.map(jnp.asarray, reference_variables())
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(7, state | {"ema_params": None}, {})
    for source in (own, str(workdir)):
        model = AlignModel.from_pretrained(source)
        assert model.config == CONFIG
        assert_equal_weights(model.variables, reference_variables())


def test_towers_come_out_of_whole_models(folder: Path) -> None:
    text, vision = AlignTextModel.from_pretrained(folder), AlignVisionModel.from_pretrained(folder)
    assert (text.config, vision.config) == (CONFIG.text_config, CONFIG.vision_config)
    with torch.no_grad():
        assert_same(text(**texts(9, 6, 1)), reference_model().text_model(**tensors(texts(9, 6, 1))))
        assert_same(vision(images(3)), reference_model().vision_model(torch.from_numpy(images(3))))


def test_towers_without_pooler(folder: Path) -> None:
    bare = AlignTextModel.from_pretrained(folder, add_pooling_layer=False)
    assert list(bare(**texts(9, 6, 1))) == ["last_hidden_state"]


def test_bert_is_a_text_tower(tmp_path: Path) -> None:
    values = {name: value for name, value in TEXT.to_dict().items() if name != "model_type"}
    bert = transformers.BertModel(transformers.BertConfig(**values)).eval()
    bert.load_state_dict(reference_model().text_model.state_dict())
    bert.save_pretrained(tmp_path / "bert")
    text = AlignTextModel.from_pretrained(tmp_path / "bert")
    assert text.config == TEXT
    with torch.no_grad():
        assert_same(text(**texts(9, 6, 1)), bert(**tensors(texts(9, 6, 1))))
    text.save_pretrained(tmp_path / "tower")
    assert json.loads((tmp_path / "tower" / "config.json").read_text())["model_type"] == "align_text_model"


@pytest.mark.parametrize(
    ("model_class", "reference"),
    [
        (AlignModel, reference_model),
        (AlignTextModel, lambda: reference_model().text_model),
        (AlignVisionModel, lambda: reference_model().vision_model),
    ],
)
def test_transformers_loads_what_models_save(folder: Path, tmp_path: Path, model_class: Any, reference: Any) -> None:
    model_class.from_pretrained(folder).save_pretrained(tmp_path / "new" / "folder")
    loaded, problems = getattr(transformers, model_class.__name__).from_pretrained(
        tmp_path / "new" / "folder", output_loading_info=True
    )
    assert not any(problems.values())
    found, expected = loaded.state_dict(), reference().state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(found[name], tensor), name


def test_bfloat16_survives_saving(folder: Path, tmp_path: Path) -> None:
    AlignTextModel.from_pretrained(folder, dtype="bfloat16").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    again = AlignTextModel.from_pretrained(tmp_path, dtype=jnp.bfloat16)
    kernel = again.params["layers_0"]["attention"]["query"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    original = reference_variables()["params"]["text"]["layers_0"]["attention"]["query"]["kernel"]
    np.testing.assert_array_equal(kernel, original.astype(jnp.bfloat16))


def test_models_that_transformers_lacks_are_not_saved(tmp_path: Path) -> None:
    model = AlignModel(AlignConfig.tiny(projection_dim=16))
    assert model.config.image_projection
    with pytest.raises(ConfigurationError, match="AlignModel has no image projection"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_kinds_of_model_are_refused(folder: Path, tmp_path: Path) -> None:
    AlignTextModel.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds a model of type 'align_text_model', not 'align'"):
        AlignModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds a model of type 'align_text_model', not 'align_vision_model'"):
        AlignVisionModel.from_pretrained(tmp_path)


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match="nothing"):
        AlignModel.from_pretrained(tmp_path / "nothing")


def test_bfloat16_computes_in_bfloat16() -> None:
    model = AlignModel(CONFIG, dtype=torch.bfloat16)
    kernel = model.params["text"]["layers_0"]["attention"]["query"]["kernel"]
    assert (kernel.dtype, model.params["temperature"].dtype) == (jnp.bfloat16, jnp.float32)
    output = model(**texts(9, 6, 1), pixel_values=images(3))
    assert output.text_model_output.last_hidden_state.dtype == jnp.bfloat16
    assert (output.image_embeds.dtype, output.logits_per_text.dtype) == (jnp.float32, jnp.float32)
    tensor = model(**tensors(texts(9, 6, 1)), pixel_values=images(3)).text_model_output.last_hidden_state
    assert tensor.dtype == torch.bfloat16
    np.testing.assert_array_equal(
        tensor.float().numpy(), np.asarray(output.text_model_output.last_hidden_state, np.float32)
    )
    with pytest.raises(ValueError, match="dtype 'int8' is not supported; use one of float32, bfloat16"):
        AlignTextModel(TEXT, dtype="int8")


def test_models_stay_as_they_are() -> None:
    model = AlignTextModel(TEXT)
    assert model.eval().to("cuda").to(model.device) is model
    assert model.params is model.variables["params"]
    assert torch.zeros(1, device=model.device).device.type == "cpu"
    with pytest.raises(ValueError, match=r"cannot change to torch\.float16; load it with from_pretrained"):
        model.to(torch.float16)


def test_models_of_the_wrong_configuration_are_refused() -> None:
    with pytest.raises(ValueError, match=r"AlignModel takes an AlignConfig of align_jax, not a .*AlignTextConfig"):
        AlignModel(TEXT)
    with pytest.raises((ValueError, TypeCheckError), match=r"from_dict\(config.to_dict\(\)\)|parameter 'config'"):
        AlignModel(transformers.AlignConfig())
