"""Variants of one thing (runner, man running, woman running) belong together: the family of each emoji."""

import re
from collections.abc import Hashable, Iterable

# Code points that change who is drawn, not what: joiner, female, male, and the five skin tones.
_VARIANT_CODES = {"200d", "2640", "2642", "1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
_PEOPLE_CODES = {"1f468": "1f9d1", "1f469": "1f9d1"}  # man, woman -> person
_VARIANT_WORDS = re.compile(r"\b(man|woman|men|women|person|people)\b")
# The same variation under words of its own.
_SAME_THING = [
    {"child", "boy", "girl"},
    {"older person", "old man", "old woman"},
    {"person with crown", "prince", "princess"},
    {"Santa Claus", "Mrs. Claus", "Mx Claus"},
]


def base_code(hexcode: str) -> str:
    """Return a hexcode without gender and skin tone.

    Example:
        >>> base_code("1f3c3-200d-2640"), base_code("1f469-200d-1f680")
        ('1f3c3', '1f9d1-1f680')
    """
    codes = [code for code in hexcode.split("-") if code not in _VARIANT_CODES]
    return "-".join(_PEOPLE_CODES.get(code, code) for code in codes)


def base_name(name: str) -> str:
    """Return a name without the words that say who is drawn.

    Example:
        >>> base_name("woman running"), base_name("person: red hair"), base_name("Mrs. Claus")
        ('running', 'red hair', 'Santa Claus')
    """
    for names in _SAME_THING:
        if name in names:
            return max(names)
    return " ".join(_VARIANT_WORDS.sub(" ", name).replace(":", " ").split())


def families(hexcodes: list[str], names: list[str]) -> list[int]:
    """Return for each thing the index of the first thing of its family.

    Two things are of one family if they share a base code or a base name, or if a chain of things that do
    leads from one to the other.

    Args:
        hexcodes: N hexcodes, lower case, joined by hyphens.
        names: N English names.

    Returns:
        N indices; equal indices mean one family.

    Example:
        >>> families(["1f3c3", "1f408", "1f3c3-200d-2640"], ["person running", "cat", "woman running"])
        [0, 1, 0]
    """
    marks = []
    for hexcode, name in zip(hexcodes, names, strict=True):
        code, words = base_code(hexcode), base_name(name)
        # Nothing is left of the name "woman" or of the code of the female sign: what is empty joins nothing.
        marks.append([mark for mark in (("code", code), ("name", words)) if mark[1]])
    return joined(marks)


def joined(marks: list[Iterable[Hashable]]) -> list[int]:
    """Return for each item the index of the first item that it is joined to by shared marks.

    The connected components of the graph in which items are neighbours if they share a mark (union-find).

    Args:
        marks: N collections of marks.

    Returns:
        N indices; equal indices mean one component.

    Example:
        >>> joined(["ab", "c", "bd", "d"])
        [0, 1, 0, 0]
    """
    parent = list(range(len(marks)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    first: dict[Hashable, int] = {}
    for i, marks_of_item in enumerate(marks):
        for mark in marks_of_item:
            low, high = sorted((root(i), root(first.setdefault(mark, i))))
            parent[high] = low
    return [root(i) for i in range(len(marks))]
