"""ViT-L/16 on COYO-Labeled-300M: the pre-training of the released Vision Transformer.

Source: kakaobrain/coyo-vit, configs/trainer/vit_l16_coyo300m.yaml; Dosovitskiy et al., arXiv 2010.11929, for the model.
Command: align-jax train --config configs/vit_l16_coyo_labeled.py --workdir runs/vit_l16_coyo_labeled
Hardware: TPU v3, as released, which does not say how many. Not run here.
Expected: after fine-tuning at 384 px (vit_l16_imagenet.py) ImageNet top-1 86.72, ReaL 89.84.

The released trainer takes all labels that a record lists (`least_probability` leaves out the improbable ones), and
starts the classifier's bias from 0 although its configuration says -10; `first_class_bias` is that of the run.
Labels have no names in the published data: classes are numbered. Its evaluation keeps the aspect ratio; the one here
resizes to a square, before the same central crop.
"""

from align_jax.configuration import ViTConfig
from align_jax.configuration.labels import numbered_labels
from align_jax.data.images import ImageTransform
from align_jax.data.labelled import LabelledDataset
from align_jax.data.labels import LabelData
from align_jax.training.evaluations import Every
from align_jax.training.experiment import Experiment
from align_jax.training.optimizers import AdamW
from align_jax.training.tasks import Classification

EPOCHS = 7
IMAGES = 300_000_000
CLASSES = 21_841


def get_config(
    *,
    debug: bool = False,
    data_dir: str = "data",
    dataset: str = "coyo_labeled300m",
    least_probability: float = 0.0,
    first_class_bias: float = 0.0,
) -> Experiment:
    """The released run; `debug` has the same shape with a tiny tower and four steps.

    Args:
        debug: small enough for a laptop.
        data_dir: the folder that data sets lie in.
        dataset: labelled images under `data_dir`, with up to 50 labels each.
        least_probability: of the labels that count; 0 takes all of them.
        first_class_bias: what the classifier's bias starts from; -10 is what the released configuration meant.
    """
    sizes = {"representation_size": 1024, "id2label": numbered_labels(50 if debug else CLASSES)}
    if debug:
        sizes |= {"representation_size": 32, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
    model = ViTConfig.tiny(**sizes) if debug else ViTConfig.coyo_large(**sizes)
    size_px, batch_size = model.image_size, 16 if debug else 4096
    return Experiment(
        name="ViT-L/16 on COYO-Labeled-300M",
        task=Classification(
            model=model,
            objective="sigmoid",
            first_class_bias=first_class_bias,
            dtype="float32" if debug else "bfloat16",
            rematerialize=() if debug else ("image/layers",),
        ),
        data=LabelData(
            train=LabelledDataset(dataset, "train", data_dir, least_probability or None),
            max_labels=50,
            # Inception's crop to 224 px.
            transform=ImageTransform(
                resize_px=round(size_px * 256 / 224), crop_px=size_px, flip=True, smallest_area=0.05
            ),
            workers=0 if debug else 8,
            max_bad_records=100 if debug else 1_000_000,
        ),
        optimizer=AdamW(
            peak_learning_rate=6e-4,
            final_learning_rate=1e-5,
            warmup_steps=2 if debug else 10_000,
            weight_decay=0.1,
            decayed="everything",
            eps=1e-7,
            clip_norm=1.0,
        ),
        total_steps=4 if debug else EPOCHS * IMAGES // batch_size,
        batch_size=batch_size,
        log=Every(1 if debug else 100),
        checkpoint=Every(2 if debug else 10_000),
        keep_checkpoints_every=None if debug else 100_000,
    )
