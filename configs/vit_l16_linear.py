"""Linear evaluation of ViT-L/16 on ImageNet: a classifier on a frozen tower.

Source: the settings of ALIGN's frozen transfer, Jia et al., arXiv 2102.05918: SGD with momentum 0.9, batch
1,024, 100 epochs from 0.1, no weight decay. There the rate falls to a fifth every 30 epochs; here it follows a cosine.
Command: align-jax train --config configs/vit_l16_linear.py --workdir runs/vit_l16_linear
Hardware: any; only the forward pass of the tower is computed. Not run here.
Expected: not published for this model. ALIGN's frozen L2 tower has 85.5 at 360 px.

`align-jax evaluate --task linear-probe` fits the classifier to features that are computed once, without augmentation.
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

TRAIN_IMAGES = 1_281_167


def get_config(
    *,
    debug: bool = False,
    data_dir: str = "data",
    dataset: str = "imagenet2012",
    source: str = "runs/vit_l16_coyo_labeled",
) -> Experiment:
    """The run; `debug` has the same shape with a tiny tower and four steps.

    Args:
        debug: small enough for a laptop.
        data_dir: the folder that data sets lie in.
        dataset: ImageNet as TFDS prepares it in ArrayRecord; the model's classes take their names from it.
        source: workdir or model folder of the pre-training.
    """
    classes = {"id2label": numbered_labels(10 if debug else 1000)}
    model = ViTConfig.tiny(**classes) if debug else ViTConfig.coyo_large(**classes)
    size_px, batch_size = model.image_size, 16 if debug else 1024
    return Experiment(
        name="Linear evaluation of ViT-L/16 on ImageNet",
        task=Classification(model=model, dtype="float32" if debug else "bfloat16"),
        data=LabelData(
            train=LabelledDataset(dataset, "train", data_dir),
            transform=ImageTransform(
                resize_px=round(size_px * 256 / 224), crop_px=size_px, flip=True, smallest_area=0.05
            ),
            workers=0 if debug else 8,
        ),
        optimizer=Momentum(peak_learning_rate=0.1, decay="cosine", frozen=("^image/",)),
        total_steps=4 if debug else 100 * TRAIN_IMAGES // batch_size,
        batch_size=batch_size,
        start=None if debug else Start(source=source, fresh=("^classifier/",)),
        evaluations=()
        if debug
        else (
            ClassificationEvaluation(
                name="validation",
                data=LabelledDataset(dataset, "validation", data_dir),
                every=Every(12_500),
            ),
        ),
        log=Every(1 if debug else 100),
        checkpoint=Every(2 if debug else 12_500),
    )
