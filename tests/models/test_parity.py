"""Agreement with the PyTorch model of `transformers`: every hidden state, the embeddings, the loss and its gradients.

The reference has random weights scaled so that activations stay of order one, and batch-norm statistics near those of
its input, shaken; with its own initialisation nearly every activation is zero and any two networks agree.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig
from align_jax.conversion import align
from align_jax.conversion.rules import to_flax
from align_jax.losses import contrastive_loss
from align_jax.models.align import Align, unit_length

TOLERANCE = 1e-5  # of the largest absolute value of each compared array
GRADIENT_TOLERANCE = 1e-4


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
class Inputs:
    """The same batch for both models."""

    images: np.ndarray
    texts: dict[str, np.ndarray]

    def torch(self) -> dict[str, torch.Tensor]:
        pixels = torch.from_numpy(self.images).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        texts = {name: torch.from_numpy(values).long() for name, values in self.texts.items()}
        return {"pixel_values": pixels, **texts}


def make_inputs(config: AlignConfig, lengths: tuple[int, ...], *, all_inputs: bool, seed: int = 0) -> Inputs:
    rng = np.random.default_rng(seed)
    batch, longest, size = len(lengths), max(lengths), config.vision_config.image_size
    mask = (np.arange(longest)[None, :] < np.array(lengths)[:, None]).astype(np.int32)
    texts = {"input_ids": rng.integers(1, config.text_config.vocab_size, mask.shape, np.int32) * mask}
    if all_inputs:
        mask[0, longest // 2] = 0
        texts["token_type_ids"] = rng.integers(0, config.text_config.type_vocab_size, mask.shape, np.int32)
        texts["position_ids"] = np.arange(longest, dtype=np.int32)[None, ::-1].repeat(batch, axis=0)
    return Inputs(rng.integers(0, 256, (batch, size, size, 3), np.uint8), texts | {"attention_mask": mask})


def reference_model(config: AlignConfig, inputs: Inputs, seed: int = 0) -> transformers.AlignModel:
    """The reference in evaluation mode, with activations of order one."""
    model = transformers.AlignModel(transformers.AlignConfig.from_dict(config.to_dict()))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.1, generator=generator)
            elif parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif parameter.ndim > 1:
                fan_in = 1 if "_embeddings" in name else math.prod(parameter.shape[1:])
                parameter.normal_(0.0, fan_in**-0.5, generator=generator)
        norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        model.train().vision_model(inputs.torch()["pixel_values"])
        for norm in norms:
            norm.running_var.clamp_(min=0.05)
            shift = torch.empty_like(norm.running_var).normal_(0.0, 0.1, generator=generator)
            norm.running_mean.add_(shift * norm.running_var.sqrt())
            norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.5, 2.0, generator=generator))
    return model.eval()


def convert(model: transformers.AlignModel, config: AlignConfig) -> dict[str, Any]:
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return to_flax(tensors, align.TABLE, align.abstract_variables(config))


def run_towers(model: Align, images: jax.Array, texts: dict[str, jax.Array]) -> dict[str, Any]:
    """Everything that is compared, in the order in which it is computed."""
    image, image_features = model.encode_image(images)
    text, text_features = model.encode_text(**texts)
    image, text = unit_length(image), unit_length(text)
    return {
        "image hidden state": image_features.hidden_states,
        "image pooled": image_features.pooled,
        "text hidden state": text_features.hidden_states,
        "text attention": text_features.attentions,
        "text pooled": text_features.pooled,
        "image embedding": image,
        "text embedding": text,
        "logits": image @ text.T / model.temperature,
    }


def run_reference(model: transformers.AlignModel, inputs: Inputs) -> dict[str, Any]:
    with torch.no_grad():
        outputs = model(**inputs.torch(), output_hidden_states=True, output_attentions=True)
    image, text = outputs.vision_model_output, outputs.text_model_output
    return {
        "image hidden state": [state.permute(0, 2, 3, 1) for state in image.hidden_states],
        "image pooled": image.pooler_output,
        "text hidden state": text.hidden_states,
        "text attention": text.attentions,
        "text pooled": text.pooler_output,
        "image embedding": outputs.image_embeds,
        "text embedding": outputs.text_embeds,
        "logits": outputs.logits_per_image,
    }


def relative_difference(ours: Any, theirs: Any) -> float:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, values in theirs.items():
        if isinstance(values, torch.Tensor):
            yield name, relative_difference(ours[name], values)
            continue
        for index, (mine, reference) in enumerate(zip(ours[name], values, strict=True)):
            yield f"{name} {index}", relative_difference(mine, reference)


def assert_agreement(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for name, states in theirs.items():
        if name.endswith("hidden state"):
            spreads = [float(state.std()) for state in states]
            assert min(spreads) > 0.05, f"{name}: {spreads}; the reference is too flat to compare with"
    assert_small(dict(differences(ours, theirs)), TOLERANCE)


def assert_small(found: dict[str, float], tolerance: float) -> None:
    table = "\n".join(f"{difference:.2e}  {name}" for name, difference in found.items())
    print(table)  # shown by pytest -rP
    assert max(found.values()) <= tolerance, f"relative differences above {tolerance}:\n{table}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What both models make of the same weights and inputs; the towers' layers, the loss and its gradients."""

    ours: dict[str, Any]
    theirs: dict[str, Any]
    loss: float
    reference_loss: float
    gradients: dict[str, Any]
    reference_gradients: dict[str, Any]


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def comparison(request: pytest.FixtureRequest) -> Comparison:
    """Computed once for all tests of a case, because most of the time goes into compiling."""
    case: Case = request.param
    config = case.config()
    inputs = make_inputs(config, case.lengths, all_inputs=case.all_inputs)
    reference = reference_model(config, inputs)
    variables = convert(reference, config)
    reference_loss = reference(**inputs.torch(), return_loss=True).loss
    reference_loss.backward()

    def loss(params: dict[str, Any], batch_stats: dict[str, Any]) -> tuple[jax.Array, dict[str, Any]]:
        run = nn.apply(run_towers, Align(config))
        layers = run({"params": params, "batch_stats": batch_stats}, jnp.asarray(inputs.images), inputs.texts)
        value = contrastive_loss(layers["image embedding"], layers["text embedding"], params["temperature"]).loss
        return value, layers

    value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    with jax.default_matmul_precision("float32"):
        (value, layers), gradients = value_and_grad(variables["params"], variables["batch_stats"])
    return Comparison(
        ours=layers,
        theirs=run_reference(reference, inputs),
        loss=float(value),
        reference_loss=float(reference_loss.detach()),
        gradients=gradients,
        reference_gradients=reference_gradients(reference, config),
    )


