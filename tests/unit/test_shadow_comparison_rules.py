"""Comparison rules, noise, and sketches of latencies: pure."""

import datetime as dt
import enum
import random
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from pgduet.compared import Compared
from pgduet.routing import Rules
from pgduet.routing.comparing import Difference, difference, kept
from pgduet.sketch import ACCURACY, LAST, Sketch, bucket_of


class Row(NamedTuple):
    id: int
    stars: int


@dataclass
class Review:
    id: int
    stars: int


class Model:
    """An object as an ORM gives it: public fields, and a state of its own."""

    def __init__(self, **values: object) -> None:
        self.__dict__.update(values)
        self._state = object()


class Colour(enum.Enum):
    RED = "red"


def parted(old: object, new: object, **rules: Any) -> tuple[str, str] | None:
    given = Rules(**rules)
    found = difference(given, kept(given, old), kept(given, new))
    return (found.place, found.kind) if found else None


@pytest.mark.parametrize("old", [{"id": 7, "stars": 3}, Review(7, 3), Row(7, 3), Model(id=7, stars=3)])
@pytest.mark.parametrize("new", [{"stars": 3, "id": 7}, Review(7, 3), Row(7, 3), Model(id=7, stars=3)])
@pytest.mark.parametrize("wrap", [lambda row: row, lambda row: [row, row], lambda row: {"rows": (row,)}])
def test_rows_of_any_kind_are_compared_by_their_fields(old: object, new: object, wrap: Any) -> None:
    assert parted(wrap(old), wrap(new)) is None


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 2}, ("a", "value")),
        ({"a": 1}, {"a": "1"}, ("a", "type")),
        ({"a": 1}, {}, ("a", "missing")),
        ({}, {"a": 1}, ("a", "extra")),
        ({"a": {"b": [{"c": 1}]}}, {"a": {"b": [{"c": 2}]}}, ("a.b.c", "value")),
        ({"a": [1]}, {"a": [1, 2]}, ("a", "length")),
        ([1, 2], [2, 1], ("", "value")),
        (None, {"a": 1}, ("", "type")),
        (True, 1, None),
        (1, 1.0, None),
        (0.1, Decimal("0.1"), ("", "value")),
        (float("nan"), float("nan"), None),
        (float("nan"), 1.0, ("", "value")),
        (float("inf"), 1.0, ("", "value")),
        (Colour.RED, "red", ("", "type")),
        ({1, 2, 3}, [3, 2, 1], None),
        (b"ab", bytearray(b"ab"), None),
        (dt.date(2026, 1, 1), dt.date(2026, 1, 2), ("", "value")),
    ],
)
def test_where_two_answers_part_is_named_by_fields(old: object, new: object, expected: tuple[str, str] | None) -> None:
    assert parted(old, new) == expected


def test_fields_that_are_ignored_may_differ_wherever_the_path_leads() -> None:
    old = {"at": 1, "author": {"at": 1, "name": "x"}, "rows": [{"at": 1}, {"at": 2}]}
    new = {"author": {"at": 2, "name": "x"}, "rows": [{"at": 3}, {}]}
    assert parted(old, new, ignore={"at", "author.at", "rows.at"}) is None
    assert parted(old, new, ignore={"at", "author.at"}) == ("rows.at", "value")
    assert parted(old, new, ignore={"at", "rows.at"}) == ("author.at", "value")


def test_numbers_may_differ_by_the_tolerance_and_no_more() -> None:
    assert parted(1.0, 1.01, tolerance=0.01) == ("", "value"), "1.01 as a float is a little more than 1.01"
    assert parted(Decimal("1.00"), Decimal("1.01"), tolerance=0.011) is None
    assert parted(1, 3, tolerance=1) == ("", "value")
    assert parted({"a": 1, "b": 1}, {"a": 1.5, "b": 1}, tolerance={"a": 0.5}) is None
    assert parted({"a": 1, "b": 1}, {"a": 1, "b": 1.5}, tolerance={"a": 0.5}) == ("b", "value")
    assert parted(1000, 1009, relative=0.01) is None
    assert parted(1000, 1011, relative=0.01) == ("", "value")
    assert parted(2**63, 2**63 + 1) == ("", "value"), "integers are compared exactly"
    assert parted(2**63, float(2**63), tolerance=0) is None
    assert parted("1", "2", tolerance=5) == ("", "value"), "text is no number"


def test_the_order_of_lists_counts_unless_it_is_said_not_to() -> None:
    old, new = {"tags": [1, 2], "steps": [1, 2]}, {"tags": [2, 1], "steps": [2, 1]}
    assert parted(old, new, unordered=True) is None
    assert parted(old, new, unordered={"tags"}) == ("steps", "value")
    assert parted([1, 1, 2], [1, 2, 2], unordered=True) == ("", "value"), "how often counts"
    assert parted([{"a": [1, 2]}, {"a": [3]}], [{"a": [3]}, {"a": [2, 1]}], unordered=True) is None
    assert parted([{"a": 1.0, "at": 1}, {"a": 2.0, "at": 2}], [{"a": 2.1, "at": 3}, {"a": 1.1, "at": 4}],
                  unordered=True, tolerance=0.2, ignore={"at"}) is None  # fmt: skip


