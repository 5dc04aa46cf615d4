"""OpenMoji in groups: the pictures of `openmoji`, each with its Unicode group as its label, for classification.

A record has `key` and `image` as in `openmoji`, and the number of the group in `labels`; `group` and `text` name group
and emoji for whoever looks. It is a data set of its own because other pictures are held out: `openmoji` holds out
variants of people that training has seen in other tones, which are all of one group.

Here emoji are held out by *family*: all tones, sexes, ages and directions of one motif, so that no near copy of a
held-out picture is in training. A family is held out if the SHA-256 of its name says so, which it does for a fifth.
Some drawings of different families look exactly alike (the flags of Chad and Romania); what training shows is left out
of the split `held_out`.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from align_jax.data.builders.emoji_groups import GROUPS, group_of
from align_jax.data.builders.openmoji import SKIN_TONES, Emoji, Openmoji, builder_of_size, read_emoji, render

HELD_OUT_FRACTION = 1 / 5

# Man and woman to person, boy and girl to child, old man and old woman to older person.
_PERSON = {"1F468": "1F9D1", "1F469": "1F9D1", "1F466": "1F9D2", "1F467": "1F9D2", "1F474": "1F9D3", "1F475": "1F9D3"}
# Tones, joiners, signs of the sexes, and the arrow of those who face right.
_OF_A_VARIANT = frozenset({*SKIN_TONES, "FE0F", "200D", "2640", "2642", "27A1"})


class OpenmojiGroups(Openmoji, skip_registration=True):
    """Builds `openmoji_groups/px72` and other sizes; see the file's docstring."""

    name = "openmoji_groups"

    def _features(self) -> dict[str, Any]:
        return {
            "key": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, None)),
            "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=list(GROUPS))),
            "group": tfds.features.Text(),
            "text": tfds.features.Text(),
        }

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterable[tuple[str, dict[str, Any]]]]:
        train, held_out = split_by_family(read_emoji(), self.builder_config.size_px)
        return {"train": self._generate_examples(train), "held_out": self._generate_examples(held_out)}

    def _generate_examples(self, emoji: list[Emoji]) -> Iterator[tuple[str, dict[str, Any]]]:
        for one in emoji:
            group = group_of(one.key)
            image = render(one.svg_file, self.builder_config.size_px)
            example = {"key": one.key, "image": image, "labels": [group], "group": group, "text": one.text}
            yield one.key, example


def openmoji_groups_builder(data_dir: str | Path, size_px: int = 72) -> OpenmojiGroups:
    """The builder that stores the labelled pictures, rendered at `size_px`, under `data_dir`."""
    return builder_of_size(OpenmojiGroups, data_dir, size_px)


def split_by_family(emoji: list[Emoji], size_px: int) -> tuple[list[Emoji], list[Emoji]]:
    """The emoji of `train` and those of `held_out`; the rule is in the file's docstring.

    Args:
      emoji: all of them.
      size_px: at which pictures must not look alike.
    """
    train = [one for one in emoji if not _is_held_out(family(one.key))]
    seen = {render(one.svg_file, size_px) for one in train}
    others = (one for one in emoji if _is_held_out(family(one.key)))
    return train, [one for one in others if render(one.svg_file, size_px) not in seen]


def family(key: str) -> str:
    """What an emoji shows, whoever it is that does it.

    Example:
      >>> family("1F469-1F3FE-200D-1F52C"), family("1F468-200D-1F52C")  # scientists
      ('1F9D1-1F52C', '1F9D1-1F52C')
    """
    parts = [_PERSON.get(part, part) for part in key.split("-") if part not in _OF_A_VARIANT]
    return "-".join(dict.fromkeys(parts)) or key


def _is_held_out(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") < HELD_OUT_FRACTION * 2**32
