"""The model of commands that are given none: the quickstart's, where it has been trained."""

from pathlib import Path

QUICKSTART = Path("runs/quickstart")


def default_model(model: str | None) -> str:
    """The given model, or that of the quickstart.

    Raises:
        ValueError: if there is neither.
    """
    if model is not None:
        return model
    if not (QUICKSTART / "checkpoints").is_dir():
        raise ValueError(f"there is no {QUICKSTART} to fall back on; give --model M, or run `make quickstart` first")
    return str(QUICKSTART)
