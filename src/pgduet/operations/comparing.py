"""Statements that compare a source with its shadow, and look again at suspects.

A span is a range of keys, `low` exclusive and `high` inclusive, as texts; None is without end. Where keys have no common order, a
span is a slice by hash instead: each slice reads both tables whole, and its snapshot is as old as that takes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from pgduet.operations.comparison import SHADOW, SOURCE, Column, Comparison
from pgduet.operations.pairing import (
    ALL,
    across,
    all_of,
    cast,
    commas,
    comparable,
    expected,
    ids_and_keys,
    jsonb_object,
    key_names,
    keyed,
    match,
    rows_differ,
    shadow_keys,
    source_keys,
)
from pgduet.operations.statement import Query
from pgduet.operations.template import Template, blank
from pgduet.sql import block

_NOTHING = sql.SQL("")

Key = Sequence[str]
"""A key's values as texts, in the order of the key's columns."""


@dataclass(frozen=True, slots=True)
class Span:
    """What one chunk compares: a range of keys, or one of `slices` by hash."""

    low: Key | None = None
    high: Key | None = None
    slices: int = 1
    slice: int = 0


def chunk(comparison: Comparison, span: Span, *, named: bool = True) -> Query:
    """Compare a span; `named`, `found` has kind and key of each row that differs, else their number."""
    parts = _parts(comparison)
    found = block("compare", "named" if named else "counted").format(**parts)
    return block("compare", "chunk").format(
        found=found,
        source=_source_side(comparison, span),
        shadow=_shadow_side(comparison, span),
        match=parts["match"],
    )


def bound(comparison: Comparison, low: Key | None, high: Key | None, rows: int) -> Query:
    """Find the key up to which neither side has more than `rows` rows."""
    names = [sql.Identifier(f"_pgduet_k{number}") for number in range(len(comparison.key))]
    span = Span(low, high)
    return block("compare", "bound").format(
        texts=_array(sql.SQL("u.{}::text").format(name) for name in names),
        source_keys=commas(
            sql.SQL("{} AS {}").format(key, name) for key, name in zip(source_keys(comparison), names, strict=True)
        ),
        shadow_keys=commas(shadow_keys(comparison)),
        source=comparison.source_relation,
        shadow=comparison.shadow_relation,
        source_span=in_range(source_keys(comparison), comparison, span),
        shadow_span=in_range(shadow_keys(comparison), comparison, span),
        source_order=commas(source_keys(comparison)),
        shadow_order=commas(shadow_keys(comparison)),
        order=commas(sql.SQL("u.{}").format(name) for name in names),
        rows=sql.Literal(max(0, rows - 1)),
    )


def extent(comparison: Comparison) -> Query:
    """Find the first and the last key of both sides."""
    return block("compare", "extent").format(
        source_key=source_keys(comparison)[0],
        shadow_key=shadow_keys(comparison)[0],
        source=comparison.source_relation,
        shadow=comparison.shadow_relation,
    )


def quantiles(comparison: Comparison, parts: int, percent: float) -> Query:
    """Find the keys that cut the source in `parts`."""
    names = [sql.Identifier(f"_pgduet_k{number}") for number in range(len(comparison.key))]
    keys = list(zip(source_keys(comparison), names, strict=True))
    return block("compare", "quantiles").format(
        texts=_array(sql.SQL("u.{}::text").format(name) for name in names),
        keys=commas(sql.SQL("{} AS {}").format(key, name) for key, name in keys),
        parts=sql.Literal(parts),
        source_order=commas(source_keys(comparison)),
        source=comparison.source_relation,
        percent=sql.Literal(percent),
        descending=commas(sql.SQL("u.{} DESC").format(name) for name in names),
    )


def spanned(comparison: Comparison, span: Span, limit: int) -> Query:
    """Name the source's rows of a range."""
    return block("compare", "spanned").format(
        names=jsonb_object(
            (column.source, key) for column, key in zip(comparison.key, source_keys(comparison), strict=True)
        ),
        source=comparison.source_relation,
        span=in_range(source_keys(comparison), comparison, span),
        order=commas(source_keys(comparison)),
        limit=sql.Literal(limit),
    )


def look(comparison: Comparison, suspects: Sequence[dict[str, Any]], *, extra: bool) -> Query:
    """Look again at suspects (`id`, `key`), of which only the shadow has the row (`extra`) or the source has, or had, it."""
    return Looking(comparison, extra=extra).at(suspects)


class Looking:
    """A look at suspects that is composed once: for each chunk anew, that would take longer than the look."""

    def __init__(self, comparison: Comparison, *, extra: bool) -> None:
        """Compose it with the keys left open."""
        self.template = Template(_look(comparison, blank("keys"), extra=extra))

    def at(self, suspects: Sequence[dict[str, Any]]) -> Query:
        """Give the statement for some suspects."""
        return self.template.filled(keys=Jsonb(ids_and_keys(suspects)))


