"""A tiny Vision Transformer that sorts the quickstart's pictures into Unicode's ten groups of emoji.

Source: our own recipe; the task, the model and the step are those of the ViT recipes, the sizes fit two CPU cores.
Command: align-jax train --config configs/vit_tiny_openmoji.py --workdir runs/vit_tiny_openmoji
Hardware: two CPU cores, under ten minutes; measured on AMD EPYC with AVX-512.
Expected, of 860 held-out pictures: top-1 0.806, where people alone are 0.65. Support vectors on gradients and colours
reach 0.87 (benchmarks/RESULTS.md): three thousand pictures are few for a Vision Transformer.
"""

from align_jax.configuration import ViTConfig
from align_jax.data.builders.emoji_groups import GROUPS
from align_jax.data.images import ImageTransform
from align_jax.data.labelled import LabelledDataset
from align_jax.data.labels import LabelData
from align_jax.training.evaluations import ClassificationEvaluation, Every
from align_jax.training.experiment import Experiment
from align_jax.training.optimizers import AdamW
from align_jax.training.tasks import Classification


def get_config(
    *,
    debug: bool = False,
    batch_size: int = 32,
    total_steps: int = 7000,
    data_dir: str = "data",
) -> Experiment:
    """The small run; `debug` is a few steps of a tiny batch.

    Args:
        debug: a few steps.
        batch_size: pictures of a step.
        total_steps: of the run.
        data_dir: the folder that data sets lie in; `align-jax data openmoji-groups` prepares this one.
    """
    if debug:
        batch_size, total_steps = 16, 4
    model = ViTConfig(
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=768,
        hidden_dropout_prob=0.1,
        layer_norm_eps=1e-6,
        image_size=32,
        patch_size=8,
        id2label=GROUPS,
    )
    dataset = "openmoji_groups/px72"
    return Experiment(
        name="ViT on OpenMoji",
        task=Classification(model=model, label_smoothing=0.1),
        data=LabelData(
            train=LabelledDataset(dataset, "train", data_dir),
            transform=ImageTransform(
                resize_px=36, crop_px=32, flip=True, zoom=0.2, rotate_degrees=15.0, border="white"
            ),
            cache_bytes=2**28,
        ),
        optimizer=AdamW(
            peak_learning_rate=7e-4,
            warmup_steps=min(100, total_steps // 4),
            decay="cosine",
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        total_steps=total_steps,
        batch_size=batch_size,
        ema_decay=0.99,
        evaluations=(
            ClassificationEvaluation(
                name="held_out",
                data=LabelledDataset(dataset, "held_out", data_dir),
                every=Every(1000),
            ),
        ),
        log=Every(1 if debug else 20),
        checkpoint=Every(1000),
    )
