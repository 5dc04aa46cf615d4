"""ALIGN fine-tuned for retrieval, on Flickr30k or COCO.

Source: Jia et al., arXiv 2102.05918: the loss of the pre-training, batch 2,048, a learning rate of 1e-5 that falls
linearly to 0, 3,000 steps on Flickr30k and 6,000 on COCO.
Command: align-jax train --config configs/align_retrieval.py --workdir runs/align_flickr30k
     or: align-jax train --config configs/align_retrieval.py:benchmark=coco --workdir runs/align_coco
Hardware: not published. Not run here.
Expected, of the paper's L2 + BERT-large, image to text and text to image, recall@1: Flickr30k 95.3 and 84.9, COCO 77.0
and 59.9. The released B7 + BERT-base has no published numbers after fine-tuning.

Both are trained on images with all their captions (`align-jax data folder`, with the captions of an image in one row
each): Flickr30k's 30,000 and COCO's 82,000 with the 30,000 that the split of Karpathy & Fei-Fei takes from validation.
"""

from align_jax.configuration import AlignConfig
from align_jax.data.images import ImageTransform
from align_jax.data.pairs import PairData
from align_jax.data.records import PairDataset
from align_jax.training.evaluations import Every
from align_jax.training.experiment import Experiment
from align_jax.training.optimizers import Lamb
from align_jax.training.start import Start
from align_jax.training.tasks import Contrastive

STEPS = {"flickr30k": 3000, "coco": 6000}


def get_config(
    *,
    debug: bool = False,
    benchmark: str = "flickr30k",
    data_dir: str = "data",
    source: str = "kakaobrain/align-base",
    tokenizer: str = "bert-base-uncased",
) -> Experiment:
    """The published run, from the released weights; `debug` has the same shape with tiny towers and four steps.

    Args:
        debug: small enough for a laptop.
        benchmark: "flickr30k" or "coco": how many steps, and the data set's name.
        data_dir: the folder that data sets lie in.
        source: workdir, model folder, or id of the pre-trained model.
        tokenizer: folder with its vocabulary.
    """
    if benchmark not in STEPS:
        raise ValueError(f"benchmark {benchmark!r} is not one of {', '.join(STEPS)}")
    model = AlignConfig.tiny() if debug else AlignConfig.b7_base()
    size_px = model.vision_config.image_size
    return Experiment(
        name=f"ALIGN B7 + BERT-base, fine-tuned on {benchmark}",
        task=Contrastive(
            model=model,
            label_smoothing=0.1,
            batch_norm_group_size=16,
            dtype="float32" if debug else "bfloat16",
        ),
        data=PairData(
            train=PairDataset(benchmark, "train", data_dir),
            tokenizer=tokenizer,
            # 346 px, of which 289 are seen.
            transform=ImageTransform(resize_px=round(size_px * 346 / 289), crop_px=size_px, flip=True),
            text_length=64,
            workers=0 if debug else 8,
        ),
        optimizer=Lamb(peak_learning_rate=1e-5, weight_decay=1e-5),
        total_steps=4 if debug else STEPS[benchmark],
        batch_size=16 if debug else 2048,
        start=None if debug else Start(source=source),
        log=Every(1 if debug else 100),
        checkpoint=Every(2 if debug else 1000),
    )
