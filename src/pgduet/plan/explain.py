"""From pydantic's errors to pgduet's: the message in plain words, the exact place, and the cure.

Which keys a mapping may have, for "did you mean", comes from the JSON Schema of the file. Limit: an error type of
pydantic that has no entry here keeps pydantic's own words.
"""

from collections.abc import Callable, Mapping
from datetime import date
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pgduet.errors import Place, PlanInvalid
from pgduet.plan.locate import Places
from pgduet.plan.problems import PROBLEM, KeyPath, Problem, did_you_mean, listed
from pgduet.plan.schema import json_schema
from pgduet.texts import shown

MOST_EXPLAINED = 100
"""Each of them is compared with the words that are known, which takes time."""


def explain(error: ValidationError, places: Places) -> list[PlanInvalid]:
    """Turn a failed validation into pgduet's errors, in the order of the file; where it is no plan at all, the first of them."""
    items = error.errors(include_url=False)[:MOST_EXPLAINED]
    found = [_located(problem, places) for item in items for problem in _problems(item, places)]

    def order(wrong: PlanInvalid) -> tuple[bool, int, int]:
        place = wrong.place or Place("plan", places.file)
        return place.file != places.file, place.line or 0, place.column or 0

    return sorted(found, key=order)


def _located(problem: Problem, places: Places) -> PlanInvalid:
    message = problem.message
    if problem.elsewhere is not None:
        message = f"{message}; the first is at {places.find(problem.elsewhere)}"
    place = places.find(problem.at, on_key=problem.on_key)
    return problem.error(message, place=place, hint=problem.hint)


def _problems(item: ErrorDetails, places: Places) -> list[Problem]:
    key = item["loc"][-1:] == ("[key]",)
    path: KeyPath = item["loc"][:-1] if key else item["loc"]
    if item["type"] == PROBLEM:
        said: tuple[Problem, ...] = item["ctx"]["problems"]
        return [
            Problem(one.message, (*path, *one.at), one.error, one.hint, one.on_key or key, one.elsewhere)
            for one in said
        ]
    if item["type"] == "too_short" and len(item["input"]) >= item["ctx"]["min_length"]:
        return []  # pydantic counts only the entries that are valid; the others have their own errors
    mark = places.values.get(path)
    got = _Got(item["input"], mark.raw if mark else "")
    kind = item["type"]
    if kind == "missing":
        return [Problem(f"missing key `{path[-1]}`", path, hint=f"Add `{path[-1]}: …`.")]
    if kind == "extra_forbidden":
        known = _known_keys(path[:-1])
        message = f"unknown key `{shown(str(path[-1]), 60)}`{did_you_mean(str(path[-1]), known)}"
        return [Problem(message, path, hint=f"Known here: {listed(known)}.", on_key=True)]
    if kind == "string_type":
        return [Problem(f"expected text, got {got.as_text()}", path, hint=got.quoted(), on_key=key)]
    words = _WORDS.get(kind)
    message = words(item.get("ctx", {}), got) if words else item["msg"]
    return [Problem(message, path, hint=got.cure(), on_key=key)]


class _Got:
    """What stood in the plan, as a message shows it; `raw` is the file's own text."""

    def __init__(self, value: object, raw: str) -> None:
        self.value = value
        self.raw = raw

    def __str__(self) -> str:
        """Render the value."""
        if self.value is None:
            return "nothing"
        if isinstance(self.value, dict | list | tuple):
            return "a list" if not isinstance(self.value, dict) else "a mapping"
        return f"`{self._short()}`"

    def _short(self) -> str:
        text = str(self.value).lower() if isinstance(self.value, bool) else str(self.value)
        return text if len(text) <= 60 else f"{text[:60]}…"

    def as_text(self) -> str:
        """Render a value that should have been text, and how YAML took it."""
        match self.value:
            case bool():
                said = self.raw or self._short()
                return f"`{said}`, which is read as {self._short()}"
            case int() | float():
                return f"the number `{self.raw or self._short()}`"
            case date():
                return f"the date `{self.raw or self._short()}`"
        return str(self)

    def quoted(self) -> str | None:
        """Say how to write the value as text."""
        if isinstance(self.value, bool | int | float | date):
            return f'Write it in quotes: "{self.raw or self._short()}".'
        return self.cure()

    def cure(self) -> str | None:
        """Say what to do about a key without a value."""
        return "Give it a value, or delete the key." if self.value is None else None


Words = Callable[[Mapping[str, Any], _Got], str]


def _bound(phrase: str, limit: str) -> Words:
    def words(ctx: Mapping[str, Any], got: _Got) -> str:
        bound = ctx[limit]
        shown = f"whole number {phrase} {bound}" if isinstance(bound, int) else f"number {phrase} {bound:.12g}"
        return f"expected a {shown}, got {str(got).strip('`')}"

    return words


def _of(what: str) -> Words:
    return lambda _ctx, got: f"expected {what}, got {got}"


def _choice(ctx: Mapping[str, Any], got: _Got) -> str:
    choices = [word.strip("' ") for word in str(ctx["expected"]).replace(" or ", ",").split(",")]
    return f"expected one of {listed(choices)}; got {got}{did_you_mean(str(got.value), choices)}"


def _too_short(ctx: Mapping[str, Any], _got: _Got) -> str:
    return f"expected at least {ctx['min_length']} entry, got none"


_MAPPING, _WHOLE, _NUMBER = _of("a mapping of keys"), _of("a whole number"), _of("a number")
_DATE = _of("a date such as 2026-12-01")
_WORDS: dict[str, Words] = {
    "greater_than_equal": _bound("of at least", "ge"),
    "less_than_equal": _bound("of at most", "le"),
    "greater_than": _bound("above", "gt"),
    "less_than": _bound("below", "lt"),
    "int_type": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": _NUMBER,
    "bool_type": _of("true or false"),
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "tuple_type": _of("a list"),
    "none_required": _of("nothing"),
    "date_type": _DATE,
    "date_parsing": _DATE,
    "date_from_datetime_parsing": _DATE,
    "date_from_datetime_inexact": _DATE,
    "literal_error": _choice,
    "too_short": _too_short,
    "too_long": lambda ctx, _got: f"expected at most {ctx['max_length']} entries, got {ctx['actual_length'] or 'more'}",
    "string_too_short": lambda _ctx, _got: "expected text, got an empty one",
    "value_error": lambda ctx, _got: str(ctx["error"]),
    "string_unicode": lambda _ctx, _got: "the text is not valid Unicode",
}


def _known_keys(path: KeyPath) -> list[str]:
    """Name the keys that the mapping at `path` may have, those that it must have first."""
    schema = _schema()
    node: Mapping[str, Any] = schema
    for part in path:
        node = _step(schema, node, part)
    options = _options(schema, node)
    needed = [name for option in options for name in option.get("required", [])]
    return sorted((name for option in options for name in option.get("properties", {})), key=lambda n: n not in needed)


def _step(schema: Mapping[str, Any], node: Mapping[str, Any], part: str | int) -> Mapping[str, Any]:
    options = _options(schema, node)
    if isinstance(part, int):
        return next((dict(option["items"]) for option in options if "items" in option), {})
    return next((option["properties"][part] for option in options if part in option.get("properties", {})), {})


def _options(schema: Mapping[str, Any], node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Give all that a value may be: what can be left out or written short may be one of several things."""
    node = _resolved(schema, node)
    return [node, *(_resolved(schema, each) for each in (*node.get("oneOf", []), *node.get("anyOf", [])))]


def _resolved(schema: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    return schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


@cache
def _schema() -> dict[str, Any]:
    return json_schema()
