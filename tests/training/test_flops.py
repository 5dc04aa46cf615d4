"""The hand count of FLOPs against XLA's own."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig, EfficientNetConfig, ViTConfig
from align_jax.data.images import ImageTransform
from align_jax.data.labelled import LabelledDataset
from align_jax.data.labels import LabelData
from align_jax.models.align import Align, rematerializable_parts
from align_jax.training.experiment import Experiment
from align_jax.training.flops import (
    classification_flops,
    forward_flops_per_example,
    forward_flops_per_pair,
    part_costs,
    recomputed_flops_per_example,
    training_flops_per_example,
)
from align_jax.training.optimizers import Momentum
from align_jax.training.tasks import Classification

LENGTH = 16
# Wide, so that products are nearly all there is to count.
WIDE = AlignConfig.of_towers(
    AlignVisionConfig.tiny(image_size=17, width_coefficient=8.0, hidden_dim=256),
    AlignTextConfig.tiny(hidden_size=512, intermediate_size=2048),
    projection_dim=512,
)


def xla_flops(function, *arguments) -> float:
    """Of the program as it is written; nothing is compiled."""
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def test_both_towers_cost_what_xla_counts():
    model = Align(WIDE)
    images, ids = jax.ShapeDtypeStruct((1, 17, 17, 3), jnp.float32), jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images, ids)
    counted = forward_flops_per_pair(WIDE, text_length=LENGTH, batch_size=0)
    pooler = 2 * 512 * 512  # computed here, but no part of a training step
    assert counted == pytest.approx(xla_flops(model.apply, variables, images, ids) - pooler, rel=0.03)


def test_a_vision_transformer_costs_what_xla_counts():
    vision = ViTConfig.tiny(hidden_size=512, intermediate_size=2048, representation_size=256)
    config = AlignConfig.of_towers(vision, WIDE.text_config, projection_dim=512)
    model = Align(config)
    images, ids = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32), jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images, ids)
    counted = forward_flops_per_pair(config, text_length=LENGTH, batch_size=0)
    pooler = 2 * 512 * 512
    assert counted == pytest.approx(xla_flops(model.apply, variables, images, ids) - pooler, rel=0.03)


@pytest.mark.parametrize(
    "config",
    [
        ViTConfig.tiny(hidden_size=512, intermediate_size=2048, representation_size=256, id2label=("a",) * 3000),
        EfficientNetConfig.tiny(width_coefficient=4.0, hidden_dim=5120, id2label=("a",) * 3000),
    ],
    ids=["vit", "efficientnet"],
)
def test_classifiers_cost_what_xla_counts(config):
    module = Classification(model=config).module()
    images = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    counted = xla_flops(lambda variables, images: module.apply(variables, images).logits, variables, images)
    assert classification_flops(config) == pytest.approx(counted, rel=0.03)


def test_a_step_of_a_classifier_by_hand():
    """Two layers of width 8 on 2 x 2 patches of 4 px and the class token; three classes."""
    model = ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        id2label=("a", "b", "c"),
    )  # fmt: skip
    data = LabelData(train=LabelledDataset("any", "train", "nowhere"), transform=ImageTransform(resize_px=8, crop_px=8))
    tiny = Experiment(
        name="tiny", task=Classification(model=model), data=data, optimizer=Momentum(), total_steps=1, batch_size=64
    )
    patches, tokens = 2 * 4 * (4 * 4 * 3) * 8, 5
    layer = 2 * tokens * 4 * 8 * 8 + 2 * tokens * 2 * 8 * 16 + 2 * 2 * tokens**2 * 8
    classifier = 2 * 8 * 3
    assert forward_flops_per_example(tiny) == patches + 2 * layer + classifier == 3072 + 2 * 5920 + 48
    # Backwards each product is two, but for that of the patches: nothing asks for the gradient of the pixels.
    assert training_flops_per_example(tiny) == 2 * patches + 3 * (2 * layer + classifier) == 41808
    remade = dataclasses.replace(tiny, task=dataclasses.replace(tiny.task, rematerialize=("image/layers",)))
    assert recomputed_flops_per_example(remade) == 2 * layer
    assert training_flops_per_example(remade) == 41808


def test_the_gradient_costs_what_xla_counts(experiment):
    task = dataclasses.replace(experiment.task, model=WIDE)
    wide = dataclasses.replace(
        experiment, task=task, data=dataclasses.replace(experiment.data, text_length=LENGTH), batch_size=16
    )
    model = Align(WIDE)
    images, ids = jax.ShapeDtypeStruct((16, 17, 17, 3), jnp.float32), jax.ShapeDtypeStruct((16, LENGTH), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images, ids)

    def loss(params, batch_stats, images, ids):
        embeddings = model.apply({"params": params, "batch_stats": batch_stats}, images, ids)
        logits = embeddings.image @ embeddings.text.T
        return jnp.sum(jax.nn.log_softmax(logits))

    counted = xla_flops(jax.grad(loss), variables["params"], variables["batch_stats"], images, ids) / 16
    # One matrix of logits instead of two directions' is a thousandth of it.
    assert training_flops_per_example(wide) == pytest.approx(counted, rel=0.06)


def test_b7_base_by_hand():
    """A layer of BERT-base: 64 tokens x 2 x (4 x 768² + 2 x 768 x 3072) + 4 x 64² x 768, and the loss."""
    costs = part_costs(AlignConfig.b7_base(), 64)
    layer = 64 * 2 * (4 * 768**2 + 2 * 768 * 3072) + 4 * 64**2 * 768
    assert costs["text/layers"].forward_flops == 12 * layer
    assert costs["image/stem"].forward_flops == 2 * 27 * 64 * 144**2
    small, large = (
        forward_flops_per_pair(AlignConfig.b7_base(), text_length=64, batch_size=size) for size in (16384, 65536)
    )
    assert large - small == 2 * 2 * 640 * (65536 - 16384)


def test_every_part_that_can_be_rematerialised_has_a_cost(experiment):
    patches = AlignConfig.of_towers(ViTConfig.base(), AlignTextConfig.base())
    for model in (AlignConfig.tiny(), AlignConfig.b7_base(), patches):
        assert tuple(part_costs(model, 8)) == rematerializable_parts(model)
    assert recomputed_flops_per_example(experiment) == 0
    parts = ("image/stage_1", "text/layers")
    task = dataclasses.replace(experiment.task, rematerialize=parts)
    costs = part_costs(task.model, experiment.data.text_length)
    expected = sum(costs[part].forward_flops for part in parts)
    assert recomputed_flops_per_example(dataclasses.replace(experiment, task=task)) == expected
