"""The text tower of `transformers` 4.37 with every option of its forward pass, in PyTorch, for any configuration.

Later releases take `head_mask` without a word and do nothing with it, and know no embeddings of distances. This one is
written for reading, not for speed, and is itself checked against what 4.37.2 computed (`text_tower.npz`).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.activations import ACT2FN

from align_jax.configuration import AlignTextConfig


def reference_text_model(config: AlignTextConfig, state_dict: Mapping[str, Any]) -> Callable[..., dict[str, Any]]:
    """The tower with these weights, in evaluation mode.

    Args:
        config: of the tower.
        state_dict: tensors or NumPy arrays by their names in `AlignTextModel`; gradients reach tensors that want them.

    Returns:
        A function of `input_ids` or `inputs_embeds`, `attention_mask`, `token_type_ids`, `position_ids` and
        `head_mask` (tensors or NumPy arrays, all optional) that returns `last_hidden_state`, `pooler_output`,
        `hidden_states` (the embeddings, then every layer's output) and `attentions` (one a layer).
    """
    weights = {name: torch.as_tensor(value) for name, value in state_dict.items()}

    def run(**inputs: Any) -> dict[str, Any]:
        given = {name: torch.as_tensor(value) for name, value in inputs.items() if value is not None}
        head_mask = given.pop("head_mask", torch.ones(config.num_attention_heads))
        head_masks = head_mask.expand(config.num_hidden_layers, config.num_attention_heads)
        attention_mask = given.pop("attention_mask", None)
        states, attentions = [_embed(config, weights, **given)], []
        if attention_mask is None:
            attention_mask = torch.ones(states[0].shape[:2])
        mask_bias = (1.0 - attention_mask.float()) * torch.finfo(torch.float32).min
        for index in range(config.num_hidden_layers):
            layer = _below(weights, f"encoder.layer.{index}.")
            context, attention = _attend(config, layer, states[-1], mask_bias, head_masks[index])
            attended = _norm(config, layer, "attention.output.LayerNorm", context + states[-1])
            hidden = ACT2FN[config.hidden_act](_linear(layer, "intermediate.dense", attended))
            output = _linear(layer, "output.dense", hidden)
            states.append(_norm(config, layer, "output.LayerNorm", output + attended))
            attentions.append(attention)
        return {
            "last_hidden_state": states[-1],
            "pooler_output": torch.tanh(_linear(weights, "pooler.dense", states[-1][:, 0])),
            "hidden_states": tuple(states),
            "attentions": tuple(attentions),
        }

    return run


def _embed(
    config: AlignTextConfig,
    weights: Mapping[str, Tensor],
    input_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> Tensor:
    def lookup(kind: str, ids: Tensor, padding: int | None = None) -> Tensor:
        return functional.embedding(ids.long(), weights[f"embeddings.{kind}_embeddings.weight"], padding_idx=padding)

    if inputs_embeds is None:
        inputs_embeds = lookup("word", input_ids, config.pad_token_id)
    batch, length, _ = inputs_embeds.shape
    if token_type_ids is None:
        token_type_ids = torch.zeros(batch, length)
    if position_ids is None:
        position_ids = torch.arange(length).expand(batch, length)
    total = inputs_embeds + lookup("token_type", token_type_ids)
    if config.position_embedding_type == "absolute":
        total = total + lookup("position", position_ids)
    return _norm(config, weights, "embeddings.LayerNorm", total)


def _attend(
    config: AlignTextConfig, layer: Mapping[str, Tensor], states: Tensor, mask_bias: Tensor, head_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """The attended values after the output layer [B T D], and the attention that weighed them [B heads T T]."""
    batch, length, width = states.shape
    size = width // config.num_attention_heads
    query, key, value = (
        _linear(layer, f"attention.self.{name}", states).view(batch, length, -1, size).transpose(1, 2)
        for name in ("query", "key", "value")
    )
    scores = query @ key.transpose(2, 3)
    if config.position_embedding_type != "absolute":
        distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
        table = layer["attention.self.distance_embedding.weight"]
        embedded = table[distance + config.max_position_embeddings - 1]  # [query, key, size]
        scores = scores + (query[:, :, :, None] * embedded).sum(-1)
        if config.position_embedding_type == "relative_key_query":
            scores = scores + (key[:, :, None, :] * embedded).sum(-1)
    scores = scores / math.sqrt(size) + mask_bias[:, None, None, :]
    attention = scores.softmax(-1) * head_mask[None, :, None, None]
    context = (attention @ value).transpose(1, 2).reshape(batch, length, width)
    return _linear(layer, "attention.output.dense", context), attention


def _linear(weights: Mapping[str, Tensor], name: str, values: Tensor) -> Tensor:
    return functional.linear(values, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(config: AlignTextConfig, weights: Mapping[str, Tensor], name: str, values: Tensor) -> Tensor:
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return functional.layer_norm(values, values.shape[-1:], weight, bias, config.layer_norm_eps)


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
