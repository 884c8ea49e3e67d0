"""Whether two answers say the same: pure rules over answers that were made plain.

An answer is made plain before its caller goes on, so that what the caller does with it afterwards is no mismatch: mappings,
dataclasses, named tuples, rows of psycopg and SQLAlchemy and objects with attributes become dictionaries of their public
fields, lists and tuples become tuples, sets a bag. So a dict from one side may equal a dataclass from the other.
Everything else (text, dates, UUIDs, enums) is compared as it is, by `==`.

Limits: an iterator or a cursor is not read, for that would take it from the caller, so two of them differ. A plain tuple
has no field names to ignore. Lists that are compared without order and differ within the tolerance in more than 300
elements are paired by sorting.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, is_dataclass
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any

DEEPEST = 32
"""Deeper than this an answer is no data but a graph that may go round."""
PAIRED_AT_MOST = 300


@dataclass(frozen=True, slots=True)
class Bag:
    """Elements without an order."""

    items: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two answers part: the fields that lead there, without any value."""

    place: str
    kind: str
    """value, type, length, missing (the new answer lacks the field), extra (only it has the field), or custom."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What may differ.

    Args:
        ignore: fields that are not compared, such as `updated_at` or `author.seen_at`; lists on the way are walked through.
        tolerance: by how much numbers may differ: for all of them, or by field.
        relative: the same as a share of the larger one.
        unordered: whether the elements of lists may come in any order: in all lists, or in those of the named fields
            (`""` is the answer itself).
    """

    ignore: Collection[str] = ()
    tolerance: float | Mapping[str, float] = 0.0
    relative: float = 0.0
    unordered: bool | Collection[str] = False

    def __post_init__(self) -> None:
        """Refuse one name in the place of several: a field whose name is part of it would be ignored, too."""
        if isinstance(self.ignore, str) or isinstance(self.unordered, str):
            message = "ignore and unordered take names of fields as a set or a list"
            raise TypeError(message)

    def plain(self, answer: object) -> object:
        """Make an answer plain: a copy that nobody else changes."""
        return _plain(answer, 0)

    def difference(self, old: object, new: object) -> Difference | None:
        """Tell where two plain answers part; None if they say the same."""
        return self._difference(old, new, "")

    def _difference(self, old: object, new: object, place: str) -> Difference | None:
        if isinstance(old, dict) and isinstance(new, dict):
            return self._fields(old, new, place)
        if isinstance(old, tuple | Bag) and isinstance(new, tuple | Bag):
            loose = isinstance(old, Bag) or isinstance(new, Bag) or self._is_unordered(place)
            first, second = _items(old), _items(new)
            if len(first) != len(second):
                return Difference(place, "length")
            return self._bags(first, second, place) if loose else self._pairs(first, second, place)
        if _is_number(old) and _is_number(new):
            return None if self._near(old, new, place) else Difference(place, "value")
        if old is new or bool(old == new):
            return None
        return Difference(place, "value" if type(old) is type(new) else "type")

    def _fields(self, old: dict[str, Any], new: dict[str, Any], place: str) -> Difference | None:
        names = {name: f"{place}.{name}" if place else name for name in old | new}
        for name, inner in names.items():
            if inner in self.ignore:
                continue
            if name not in old or name not in new:
                return Difference(inner, "missing" if name in old else "extra")
            if found := self._difference(old[name], new[name], inner):
                return found
        return None

    def _pairs(self, old: Sequence[Any], new: Sequence[Any], place: str) -> Difference | None:
        found = (self._difference(one, other, place) for one, other in zip(old, new, strict=True))
        return next((each for each in found if each), None)

    def _bags(self, old: Sequence[Any], new: Sequence[Any], place: str) -> Difference | None:
        """Take away what is there twice, then pair what is left, each with the first that it equals under the rules."""
        missing, extra = _unmatched(old, new), _unmatched(new, old)
        if len(missing) > PAIRED_AT_MOST:
            return self._pairs(sorted(missing, key=_sorting), sorted(extra, key=_sorting), place)
        for one in missing:
            at = next((n for n, other in enumerate(extra) if self._difference(one, other, place) is None), None)
            if at is None:
                return Difference(place, "value")
            del extra[at]
        return None

    def _is_unordered(self, place: str) -> bool:
        return self.unordered if isinstance(self.unordered, bool) else place in self.unordered

    def _near(self, old: Any, new: Any, place: str) -> bool:
        if old == new:
            return True
        if not (math.isfinite(old) and math.isfinite(new)):
            return math.isnan(old) and math.isnan(new)
        allowed = self.tolerance.get(place, 0.0) if isinstance(self.tolerance, Mapping) else self.tolerance
        one, other = Fraction(old), Fraction(new)
        return abs(one - other) <= max(Fraction(allowed), Fraction(self.relative) * max(abs(one), abs(other)))


Compare = Rules | Callable[[Any, Any], bool]
"""Rules, or a function that tells whether an old and a new answer say the same."""


def kept(compare: Compare, answer: object) -> object:
    """Give what of an answer is kept for the comparison; a function of the caller's gets the answer itself."""
    return compare.plain(answer) if isinstance(compare, Rules) else answer


def difference(compare: Compare, old: object, new: object) -> Difference | None:
    """Compare two answers that were `kept`."""
    if isinstance(compare, Rules):
        return compare.difference(old, new)
    return None if compare(old, new) else Difference("", "custom")


def _plain(value: Any, depth: int) -> Any:
    if depth > DEEPEST:
        message = f"an answer is nested deeper than {DEEPEST}"
        raise ValueError(message)
    if value is None or isinstance(value, str | bytes | bool | int | float | Decimal | Enum):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if (named := _named(value)) is not None:
        return {str(name): _plain(inner, depth + 1) for name, inner in named.items()}
    if isinstance(value, list | tuple):
        return tuple(_plain(inner, depth + 1) for inner in value)
    if isinstance(value, AbstractSet):
        return Bag(tuple(_plain(inner, depth + 1) for inner in value))
    return value


def _named(value: Any) -> Mapping[Any, Any] | None:
    """Give the fields of what has some."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, Iterator | type):
        return None
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(mapping := getattr(value, "_mapping", None), Mapping):  # a row of SQLAlchemy
        return mapping
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if isinstance(value, list | tuple | AbstractSet):
        return None
    public = {name: inner for name, inner in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
    return public or None


def _items(value: tuple[Any, ...] | Bag) -> tuple[Any, ...]:
    return value.items if isinstance(value, Bag) else value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _sorting(value: Any) -> tuple[int, Any, str]:
    """Give a key that sorts plain values of any types: numbers by size, the rest by what they show."""
    if _is_number(value) and math.isfinite(value):
        return (0, Fraction(value), "")
    return (1, 0, _shown(value))


def _shown(value: Any) -> str:
    """Show a plain value so that equal ones show the same: fields by name, bags in order."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name!r}:{_shown(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, Bag):
        return "<" + ",".join(sorted(map(_shown, value.items))) + ">"
    if isinstance(value, tuple):
        return "(" + ",".join(map(_shown, value)) + ")"
    return repr(value)


def _unmatched(some: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """Give what of `some` has no twin among `others` that shows the same."""
    twins = Counter(map(_shown, others))
    left = []
    for each in some:
        shown = _shown(each)
        if twins[shown] > 0:
            twins[shown] -= 1
        else:
            left.append(each)
    return left
