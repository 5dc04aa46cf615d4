"""EfficientNet-L2 and BERT-large on 1.8 billion noisy pairs: the paper's ALIGN.

Source: Jia et al., arXiv 2102.05918, sections 4 and 5.1; the pair with B7 in place of L2 is a row of its figure 3.
Command: align-jax train --config configs/align_l2_large.py --workdir runs/align_l2_large
Hardware: 1,024 TPU v3 cores, 16 pairs each, as published. Not run here.
Expected: ImageNet zero-shot 76.4; Flickr30k zero-shot I2T@1 88.6, T2I@1 75.7; COCO I2T@1 58.6, T2I@1 45.6. The paper's
pairs are not public, and its vocabulary of 100,000 word pieces was made from them.
"""

from align_jax.configuration import AlignConfig, AlignTextConfig
from align_jax.data.images import ImageTransform
from align_jax.data.pairs import PairData
from align_jax.data.records import PairDataset
from align_jax.data.tar_pairs import TarPairs
from align_jax.parallel.mesh import MeshShape
from align_jax.training.evaluations import Every
from align_jax.training.experiment import Experiment
from align_jax.training.optimizers import Lamb
from align_jax.training.tasks import Contrastive


def get_config(
    *,
    debug: bool = False,
    image_tower: str = "l2",
    data_dir: str = "data",
    dataset: str = "coyo700m",
    tars: str | None = None,
    tokenizer: str = "data/wordpieces-100k",
) -> Experiment:
    """The published run; `debug` has the same shape with tiny towers and four steps.

    Args:
        debug: small enough for a laptop.
        image_tower: "l2" or "b7".
        data_dir: the folder that data sets lie in.
        dataset: pairs under `data_dir`; any prepared set of pairs will do.
        tars: a folder of tars of img2dataset or webdataset, read as they are, in place of `dataset`.
        tokenizer: folder with a vocabulary of 100,000 word pieces (`align-jax data vocabulary --size 100000`).
    """
    text = AlignTextConfig.large(vocab_size=100_000)
    towers = {"l2": AlignConfig.l2_large(text_config=text), "b7": AlignConfig.b7_large(text_config=text)}
    if image_tower not in towers:
        raise ValueError(f"image_tower {image_tower!r} is not one of {', '.join(towers)}")
    model = AlignConfig.tiny() if debug else towers[image_tower]
    size_px = model.vision_config.image_size
    large = image_tower == "l2" and not debug
    return Experiment(
        name=f"ALIGN {image_tower.upper()} + BERT-large",
        task=Contrastive(
            model=model,
            label_smoothing=0.1,
            batch_norm_group_size=16,
            dtype="float32" if debug else "bfloat16",
            rematerialize=("image/stem", "image/stage_1", "image/stage_2", "image/stage_3") if large else (),
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
            peak_learning_rate=1e-3,
            warmup_steps=2 if debug else 10_000,
            weight_decay=1e-5,
        ),
        total_steps=4 if debug else 1_200_000,
        batch_size=16 if debug else 16_384,
        # 875 million parameters with LAMB's two moments are 10.5 GB, of the 16 GB of a v3 core: eight cores share them.
        # With what is rematerialised above, 10.5 GiB of the 15.5 that a program can have; counted by the TPU compiler.
        mesh=MeshShape(fsdp=8) if large else MeshShape(),
        log=Every(1 if debug else 100),
        checkpoint=Every(2 if debug else 10_000),
    )