def test_every_layer_agrees(comparison: Comparison) -> None:
    assert_agreement(comparison.ours, comparison.theirs)


def test_loss_agrees(comparison: Comparison) -> None:
    # The reference halves the sum of the two directions.
    assert comparison.loss == pytest.approx(2.0 * comparison.reference_loss, rel=TOLERANCE)


def test_every_gradient_agrees(comparison: Comparison) -> None:
    expected = jax.tree.map(lambda gradient: 2.0 * gradient, comparison.reference_gradients)
    found = {}
    for (path, gradient), wanted in zip(
        jax.tree_util.tree_leaves_with_path(comparison.gradients), jax.tree.leaves(expected), strict=True
    ):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found[name] = gradient_difference(name, np.asarray(gradient), wanted, expected)
    assert_small(found, GRADIENT_TOLERANCE)


def reference_gradients(model: transformers.AlignModel, config: AlignConfig) -> dict[str, Any]:
    """Gradients go through the rules of the weights they belong to."""
    gradients = {
        name: np.zeros(parameter.shape, np.float32) if parameter.grad is None else parameter.grad.numpy()
        for name, parameter in model.named_parameters()
    }
    return to_flax(gradients, align.TABLE, {"params": align.abstract_variables(config)["params"]})["params"]


def gradient_difference(name: str, gradient: np.ndarray, wanted: np.ndarray, expected: dict[str, Any]) -> float:
    scale = np.max(np.abs(wanted))
    if name.endswith("attention/key/bias"):
        # One vector added to every key adds one number to a row of scores, which softmax removes: the gradient is zero
        # but for rounding, and is measured against that of the query's bias.
        layer = name.split("/")[1]
        scale = np.max(np.abs(expected["text"][layer]["attention"]["query"]["bias"]))
    difference = np.max(np.abs(gradient - wanted))
    # BERT's pooler takes no part in the loss: both gradients are zero throughout.
    return float(difference / scale) if scale > 0 else float(difference)


def test_full_size_agrees_layer_by_layer_at_289px() -> None:
    config = AlignConfig.b7_base()
    inputs = make_inputs(config, (16, 9), all_inputs=False)
    reference = reference_model(config, inputs)
    assert sum(parameter.numel() for parameter in reference.parameters()) == 172_117_841
    theirs = run_reference(reference, inputs)
    variables = convert(reference, config)
    del reference
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 172_117_841
    apply = jax.jit(nn.apply(run_towers, Align(config)))
    assert_agreement(apply(variables, inputs.images, inputs.texts), theirs)
