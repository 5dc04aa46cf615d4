"""The groups that Unicode sorts emoji into, such as faces, people, and animals.

The table says the group of the first character of a sequence, which is that of the sequence but for the exceptions. It
follows the group headings of Unicode's `emoji-test.txt` 17.0 (https://www.unicode.org/Public/17.0.0/emoji/; data of
Unicode, Inc., under the Unicode License V3, https://www.unicode.org/license.txt), all of whose sequences were compared
with it.
"""

# Ranges of code points, which may span characters that are no emoji.
_FIRST_CHARACTERS: dict[str, str] = {
    "Smileys & Emotion": (
        "2620 2639-263A 2763-2764 1F479-1F47B 1F47D-1F480 1F48B-1F48C 1F493-1F49F 1F4A2 1F4A4-1F4A6 1F4A8-1F4A9 "
        "1F4AB-1F4AD 1F4AF 1F573 1F5A4 1F5E8-1F5EF 1F600-1F644 1F648-1F64A 1F90D-1F90E 1F910-1F917 1F920-1F925 "
        "1F927-1F92F 1F970-1F976 1F978-1F97A 1F9D0 1F9E1 1FA75-1FA77 1FAE0-1FAE5 1FAE8-1FAEF "
    ),
    "People & Body": (
        "261D 26F7 26F9 270A-270D 1F385 1F3C2-1F3C4 1F3C7 1F3CA-1F3CC 1F440-1F450 1F463-1F478 1F47C 1F481-1F483 "
        "1F485-1F487 1F48F 1F491 1F4AA 1F574-1F575 1F57A 1F590-1F596 1F5E3 1F645-1F647 1F64B-1F64F 1F6A3 1F6B4-1F6B6 "
        "1F6C0 1F6CC 1F90C 1F90F 1F918-1F91F 1F926 1F930-1F93E 1F977 1F9B4-1F9B9 1F9BB 1F9BE-1F9BF 1F9CC-1F9CF "
        "1F9D1-1F9E0 1FAC0-1FAC8 1FAE6 1FAF0-1FAF8 "
    ),
    "Component": ("1F3FB-1F3FF 1F9B0-1F9B3 "),
    "Animals & Nature": (
        "2618 1F331-1F335 1F337-1F33C 1F33E-1F344 1F3F5 1F400-1F43F 1F490 1F4AE 1F54A 1F577-1F578 1F940 1F980-1F9AE "
        "1FAB0-1FAB4 1FAB6-1FABF 1FACD-1FACF "
    ),
    "Food & Drink": (
        "2615 1F32D-1F330 1F336 1F33D 1F345-1F37F 1F382 1F3FA 1F52A 1F942-1F944 1F950-1F96F 1F9C0-1F9CB 1FAD0-1FADC "
    ),
    "Travel & Places": (
        "231A-231B 23F0-23F3 2600-2604 2614 2668 2693 26A1 26C4-26C8 26E9-26F2 26F4-26F5 26FA-26FD 2708 2744 2B50 "
        "1F300-1F32C 1F3A0-1F3A2 1F3AA 1F3CD-1F3CE 1F3D4-1F3E6 1F3E8-1F3ED 1F3EF-1F3F0 1F488 1F492 1F4A7 1F4BA 1F525 "
        "1F54B-1F54D 1F550-1F567 1F570 1F5FA-1F5FE 1F680-1F6A2 1F6A4-1F6A8 1F6B2 1F6CE 1F6D1 1F6D5-1F6D6 1F6D8 "
        "1F6DD-1F6DF 1F6E2-1F6F6 1F6F8-1F6FC 1F9BC-1F9BD 1F9ED 1F9F1 1F9F3 1FA82 1FA90 1FAA8 1FAB5 "
    ),
    "Activities": (
        "265F-2666 26BD-26BE 26F3 26F8 2728 1F004-1F0CF 1F380-1F381 1F383-1F384 1F386-1F38B 1F38D-1F391 1F396-1F397 "
        "1F39F 1F3A3 1F3A8 1F3AB 1F3AD-1F3B4 1F3BD-1F3C0 1F3C5-1F3C6 1F3C8-1F3C9 1F3CF-1F3D3 1F3F8 1F52B 1F52E 1F579 "
        "1F5BC 1F6F7 1F93F 1F945-1F94F 1F9E7-1F9E9 1F9F5-1F9F6 1F9F8 1FA80-1FA81 1FA84-1FA86 1FAA1-1FAA2 1FAA9 "
    ),
    "Objects": (
        "2328 260E 2692 2694 2696-2699 26B0-26B1 26CF-26D3 2702 2709 270F-2712 1F392-1F393 1F399-1F39E 1F3A4-1F3A5 "
        "1F3A7 1F3A9 1F3AC 1F3B5-1F3BC 1F3EE 1F3F7 1F3F9 1F451-1F462 1F484 1F489-1F48A 1F48D-1F48E 1F4A1 1F4A3 1F4B0 "
        "1F4B3-1F4B9 1F4BB-1F4DA 1F4DC-1F4F2 1F4F7-1F4FF 1F507-1F517 1F526-1F529 1F52C-1F52D 1F56F 1F576 1F587-1F58D "
        "1F5A5-1F5B2 1F5C2-1F5E1 1F5F3 1F5FF 1F6AA 1F6AC 1F6BD 1F6BF 1F6C1 1F6CB 1F6CD 1F6CF 1F6D2 1F6D7 1F6E0-1F6E1 "
        "1F941 1F97B-1F97F 1F9AF 1F9BA 1F9E2-1F9E6 1F9EA-1F9EC 1F9EE-1F9F0 1F9F2 1F9F4 1F9F7 1F9F9-1FA74 1FA78-1FA7C "
        "1FA83 1FA87-1FA8F 1FA91-1FAA0 1FAA3-1FAA7 1FAAA-1FAAE 1FAE7 "
    ),
    "Symbols": (
        "0023-21AA 23CF-23EF 23F8-25FE 2611 2622-2638 2640-2653 267B-267F 2695 269B-26A0 26A7-26AB 26CE 26D4 2705 "
        "2714-2721 2733-2734 2747-2757 2795-2B1C 2B55-3299 1F170-1F19A 1F201-1F251 1F3A6 1F3E7 1F4A0 1F4B1-1F4B2 "
        "1F4DB 1F4F3-1F4F6 1F500-1F506 1F518-1F524 1F52F-1F549 1F54E 1F6AB 1F6AD-1F6B1 1F6B3 1F6B7-1F6BC 1F6BE "
        "1F6C2-1F6C5 1F6D0 1F6DC 1F7E0-1F7F0 1FAAF 1FADF "
    ),
    "Flags": ("1F1E6-1F1FF 1F38C 1F3C1 1F3F3-1F3F4 1F6A9 "),
}
# An eye in a speech bubble, and a mushroom to eat.
_EXCEPTIONS = {"1F441-200D-1F5E8": "Smileys & Emotion", "1F344-200D-1F7EB": "Food & Drink"}

GROUPS = tuple(_FIRST_CHARACTERS)
"""Their names, in Unicode's order; `GROUPS.index` is the number of a class."""


def _ranges() -> dict[int, str]:
    groups = {}
    for group, text in _FIRST_CHARACTERS.items():
        for part in text.split():
            first, _, last = part.partition("-")
            groups |= dict.fromkeys(range(int(first, 16), int(last or first, 16) + 1), group)
    return groups


_GROUP_OF_CHARACTER = _ranges()


def group_of(key: str) -> str:
    """The group of an emoji.

    Args:
      key: its code points, such as "1F3C3-1F3FE-200D-2640-FE0F".

    Raises:
      ValueError: if its first character is in none of the ranges.
    """
    plain = "-".join(part for part in key.split("-") if part != "FE0F")
    first = int(plain.split("-")[0], 16)
    if first not in _GROUP_OF_CHARACTER:
        raise ValueError(f"{key} does not begin with an emoji of Unicode 17; add its group to the table")
    return _EXCEPTIONS.get(plain, _GROUP_OF_CHARACTER[first])
