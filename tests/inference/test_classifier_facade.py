"""The classifiers' facades compute what the PyTorch models of `transformers` compute, from the same calls."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from align_jax import EfficientNetForImageClassification, ViTConfig, ViTForImageClassification
from align_jax.configuration import AlignConfig, AlignTextConfig
from align_jax.inference.facade import AlignModel
from tests.inference.tiny_align import assert_same, images
from tests.inference.tiny_classifiers import LABELS, write_efficientnet, write_vit

EVERYTHING = {"output_hidden_states": True, "output_attentions": True}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[ViTForImageClassification, Any]:
    folder = tmp_path_factory.mktemp("vit")
    theirs = write_vit(folder)
    return ViTForImageClassification.from_pretrained(folder), theirs


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[EfficientNetForImageClassification, Any]:
    folder = tmp_path_factory.mktemp("efficientnet")
    theirs = write_efficientnet(folder)
    return EfficientNetForImageClassification.from_pretrained(folder), theirs


def test_every_field_of_vit_agrees(vit: Any) -> None:
    ours, theirs = vit
    pixels, classes = images(3), np.array([6, 0, 2])
    with torch.no_grad():
        expected = theirs(torch.from_numpy(pixels), labels=torch.from_numpy(classes), **EVERYTHING)
    output = ours(pixels, labels=classes, **EVERYTHING)
    assert_same(output, expected)
    assert_same(ours(pixels, labels=classes, **EVERYTHING, return_dict=False), expected.to_tuple())
    assert list(ours(pixels)) == ["logits"]
    assert ours.config.id2label[int(np.argmax(output.logits[0]))] in LABELS


def test_every_field_of_efficientnet_agrees(efficientnet: Any) -> None:
    ours, theirs = efficientnet
    pixels, classes = images(3), np.array([6, 0, 2])
    with torch.no_grad():
        expected = theirs(torch.from_numpy(pixels), labels=torch.from_numpy(classes), output_hidden_states=True)
    assert_same(ours(pixels, labels=classes, output_hidden_states=True), expected)
    assert_same(ours(pixels, return_dict=False), (expected.logits,))


@pytest.mark.parametrize(
    ("problem", "count", "labels"),
    [
        ("regression", 3, np.array([[0.1, -2, 3], [1, 2, 0]], np.float32)),
        (None, 1, np.array([0.3, -4], np.float32)),
        ("multi_label_classification", 3, np.array([[0, 1, 1], [1, 0, 0]], np.float32)),
        (None, 3, np.array([[0, 1, 1], [1, 0, 0]], np.float32)),
        (None, 3, np.array([1, -100])),
        ("single_label_classification", 3, np.array([[1], [2]])),
    ],
)
def test_losses_agree_for_every_kind_of_problem(problem: Any, count: int, labels: np.ndarray, tmp_path: Path) -> None:
    theirs = write_vit(tmp_path, id2label=LABELS[:count], problem_type=problem, num_hidden_layers=1)
    ours, pixels = ViTForImageClassification.from_pretrained(tmp_path), images(2)
    assert ours.config.problem_type == problem
    with torch.no_grad():
        expected = theirs(torch.from_numpy(pixels), labels=torch.from_numpy(labels))
    assert_same(ours(pixels, labels=labels), expected)


def test_other_sizes_only_when_asked_for(vit: Any) -> None:
    ours, _ = vit
    pixels = images(2, 48)
    with pytest.raises(ValueError, match="48 x 48 px, but the model was made for 32 x 32"):
        ours(pixels)
    assert ours(pixels, interpolate_pos_encoding=True).logits.shape == (2, len(LABELS))
    with pytest.raises(ValueError, match="at least 8 x 8"):
        ours(pixels[:, :, :4], interpolate_pos_encoding=True)


def test_a_masked_head_contributes_nothing(vit: Any) -> None:
    ours, _ = vit
    mask = np.ones(4, np.float32)
    assert_same(ours(images(2), head_mask=mask).logits, ours(images(2)).logits)
    mask[1] = 0
    output = ours(images(2), head_mask=mask, output_attentions=True)
    assert not np.any(output.attentions[0][:, 1])


def test_arguments_have_the_order_of_transformers() -> None:
    def names(function: Any) -> list[str]:
        return [name for name in inspect.signature(function).parameters if name != "self"]

    vit = "pixel_values head_mask labels output_attentions output_hidden_states interpolate_pos_encoding return_dict"
    assert names(ViTForImageClassification.__call__) == vit.split()
    efficientnet = "pixel_values labels output_hidden_states return_dict"
    assert names(EfficientNetForImageClassification.__call__) == efficientnet.split()


def test_torch_in_torch_out_and_folders_come_back(vit: Any, tmp_path: Path) -> None:
    ours, theirs = vit
    output = ours(torch.from_numpy(images(2)), labels=torch.tensor([1, 2]))
    assert isinstance(output.loss.item(), float)
    assert isinstance(output.logits, torch.Tensor)
    ours.save_pretrained(tmp_path)
    again = type(theirs).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert_same(output.logits, again(torch.from_numpy(images(2))).logits)
    assert again.config.id2label == dict(enumerate(LABELS))


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (np.array([0, 7]), "labels contain 7"),
        (np.array([0, -1]), "labels contain -1"),
        (np.array([0, 1, 2]), "each of the 2 images"),
        (np.zeros((2, 3), np.float32), "2 images, 7 classes"),
    ],
)
def test_wrong_labels_are_named(vit: Any, labels: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        vit[0](images(2), labels=labels)


def test_towers_and_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="tower without a classifier"):
        ViTForImageClassification(ViTConfig.tiny())
    with pytest.raises(ValueError, match="takes an EfficientNetConfig"):
        EfficientNetForImageClassification(ViTConfig.tiny(id2label=LABELS))


def test_align_with_patches_gives_tokens_and_attentions() -> None:
    config = AlignConfig.of_towers(ViTConfig.tiny(), AlignTextConfig.tiny(), projection_dim=16)
    model = AlignModel(config)
    output = model(np.ones((2, 5), np.int32), images(3), output_hidden_states=True, output_attentions=True)
    assert output.logits_per_image.shape == (3, 2)
    vision: Any = output.vision_model_output
    assert vision.last_hidden_state.shape == (3, 17, 32)
    assert (len(vision.hidden_states), len(vision.attentions)) == (3, 2)
