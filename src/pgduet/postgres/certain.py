"""Reads from PostgreSQL's parse tree what is certain of an expression's value: that it never raises, how long, that it is not NULL.

Where an expression cannot raise, a sync trigger needs no EXCEPTION block around it, which is a subtransaction a row (ADR 26). An
old client's write must never fail by us, so everything is uncertain that is not listed here: each kind of node, and each
built-in function. What can fail on size alone (a concatenation) or on the collations of two columns (a comparison of
texts) is certain only where both are known.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pgduet.operations.expressions import Certainty

UNCERTAIN = Certainty()

_TOKEN = re.compile(r"[(){}]|(?:\\.|[^\s(){}\\])+")
_BIG = 10_485_760
"""The longest that varchar(n) can be declared, in characters: PostgreSQL's own text functions have room for it."""

_TEXTS = frozenset({"25", "1042", "1043"})  # text, character, character varying
_AS_TEXT = {"20": 20, "21": 6, "23": 11, "2950": 36}
"""Types whose text depends on no setting, and how long it can be: bigint, smallint, integer, uuid."""

COMPARISONS = frozenset(
    f"{kind}{how}"
    for kind in (
        *("bool", "oid", "float4", "float8", "date_", "time_", "timestamp_", "timestamptz_", "uuid_"),
        *("int2", "int4", "int8", "int24", "int42", "int28", "int82", "int48", "int84"),
    )
    for how in ("eq", "ne", "lt", "le", "gt", "ge")
)
MORE_COMPARISONS = frozenset(
    {*(f"numeric_{how}" for how in ("eq", "ne", "lt", "le", "gt", "ge")), "enum_eq", "enum_ne"}
)
"""Which PostgreSQL does not call leakproof, as it does the others, though they look at nothing but the two values."""
TEXT_COMPARISONS = frozenset({"texteq", "textne"})
CASTS = {
    **dict.fromkeys(("int4(smallint)", "int8(smallint)", "int8(integer)", "int4(boolean)", "bool(integer)")),
    **dict.fromkeys(f'"numeric"({kind})' for kind in ("smallint", "integer", "bigint")),
    **dict.fromkeys(f"float8({kind})" for kind in ("smallint", "integer", "bigint", "real")),
    "text(boolean)": 5,
    "text(name)": 63,
    "text(character)": None,
}
"""Conversions that take every value, and how long a text they give; nothing where that depends on the argument."""
TRIMS = frozenset(f"{side}trim({arguments})" for side in "blr" for arguments in ("text", "text,text"))
JOIN = "textcat(text,text)"
ARITHMETIC = frozenset(f"numeric_{how}" for how in ("add", "sub", "mul"))
"""What overflows by the number of digits alone, of which PostgreSQL has room for 131,072 before the point and 16,383 behind it."""
_NUMERIC, _DIGITS = "1700", 10_000
_WHOLE_DIGITS = {'"numeric"(smallint)': 5, '"numeric"(integer)': 10, '"numeric"(bigint)': 19}
_DECLARED = 2_000
"""The most digits of a number that is declared with a precision, whatever that and its scale are."""


@dataclass(frozen=True, slots=True)
class Called:
    """A built-in function: by its name, and with its arguments."""

    short: str
    name: str


@dataclass(frozen=True, slots=True)
class _Node:
    """A node of a tree: each field's tokens, nodes and lists."""

    kind: str
    fields: Mapping[str, list[Any]]

    def one(self, name: str) -> Any:
        """Give a field's only value."""
        (value,) = self.fields[name]
        return value

    def nodes(self, *names: str) -> list["_Node"]:
        """Give the nodes of some fields, those in lists as well."""
        found: list[_Node] = []
        for name in names:
            for value in self.fields[name]:
                found += [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, _Node)]
        return found


