import dataclasses
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AlignProcessor, BertTokenizer
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from align_jax.data.images import ImageDecodeError, ImageTransform, decode_image, resize_bilinear_float
from align_jax.data.preprocessing import Preprocessing
from align_jax.json_config import ConfigurationError

RELEASED_FILE = {
    "crop_size": {"height": 289, "width": 289}, "do_center_crop": True, "do_normalize": False, "do_rescale": True,
    "do_resize": True, "image_mean": [0.5, 0.5, 0.5], "image_processor_type": "EfficientNetImageProcessor",
    "image_std": [0.5, 0.5, 0.5], "include_top": False, "processor_class": "AlignProcessor", "resample": 2,
    "rescale_factor": 0.00784313725490196, "rescale_offset": True, "size": {"height": 346, "width": 346},
}  # fmt: skip
VIT_FILE = {
    "do_normalize": True, "do_resize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3],
    "feature_extractor_type": "ViTFeatureExtractor", "resample": 2, "size": 23,
}  # fmt: skip


def random_pixels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def half_pixel_bilinear(image, height, width):
    """tf.image.resize(antialias=False), written from its definition in float64: centres at (i + 0.5) * scale - 0.5."""

    def row(pixels, size_out):
        size_in = len(pixels)
        result = []
        for index in range(size_out):
            centre = (index + 0.5) * size_in / size_out - 0.5
            below = math.floor(centre)
            weight = centre - below
            first, second = (min(max(one, 0), size_in - 1) for one in (below, below + 1))
            result.append((1 - weight) * pixels[first] + weight * pixels[second])
        return np.stack(result)

    columns = row(image.astype(np.float64), height)
    return row(columns.swapaxes(0, 1), width).swapaxes(0, 1)


def transformers_pixels(processor, image):
    return np.moveaxis(processor(images=image)["pixel_values"][0], 0, -1)


def encode(image, image_format="PNG", **options):
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def write_model_folder(folder, preprocessing):
    preprocessing.to_folder(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "align"}))
    BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5}).save_pretrained(folder)


sizes = st.integers(1, 60)
colours = st.tuples(*[st.floats(0.1, 1.0)] * 3)


@st.composite
def preprocessings(draw, mode):
    resize_px = draw(sizes)
    return Preprocessing(
        mode,
        resize_px,
        draw(st.none() | st.integers(1, resize_px)),
        resample=draw(st.integers(0, 5)) if mode == "hf" else 2,
        rescale_factor=draw(st.sampled_from([1 / 127.5, 1 / 255, 1.0])),
        rescale_offset=draw(st.booleans()),
        do_normalize=draw(st.booleans()),
        include_top=draw(st.booleans()),
        image_mean=draw(colours),
        image_std=draw(colours),
    )


@settings(deadline=None, max_examples=100)
@given(preprocessings("hf"), sizes, sizes, st.integers(0, 2**32 - 1))
def test_hf_mode_equals_transformers_in_every_bit(preprocessing, height, width, seed):
    image = Image.fromarray(random_pixels(height, width, seed))
    processor = EfficientNetImageProcessorPil(**preprocessing.to_dict())
    expected = transformers_pixels(processor, image)
    assert preprocessing(image).dtype == np.float32
    np.testing.assert_array_equal(preprocessing(image), expected)


