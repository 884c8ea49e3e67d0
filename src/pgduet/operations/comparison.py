"""What is compared of a source table and its shadow: how rows are paired, which columns answer for which, who wins. Pure values.

A row of the source has its counterpart in the shadow by key. Mappings say what each side's columns are over a row of the other one.
Values are compared in the type of the column that holds them, so that what an assignment makes equal is equal.
"""

import hashlib
import re
from typing import Any, Literal

from psycopg import sql

from pgduet.operations.column_design import without_length
from pgduet.operations.expressions import Expression, Frozen
from pgduet.operations.statement import Query, trusted

SOURCE, SHADOW = sql.SQL("s"), sql.SQL("f")
"""The aliases of the two rows in every statement."""

How = Literal["value", "text", "json", "image"]
"""By a type's own equality; by bytes of a text, whatever its collation calls equal; by meaning of json; bit by bit."""

_BY_IMAGE = frozenset({"xml", "point", "line", "lseg", "box", "path", "polygon", "circle", "interval", "timetz"})
"""Built-in types without equality, or with one that calls what clients can tell apart the same: areas, 30 days and a month."""
_INTEGERS = frozenset({"smallint", "integer", "bigint"})
_TEXTS = frozenset({"text", "character varying"})
_ITSELF = "_pgduet_r"


class Trait(Frozen):
    """What the catalogue says of a column, as far as comparing depends on it; `base` is a domain's type, or what an array holds."""

    name: str
    type: str
    not_null: bool = False
    generated: bool = False
    collation: str | None = None
    base: str = ""
    kind: str = "b"
    built_in: bool = True
    listed: bool = False

    @property
    def how(self) -> How:
        """Tell how values of the column are compared."""
        if self.base == "json" and not self.listed:
            return "json"
        if self.base in {*_BY_IMAGE, "json"} or self.kind == "c" or (self.kind == "b" and not self.built_in):
            return "image"
        return "text" if self.collation else "value"


class Column(Frozen):
    """A column of one side, and what it must be: an expression over the row of the other side."""

    name: str
    type: str
    how: How
    value: Expression
    written: bool = True
    """A generated column is compared, but never written."""

    def expected(self, other: sql.Composable) -> Query:
        """Render what the column must hold, converted as an assignment would convert it."""
        return sql.SQL("({}::{})").format(self.value.over(other), trusted(without_length(self.type)))

    def differs(self, row: sql.Composable, other: sql.Composable) -> Query:
        """Render that the column of `row` is not what the other row says."""
        mine = sql.SQL("{}.{}").format(row, sql.Identifier(self.name))
        return differs(self.how, mine, self.expected(other))


def differs(how: How, left: sql.Composable, right: sql.Composable) -> Query:
    """Render that two values of one type are not the same."""
    match how:
        case "value":
            template = "{0} IS DISTINCT FROM {1}"
        case "text":
            template = '{0} COLLATE "C" IS DISTINCT FROM {1} COLLATE "C"'
        case "image":
            template = "pg_catalog.record_image_ne(ROW({0}), ROW({1}))"
        case "json":
            # What is written the same need not be read: not all that json takes is jsonb.
            template = (
                'CASE WHEN {0}::text COLLATE "C" IS NOT DISTINCT FROM {1}::text COLLATE "C" THEN false'
                " ELSE {0}::text::jsonb IS DISTINCT FROM {1}::text::jsonb END"
            )
    return sql.SQL("(" + template + ")").format(left, right)


class Mapping(Frozen):
    """Columns of the shadow over a source row, and columns of the source over a shadow row, which belong together."""

    up: tuple[Column, ...]
    down: tuple[Column, ...] = ()
    one: bool = False
    """One value, kept on both sides without loss: what the one direction says, the other one would, too."""


class KeyColumn(Frozen):
    """One column of the key: what it is called and its type on each side, and the way across.

    Without `up` it is the same value on both sides, in one order, so that ranges of it are ranges on both.
    """

    source: str
    shadow: str
    source_type: str
    shadow_type: str
    up: Expression | None = None
    down: Expression | None = None
    how: How = "value"

    @property
    def common_type(self) -> str:
        """A type that holds the values of both sides in one order."""
        both = (self.source_type, self.shadow_type)
        return "bigint" if _INTEGERS.issuperset(both) else without_length(self.shadow_type)


