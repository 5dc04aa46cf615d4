"""A model's identity: a digest of its configuration and weights, the same whatever the form of its folder."""

import hashlib
import json
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from align_jax.json_config import JsonConfig


def model_digest(config: JsonConfig, variables: dict[str, Any]) -> str:
    """SHA-256, in hexadecimal digits, of the configuration and of every variable with its path, type and shape."""
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for path, leaf in sorted(flatten_dict(variables, sep="/").items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"\0{path} {array.dtype} {array.shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