@pytest.mark.parametrize("size", [(1, 1), (289, 289), (346, 346), (511, 640), (700, 333)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_released_settings_equal_transformers_once_the_image_is_rgb(mode, size):
    alpha = random_pixels(*size, seed=1)[..., :1]
    image = Image.fromarray(np.concatenate([random_pixels(*size), alpha], -1)).convert(mode)
    preprocessing, processor = Preprocessing("hf"), EfficientNetImageProcessorPil(**RELEASED_FILE)
    expected = transformers_pixels(processor, Image.fromarray(decode_image(encode(image))))
    for given_as in (encode(image), image):
        np.testing.assert_array_equal(preprocessing(given_as), expected)


def test_vit_processor_is_read_and_equal():
    image = Image.fromarray(random_pixels(40, 31))
    values = VIT_FILE | {"size": {"height": 23, "width": 23}}
    preprocessing = Preprocessing.from_dict(VIT_FILE)
    assert preprocessing.size_px == 23
    np.testing.assert_array_equal(preprocessing(image), transformers_pixels(ViTImageProcessorPil(**values), image))
    rewritten = ViTImageProcessorPil(**preprocessing.to_dict())
    np.testing.assert_array_equal(preprocessing(image), transformers_pixels(rewritten, image))


@settings(deadline=None, max_examples=60)
@given(sizes, sizes, sizes, sizes, st.integers(0, 2**32 - 1))
def test_tf_mode_is_bilinear_between_pixel_centres_and_not_rounded(height, width, new_height, new_width, seed):
    image = random_pixels(height, width, seed)
    resized = resize_bilinear_float(image, new_height, new_width)
    # A coordinate up to 60 in float32 is good to 60 * 2^-23, and the image is as steep as 255 levels a pixel, twice.
    np.testing.assert_allclose(resized, half_pixel_bilinear(image, new_height, new_width), rtol=0, atol=0.005)


def test_tf_mode_equals_tensorflow_in_every_bit():
    tensorflow = pytest.importorskip("tensorflow", reason="compares with tf.image.resize: needs TensorFlow")
    for height, width, new_height, new_width in [
        (1, 1, 3, 5),
        (7, 40, 13, 9),
        (641, 427, 346, 346),
        (1999, 1501, 346, 2),
    ]:
        image = random_pixels(height, width)
        expected = tensorflow.image.resize(image, (new_height, new_width)).numpy()
        np.testing.assert_array_equal(resize_bilinear_float(image, new_height, new_width), expected)


def test_tf_mode_does_not_antialias():
    levels = np.repeat(np.array([[0, 10, 20, 30, 200, 201, 50, 60]], np.uint8)[..., None], 3, -1)
    # Centres at 1.5 and 5.5: 10 and 20, 201 and 50.
    np.testing.assert_array_equal(resize_bilinear_float(levels, 1, 2)[0, :, 0], [15.0, 125.5])


@pytest.mark.parametrize("mode", ["hf", "tf"])
def test_recipe_crops_at_28_px_and_scales_to_plus_minus_one(mode):
    image = random_pixels(346, 346)
    image[28, 28], image[316, 316] = 0, 255
    result = Preprocessing(mode)(image)
    assert result.shape == (289, 289, 3)
    np.testing.assert_array_equal(result[[0, -1], [0, -1]], [[-1.0] * 3, [1.0] * 3])
    np.testing.assert_allclose(result, image[28:317, 28:317].astype(np.float64) / 127.5 - 1, atol=1e-7)


def test_tf_mode_is_what_training_sees_but_for_the_rounding():
    image, preprocessing = random_pixels(100, 130), Preprocessing("tf", 60, 50)
    trained_on = preprocessing.scale(ImageTransform(60, 50).evaluate(image))
    difference = np.abs(preprocessing(image) - trained_on).max()
    assert 0 < difference < 1 / 127.5  # OpenCV's 11-bit weights may choose the farther level
    assert np.abs(Preprocessing("hf", 60, 50)(image) - trained_on).max() > 0.5


def test_batch_is_the_images_one_by_one():
    preprocessing = Preprocessing("tf", 12, 10)
    images = [random_pixels(20, 30), encode(Image.fromarray(random_pixels(9, 9)))]
    batch = preprocessing.batch(images)
    assert batch.shape == (2, 10, 10, 3)
    np.testing.assert_array_equal(batch[1], preprocessing(images[1]))
    assert preprocessing.batch([]).shape == (0, 10, 10, 3)


@settings(deadline=None, max_examples=30)
@given(preprocessings("hf"))
def test_batches_are_scaled_as_single_images_but_for_rounding(preprocessing):
    levels = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3) * 11
    single = np.stack([preprocessing.scale(each) for each in levels])
    np.testing.assert_allclose(preprocessing.scale_batch(levels), single, rtol=1e-5, atol=1e-5 * np.abs(single).max())


def test_file_without_a_mode_is_that_of_transformers():
    assert Preprocessing.from_dict(RELEASED_FILE) == Preprocessing("hf")


@settings(max_examples=60)
@given(preprocessings("hf") | preprocessings("tf"))
def test_dictionary_reads_back_equal(preprocessing):
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


def test_transformers_loads_the_folder_and_keeps_the_mode(tmp_path):
    preprocessing, image = Preprocessing("hf", 40, 32), Image.fromarray(random_pixels(50, 70))
    write_model_folder(tmp_path, preprocessing)
    processor = AlignProcessor.from_pretrained(tmp_path)
    pixels = processor(images=image, text="a", return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(preprocessing(image), np.moveaxis(pixels, 0, -1))
    alone = EfficientNetImageProcessorPil.from_pretrained(tmp_path)
    np.testing.assert_array_equal(preprocessing(image), transformers_pixels(alone, image))

    write_model_folder(tmp_path, dataclasses.replace(preprocessing, mode="tf"))
    AlignProcessor.from_pretrained(tmp_path).save_pretrained(tmp_path / "whole")
    EfficientNetImageProcessorPil.from_pretrained(tmp_path).save_pretrained(tmp_path / "alone")
    assert (tmp_path / "whole" / "processor_config.json").exists()
    for folder in ("", "whole", "alone"):
        assert Preprocessing.from_folder(tmp_path / folder) == dataclasses.replace(preprocessing, mode="tf")


def test_folder_of_transformers_5_is_read_before_the_older_file(tmp_path):
    Preprocessing("hf", 10, 8).to_folder(tmp_path)
    path = tmp_path / "processor_config.json"
    path.write_text(json.dumps({"processor_class": "AlignProcessor"}))
    assert Preprocessing.from_folder(tmp_path).resize_px == 10
    path.write_text(json.dumps({"image_processor": Preprocessing("tf", 20, 16).to_dict()}))
    assert Preprocessing.from_folder(tmp_path) == Preprocessing("tf", 20, 16)


def test_fields_of_the_torch_implementation_that_say_nothing_are_accepted():
    fast = {
        "image_processor_type": "EfficientNetImageProcessorFast", "data_format": "channels_first", "device": None,
        "default_to_square": True, "do_convert_rgb": None, "do_pad": None, "pad_size": None, "size_divisor": None,
    }  # fmt: skip
    assert Preprocessing.from_dict(RELEASED_FILE | fast) == Preprocessing("hf")


def test_levels_that_are_not_rescaled_stay_as_they_are():
    preprocessing = Preprocessing.from_dict(RELEASED_FILE | {"do_rescale": False})
    image = random_pixels(346, 346)
    np.testing.assert_array_equal(preprocessing(image), image[28:317, 28:317])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gamma": 2.2, "blur": 1}, "not supported: blur, gamma;"),
        ({"image_processor_type": "CLIPImageProcessor"}, "CLIPImageProcessor is not supported"),
        ({"resample": None}, "resample is null"),
        ({"resample": 99}, r"resample is 99; make it one of \(0,"),
        ({"resize_mode": "bicubic"}, r"resize_mode is \"bicubic\"; make it one of \('hf', 'tf'\)"),
        ({"resize_mode": "tf", "resample": 3}, "'tf' is bilinear, but resample is 3"),
        ({"size": {"shortest_edge": 256}}, r"size is {\"shortest_edge\": 256}; only squares"),
        ({"size": {"height": 300, "width": 346}}, "only squares"),
        ({"size": 0, "do_center_crop": False}, "resize_px 0"),
        ({"crop_size": {"height": 400, "width": 400}}, "crop_px 400"),
        ({"do_resize": False}, "only with do_resize true"),
        ({"do_pad": True}, "only with do_pad false"),
        ({"do_normalize": "yes"}, "do_normalize is \"yes\""),
        ({"rescale_factor": "1/255"}, "rescale_factor is '1/255'"),
        ({"image_mean": [0.5, 0.5]}, r"image_mean is \[0.5, 0.5\]"),
        ({"image_std": [0.5, 0.5, 0.0]}, "holds a zero"),
        ({"image_processor_type": "ViTImageProcessor"}, "neither rescale_offset nor include_top"),
    ],
)  # fmt: skip
def test_unsupported_settings_are_an_error_that_names_them(fields, message):
    with pytest.raises(ConfigurationError, match=message):
        Preprocessing.from_dict(RELEASED_FILE | fields)


def test_folder_without_settings_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no preprocessor_config\.json"):
        Preprocessing.from_folder(tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_damaged_settings_are_an_error_that_names_the_file(tmp_path, content):
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(ConfigurationError, match=r"preprocessor_config\.json (is not valid JSON|holds a JSON list)"):
        Preprocessing.from_folder(tmp_path)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((3, 20, 20), np.uint8),
        np.zeros((20, 20, 3), np.float32),
        np.zeros((20, 20), np.uint8),
        random_pixels(0, 5),
    ],
)
def test_array_that_is_no_rgb_image_is_an_error(image):
    with pytest.raises(ValueError, match=r"is not RGB pixels \[height width 3\] of type uint8"):
        Preprocessing("hf")(image)


def test_bytes_that_are_no_image_are_an_error():
    with pytest.raises(ImageDecodeError, match="not an image format"):
        Preprocessing("hf")(b"<html>")
