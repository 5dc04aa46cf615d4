import dataclasses

from align_jax.data.images import ImageTransform
from align_jax.data.preprocessing import Preprocessing
from align_jax.training.workdir import write_model_folder


def test_workdir_says_how_training_resized(experiment, tmp_path):
    data = dataclasses.replace(experiment.data, transform=ImageTransform(resize_px=23, crop_px=17))
    write_model_folder(dataclasses.replace(experiment, data=data), tmp_path)
    assert Preprocessing.from_folder(tmp_path) == Preprocessing("tf", resize_px=23, crop_px=17)