class Comparison(Frozen):
    """A source and its shadow, ready to be rendered."""

    source: tuple[str, str]
    shadow: tuple[str, str]
    key: tuple[KeyColumn, ...]
    mappings: tuple[Mapping, ...]
    only: Expression | None = None
    """Which source rows belong in the shadow. A row of which it cannot be said (NULL) is expected there."""
    unique: tuple[str, ...] = ()
    """By which columns the shadow's rows are unique, where these are more than the key: such as a partitioned shadow's."""
    noted_as: tuple[str, str] | None = None
    """By which name drift is noted, where the source may be called otherwise for a while."""
    both_ways: bool = False
    """From publication on, a mapping holds when either direction explains it: a lossy one cannot hold both ways."""

    @property
    def source_relation(self) -> sql.Identifier:
        """The source's quoted name."""
        return sql.Identifier(*self.source)

    @property
    def shadow_relation(self) -> sql.Identifier:
        """The shadow's quoted name."""
        return sql.Identifier(*self.shadow)

    @property
    def source_label(self) -> str:
        """The source's quoted name as text."""
        return self.source_relation.as_string(None)

    @property
    def label(self) -> str:
        """The quoted name by which people know the source."""
        return sql.Identifier(*(self.noted_as or self.source)).as_string(None)

    @property
    def shadow_label(self) -> str:
        """The shadow's quoted name as text."""
        return self.shadow_relation.as_string(None)

    @property
    def aligned(self) -> bool:
        """Tell whether both sides are in one order of keys, so that they can be compared range by range."""
        return all(column.up is None for column in self.key)

    @property
    def numbered(self) -> bool:
        """Tell whether keys are whole numbers, each once on either side."""
        return self.aligned and len(self.key) == 1 and self.key[0].common_type in _INTEGERS

    @property
    def shape(self) -> str:
        """Hash what is compared: a cursor of another comparison means nothing here."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:32]


def itself(name: str) -> Expression:
    """Give the expression that is a column of the other side, as it is."""
    quoted = '"' + name.replace('"', '""') + '"'
    return Expression(source=name, canonical=f"{_ITSELF}.{quoted}", alias=_ITSELF)


def key_column(source: Trait, shadow: Trait, up: Expression | None = None, down: Expression | None = None) -> KeyColumn:
    """Pair two columns of a key; where their orders are not known to be one, by an expression even if the value is the same."""
    if up is None and not _one_order(source, shadow):
        up, down = itself(source.name), itself(shadow.name)
    return KeyColumn(
        source=source.name,
        shadow=shadow.name,
        source_type=source.type,
        shadow_type=shadow.type,
        up=up,
        down=down,
        how=shadow.how if shadow.how != "json" else "image",
    )


def plain(source: Trait, shadow: Trait) -> Mapping:
    """Map a column that is the same on both sides, at most of another type."""
    return Mapping(up=(column(shadow, itself(source.name)),), down=(column(source, itself(shadow.name)),))


def column(trait: Trait, value: Expression) -> Column:
    """Say what a column must be."""
    return Column(name=trait.name, type=trait.type, how=trait.how, value=value, written=not trait.generated)


def between(
    source: dict[str, Trait],
    shadow: dict[str, Trait],
    key: tuple[str, ...],
    mappings: tuple[Mapping, ...] = (),
    /,
    **other: Any,
) -> Comparison:
    """Compare two tables by columns of one name, but for those that `mappings` speak of."""
    told = {each.name for mapping in mappings for each in mapping.up}
    gone = {each.name for mapping in mappings for each in mapping.down}
    same = [name for name in shadow if name in source and name not in {*told, *gone, *key}]
    return Comparison(
        key=tuple(key_column(source[name], shadow[name]) for name in key),
        mappings=(*(plain(source[name], shadow[name]) for name in same), *mappings),
        **other,
    )


def _one_order(source: Trait, shadow: Trait) -> bool:
    """Tell whether a value of the source is the same value in the shadow, and sorts alike: a narrower numeric would round it."""
    if source.collation != shadow.collation or not (source.built_in and shadow.built_in):
        return False
    plain_types = {re.sub(r"\(.*?\)", "", source.type), re.sub(r"\(.*?\)", "", shadow.type)}
    if plain_types <= _TEXTS or plain_types <= _INTEGERS:
        return True
    return len(plain_types) == 1 and shadow.type in {source.type, *plain_types}
