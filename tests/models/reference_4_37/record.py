"""Records what the text tower of `transformers` 4.37.2 computes, as `text_tower.npz` beside this file.

Run it where torch is installed (2.13.0 was used), with the release and its companions in a folder of their own:

    pip install --no-deps --target /tmp/reference transformers==4.37.2 tokenizers==0.15.2 huggingface_hub==0.20.3
    PYTHONPATH=/tmp/reference python tests/models/reference_4_37/record.py

The file holds `weights/<name>`, shared by all cases; for each case `<case>/config` (JSON), `<case>/inputs/<name>`, and
`<case>/outputs/` with `hidden_states` [L+1 B T D], `attentions` [L B heads T T] and `pooler_output` [B D]. Cases whose
attention needs no distances leave the tables of distances out.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

RELEASE = "4.37.2"
SIZES = {
    "vocab_size": 23, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
    "max_position_embeddings": 11, "type_vocab_size": 3,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of the model."""

    position_embedding_type: str
    lengths: tuple[int, ...]  # tokens of each text; the rest is padding
    hole: bool = False  # a masked token in the middle of the first text
    options: tuple[str, ...] = ()
    head_mask: Any = None


CASES = {
    "relative_key_padded_7": Case("relative_key", (7, 4)),
    "relative_key_every_distance_11": Case("relative_key", (11, 9), options=("token_type_ids",)),
    "relative_key_single_token": Case("relative_key", (1, 1)),
    "relative_key_query_padded_5": Case("relative_key_query", (5, 2), options=("token_type_ids",)),
    # Positions are given, and play no part.
    "relative_key_query_every_distance_11": Case("relative_key_query", (11, 8), hole=True, options=("position_ids",)),
    "relative_key_query_heads_of_layers_from_embeddings_6": Case(
        "relative_key_query", (6, 3), options=("inputs_embeds",), head_mask=[[0.0, 1.0, 1.0], [1.0, 0.25, 0.0]]
    ),
    "absolute_heads_7": Case("absolute", (7, 3), head_mask=[1.0, 0.0, 1.0]),
    "absolute_heads_of_layers_8": Case(
        "absolute", (8, 5), hole=True, options=("token_type_ids",), head_mask=[[1.0, 0.5, 0.0], [0.0, 0.0, 2.0]]
    ),
    "absolute_from_embeddings_9": Case("absolute", (9, 6), options=("inputs_embeds", "token_type_ids", "position_ids")),
    "absolute_a_text_without_tokens": Case("absolute", (3, 0)),
}


def main() -> None:
    """Runs every case and writes the file."""
    if transformers.__version__ != RELEASE:
        raise SystemExit(f"transformers is {transformers.__version__}; the reference is {RELEASE}")
    weights = _weights(_model("relative_key_query"))
    arrays = {f"weights/{name}": tensor.numpy() for name, tensor in weights.items()}
    for name, case in CASES.items():
        model = _model(case.position_embedding_type)
        model.load_state_dict({key: weights[key] for key in model.state_dict()})
        inputs = _inputs(case, np.random.default_rng(len(arrays)))
        with torch.no_grad():
            outputs = model(
                **{key: torch.from_numpy(value) for key, value in inputs.items()},
                output_hidden_states=True,
                output_attentions=True,
            )
        config = SIZES | {"position_embedding_type": case.position_embedding_type}
        arrays[f"{name}/config"] = np.array(json.dumps(config))
        arrays |= {f"{name}/inputs/{key}": value for key, value in inputs.items()}
        arrays[f"{name}/outputs/hidden_states"] = torch.stack(outputs.hidden_states).numpy()
        arrays[f"{name}/outputs/attentions"] = torch.stack(outputs.attentions).numpy()
        arrays[f"{name}/outputs/pooler_output"] = outputs.pooler_output.numpy()
    path = Path(__file__).parent / "text_tower.npz"
    np.savez_compressed(path, **arrays)
    print(f"{path}: {len(CASES)} cases, {path.stat().st_size} bytes")


def _model(position_embedding_type: str) -> transformers.AlignTextModel:
    config = transformers.AlignTextConfig(**SIZES, position_embedding_type=position_embedding_type)
    return transformers.AlignTextModel(config).eval()


def _weights(model: transformers.AlignTextModel) -> dict[str, torch.Tensor]:
    """Large enough for attention that is far from uniform, and rows of every table that differ."""
    generator = torch.Generator().manual_seed(437)
    weights = {}
    for name, tensor in model.state_dict().items():
        scale = 1.0 if "_embedding" in name else 1.5 / math.sqrt(tensor.shape[-1])
        values = torch.randn(tensor.shape, generator=generator) * (0.1 if tensor.ndim == 1 else scale)
        weights[name] = values + 1.0 if name.endswith("LayerNorm.weight") else values
    return weights


def _inputs(case: Case, rng: np.random.Generator) -> dict[str, np.ndarray]:
    lengths = np.array(case.lengths)
    shape = batch, longest = len(lengths), max(case.lengths)
    mask = (np.arange(longest)[None, :] < lengths[:, None]).astype(np.int64)
    if case.hole:
        mask[0, longest // 2] = 0
    inputs: dict[str, np.ndarray] = {"attention_mask": mask}
    if "inputs_embeds" in case.options:
        inputs["inputs_embeds"] = rng.normal(size=(*shape, SIZES["hidden_size"])).astype(np.float32)
    else:
        inputs["input_ids"] = rng.integers(1, SIZES["vocab_size"], shape) * mask
    if "token_type_ids" in case.options:
        inputs["token_type_ids"] = rng.integers(0, SIZES["type_vocab_size"], shape)
    if "position_ids" in case.options:
        inputs["position_ids"] = rng.permuted(np.tile(np.arange(longest), (batch, 1)), axis=1)
    if case.head_mask is not None:
        inputs["head_mask"] = np.array(case.head_mask, np.float32)
    return inputs


if __name__ == "__main__":
    main()
