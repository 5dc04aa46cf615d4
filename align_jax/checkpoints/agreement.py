"""What one process finds out and all act upon."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all


class PrimaryError(RuntimeError):
    """The first process failed; raised in all of them."""


def from_primary(compute: Callable[[], Any]) -> Any:
    """What `compute` gives in the first process, as JSON; every process must call this, and gets it.

    Raises:
        PrimaryError: with the text of an OSError or ValueError in the first process, in every process.
    """
    if jax.process_index() == 0:
        try:
            answer = {"value": compute()}
        except (OSError, ValueError) as error:
            answer = {"error": str(error)}
    else:
        answer = {}
    if jax.process_count() > 1:
        content = np.frombuffer(json.dumps(answer).encode(), np.uint8)
        size = int(broadcast_one_to_all(np.int32(content.size)))
        padded = np.zeros(size, np.uint8)
        padded[: content.size] = content[:size]
        answer = json.loads(bytes(np.asarray(broadcast_one_to_all(padded))))
    if "error" in answer:
        raise PrimaryError(answer["error"])
    return answer["value"]