def certain(tree: str, built_in: Mapping[int, Called]) -> Certainty:
    """Judge the only output of a parsed query; `built_in` has PostgreSQL's own functions among those that it calls."""
    try:
        tokens = iter(_TOKEN.findall(tree.rpartition(":targetList")[2]))
        output = _value(next(tokens), tokens)[0].one("expr")
        judge = _Judge(built_in)
        if not judge.safe(output):
            return UNCERTAIN
        return Certainty(
            raises=False,
            longest=judge.longest(output),
            filled=judge.filled(output),
            passes_on=judge.filled(output, frozenset(map(int, _columns(output)))),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, StopIteration):
        return UNCERTAIN  # another version of PostgreSQL may write its trees otherwise


def _value(word: str, tokens: Iterator[str]) -> Any:
    if word == "{":
        return _Node(next(tokens), _fields(tokens))
    if word == "(":
        return [_value(each, tokens) for each in iter(partial(next, tokens), ")")]
    return word


def _fields(tokens: Iterator[str]) -> dict[str, list[Any]]:
    fields: dict[str, list[Any]] = {}
    values: list[Any] = []
    for token in iter(partial(next, tokens), "}"):
        if token.startswith(":"):
            values = fields[token[1:]] = []
        else:
            values.append(_value(token, tokens))
    return fields


