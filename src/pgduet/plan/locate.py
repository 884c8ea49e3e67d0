"""YAML and JSON with places: the data of a file, and for each path the line and column where it stands.

The YAML is composed to nodes and read from these, stricter than PyYAML's loader: a key that stands twice is refused
(YAML would silently take the last), keys are always text, numbers are those of JSON and dates are plain dates (`010`,
`0x1f`, `12:30` and `1_000` stay text). Limits: no merge keys (`<<`), no tags, at most 100,000 values after aliases
are followed.
"""

import json
import re
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import yaml

from pgduet.errors import Place, PlanUnreadable
from pgduet.plan.problems import KeyPath, show_path

MAX_VALUES = 100_000
_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,30})")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)?\.[0-9]+([eE][-+]?[0-9]+)?|-?(0|[1-9][0-9]*)\.")
_CURES = {
    "mapping values are not allowed": 'An expression that holds ": " stands in quotes.',
    "cannot start any token": "YAML indents by spaces; a value that begins with a special character stands in quotes.",
    "expected <block end>": "Check the indentation, and the quotes of the line above.",
    "expected ',' or": "Check the commas, and that each bracket and quote is closed.",
    "end of stream": "A quote or a bracket is not closed.",
    "could not find expected ':'": "A key is followed by `: `.",
    "single document": "A file holds one plan: delete the `---` and what follows.",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a key or value begins (1-based), its text in the file, and for scalars the quote that opens it."""

    file: str | None
    line: int
    column: int
    raw: str = ""
    quote: str | None = None


@dataclass(frozen=True, slots=True)
class Places:
    """The marks of a file's values and of its keys, by path."""

    file: str | None = None
    values: dict[KeyPath, Mark] = field(default_factory=dict)
    keys: dict[KeyPath, Mark] = field(default_factory=dict)

    def find(self, path: KeyPath, *, on_key: bool = False) -> Place:
        """Give the place of a value (or its key); where the path is not in the file, of what it should stand in."""
        mark = self.mark(path, on_key=on_key)
        if mark is None:
            return Place(show_path(path), self.file)
        return Place(show_path(path), mark.file, mark.line, mark.column)

    def mark(self, path: KeyPath, *, on_key: bool = False) -> Mark | None:
        """Give the mark of the path, or of the nearest part above it."""
        if on_key and path in self.keys:
            return self.keys[path]
        return next((self.values[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.values), None)

    def under(self, top: KeyPath) -> "Places":
        """Move every path below `top`: for a file that holds a part of a plan."""
        values = {(*top, *path): mark for path, mark in self.values.items()}
        return Places(self.file, values, {(*top, *path): mark for path, mark in self.keys.items()})

    def overlaid(self, other: "Places") -> "Places":
        """Take the other file's places where it has any."""
        return Places(self.file, {**self.values, **other.values}, {**self.keys, **other.keys})


def read(text: str, file: str | None = None) -> tuple[dict[str, Any], Places]:
    """Read a YAML or JSON mapping and the places of its parts.

    Raises:
        PlanUnreadable: the text is not such a mapping; the error has the place.
    """
    exact = _json(text)
    # A tab is white space in JSON, never in YAML; inside JSON's strings it does not occur.
    composed = text.replace("\t", " ") if exact is not None else text
    node = _compose(composed, file)
    if node is None:
        raise PlanUnreadable("the file is empty", place=Place("plan", file))
    reader = _Reader(composed, file)
    data = reader.value(node, ())
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else "a single value"
        message = f"expected a mapping of keys at the top of the file, got {kind}"
        raise PlanUnreadable(message, place=reader.places.find(()))
    return (exact if exact is not None else data), reader.places


def _json(text: str) -> dict[str, Any] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _compose(text: str, file: str | None) -> yaml.Node | None:
    loader: Any = None
    try:
        loader = yaml.SafeLoader(text)
        node: yaml.Node | None = loader.get_single_node()
    except yaml.reader.ReaderError as wrong:
        before = text[: wrong.position]
        place = Place("plan", file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise PlanUnreadable("the file holds a control character", place=place) from None
    except yaml.MarkedYAMLError as wrong:
        raise _syntax(wrong, file) from None
    except RecursionError:
        raise PlanUnreadable("the file is nested too deeply", place=Place("plan", file)) from None
    finally:
        if loader is not None:
            loader.dispose()
    return node


def _syntax(wrong: yaml.MarkedYAMLError, file: str | None) -> PlanUnreadable:
    what = wrong.problem or "not YAML"
    if (wrong.context or "").startswith("expected a single document"):
        what = "expected a single document in the file"
    mark = wrong.problem_mark or wrong.context_mark
    if "end of stream" in what:
        mark = wrong.context_mark or mark  # where the quote or bracket was opened
    place = Place("plan", file, mark.line + 1, mark.column + 1) if mark else Place("plan", file)
    hint = next((cure for sign, cure in _CURES.items() if sign in what), None)
    return PlanUnreadable(f"cannot be read as YAML: {what}", place=place, hint=hint)


class _Reader:
    """Turns nodes into data and remembers where each stood."""

    def __init__(self, text: str, file: str | None) -> None:
        self.text = text
        self.places = Places(file)
        self._open: set[int] = set()

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        """Read a node and everything in it."""
        self.places.values[path] = self._mark(node)
        if len(self.places.values) > MAX_VALUES or id(node) in self._open:
            raise self._refused("aliases make the file endless or far too large", path)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
            return self._scalar(node, path)
        finally:
            self._open.remove(id(node))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, child in node.value:
            mark = self._mark(key)
            place = Place(show_path(path), mark.file, mark.line, mark.column)
            if not isinstance(key, yaml.ScalarNode) or key.tag == f"{_TAG}merge":
                raise PlanUnreadable(
                    "expected a plain key",
                    place=place,
                    hint="Write the keys out: `<<`, lists and mappings are no keys.",
                )
            here = (*path, key.value)
            if key.value in data:
                lines = f"at line {self.places.keys[here].line} and at line {mark.line}"
                place = Place(show_path(here), mark.file, mark.line, mark.column)
                message = f"key `{key.value}` stands twice, {lines}"
                raise PlanUnreadable(message, place=place, hint="Delete one of them.")
            self.places.keys[here] = mark
            data[key.value] = self.value(child, here)
        return data

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        text: str = node.value
        match node.tag.removeprefix(_TAG):
            case "null":
                return None
            case "bool":
                return text.lower() in {"yes", "true", "on"}
            case "int" if _INTEGER.fullmatch(text):
                return int(text)
            case "float" if _FLOAT.fullmatch(text):
                return float(text)
            case "timestamp":
                return _date(text)
            case "int" | "float" | "str" | "value" | "merge":
                return text
        message = f"tag `{node.tag}` has no meaning in a plan"
        raise self._refused(message, path)

    def _mark(self, node: yaml.Node) -> Mark:
        start, end = node.start_mark, node.end_mark
        if not isinstance(node, yaml.ScalarNode):
            return Mark(self.places.file, start.line + 1, start.column + 1)
        raw = self.text[start.index : end.index]
        return Mark(self.places.file, start.line + 1, start.column + 1, raw, node.style)

    def _refused(self, message: str, path: KeyPath) -> PlanUnreadable:
        return PlanUnreadable(message, place=self.places.find(path))


def _date(text: str) -> date | str:
    try:
        return date.fromisoformat(text) if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else text
    except ValueError:
        return text
