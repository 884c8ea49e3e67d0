"""Names and texts in a plan: the rules for each kind, and PostgreSQL's syntax for a table's name.

Column names are taken literally. A table's name is read as SQL reads it: unquoted parts are folded to lower case
(ASCII only, as PostgreSQL does for UTF-8), double quotes keep a part as it is. Whether the table exists is not asked
here.
"""

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from pgduet.errors import NotSupported
from pgduet.plan.problems import Problem, listed, refuse

MAX_BYTES = 63
"""PostgreSQL cuts longer names silently; a plan must not depend on that."""

_PART = re.compile(r'"((?:[^"]|"")+)"|([A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_$\u0080-\U0010ffff]*)')
_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*")
_SYSTEM_COLUMNS = frozenset({"cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"})
_OUR_SCHEMAS = frozenset({"pgduet", "pgduet_archive", "pgduet_views"})


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """A table's schema and name as the catalogue has them, unquoted."""

    schema: str
    name: str

    def __str__(self) -> str:
        """Render `schema.name`, with double quotes where SQL needs them."""
        return ".".join(_quoted(part) for part in (self.schema, self.name))


def _quoted(part: str) -> str:
    return part if _PLAIN.fullmatch(part) else '"' + part.replace('"', '""') + '"'


def _folded(part: str) -> str:
    return "".join(char.lower() if "A" <= char <= "Z" else char for char in part)


def parse_name(text: str) -> tuple[str, ...]:
    """Read a name with or without a schema, with SQL's double quotes for odd names; gives its parts.

    Raises:
        ValueError: the text is not such a name; the message says why.
    """
    parts: list[str] = []
    position = 0
    while match := _PART.match(text, position):
        quoted, plain = match.groups()
        parts.append(quoted.replace('""', '"') if quoted is not None else _folded(plain))
        position = match.end()
        if position == len(text):
            break
        if text[position] != ".":
            break
        position += 1
    if position != len(text) or not parts or text.endswith("."):
        message = f"`{text}` is not a name"
        raise ValueError(message)
    if len(parts) > 2:
        message = f"`{text}` has {len(parts)} parts; a name has one or two"
        raise ValueError(message)
    return tuple(parts)


def parse_table(text: str) -> TableName:
    """Read `table` or `schema.table`; without a schema it is `public`.

    Raises:
        ValueError: the text is not such a name; the message says why.
    """
    try:
        *schema, name = parse_name(text)
    except ValueError as wrong:
        raise ValueError(str(wrong).replace(" a name", " a table's name")) from None
    return TableName(schema[0] if schema else "public", name)


def _check_table(text: str) -> str:
    try:
        table = parse_table(text)
    except ValueError as wrong:
        refuse(Problem(str(wrong), hint='Write `table`, `schema.table`, or quote odd names: `public."Order Items"`.'))
    for part in (table.schema, table.name):
        _check_identifier(part)
    if table.schema in _OUR_SCHEMAS or table.schema == "information_schema" or table.schema.startswith("pg_"):
        refuse(Problem(f"schema `{table.schema}` belongs to PostgreSQL or pgduet; its tables cannot be migrated"))
    return text


def _check_name(text: str) -> str:
    try:
        parts = parse_name(text)
    except ValueError as wrong:
        refuse(Problem(str(wrong), hint='Write `name`, `schema.name`, or quote odd names: `"My Schema".name`.'))
    for part in parts:
        _check_identifier(part)
    return text


def _check_identifier(text: str) -> str:
    _check_text(text)
    size = len(text.encode())
    if size > MAX_BYTES:
        refuse(Problem(f"a name has at most {MAX_BYTES} bytes; `{text}` has {size}", hint="Choose a shorter name."))
    return text


def _check_new_column(text: str) -> str:
    if text in _SYSTEM_COLUMNS:
        refuse(Problem(f"`{text}` is a system column of every table", hint="Choose another name."))
    if text.startswith("_pgduet_"):
        refuse(Problem("names that begin with `_pgduet_` belong to pgduet", hint="Choose another name."))
    return text


def _check_text(text: str) -> str:
    if not text.strip():
        refuse(Problem("expected text, got an empty one"))
    if "\x00" in text:
        refuse(Problem("PostgreSQL has no NUL character in a text"))
    return text


def _check_label(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", text):
        rule = "1 to 200 letters, digits, `.`, `_` or `-`, the first a letter or a digit"
        refuse(Problem(f"`{text}` is not a plan's name: expected {rule}"))
    return text


def _check_database(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", text):
        rule = "1 to 63 letters, digits, `-` or `_`, the first a letter or a digit"
        hint = "A plan names a database logically; the worker knows its address."
        refuse(Problem(f"`{text}` is not a database's name: expected {rule}", hint=hint))
    return text


def _check_version(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.]{1,50}", text):
        refuse(Problem(f"`{text}` is not a version: expected 1 to 50 letters, digits, `_` or `.`"))
    return text


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def later(what: str, *, at: tuple[str | int, ...] = (), on_key: bool = False, instead: str | None = None) -> Problem:
    """Build the problem of asking for what a later version does."""
    return Problem(f"{what} is not in this version", at=at, error=NotSupported, hint=instead, on_key=on_key)


def one_of(values: list[str]) -> str:
    """Render `one of a, b` for a message."""
    return f"one of {listed(values)}"


Text = Annotated[str, Field(min_length=1), AfterValidator(_check_text)]
Identifier = Annotated[str, Field(min_length=1), AfterValidator(_check_identifier)]
NewName = Annotated[Identifier, AfterValidator(_check_new_column)]
TableText = Annotated[str, Field(min_length=1), AfterValidator(_check_table)]
NameText = Annotated[str, Field(min_length=1), AfterValidator(_check_name)]
Label = Annotated[
    str,
    AfterValidator(_check_label),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"}),
]
Database = Annotated[
    str,
    AfterValidator(_check_database),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"}),
]
Version = Annotated[
    str,
    BeforeValidator(_number_as_text),
    AfterValidator(_check_version),
    WithJsonSchema({"type": ["string", "integer"], "pattern": "^[A-Za-z0-9_.]{1,50}$"}),
]
