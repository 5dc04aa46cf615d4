"""Both encoders as StableHLO, for programs that have JAX and not this package.

`export_model` writes a folder:

    image_encoder.bin   (parameters, images [B S S 3] uint8) -> unit-length embeddings [B D] float32
    text_encoder.bin    (parameters, token ids [B T], mask [B T], both int32) -> the same
    image_parameters.npz, text_parameters.npz   by path, batch norm folded; bfloat16 as the uint16 of its bits
    export.json         shapes, types, platforms, preprocessing, the model's digest
    README.md           how to load and run it
    vocab.txt, …        the tokenizer's and the image processor's files

B is any number of rows; images are resized and cropped squares of levels 0 … 255 and are scaled inside. Each platform
has its own program, with the convolutions in the form that it runs best.
"""

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax import export

from align_jax.checkpoints import Weights
from align_jax.conversion.model_folder import read_model
from align_jax.data.preprocessing import Preprocessing
from align_jax.files import new_folder
from align_jax.inference.digest import model_digest
from align_jax.inference.dtype import Dtype
from align_jax.inference.encoder import image_embeddings, text_embeddings
from align_jax.inference.folding import inference_variables
from align_jax.inference.platforms import PLATFORMS
from align_jax.inference.text_length import text_length_of
from align_jax.models.align import Align

_TOKENIZER_FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_IMAGE_PARTS, _TEXT_PARTS = ("image", "image_projection"), ("text", "text_projection")


def export_model(
    source: str | Path,
    output: Path,
    *,
    platforms: Sequence[str] = PLATFORMS,
    dtype: Dtype = "float32",
    weights: Weights = "ema",
    text_length: int | None = None,
    revision: str | None = None,
) -> Path:
    """Writes both encoders of a model to a folder that must not exist; it appears when everything in it is written.

    Args:
        source: a model folder, a workdir, or an id of the Hub.
        output: the folder.
        platforms: that the programs run on.
        dtype: of the parameters and the computation.
        weights: of a workdir, averaged or raw.
        text_length: tokens per text; that of the training where known, else 64.
        revision: branch, tag or commit on the Hub.

    Raises:
        ModuleNotFoundError: if flatbuffers is not installed.
        ValueError: if a platform is unknown, there is something at `output`, or the model is not an ALIGN model.
    """
    if unknown := set(platforms) - set(PLATFORMS):
        raise ValueError(f"platform {sorted(unknown)[0]!r} is not supported; use some of {', '.join(PLATFORMS)}")
    found = read_model(source, model_type="align", revision=revision, weights=weights)
    config: Any = found.config
    preprocessing = Preprocessing.from_folder(found.folder)
    length = text_length_of(found.folder, config) if text_length is None else text_length
    model = Align(config, dtype=dtype, param_dtype=dtype)
    params = jax.jit(partial(inference_variables, config, dtype))(jax.device_get(found.variables))["params"]
    side, level = preprocessing.size_px, jnp.uint8 if preprocessing.mode == "hf" else jnp.float32
    inputs = {"image": [("images", (side, side, 3), level)],
              "text": [("input_ids", (length,), jnp.int32), ("attention_mask", (length,), jnp.int32)]}  # fmt: skip
    towers = {"image": (partial(image_embeddings, model, preprocessing.scale_batch), _IMAGE_PARTS),
              "text": (partial(text_embeddings, model), _TEXT_PARTS)}  # fmt: skip
    with new_folder(output) as folder:
        for name, (function, parts) in towers.items():
            own = _flat({part: params[part] for part in parts if part in params})
            program = _export(_of_flat(function, params["temperature"]), own, inputs[name], platforms)
            (folder / f"{name}_encoder.bin").write_bytes(program)
            stored: dict[str, Any] = {path: _stored(leaf) for path, leaf in own.items()}
            np.savez(folder / f"{name}_parameters.npz", **stored)
        description = _description(inputs, config.projection_dim, platforms, dtype) | {
            "preprocessing": preprocessing.to_dict(), "digest": model_digest(config, found.variables),
        }  # fmt: skip
        (folder / "export.json").write_text(json.dumps(description, indent=2) + "\n")
        (folder / "README.md").write_text(_readme(side, length, config.projection_dim))
        preprocessing.to_folder(folder)
        for path in (found.folder / name for name in _TOKENIZER_FILES):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
    return output


