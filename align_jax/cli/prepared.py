"""What is said of a data set that is prepared."""

from typing import Any

from absl import logging


def already_prepared(builder: Any) -> bool:
    """Whether there is nothing to do, which is said."""
    logging.set_verbosity(logging.ERROR)  # TFDS warns about folders that it is about to fill
    prepared = builder.is_prepared()
    if prepared:
        print(f"{summary(builder)}; it was there already, remove the folder to prepare it again")
    return prepared


def summary(builder: Any) -> str:
    """Where it lies, and how many pairs, or labelled images, each split has."""
    examples = "pairs" if "labels" not in builder.info.features else "labelled images"
    splits = ", ".join(f"{split.num_examples} {examples} in {name}" for name, split in builder.info.splits.items())
    return f"{builder.data_dir}: {splits}"