@dataclass(frozen=True, slots=True)
class _Judge:
    built_in: Mapping[int, Called]
    tested: list[_Node] = field(default_factory=list)
    """The arguments of the CASEs around a node: what `CASE x WHEN …` compares stands there alone."""

    def safe(self, node: _Node) -> bool:
        """Tell that a node never raises."""
        match node.kind:
            case "VAR":
                return int(node.one("varattno")) > 0
            case "CONST" | "CASETESTEXPR":
                return True
            case "RELABELTYPE" | "NULLTEST" | "BOOLEANTEST":
                return self._all_safe(node, "arg")
            case "COALESCEEXPR" | "BOOLEXPR":
                return self._all_safe(node, "args")
            case "ARRAYEXPR":
                return node.one("multidims") == "false" and self._all_safe(node, "elements")
            case "CASEEXPR":
                inner = _Judge(self.built_in, [*self.tested, *node.nodes("arg")])
                return self._all_safe(node, "arg") and inner._all_safe(node, "args", "defresult")
            case "CASEWHEN":
                return self._all_safe(node, "expr", "result")
            case "COERCEVIAIO":
                as_text = node.one("resulttype") in _TEXTS and _type_of(node.one("arg")) in _AS_TEXT
                return as_text and self._all_safe(node, "arg")
            case "OPEXPR" | "FUNCEXPR" | "DISTINCTEXPR" | "NULLIFEXPR" | "SCALARARRAYOPEXPR":
                return self._takes_all(node) and self._all_safe(node, "args")
        return False

    def _all_safe(self, node: _Node, *names: str) -> bool:
        return all(self.safe(each) for each in node.nodes(*names))

    def _takes_all(self, node: _Node) -> bool:
        """Tell that a function takes every value of its arguments."""
        called = self._called(node)
        if called is None:
            return False
        if called.short in TEXT_COMPARISONS:
            # Two columns may have two collations, and then PostgreSQL does not know which to use.
            read = {number for each in (*node.nodes("args"), *self.tested) for number in _columns(each)}
            return node.one("inputcollid") != "0" and len(read) <= 1
        if called.name in TRIMS or called.name == JOIN:
            sizes = [self.longest(each) for each in node.nodes("args")]
            return all(size is not None for size in sizes) and sum(size or 0 for size in sizes) <= _BIG
        if called.short in ARITHMETIC:
            return (self.digits(node) or _DIGITS) < _DIGITS
        return called.short in COMPARISONS | MORE_COMPARISONS or called.name in CASTS

    def _called(self, node: _Node) -> Called | None:
        return self.built_in.get(int(node.one("funcid" if "funcid" in node.fields else "opfuncid")))

    def longest(self, node: _Node) -> int | None:
        """Give the most characters that a text can have; nothing where it may have any number."""
        match node.kind:
            case "VAR":
                length = int(node.one("vartypmod")) - 4
                return length if length > 0 and node.one("vartype") in _TEXTS else None
            case "CONST":
                return _length(node)
            case "RELABELTYPE":
                return self.longest(node.one("arg"))
            case "COALESCEEXPR":
                return self._longest_of(node.nodes("args"))
            case "CASEEXPR":
                return self._longest_of([when.one("result") for when in node.nodes("args")] + node.nodes("defresult"))
            case "NULLIFEXPR":
                return self.longest(node.nodes("args")[0])
            case "COERCEVIAIO":
                return _AS_TEXT.get(_type_of(node.one("arg")))
            case "OPEXPR" | "FUNCEXPR":
                return self._longest_result(node)
        return None

    def _longest_result(self, node: _Node) -> int | None:
        called, given = self._called(node), [self.longest(each) for each in node.nodes("args")]
        if called is None:
            return None
        if called.name == JOIN:
            return None if None in given else sum(size or 0 for size in given)
        return given[0] if called.name in {*TRIMS, "text(character)"} else CASTS.get(called.name)

    def _longest_of(self, nodes: list[_Node]) -> int | None:
        sizes = [self.longest(node) for node in nodes]
        return None if None in sizes else max(size or 0 for size in sizes)

    def digits(self, node: _Node) -> int | None:
        """Give the most digits that a number can have, before and behind the point; nothing where it may have any number."""
        match node.kind:
            case "VAR":
                return _DECLARED if node.one("vartype") == _NUMERIC and int(node.one("vartypmod")) > 0 else None
            case "COALESCEEXPR":
                given = [self.digits(each) for each in node.nodes("args")]
                return None if None in given else max(each or 0 for each in given)
            case "OPEXPR" | "FUNCEXPR":
                called = self._called(node)
                if called is None or called.short not in ARITHMETIC:
                    return _WHOLE_DIGITS.get(called.name) if called else None
                given = [self.digits(each) for each in node.nodes("args")]
                return None if None in given else sum(each or 0 for each in given) + 1
        return None

    def filled(self, node: _Node, known: frozenset[int] = frozenset()) -> bool:
        """Tell that a node is never NULL, where some columns are known not to be."""
        match node.kind:
            case "VAR":
                return int(node.one("varattno")) in known
            case "CONST":
                return bool(node.one("constisnull") == "false")
            case "RELABELTYPE" | "COERCEVIAIO":
                return self.filled(node.one("arg"), known)
            case "COALESCEEXPR":
                return any(self.filled(each, known) for each in node.nodes("args"))
            case "CASEEXPR":
                return self._case_filled(node, known)
            case "OPEXPR" | "FUNCEXPR":
                return all(self.filled(each, known) for each in node.nodes("args"))
        return False

    def _case_filled(self, node: _Node, known: frozenset[int]) -> bool:
        """Tell it of a CASE: after `WHEN x IS NULL THEN …` the column x is not NULL."""
        for when in node.nodes("args"):
            if not self.filled(when.one("result"), known):
                return False
            test = when.one("expr")
            if test.kind == "NULLTEST" and test.one("nulltesttype") == "0" and test.one("arg").kind == "VAR":
                known |= {int(test.one("arg").one("varattno"))}
        return all(self.filled(each, known) for each in node.nodes("defresult"))


def _type_of(node: _Node) -> str:
    name = {"VAR": "vartype", "CONST": "consttype", "FUNCEXPR": "funcresulttype"}.get(node.kind)
    return str(node.one(name)) if name else ""


def _length(node: _Node) -> int | None:
    """Give the bytes of a constant text, which are at least its characters."""
    if node.one("constisnull") == "true":
        return 0
    size, _, *held = node.fields["constvalue"]
    header = int.from_bytes([int(byte) % 256 for byte in held[:4]], "little")
    known = node.one("consttype") in _TEXTS and header == int(size) << 2
    return int(size) - 4 if known else None


def _columns(node: _Node) -> Iterator[str]:
    """Name the columns that a node reads, by number."""
    if node.kind == "VAR":
        yield str(node.one("varattno"))
    for each in node.nodes(*node.fields):
        yield from _columns(each)
