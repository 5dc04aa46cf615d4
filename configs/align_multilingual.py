"""Multilingual ALIGN: EfficientNet-B7 and BERT-base over 250,000 word pieces of more than 100 languages.

Source: Jia et al., arXiv 2102.05918: the English recipe, with a vocabulary of 250,000 word pieces made from the pairs
of all languages. The towers are our choice, those of the released weights.
Command: align-jax train --config configs/align_multilingual.py --workdir runs/align_multilingual
Hardware: 1,024 TPU v3 cores, 16 pairs each, as published for the English one. Not run here.
Expected, of the paper's multilingual model, Multi30k, mean recall: English 90.2, German 84.1, French 84.9, Czech 63.2.
The paper's pairs are not public.
"""

from align_jax.configuration import AlignConfig, AlignTextConfig
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
    dataset: str = "multilingual",
    tars: str | None = None,
    tokenizer: str = "data/wordpieces-250k",
) -> Experiment:
    """The published run; `debug` has the same shape with tiny towers and four steps.

    Args:
        debug: small enough for a laptop.
        data_dir: the folder that data sets lie in.
        dataset: pairs under `data_dir`; any prepared set of pairs will do.
        tars: a folder of tars of img2dataset or webdataset, read as they are, in place of `dataset`.
        tokenizer: folder with a vocabulary of 250,000 word pieces (`align-jax data vocabulary --size 250000`).
    """
    full = AlignConfig.b7_base(text_config=AlignTextConfig(vocab_size=250_000))
    model = AlignConfig.tiny() if debug else full
    size_px = model.vision_config.image_size
    return Experiment(
        name="Multilingual ALIGN B7 + BERT-base",
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
            max_bad_records=100 if debug else 1_000_000,
        ),
        optimizer=Lamb(
            peak_learning_rate=1e-3,
            warmup_steps=2 if debug else 10_000,
            weight_decay=1e-5,
        ),
        total_steps=4 if debug else 1_200_000,
        batch_size=16 if debug else 16_384,
        log=Every(1 if debug else 100),
        checkpoint=Every(2 if debug else 10_000),
    )
