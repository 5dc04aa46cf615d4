"""ViT-L/16 fine-tuned on ImageNet, at 384 px or, with averaged parameters, at 512 px.

Source: kakaobrain/coyo-vit, configs/trainer/vit_l16_i1k_downstream.yaml, and …_downstream_ema.yaml for 512 px.
Command: align-jax train --config configs/vit_l16_imagenet.py --workdir runs/vit_l16_imagenet
     or: align-jax train --config configs/vit_l16_imagenet.py:image_px=512 --workdir runs/vit_l16_imagenet_512
Hardware: TPU v3, as released, which does not say how many. Not run here.
Expected: at 384 px top-1 86.72, ReaL 89.84; at 512 px top-1 87.24, ReaL 90.03. The learning rate is the first of the
published sweep (0.06, 0.03, 0.01, each for 20,000 and 40,000 steps).
"""

from align_jax.configuration import ViTConfig
from align_jax.configuration.labels import numbered_labels
from align_jax.data.images import ImageTransform
from align_jax.data.labelled import LabelledDataset
from align_jax.data.labels import LabelData
from align_jax.training.evaluations import ClassificationEvaluation, Every
from align_jax.training.experiment import Experiment
from align_jax.training.optimizers import Momentum
from align_jax.training.start import Start
from align_jax.training.tasks import Classification


def get_config(
    *,
    debug: bool = False,
    image_px: int = 384,
    peak_learning_rate: float = 0.06,
    total_steps: int = 20_000,
    data_dir: str = "data",
    dataset: str = "imagenet2012",
    source: str = "runs/vit_l16_coyo_labeled",
) -> Experiment:
    """The released run; `debug` has the same shape with a tiny tower and four steps.

    Args:
        debug: small enough for a laptop.
        image_px: 384 or 512; position embeddings are interpolated to it. 512 averages the parameters.
        peak_learning_rate: of the sweep.
        total_steps: of the sweep.
        data_dir: the folder that data sets lie in.
        dataset: ImageNet as TFDS prepares it in ArrayRecord; the model's classes take their names from it.
        source: workdir or model folder of the pre-training.
    """
    classes = {"id2label": numbered_labels(10 if debug else 1000), "position_interpolation": "linear"}
    model = ViTConfig.tiny(**classes) if debug else ViTConfig.coyo_large(image_size=image_px, **classes)
    return Experiment(
        name=f"ViT-L/16 on ImageNet at {model.image_size} px",
        task=Classification(
            model=model,
            objective="softmax",
            dtype="float32" if debug else "bfloat16",
            rematerialize=() if debug else ("image/layers",),
        ),
        data=LabelData(
            train=LabelledDataset(dataset, "train", data_dir),
            # Inception's crop in training; evaluation resizes the whole image.
            transform=ImageTransform(
                resize_px=model.image_size, crop_px=model.image_size, flip=True, smallest_area=0.05
            ),
            workers=0 if debug else 8,
        ),
        optimizer=Momentum(
            peak_learning_rate=peak_learning_rate,
            warmup_steps=2 if debug else 500,
            decay="cosine",
            clip_norm=1.0,
        ),
        total_steps=4 if debug else total_steps,
        batch_size=16 if debug else 512,
        ema_decay=0.9999 if image_px == 512 else None,
        # The head and the layer in front of it are those of the pre-training, and stay behind.
        start=None if debug else Start(source=source, fresh=("^classifier/",)),
        evaluations=()
        if debug
        else (
            ClassificationEvaluation(
                name="validation",
                data=LabelledDataset(dataset, "validation", data_dir),
                every=Every(2500),
            ),
        ),
        log=Every(1 if debug else 100),
        checkpoint=Every(2 if debug else 2500),
    )
