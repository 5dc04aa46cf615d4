"""Locked-image tuning: a text tower that learns to speak of what a trained, frozen Vision Transformer sees.

Source: Zhai et al., arXiv 2111.07991 ("LiT"), for the method: the image tower locked, the text tower from scratch, the
contrastive loss. Towers, optimizer, batch and steps are ours; the image tower is that of vit_l16_imagenet.py at 384 px.
Command: align-jax train --config configs/align_locked_image.py --workdir runs/align_locked_image
Hardware: any; the image tower has a forward pass only. Not run here.
Expected: not published for these towers and public pairs.
"""

from align_jax.configuration import AlignConfig, AlignTextConfig, ViTConfig
from align_jax.data.images import ImageTransform
from align_jax.data.pairs import PairData
from align_jax.data.records import PairDataset
from align_jax.data.tar_pairs import TarPairs
from align_jax.training.evaluations import Every
from align_jax.training.experiment import Experiment
from align_jax.training.optimizers import AdamW
from align_jax.training.start import Start
from align_jax.training.tasks import Contrastive


def get_config(
    *,
    debug: bool = False,
    data_dir: str = "data",
    dataset: str = "coyo700m",
    tars: str | None = None,
    source: str = "runs/vit_l16_imagenet",
    tokenizer: str = "bert-base-uncased",
) -> Experiment:
    """The run; `debug` has the same shape with tiny towers and four steps.

    Args:
        debug: small enough for a laptop.
        data_dir: the folder that data sets lie in.
        dataset: pairs under `data_dir`; any prepared set of pairs will do.
        tars: a folder of tars of img2dataset or webdataset, read as they are, in place of `dataset`.
        source: the trained image tower: a workdir, a model folder, or an id of the Hub, whose `hidden_act` and
            `layer_norm_eps` are those of the released trainer.
        tokenizer: folder with the 30,522-entry vocabulary of bert-base-uncased.
    """
    vision = ViTConfig.tiny() if debug else ViTConfig.coyo_large(image_size=384)
    text = AlignTextConfig.tiny() if debug else AlignTextConfig()
    model = AlignConfig.of_towers(vision, text, projection_dim=vision.feature_size, temperature_init_value=0.1)
    return Experiment(
        name="Locked-image tuning of ViT-L/16 and BERT-base",
        task=Contrastive(
            model=model,
            label_smoothing=0.0,
            dtype="float32" if debug else "bfloat16",
        ),
        data=PairData(
            train=PairDataset(dataset, "train", data_dir) if tars is None else TarPairs(str(tars)),
            tokenizer=tokenizer,
            # The whole image, as the tower was fine-tuned to see it.
            transform=ImageTransform(resize_px=vision.image_size, crop_px=vision.image_size),
            text_length=16,
            workers=0 if debug else 8,
            max_bad_records=100 if debug else 1_000_000,
        ),
        optimizer=AdamW(
            peak_learning_rate=1e-3,
            warmup_steps=2 if debug else 10_000,
            decay="cosine",
            weight_decay=1e-4,
            clip_norm=1.0,
            frozen=("^image/", "text/pooler/"),
        ),
        total_steps=4 if debug else 55_000,
        batch_size=16 if debug else 16_384,
        start=None if debug else Start(source=source, fresh=("^text", "^temperature$")),
        log=Every(1 if debug else 100),
        checkpoint=Every(2 if debug else 5000),
    )
