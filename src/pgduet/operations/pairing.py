"""Parts of statements about pairs of rows: keys, what makes a pair, what tells its rows apart, which rows are meant."""

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from pgduet.operations.comparison import SHADOW, SOURCE, Comparison, KeyColumn, Mapping
from pgduet.operations.statement import Query, trusted
from pgduet.sql import block

ALL = sql.SQL("true")
_AT_ONCE = 40
"""A call takes 100 arguments at most: wide objects are built in pieces."""


def match(comparison: Comparison, *, mapped: bool = True) -> Query:
    """Render that two rows are a pair; `mapped`, where the source's side has computed its key across."""
    pairs: list[sql.Composable] = []
    for number, column in enumerate(comparison.key):
        shadow = sql.SQL("f.{}").format(sql.Identifier(column.shadow))
        if comparison.aligned:
            pairs.append(sql.SQL("s.{} = {}").format(sql.Identifier(column.source), shadow))
            continue
        value = sql.SQL("s.{}").format(sql.Identifier(f"_pgduet_k{number}")) if mapped else across(column)
        pairs.append(sql.SQL("{} = {}").format(value, comparable(column, shadow)))
    if mapped and not comparison.aligned:
        pairs.append(sql.SQL("s._pgduet_n = f._pgduet_n"))
    return all_of(pairs)


def across(column: KeyColumn) -> Query:
    """Render a source row's key as the shadow has it, in a form that has one equality on both sides."""
    value = column.up.over(SOURCE) if column.up else sql.SQL("s.{}").format(sql.Identifier(column.source))
    return comparable(column, cast(value, column.shadow_type))


def comparable(column: KeyColumn, value: sql.Composable) -> Query:
    """Render a value of a key in a form that has one equality on both sides."""
    template = {"value": "{}", "text": '({} COLLATE "C")', "image": '({}::text COLLATE "C")'}[column.how]
    return sql.SQL(template).format(value)


def expected(comparison: Comparison) -> Query:
    """Render that a source row belongs in the shadow: what cannot be said of it (NULL) does not take it out."""
    return sql.SQL("({} IS NOT FALSE)").format(comparison.only.over(SOURCE)) if comparison.only else ALL


def rows_differ(comparison: Comparison) -> Query:
    """Render that the two rows of a pair disagree."""
    return any_of(mapping_differs(mapping, both_ways=comparison.both_ways) for mapping in compared(comparison))


def compared(comparison: Comparison) -> list[Mapping]:
    """Give the mappings that both rows speak of: once both versions write, a column that only one has is that one's own."""
    return [m for m in comparison.mappings if m.up and (m.down or m.one or not comparison.both_ways)]


def mapping_differs(mapping: Mapping, *, both_ways: bool) -> Query:
    """Render that the columns of a mapping disagree."""
    forward = any_of(column.differs(SHADOW, SOURCE) for column in mapping.up)
    if mapping.one or not both_ways:
        return forward
    backward = any_of(column.differs(SOURCE, SHADOW) for column in mapping.down)
    return sql.SQL("({} AND {})").format(forward, backward)


def key_names(comparison: Comparison, *, extra: bool) -> list[str]:
    """Name the columns of the key, on the side that a suspect is named by."""
    return [column.shadow if extra else column.source for column in comparison.key]


def keyed_by(comparison: Comparison, suspects: Sequence[dict[str, Any]], *, extra: bool) -> Query:
    """Render the keys of suspects as rows `k`."""
    return keyed(comparison, sql.Literal(Jsonb(ids_and_keys(suspects))), extra=extra)


def ids_and_keys(suspects: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the values of which `keyed` makes rows."""
    return [{**each["key"], "_pgduet_id": each["id"]} for each in suspects]


def keyed(comparison: Comparison, keys: sql.Composable, *, extra: bool) -> Query:
    """Render rows `k` of keys, whatever these are."""
    columns = [(sql.Identifier("_pgduet_id"), "bigint")]
    columns += [
        (sql.Identifier(column.shadow if extra else column.source), column.shadow_type if extra else column.source_type)
        for column in comparison.key
    ]
    return block("compare", "keys").format(
        keys=keys,
        columns=commas(sql.SQL("{} {}").format(name, trusted(kind)) for name, kind in columns),
    )


def among(comparison: Comparison, suspects: Sequence[dict[str, Any]], *, extra: bool) -> Query:
    """Render that a row is one of the suspects."""
    keys = shadow_keys(comparison) if extra else source_keys(comparison)
    names = key_names(comparison, extra=extra)
    return block("compare", "among").format(
        columns=commas(keys),
        names=commas(sql.SQL("k.{}").format(sql.Identifier(name)) for name in names),
        keys=keyed_by(comparison, suspects, extra=extra),
    )


def source_keys(comparison: Comparison) -> list[sql.Composable]:
    """Render the key of a source row."""
    return [sql.SQL("s.{}").format(sql.Identifier(column.source)) for column in comparison.key]


def shadow_keys(comparison: Comparison) -> list[sql.Composable]:
    """Render the key of a shadow row."""
    return [sql.SQL("f.{}").format(sql.Identifier(column.shadow)) for column in comparison.key]


def cast(value: sql.Composable, kind: str) -> Query:
    """Render a conversion."""
    return sql.SQL("({}::{})").format(value, trusted(kind))


def jsonb_object(pairs: Iterable[tuple[str, sql.Composable]]) -> Query:
    """Render an object of names and values."""
    parts = [sql.SQL("{}, {}").format(sql.Literal(name), value) for name, value in pairs]
    pieces = [commas(parts[start : start + _AT_ONCE]) for start in range(0, len(parts), _AT_ONCE)] or [sql.SQL("")]
    return sql.SQL("({})").format(
        sql.SQL(" || ").join(sql.SQL("jsonb_build_object({})").format(piece) for piece in pieces)
    )


def any_of(conditions: Iterable[sql.Composable]) -> Query:
    """Join conditions by OR; none is false."""
    parts = list(conditions)
    return sql.SQL("({})").format(sql.SQL(" OR ").join(parts)) if parts else sql.SQL("false")


def all_of(conditions: Iterable[sql.Composable]) -> Query:
    """Join conditions by AND; none is true."""
    parts = [part for part in conditions if part is not ALL]
    return sql.SQL("({})").format(sql.SQL(" AND ").join(parts)) if parts else ALL


def commas(parts: Iterable[sql.Composable]) -> Query:
    """Join with commas."""
    return sql.SQL(", ").join(parts)
