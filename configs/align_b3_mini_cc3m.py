"""EfficientNet-B3 and BERT-mini on Conceptual Captions 3M: the small COYO-ALIGN.

Source: kakaobrain/coyo-align, conf/cc3m.flags; table 9 of Jia et al., arXiv 2102.05918.
Command: align-jax train --config configs/align_b3_mini_cc3m.py --workdir runs/align_b3_mini
Hardware: TPU v3-128 as released. Not run here.
Expected (COYO-ALIGN-B3-Mini, 86 % of CC3M still online): ImageNet kNN 46.2; Flickr30k I2T@1 42.8, T2I@1 35.0; COCO
I2T@1 21.2, T2I@1 17.0. The paper's own: 48.9 kNN; COCO 22.1 and 17.3.
"""

from align_jax.configuration import AlignConfig
from align_jax.data.images import ImageTransform
from align_jax.data.pairs import PairData
from align_jax.data.records import PairDataset
from align_jax.data.tar_pairs import TarPairs
from align_jax.training.evaluations import Every
from align_jax.training.experiment import Experiment
from align_jax.training.optimizers import Lamb
from align_jax.training.tasks import Contrastive


def get_config(
    *,
    debug: bool = False,
    data_dir: str = "data",
    dataset: str = "cc3m",
    tars: str | None = None,
    tokenizer: str = "bert-base-uncased",
) -> Experiment:
    """The released run; `debug` has the same shape with tiny towers and four steps.

    Args:
        debug: small enough for a laptop.
        data_dir: the folder that data sets lie in.
        dataset: pairs under `data_dir`; any prepared set of pairs will do.
        tars: a folder of tars of img2dataset or webdataset, read as they are, in place of `dataset`.
        tokenizer: folder with the 30,522-entry vocabulary of bert-base-uncased.
    """
    model = AlignConfig.tiny() if debug else AlignConfig.b3_mini()
    size_px = model.vision_config.image_size
    return Experiment(
        name="ALIGN B3 + BERT-mini on CC3M",
        task=Contrastive(
            model=model,
            label_smoothing=0.1,
            batch_norm_group_size=16,
            dtype="float32" if debug else "bfloat16",
        ),
        data=PairData(
            train=PairDataset(dataset, "train", data_dir) if tars is None else TarPairs(str(tars)),
            tokenizer=tokenizer,
            # 346 px, of which 289 are seen.
            transform=ImageTransform(resize_px=round(size_px * 346 / 289), crop_px=size_px, flip=True),
            text_length=64,
            workers=0 if debug else 8,
            max_bad_records=100 if debug else 10_000,
        ),
        optimizer=Lamb(
            peak_learning_rate=5e-3,
            warmup_steps=2 if debug else 10_000,
            weight_decay=1e-5,
        ),
        total_steps=4 if debug else 100_000,
        batch_size=16 if debug else 16_384,
        log=Every(1 if debug else 100),
        checkpoint=Every(2 if debug else 10_000),
    )
