"""Agreement with the PyTorch model of `transformers`: every layer, the loss and its gradients."""

import dataclasses
from typing import Any

import jax
import pytest

from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig
from align_jax.conversion.verify import TOLERANCE, Inputs, LayerDifference, compare_layers, fixed_inputs
from align_jax.losses import contrastive_loss
from align_jax.models.align import Align
from tests.models.reference import (
    assert_agreement,
    assert_gradients_agree,
    make_inputs,
    reference_gradients,
    reference_model,
    tensors_of,
    torch_arguments,
    variables_of,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A pair of towers and the shape of their input."""

    vision: dict[str, Any] = dataclasses.field(default_factory=dict)
    text: dict[str, Any] = dataclasses.field(default_factory=dict)
    lengths: tuple[int, ...] = (7, 4, 1)  # tokens of each text; the rest is padding
    all_inputs: bool = False  # segments, reversed positions, and a hole in the middle of a mask

    def config(self) -> AlignConfig:
        vision = AlignVisionConfig.tiny(**self.vision)
        text = AlignTextConfig.tiny(**self.text)
        width = vision.feature_size
        return AlignConfig(text, vision, projection_dim=width, temperature_init_value=0.7)


CASES = {
    "released_test_shape_32px": Case(vision={"hidden_act": "gelu"}),
    "odd_33px_symmetric_first_padding": Case(
        vision={
            "image_size": 33, "kernel_sizes": (5, 3, 5), "strides": (2, 1, 2), "num_block_repeats": (2, 1, 1),
            "expand_ratios": (1, 4, 6), "depthwise_padding": (0,),
        },
        text={"num_hidden_layers": 1, "hidden_act": "relu", "num_attention_heads": 2},
        lengths=(5, 5, 2), all_inputs=True,
    ),
    "odd_37px_max_pooling": Case(
        vision={
            "image_size": 37, "kernel_sizes": (3, 5, 3), "strides": (1, 2, 2), "width_coefficient": 1.3,
            "depth_coefficient": 0.6, "pooling_type": "max", "depthwise_padding": (2,), "hidden_act": "silu",
        },
        text={"num_hidden_layers": 3, "hidden_act": "gelu_new", "type_vocab_size": 5},
        lengths=(64, 40, 3), all_inputs=True,
    ),
    "equal_widths_without_expansion_48px": Case(
        vision={
            "image_size": 48, "in_channels": (32, 32, 24), "out_channels": (32, 24, 24), "strides": (1, 2, 1),
            "num_block_repeats": (2, 1, 1), "expand_ratios": (1, 1, 3), "squeeze_expansion_ratio": 0.5,
        },
        text={"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 96},
    ),
    "odd_289px": Case(
        vision={
            "image_size": 289, "kernel_sizes": (3, 5, 3), "strides": (2, 2, 2), "num_block_repeats": (1, 1, 1),
            "out_channels": (16, 24, 40),
        },
        lengths=(16, 9, 12),
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What both models make of the same weights and inputs: the layers, the loss and its gradients."""

    differences: list[LayerDifference]
    loss: float
    reference_loss: float
    gradients: dict[str, Any]
    reference_gradients: dict[str, Any]


# Without optimizations, the gradient of max pooling is not a number in XLA on CPU (jaxlib 0.10.2).
pytestmark = pytest.mark.optimized


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def comparison(request: pytest.FixtureRequest) -> Comparison:
    """Computed once for all tests of a case, because most of the time goes into compiling."""
    case: Case = request.param
    config = case.config()
    inputs = make_inputs(config, case.lengths, all_inputs=case.all_inputs)
    model = reference_model(config, inputs.images)
    tensors = tensors_of(model)
    variables = variables_of(config, tensors)
    reference_loss = model(**torch_arguments(inputs), return_loss=True).loss
    reference_loss.backward()
    loss, gradients = our_loss(config, variables, inputs)
    return Comparison(
        differences=compare_layers(config, tensors, variables, inputs),
        loss=loss,
        reference_loss=float(reference_loss.detach()),
        gradients=gradients,
        reference_gradients=reference_gradients(model, config),
    )


def our_loss(config: AlignConfig, variables: dict[str, Any], inputs: Inputs) -> tuple[float, dict[str, Any]]:
    def loss(params: dict[str, Any]) -> jax.Array:
        pairs = Align(config).apply(
            {"params": params, "batch_stats": variables["batch_stats"]}, inputs.images, **inputs.texts
        )
        return contrastive_loss(*pairs).loss

    value, gradients = jax.jit(jax.value_and_grad(loss))(variables["params"])
    return float(value), gradients


def test_every_layer_agrees(comparison: Comparison) -> None:
    assert_agreement(comparison.differences)


def test_loss_agrees(comparison: Comparison) -> None:
    # The reference halves the sum of the two directions.
    assert comparison.loss == pytest.approx(2.0 * comparison.reference_loss, rel=TOLERANCE)


def test_every_gradient_agrees(comparison: Comparison) -> None:
    expected = jax.tree.map(lambda gradient: 2.0 * gradient, comparison.reference_gradients)
    assert_gradients_agree(comparison.gradients, expected)


def test_full_size_agrees_layer_by_layer_at_289px() -> None:
    config = AlignConfig.b7_base()
    model = reference_model(config, fixed_inputs(config).images)
    assert sum(parameter.numel() for parameter in model.parameters()) == 172_117_841
    tensors = tensors_of(model)
    del model
    variables = variables_of(config, tensors)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 172_117_841
    assert_agreement(compare_layers(config, tensors, variables))
