import hashlib
import sys
from collections import Counter

import numpy as np
import pytest

from align_jax.data.builders import openmoji
from align_jax.data.builders.openmoji import (
    SKIN_TONES,
    caption,
    held_out_variants,
    openmoji_builder,
    pictures_with_tone,
    read_emoji,
)
from align_jax.data.images import decode_image
from align_jax.data.records import PairDataset


@pytest.fixture(scope="module")
def emoji():
    return read_emoji()


@pytest.fixture(scope="module")
def pictures(emoji):
    return pictures_with_tone(emoji)


@pytest.fixture(scope="module")
def held_out(pictures):
    return held_out_variants(pictures)


def base(key):
    return "-".join(part for part in key.split("-") if part not in SKIN_TONES)


def test_there_are_as_many_pairs_as_promised(emoji, held_out):
    assert len(emoji) == 3953
    assert len(held_out) == 407
    assert held_out < {one.key for one in emoji}


def test_captions_are_readable_and_unique_ignoring_case(emoji):
    texts = [one.text for one in emoji]
    assert len({text.lower() for text in texts}) == len(texts)
    assert not [text for text in texts if "_" in text or text != text.strip() or text.startswith(":")]


@pytest.mark.parametrize(
    ("key", "name", "expected"),
    [
        ("1F3C3-1F3FE-200D-2640-FE0F", ":woman_running_medium-dark_skin_tone:", "woman running: medium-dark skin tone"),
        ("1F1E7-1F1EC", ":Bulgaria:", "flag: Bulgaria"),
        ("1F3F4-E0067-E0062-E0065-E006E-E0067-E007F", ":England:", "flag: England"),
        ("1F3F4", ":black_flag:", "black flag"),
        ("1F469-1F3FB-200D-1F9B0", ":woman_light_skin_tone_red_hair:", "woman: light skin tone, red hair"),
        ("1F468-200D-1F469-200D-1F466", ":family_man_woman_boy:", "family: man, woman, boy"),
        ("1F487", ":person_getting_haircut:", "person getting haircut"),
        ("1F3FB", ":light_skin_tone:", "light skin tone"),
        ("1F91D-1F3FB", ":handshake_light_skin_tone:", "handshake: light skin tone"),
        (
            "1F9D1-1F3FB-200D-1F91D-200D-1F9D1-1F3FD",
            ":people_holding_hands_light_skin_tone_medium_skin_tone:",
            "people holding hands: light skin tone, medium skin tone",
        ),
    ],
)
def test_names_become_captions(key, name, expected):
    assert caption(key, name) == expected


def test_no_alias_is_the_name_of_another_emoji(emoji):
    texts = {one.text.lower() for one in emoji}
    aliases = Counter(alias.lower() for one in emoji for alias in one.aliases)
    assert not texts & aliases.keys()
    assert max(aliases.values()) == 1
    assert "dark skin tone woman" in next(one.aliases for one in emoji if one.text == "woman: dark skin tone")
    assert "whale" in {alias for one in emoji if one.text == "spouting whale" for alias in one.aliases} | texts


def test_held_out_variants_have_a_tone_and_leave_siblings_behind(emoji, held_out):
    variants = {one.key for one in emoji if base(one.key) not in (one.key, "")}
    assert held_out < variants
    left = Counter(base(key) for key in variants - held_out)
    for name, count in Counter(base(key) for key in held_out).items():
        assert left[name] >= count


def test_no_held_out_picture_is_in_train_under_another_name(pictures, held_out):
    seen = {picture for key, picture in pictures.items() if key not in held_out}
    assert not [key for key in held_out if pictures[key] in seen]
    assert len({pictures[key] for key in held_out}) < len(held_out)  # there are such pairs among the held-out ones


def test_held_out_variants_do_not_depend_on_the_order_of_the_files(pictures, held_out):
    assert held_out_variants(dict(reversed(pictures.items()))) == held_out
    # Numbers published for this split mean these variants and no others.
    assert hashlib.sha256(" ".join(sorted(held_out)).encode()).hexdigest()[:16] == "9e8a169285182539"


def test_prepared_data_set_keeps_the_held_out_variants_out_of_train(emoji, held_out, tmp_path, monkeypatch):
    some = [*(one for one in emoji if one.key in held_out)][:8] + emoji[:8]
    monkeypatch.setattr(openmoji, "read_emoji", lambda: some)
    monkeypatch.setattr(openmoji, "held_out_variants", lambda pictures: held_out & set(pictures))
    openmoji_builder(tmp_path, size_px=24).download_and_prepare()
    train, compositional = (
        list(PairDataset("openmoji", split, str(tmp_path)).open()) for split in ("train", "compositional")
    )
    assert {record.key for record in train} == {one.key for one in emoji[:8]}
    assert {record.key for record in compositional} == {one.key for one in some[:8]}
    by_key = {one.key: one for one in some}
    for record in train + compositional:
        assert record.texts == (by_key[record.key].text, *by_key[record.key].aliases)
        image = decode_image(record.image)
        assert image.shape == (24, 24, 3)
        assert (image[0, 0] == 255).all()  # drawn on white
        assert np.ptp(image) > 50  # something is drawn


def test_missing_packages_are_an_error_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(
        openmoji.QuickstartExtraError, match=r"resvg_py is missing.*pip install align_jax\[quickstart\]"
    ):
        read_emoji()


@pytest.mark.parametrize("size_px", [0, 5000])
def test_impossible_size_is_an_error(tmp_path, size_px):
    with pytest.raises(ValueError, match=f"size_px {size_px}"):
        openmoji_builder(tmp_path, size_px)
