"""Where a run stands in its data: the part of a checkpoint that is not arrays."""

import dataclasses
from typing import Any

from align_jax.configuration import ConfigurationError
from align_jax.training.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Position:
    """What decides, together with the step, which examples come next.

    Attributes:
        order: all that the order of examples, and their tokens or labels, follow from.
        skipped_batches: batches that rollbacks left out; step n takes batch n + skipped_batches of the stream.
        non_finite: steps so far whose loss or gradient was not a number.
        evaluated: whether the evaluations that are due at the step were made before it was saved.
    """

    order: dict[str, Any]
    skipped_batches: int = 0
    non_finite: int = 0
    evaluated: bool = True

    def to_json(self, step: int) -> dict[str, Any]:
        """The object that is saved beside the state of `step`."""
        examples = (step + self.skipped_batches) * self.order["batch_size"]
        return dataclasses.asdict(self) | {"examples": examples}

    @classmethod
    def from_json(cls, saved: dict[str, Any], order: dict[str, Any]) -> "Position":
        """The position of a checkpoint, for a run with the order of examples `order`.

        Raises:
            ConfigurationError: if the run has another order of examples; every difference is named.
        """
        found = saved["order"]
        changed = [
            f"{key} was {found.get(key)} and is now {value}" for key, value in order.items() if found.get(key) != value
        ]
        if changed:
            raise ConfigurationError(
                f"the run cannot continue with another order of examples ({'; '.join(changed)}); set them back, or "
                "give another workdir"
            )
        return cls(order, saved["skipped_batches"], saved["non_finite"], saved["evaluated"])


def order_of_examples(experiment: Experiment, records: int) -> dict[str, Any]:
    """What the order of examples follows from, of an experiment whose data set has so many records."""
    train = experiment.data.train
    return {
        "seed": experiment.seed,
        "batch_size": experiment.batch_size,
        "data set": train.description,
        "records": records,
        **experiment.data.order(),
    }
