"""EfficientNet-B7 and BERT-base on COYO-700M: the released COYO-ALIGN.

Source: kakaobrain/coyo-align, conf/coyo700m.flags with b7-base.flags; Jia et al., arXiv 2102.05918, for the method.
Command: align-jax train --config configs/align_b7_base_coyo.py --workdir runs/align_b7_base
Hardware: TPU v3-512 (512 cores, 128 pairs each), about 8 days as released. Not run here.
Expected (COYO-ALIGN-B7-Base): ImageNet kNN 68.6; Flickr30k I2T@1 88.1, T2I@1 73.2; COCO I2T@1 61.2, T2I@1 43.1.

65,536 pairs a step for 300,000 steps are 19.66 billion pairs, as many as the paper's 1.2 million steps of 16,384.
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

EARLY_STAGES = ("image/stem", "image/stage_1", "image/stage_2", "image/stage_3", "image/stage_4")


def get_config(
    *,
    debug: bool = False,
    data_dir: str = "data",
    dataset: str = "coyo700m",
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
    model = AlignConfig.tiny() if debug else AlignConfig.b7_base()
    size_px = model.vision_config.image_size
    return Experiment(
        name="ALIGN B7 + BERT-base on COYO-700M",
        task=Contrastive(
            model=model,
            label_smoothing=0.1,
            batch_norm_group_size=16,
            dtype="float32" if debug else "bfloat16",
            # Computed twice, at a fourteenth more FLOPs, so that 128 pairs take 13.7 GiB of the 15.5 of a v3 core.
            # Counted by the TPU compiler (`align-jax plan`).
            rematerialize=() if debug else EARLY_STAGES,
        ),
        data=PairData(
            train=PairDataset(dataset, "train", data_dir) if tars is None else TarPairs(str(tars)),
            tokenizer=tokenizer,
            # 346 px, of which 289 are seen.
            transform=ImageTransform(resize_px=round(size_px * 346 / 289), crop_px=size_px, flip=True),
            text_length=64,
            workers=0 if debug else 8,
            max_bad_records=100 if debug else 1_000_000,
        ),
        optimizer=Lamb(
            peak_learning_rate=2e-3,
            warmup_steps=2 if debug else 40_000,
            weight_decay=1e-5,
        ),
        total_steps=4 if debug else 300_000,
        batch_size=16 if debug else 65_536,
        log=Every(1 if debug else 100),
        checkpoint=Every(2 if debug else 2_500),
    )
