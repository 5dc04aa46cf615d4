"""An experiment: everything that a training run depends on, as plain frozen dataclasses.

Files in `configs/` return one; the command line overrides its fields by type; `experiment.json` in a workdir is its
exact copy.
"""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import cattrs
from cattrs.preconf.json import make_converter
from cattrs.strategies import configure_tagged_union

from align_jax.configuration import (
    AlignVisionConfig,
    ConfigurationError,
    EfficientNetConfig,
    ImageTowerConfig,
    ViTConfig,
)
from align_jax.data.labels import LabelData
from align_jax.data.pairs import PairData
from align_jax.files import replace_file
from align_jax.parallel.mesh import MeshShape
from align_jax.training.evaluations import ClassificationEvaluation, Evaluation, Every, RetrievalEvaluation
from align_jax.training.non_finite import NonFinite
from align_jax.training.optimizers import AdamW, Lamb, Momentum
from align_jax.training.start import Start
from align_jax.training.tasks import Classification, Contrastive, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """One training run.

    Attributes:
        name: shown in the report.
        task: model and loss.
        data: pairs or labelled images, augmentation.
        optimizer: with its learning-rate schedule.
        total_steps: the run ends after this many steps; the schedule spans them.
        batch_size: examples per step, on all devices together.
        seed: of parameters, sample order, augmentation and dropout.
        mesh: how devices share the work.
        ema_decay: of the running average of the parameters that is evaluated; none when absent.
        evaluations: recall on held-out pairs, or accuracy on held-out labelled images.
        start: trained weights that the run starts from; it starts anew when absent.
        log: how often numbers are recorded.
        checkpoint: how often the state is saved, besides the end.
        keep_checkpoints: how many of the newest stay.
        keep_checkpoints_every: checkpoints at multiples of so many steps stay as well; none when absent.
        failed_save: what a checkpoint that cannot be written does, for want of disk space say: `stop` ends the run,
            `continue` says so and goes on to the next one. The metrics need room all the same.
        non_finite: what a loss or gradient does that is not a number.
    """

    name: str
    task: Task
    data: PairData | LabelData
    optimizer: Lamb | AdamW | Momentum
    total_steps: int
    batch_size: int
    seed: int = 0
    mesh: MeshShape = MeshShape()
    ema_decay: float | None = None
    evaluations: tuple[Evaluation, ...] = ()
    start: Start | None = None
    log: Every = Every(10)
    checkpoint: Every = Every(1000)
    keep_checkpoints: int = 3
    keep_checkpoints_every: int | None = None
    failed_save: Literal["stop", "continue"] = "stop"
    non_finite: NonFinite = NonFinite()

    def __post_init__(self) -> None:
        self.task.check_data(self.data)
        for evaluation in self.evaluations:
            if evaluation.examples != self.task.examples:
                raise ConfigurationError(
                    f"evaluation {evaluation.name!r} is of {evaluation.examples}, and the task learns from "
                    f"{self.task.examples}; use one that fits"
                )
        self.task.check_batch_size(self.batch_size)
        if self.total_steps < 1:
            raise ConfigurationError(f"total_steps {self.total_steps} is not positive; use 1 or more")

    def to_json(self, path: str | Path) -> None:
        """Writes `experiment.json`."""
        replace_file(Path(path), json.dumps(_converter().unstructure(self), indent=2).encode() + b"\n")

    @classmethod
    def from_json(cls, path: str | Path) -> "Experiment":
        """Reads `experiment.json`.

        Raises:
            ConfigurationError: if a field is unknown, missing or of the wrong type; all are named.
        """
        try:
            return _converter().structure(json.loads(Path(path).read_text()), cls)
        except (cattrs.BaseValidationError, json.JSONDecodeError) as error:
            problems = cattrs.transform_error(error) if isinstance(error, cattrs.BaseValidationError) else [str(error)]
            raise ConfigurationError(f"{path} is not an experiment: {'; '.join(problems)}") from error


def _converter() -> cattrs.Converter:
    converter = make_converter(forbid_extra_keys=True)
    configure_tagged_union(Lamb | AdamW | Momentum, converter, tag_name="kind")
    # Files from before there was a choice name no kind.
    configure_tagged_union(ImageTowerConfig, converter, tag_name="kind", default=AlignVisionConfig)
    configure_tagged_union(ViTConfig | EfficientNetConfig, converter, tag_name="kind")
    configure_tagged_union(Contrastive | Classification, converter, tag_name="kind", default=Contrastive)
    configure_tagged_union(PairData | LabelData, converter, tag_name="kind", default=PairData)
    configure_tagged_union(
        RetrievalEvaluation | ClassificationEvaluation, converter, tag_name="kind", default=RetrievalEvaluation
    )
    return converter
