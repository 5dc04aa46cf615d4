import hashlib
from collections import Counter

import pytest

from align_jax.data.builders import openmoji_groups
from align_jax.data.builders.emoji_groups import GROUPS, group_of
from align_jax.data.builders.openmoji import read_emoji, render
from align_jax.data.builders.openmoji_groups import family, openmoji_groups_builder, split_by_family
from align_jax.data.images import decode_image
from align_jax.data.labelled import LabelledDataset


@pytest.mark.parametrize(
    ("key", "group"),
    [
        ("1F600", "Smileys & Emotion"),
        ("1F469-1F3FE-200D-1F52C", "People & Body"),
        ("1F441-FE0F-200D-1F5E8-FE0F", "Smileys & Emotion"),
        ("1F441", "People & Body"),
        ("1F344", "Animals & Nature"),
        ("1F344-200D-1F7EB", "Food & Drink"),
        ("1F1EB-1F1F7", "Flags"),
        ("0023-FE0F-20E3", "Symbols"),
        ("1F3FB", "Component"),
    ],
)
def test_group_is_that_of_unicode(key, group):
    assert group_of(key) == group


def test_group_of_what_is_no_emoji_is_refused():
    with pytest.raises(ValueError, match="4E00 does not begin with an emoji"):
        group_of("4E00")


def test_every_picture_has_a_group_and_groups_are_as_large_as_in_unicode():
    counts = Counter(group_of(one.key) for one in read_emoji())
    assert [counts[group] for group in GROUPS] == [171, 2418, 9, 160, 131, 219, 85, 266, 224, 270]


def test_variants_are_of_one_family_and_other_motifs_are_not():
    runners = ["1F3C3", "1F3C3-1F3FE", "1F3C3-200D-2640-FE0F", "1F3C3-1F3FE-200D-2642-FE0F-200D-27A1-FE0F"]
    assert {family(key) for key in runners} == {"1F3C3"}
    assert family("1F3FB") == "1F3FB"
    assert family("1F1F9-1F1E9") != family("1F1F7-1F1F4")


def test_no_family_is_in_both_splits_and_the_split_is_the_published_one():
    emoji = [one for one in read_emoji() if not one.key.startswith(("1F9D1", "1F468", "1F469"))][::12]
    train, held_out = split_by_family(emoji, 24)
    assert not {family(one.key) for one in train} & {family(one.key) for one in held_out}
    assert not {render(one.svg_file, 24) for one in train} & {render(one.svg_file, 24) for one in held_out}
    names = sorted({family(one.key) for one in read_emoji()})
    chosen = [name for name in names if openmoji_groups._is_held_out(name)]
    # Numbers published for this split mean these families and no others.
    assert hashlib.sha256(" ".join(chosen).encode()).hexdigest()[:16] == "1e4694dfb00c2608"


def test_prepared_records_are_labelled_pictures(tmp_path, monkeypatch):
    some = read_emoji()[::150]
    monkeypatch.setattr(openmoji_groups, "read_emoji", lambda: some)
    openmoji_groups_builder(tmp_path, size_px=24).download_and_prepare()
    records = [*LabelledDataset("openmoji_groups", "train+held_out", str(tmp_path)).open()]
    assert sorted(record.key for record in records) == sorted(one.key for one in some)
    for record in records:
        assert record.labels == (GROUPS.index(group_of(record.key)),)
        assert decode_image(record.image).shape == (24, 24, 3)