def _look(comparison: Comparison, keys: sql.Composable, *, extra: bool) -> Query:
    source, shadow = (
        _source_side(comparison, Span(), _versions(SOURCE)),
        _shadow_side(comparison, Span(), _versions(SHADOW)),
    )
    known = key_names(comparison, extra=extra)
    row = SHADOW if extra else SOURCE
    found = all_of(sql.SQL("{0}.{1} = k.{1}").format(row, sql.Identifier(name)) for name in known)
    pair = match(comparison)
    if comparison.aligned and not extra:
        # The source's row may be gone and the shadow's still there.
        pair = all_of(
            sql.SQL("f.{} = k.{}").format(sql.Identifier(column.shadow), sql.Identifier(column.source))
            for column in comparison.key
        )
    parts = _parts(comparison)
    gone = sql.SQL("{} IS NULL AND {} IS NULL").format(parts["source_key"], parts["shadow_key"])
    return block("compare", "look").format(
        gone=gone,
        keys=keyed(comparison, keys, extra=extra),
        first=shadow if extra else source,
        second=source if extra else shadow,
        found=found,
        detail=_detail(comparison),
        **{**parts, "match": pair},
    )


def _parts(comparison: Comparison) -> dict[str, sql.Composable]:
    """Render what is asked and said of a pair."""
    keys = {
        "source_key": sql.SQL("s.{}").format(sql.Identifier(comparison.key[0].source)),
        "shadow_key": sql.SQL("f.{}").format(sql.Identifier(comparison.key[0].shadow)),
    }
    source_names = jsonb_object(
        (c.source, value) for c, value in zip(comparison.key, source_keys(comparison), strict=True)
    )
    shadow_names = jsonb_object(
        (c.shadow, value) for c, value in zip(comparison.key, shadow_keys(comparison), strict=True)
    )
    return {
        **keys,
        "bad": block("compare", "bad").format(differs=rows_differ(comparison), **keys),
        "kind": block("compare", "kind").format(**keys),
        "key": block("compare", "key").format(source_names=source_names, shadow_names=shadow_names, **keys),
        "seen": block("compare", "seen"),
        "match": match(comparison),
    }


def _versions(row: sql.Composable) -> Query:
    return block("compare", "versions").format(row=row)


def _source_side(comparison: Comparison, span: Span, versions: sql.Composable = _NOTHING) -> Query:
    also: list[sql.Composable] = [versions]
    where = [expected(comparison)]
    if comparison.aligned:
        where.append(in_range(source_keys(comparison), comparison, span))
    else:
        mapped = [across(column) for column in comparison.key]
        also += [
            sql.SQL("{} AS {},").format(value, sql.Identifier(f"_pgduet_k{number}"))
            for number, value in enumerate(mapped)
        ]
        # Of source rows that come to one key, only the first is what the shadow's row stands for.
        also.append(
            sql.SQL("row_number() OVER (PARTITION BY {} ORDER BY {}) AS _pgduet_n,").format(
                commas(mapped), commas(source_keys(comparison))
            )
        )
        where.append(_in_slice(mapped, span))
    return block("compare", "side").format(
        row=SOURCE, also=sql.SQL(" ").join(also), relation=comparison.source_relation, where=all_of(where)
    )


def _shadow_side(comparison: Comparison, span: Span, versions: sql.Composable = _NOTHING) -> Query:
    if comparison.aligned:
        also, where = [versions], in_range(shadow_keys(comparison), comparison, span)
    else:
        also = [versions, sql.SQL("1::bigint AS _pgduet_n,")]
        keys = zip(comparison.key, shadow_keys(comparison), strict=True)
        where = _in_slice([comparable(column, value) for column, value in keys], span)
    return block("compare", "side").format(
        row=SHADOW, also=sql.SQL(" ").join(also), relation=comparison.shadow_relation, where=where
    )


def in_range(keys: Sequence[sql.Composable], comparison: Comparison, span: Span) -> Query:
    """Render that keys are in a range."""
    row = sql.SQL("({})").format(commas(keys))
    ends = [(">", span.low), ("<=", span.high)]
    return all_of(
        sql.SQL("{} {} ({})").format(row, sql.SQL(sign), _literals(comparison, end))
        for sign, end in ends
        if end is not None
    )


def _literals(comparison: Comparison, key: Key) -> Query:
    return commas(cast(sql.Literal(text), column.common_type) for column, text in zip(comparison.key, key, strict=True))


def _in_slice(keys: Sequence[sql.Composable], span: Span) -> Query:
    if span.slices == 1:
        return ALL
    texts = commas(sql.SQL("({})::text").format(key) for key in keys)
    return sql.SQL(
        "(pg_catalog.hashtextextended(pg_catalog.jsonb_build_array({})::text, 0) & 2147483647) % {} = {}"
    ).format(texts, sql.Literal(span.slices), sql.Literal(span.slice))


def _detail(comparison: Comparison) -> Query:
    """Render both rows as texts, as far as they are compared: for people, in the database."""
    down = [column for mapping in comparison.mappings for column in mapping.down]
    up = [column for mapping in comparison.mappings for column in mapping.up]
    read = dict.fromkeys([*(c.name for c in down), *(name for column in up for name in column.value.columns)])
    old = _texts(SOURCE, list(read))
    return sql.SQL("jsonb_build_object('old', {}, 'new', {})::text").format(old, _texts(SHADOW, _column_names(up)))


def _column_names(columns: Sequence[Column]) -> list[str]:
    return list(dict.fromkeys(column.name for column in columns))


def _texts(row: sql.Composable, names: Sequence[str]) -> Query:
    return jsonb_object((name, sql.SQL("{}.{}::text").format(row, sql.Identifier(name))) for name in names)


def _array(values: Iterable[sql.Composable]) -> Query:
    return sql.SQL("jsonb_build_array({})").format(commas(values))