def test_long_lists_without_an_order_are_paired_by_sorting() -> None:
    numbers = [float(number) for number in range(5_000)]
    moved = [number + 0.25 for number in numbers]
    random.Random(7).shuffle(moved)
    assert parted(numbers, moved, unordered=True, tolerance=0.25) is None
    assert parted(numbers, [*moved[:-1], 9e9], unordered=True, tolerance=0.25) == ("", "value")


def test_what_the_caller_does_with_its_answer_afterwards_is_no_mismatch() -> None:
    answer = {"rows": [{"a": 1}]}
    plain = kept(Rules(), answer)
    answer["rows"][0]["a"] = 2
    assert difference(Rules(), plain, kept(Rules(), {"rows": [{"a": 1}]})) is None


def test_an_iterator_is_left_to_its_caller() -> None:
    answer = iter([1, 2, 3])
    assert kept(Rules(), answer) is answer
    assert list(answer) == [1, 2, 3]


def test_an_answer_that_goes_round_is_refused_and_not_followed_for_ever() -> None:
    answer: list[Any] = []
    answer.append(answer)
    with pytest.raises(ValueError, match="nested deeper"):
        kept(Rules(), answer)


def test_a_function_of_the_services_own_gets_the_answers_as_they_are() -> None:
    first, second = Review(1, 3), Review(1, 4)
    assert kept(lambda old, new: old.id == new.id, first) is first
    assert difference(lambda old, new: old.id == new.id, first, second) is None
    assert difference(lambda old, new: old == new, first, second) == Difference("", "custom")


@pytest.mark.parametrize(
    ("compared", "mismatches", "calibrated", "noise", "net"),
    [
        (1000, 5, 0, 0, 0.005),
        (1000, 5, 1000, 0, 0.005),
        (1000, 5, 1000, 5, 0.0),
        (1000, 5, 1000, 50, 0.0),
        (1000, 109, 1000, 100, 0.01),  # 0.109 = 0.01 + 0.1 - 0.01 * 0.1
        (0, 0, 100, 1, 0.0),
        (10, 10, 10, 10, 0.0),
        (10, 10, 10, 5, 1.0),
    ],
)
def test_the_net_ratio_is_what_noise_does_not_explain(
    compared: int, mismatches: int, calibrated: int, noise: int, net: float
) -> None:
    counts = Compared(compared=compared, mismatches=mismatches, calibrated=calibrated, noise=noise)
    assert counts.net_ratio == pytest.approx(net)


def test_counts_of_several_routers_add_up_and_go_through_json() -> None:
    one, other = Compared(compared=2, mismatches=1, seconds_new=0.5), Compared(compared=3, noise=1)
    one.latency["shadow_new"].add(0.5)
    other.latency["shadow_new"].add(0.5)
    before = Compared.read(one.written())
    one.add(Compared.read(other.written()))
    assert (one.compared, one.mismatches, one.noise, one.seconds_new) == (5, 1, 1, 0.5)
    assert one.latency["shadow_new"].total == 2
    assert one.since(before) == Compared.read(other.written())


class TestSketch:
    def test_quantiles_are_right_to_the_accuracy(self) -> None:
        draw = random.Random(3)
        values = sorted(draw.lognormvariate(-6, 1.5) for _ in range(20_000))
        one, other = Sketch(), Sketch()
        for number, value in enumerate(values):
            (one if number % 3 else other).add(value)
        one.merge(other)
        for share in (0.01, 0.5, 0.9, 0.99, 0.999):
            exact = values[int(share * len(values)) - 1]
            assert one.quantile(share) == pytest.approx(exact, rel=ACCURACY + 1e-9)

    def test_what_is_too_short_or_too_long_stays_within_the_buckets(self) -> None:
        assert bucket_of(0) == bucket_of(1e-6) == 0
        assert bucket_of(1000) == bucket_of(1e9) == LAST
        assert Sketch().quantile(0.5) is None

    def test_bounds_are_a_promise_between_releases(self) -> None:
        assert [bucket_of(seconds) for seconds in (1e-5, 1e-3, 0.1, 1.0)] == [24, 70, 116, 139]
        assert LAST == 208

    @pytest.mark.parametrize(
        "raw",
        [None, [], "x", {"a": 1}, {"-1": 1}, {"9999": 1}, {"1": "2"}, {"1": -2}, {"1": 1.5}, {"1": True}, {"²": 1}],
    )
    def test_what_is_no_sketch_is_an_empty_one(self, raw: object) -> None:
        assert Sketch.read(raw) == Sketch()


@pytest.mark.parametrize("wrong", [{"ignore": "fetched_at"}, {"unordered": "tags"}])
def test_one_name_in_the_place_of_several_is_refused(wrong: dict[str, Any]) -> None:
    """`"at" in "fetched_at"` is true: fields would be ignored that nobody named."""
    with pytest.raises(TypeError, match="set or a list"):
        Rules(**wrong)