def _stored(leaf: jax.Array) -> np.ndarray:
    """NumPy's files know no bfloat16."""
    array = np.asarray(leaf)
    return array.view(np.uint16) if array.dtype == jnp.bfloat16 else array


def _flat(params: Any) -> dict[str, jax.Array]:
    return {path: jnp.asarray(leaf) for path, leaf in sorted(flatten_dict(params, sep="/").items())}


def _of_flat(function: Any, temperature: Any) -> Any:
    """A function of parameters by path, which a program without Flax can hold; the temperature has no part in it."""

    def call(flat: dict[str, jax.Array], *arrays: jax.Array) -> jax.Array:
        params: dict[str, Any] = {"temperature": jnp.zeros_like(temperature)}
        for path, leaf in flat.items():
            *above, name = path.split("/")
            node = params
            for part in above:
                node = node.setdefault(part, {})
            node[name] = leaf
        return function({"params": params}, *arrays)

    return call


def _export(
    function: Any, params: dict[str, jax.Array], inputs: Sequence[tuple[str, tuple[int, ...], Any]],
    platforms: Sequence[str],
) -> bytes:  # fmt: skip
    """One program for all platforms, any number of rows."""
    try:
        import flatbuffers  # noqa: F401, PLC0415  (an extra; jax.export needs it and does not bring it)
    except ModuleNotFoundError:
        raise ModuleNotFoundError("exporting needs flatbuffers; install align_jax[export]") from None
    (rows,) = export.symbolic_shape("B")
    arrays = [jax.ShapeDtypeStruct((rows, *shape), number_type) for _, shape, number_type in inputs]
    types = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    return bytes(export.export(jax.jit(function), platforms=tuple(platforms))(types, *arrays).serialize())


def _description(inputs: Any, embedding_size: int, platforms: Sequence[str], dtype: Dtype) -> dict[str, Any]:
    encoders = {
        name: {
            "program": f"{name}_encoder.bin",
            "parameters": f"{name}_parameters.npz",
            "inputs": [
                {"name": each, "shape": ["B", *shape], "dtype": np.dtype(number_type).name}
                for each, shape, number_type in arrays
            ],
            "output": {"shape": ["B", embedding_size], "dtype": "float32", "unit_length": True},
        }
        for name, arrays in inputs.items()
    }
    return {"format": 1, "encoders": encoders, "platforms": list(platforms), "dtype": dtype, "jax": jax.__version__}


def _readme(side: int, length: int, embedding_size: int) -> str:
    return f"""# Exported ALIGN encoders

Needs `jax` and `flatbuffers`; nothing else.

```python
from pathlib import Path
import jax, jax.export, jax.numpy as jnp, numpy as np

def load(name):
    program = jax.export.deserialize(bytearray(Path(f"{{name}}_encoder.bin").read_bytes()))
    stored = np.load(f"{{name}}_parameters.npz")
    bits = lambda array: array.view(jnp.bfloat16) if array.dtype == np.uint16 else array
    parameters = jax.device_put({{path: bits(stored[path]) for path in stored.files}})
    call = jax.jit(program.call)
    return lambda *inputs: np.asarray(call(parameters, *inputs))

embed_images, embed_texts = load("image"), load("text")
images = embed_images(squares)                    # [B {side} {side} 3] -> [B {embedding_size}]
texts = embed_texts(input_ids, attention_mask)    # int32 [B {length}], both -> [B {embedding_size}]
cosines = images @ texts.T
```

`squares` are RGB levels from 0 to 255, resized and cropped as `preprocessor_config.json` says, and not scaled: the
program does that. `input_ids` are WordPiece ids of `[CLS] text [SEP]`, padded with zeros to {length}; the mask is 1 on
tokens and 0 on padding. `export.json` has the types, the platforms and the digest of the model.
"""
