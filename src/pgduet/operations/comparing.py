"""Statements that compare a source with its shadow, look again at suspects, and bring one side in line with the other.

A span is a range of keys, `low` exclusive and `high` inclusive, as texts; None is without end. Where keys have no common order, a span
is a slice by hash instead: each slice reads both tables whole, and its snapshot is as old as that takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from pgduet.operations.comparison import SHADOW, SOURCE, Column, Comparison, KeyColumn, Mapping
from pgduet.operations.statement import Query, trusted
from pgduet.phases import Authority
from pgduet.sql import block

ALL = sql.SQL("true")
Key = Sequence[str]
"""A key's values as texts, in the order of the key's columns."""
_AT_ONCE = 40
"""A call takes 100 arguments at most: wide objects are built in pieces."""


@dataclass(frozen=True, slots=True)
class Span:
    """What one chunk compares: a range of keys, or one of `slices` by hash."""

    low: Key | None = None
    high: Key | None = None
    slices: int = 1
    slice: int = 0


def chunk(comparison: Comparison, span: Span, *, named: bool = True) -> Query:
    """Compare a span; `named`, `found` has kind, key and versions of each row that differs, else their number."""
    parts = _parts(comparison)
    found = block("compare", "named" if named else "counted").format(**parts)
    return block("compare", "chunk").format(
        found=found, source=_source_side(comparison, span), shadow=_shadow_side(comparison, span), **_keyed(parts)
    )


def bound(comparison: Comparison, low: Key | None, high: Key | None, rows: int) -> Query:
    """Find the key up to which neither side has more than `rows` rows."""
    names = [sql.Identifier(f"_pgduet_k{number}") for number in range(len(comparison.key))]
    span = Span(low, high)
    return block("compare", "bound").format(
        texts=_array(sql.SQL("u.{}::text").format(name) for name in names),
        source_keys=_list(
            sql.SQL("{} AS {}").format(key, name) for key, name in zip(_source_keys(comparison), names, strict=True)
        ),
        shadow_keys=_list(_shadow_keys(comparison)),
        source=comparison.source_relation,
        shadow=comparison.shadow_relation,
        source_span=_in_range(_source_keys(comparison), comparison, span),
        shadow_span=_in_range(_shadow_keys(comparison), comparison, span),
        source_order=_list(_source_keys(comparison)),
        shadow_order=_list(_shadow_keys(comparison)),
        order=_list(sql.SQL("u.{}").format(name) for name in names),
        rows=sql.Literal(max(0, rows - 1)),
    )


def quantiles(comparison: Comparison, parts: int, percent: float) -> Query:
    """Find the keys that cut the source in `parts`."""
    names = [sql.Identifier(f"_pgduet_k{number}") for number in range(len(comparison.key))]
    keys = list(zip(_source_keys(comparison), names, strict=True))
    return block("compare", "quantiles").format(
        texts=_array(sql.SQL("u.{}::text").format(name) for name in names),
        keys=_list(sql.SQL("{} AS {}").format(key, name) for key, name in keys),
        parts=sql.Literal(parts),
        source_order=_list(_source_keys(comparison)),
        source=comparison.source_relation,
        percent=sql.Literal(percent),
        descending=_list(sql.SQL("u.{} DESC").format(name) for name in names),
    )


def spanned(comparison: Comparison, span: Span, limit: int) -> Query:
    """Name the source's rows of a range."""
    return block("compare", "spanned").format(
        names=_object(
            (column.source, key) for column, key in zip(comparison.key, _source_keys(comparison), strict=True)
        ),
        source=comparison.source_relation,
        span=_in_range(_source_keys(comparison), comparison, span),
        order=_list(_source_keys(comparison)),
        limit=sql.Literal(limit),
    )


def look(comparison: Comparison, suspects: Sequence[dict[str, Any]], *, extra: bool) -> Query:
    """Look again at suspects (`id`, `key`), of which only the shadow has the row (`extra`) or the source has, or had, it."""
    source, shadow = _source_side(comparison, Span()), _shadow_side(comparison, Span())
    keys = _keys(comparison, suspects, extra=extra)
    known = _names(comparison, extra=extra)
    row = SHADOW if extra else SOURCE
    found = _all(sql.SQL("{0}.{1} = k.{1}").format(row, sql.Identifier(name)) for name in known)
    match = _match(comparison)
    if comparison.aligned and not extra:
        # The source's row may be gone and the shadow's still there.
        match = _all(
            sql.SQL("f.{} = k.{}").format(sql.Identifier(column.shadow), sql.Identifier(column.source))
            for column in comparison.key
        )
    parts = _parts(comparison)
    gone = sql.SQL("{} IS NULL AND {} IS NULL").format(parts["source_key"], parts["shadow_key"])
    return block("compare", "look").format(
        gone=gone,
        keys=keys,
        first=shadow if extra else source,
        second=source if extra else shadow,
        found=found,
        detail=_detail(comparison),
        **{**parts, "match": match},
    )


def lock(comparison: Comparison, suspects: Sequence[dict[str, Any]], *, extra: bool) -> Query:
    """Lock the rows of suspects, in the order of their keys: of the source, or of the shadow where only that has them."""
    order = _shadow_keys(comparison) if extra else _source_keys(comparison)
    return block("compare", "lock_rows").format(
        relation=comparison.shadow_relation if extra else comparison.source_relation,
        row=SHADOW if extra else SOURCE,
        among=_among(comparison, suspects, extra=extra),
        order=_list(order),
    )


def repairs(comparison: Comparison, suspects: Sequence[dict[str, Any]], authority: Authority) -> list[Query]:
    """Bring rows of the side without authority in line; a row that is in step already is left alone.

    All are keyed as the suspects are: those of kind `extra` by the shadow's key, others by the source's.
    """
    by_source = [each for each in suspects if each["kind"] != "extra"]
    by_shadow = [each for each in suspects if each["kind"] == "extra"]
    towards = _Towards(comparison, authority)
    lacking, surplus = (by_source, by_shadow) if authority is Authority.OLD else (by_shadow, by_source)
    return [
        *([towards.delete(surplus)] if surplus else []),
        *([towards.update(by_source)] if by_source else []),
        *([towards.insert(lacking)] if lacking else []),
    ]


class _Towards:
    """Writes of one side, from the row of the other, which has authority."""

    def __init__(self, comparison: Comparison, authority: Authority) -> None:
        old = authority is Authority.OLD
        self.comparison = comparison
        self.old = old
        self.row, self.other = (SOURCE, SHADOW) if old else (SHADOW, SOURCE)
        self.origin = comparison.source_relation if old else comparison.shadow_relation
        self.target = comparison.shadow_relation if old else comparison.source_relation
        self.keys = [column.shadow if old else column.source for column in comparison.key]

    def columns(self, mapping: Mapping) -> list[Column]:
        """Give what is written of a mapping."""
        columns = mapping.up if self.old else mapping.down
        return [column for column in columns if column.written and column.name not in self.keys]

    @property
    def wanted(self) -> Query:
        """Render that the source's row belongs in the shadow."""
        return _expected(self.comparison) if self.old else ALL

    def insert(self, suspects: Sequence[dict[str, Any]]) -> Query:
        told = [column for mapping in self.comparison.mappings for column in self.columns(mapping)]
        values = [self._key_value(column) for column in self.comparison.key]
        return block("compare", "insert_missing").format(
            columns=_list(sql.Identifier(name) for name in [*self.keys, *(column.name for column in told)]),
            values=_list([*values, *(column.expected(self.row) for column in told)]),
            among=_among(self.comparison, suspects, extra=not self.old),
            **self._both(),
        )

    def update(self, suspects: Sequence[dict[str, Any]]) -> Query:
        """Write what differs; of a row whose other values one direction explains, those stay."""
        assign = [
            block("compare", "assigned").format(
                name=sql.Identifier(column.name),
                other=self.other,
                differs=_mapping_differs(mapping, both_ways=self.comparison.both_ways),
                value=column.expected(self.row),
            )
            for mapping in _compared(self.comparison)
            for column in self.columns(mapping)
        ]
        if not assign:
            return sql.SQL("SELECT WHERE false")
        return block("compare", "update_differing").format(
            assign=_list(assign),
            among=_among(self.comparison, suspects, extra=False),
            differs=_differs(self.comparison),
            **self._both(),
        )

    def delete(self, suspects: Sequence[dict[str, Any]]) -> Query:
        among = _among(self.comparison, suspects, extra=self.old)
        return block("compare", "delete_extra").format(among=among, **self._both())

    def _both(self) -> dict[str, sql.Composable]:
        return {
            "target": self.target,
            "origin": self.origin,
            "row": self.row,
            "other": self.other,
            "match": _match(self.comparison, mapped=False),
            "wanted": self.wanted,
        }

    def _key_value(self, column: KeyColumn) -> sql.Composable:
        across = column.up if self.old else column.down
        if across is None:
            return sql.SQL("{}.{}").format(self.row, sql.Identifier(column.source if self.old else column.shadow))
        return _cast(across.over(self.row), column.shadow_type if self.old else column.source_type)


def _parts(comparison: Comparison) -> dict[str, sql.Composable]:
    """Render what is asked and said of a pair."""
    keys = {
        "source_key": sql.SQL("s.{}").format(sql.Identifier(comparison.key[0].source)),
        "shadow_key": sql.SQL("f.{}").format(sql.Identifier(comparison.key[0].shadow)),
    }
    source_names = _object((c.source, value) for c, value in zip(comparison.key, _source_keys(comparison), strict=True))
    shadow_names = _object((c.shadow, value) for c, value in zip(comparison.key, _shadow_keys(comparison), strict=True))
    return {
        **keys,
        "bad": block("compare", "bad").format(differs=_differs(comparison), **keys),
        "kind": block("compare", "kind").format(**keys),
        "key": block("compare", "key").format(source_names=source_names, shadow_names=shadow_names, **keys),
        "seen": block("compare", "seen"),
        "match": _match(comparison),
    }


def _keyed(parts: dict[str, sql.Composable]) -> dict[str, sql.Composable]:
    return {name: parts[name] for name in ("source_key", "shadow_key", "match")}


def _differs(comparison: Comparison) -> Query:
    """Render that the two rows of a pair disagree."""
    return _any(_mapping_differs(mapping, both_ways=comparison.both_ways) for mapping in _compared(comparison))


def _compared(comparison: Comparison) -> list[Mapping]:
    """Give the mappings that both rows speak of: once both versions write, a column that only one has is that one's own."""
    return [m for m in comparison.mappings if m.up and (m.down or not comparison.both_ways)]


def _mapping_differs(mapping: Mapping, *, both_ways: bool) -> Query:
    forward = _any(column.differs(SHADOW, SOURCE) for column in mapping.up)
    if not both_ways:
        return forward
    backward = _any(column.differs(SOURCE, SHADOW) for column in mapping.down)
    return sql.SQL("({} AND {})").format(forward, backward)


def _match(comparison: Comparison, *, mapped: bool = True) -> Query:
    """Render that two rows are a pair; `mapped`, where the source's side has computed its key across."""
    pairs = []
    for number, column in enumerate(comparison.key):
        shadow = sql.SQL("f.{}").format(sql.Identifier(column.shadow))
        if comparison.aligned:
            pairs.append(sql.SQL("s.{} = {}").format(sql.Identifier(column.source), shadow))
            continue
        across = sql.SQL("s.{}").format(sql.Identifier(f"_pgduet_k{number}")) if mapped else _across(column)
        pairs.append(sql.SQL("{} = {}").format(across, _comparable(column, shadow)))
    if mapped and not comparison.aligned:
        pairs.append(sql.SQL("s._pgduet_n = f._pgduet_n"))
    return _all(pairs)


def _across(column: KeyColumn) -> Query:
    """Render a source row's key as the shadow has it, in a form that has one equality on both sides."""
    value = column.up.over(SOURCE) if column.up else sql.SQL("s.{}").format(sql.Identifier(column.source))
    return _comparable(column, _cast(value, column.shadow_type))


def _comparable(column: KeyColumn, value: sql.Composable) -> Query:
    template = {"value": "{}", "text": '({} COLLATE "C")', "image": '({}::text COLLATE "C")'}[column.how]
    return sql.SQL(template).format(value)


def _source_side(comparison: Comparison, span: Span) -> Query:
    also: list[sql.Composable] = []
    where = [_expected(comparison)]
    if comparison.aligned:
        where.append(_in_range(_source_keys(comparison), comparison, span))
    else:
        across = [_across(column) for column in comparison.key]
        also = [
            sql.SQL("{} AS {},").format(value, sql.Identifier(f"_pgduet_k{number}"))
            for number, value in enumerate(across)
        ]
        # Of source rows that come to one key, only the first is what the shadow's row stands for.
        also.append(
            sql.SQL("row_number() OVER (PARTITION BY {} ORDER BY {}) AS _pgduet_n,").format(
                _list(across), _list(_source_keys(comparison))
            )
        )
        where.append(_in_slice(across, span))
    return block("compare", "side").format(
        row=SOURCE, also=sql.SQL(" ").join(also), relation=comparison.source_relation, where=_all(where)
    )


def _shadow_side(comparison: Comparison, span: Span) -> Query:
    if comparison.aligned:
        also, where = sql.SQL(""), _in_range(_shadow_keys(comparison), comparison, span)
    else:
        also = sql.SQL("1::bigint AS _pgduet_n,")
        keys = zip(comparison.key, _shadow_keys(comparison), strict=True)
        where = _in_slice([_comparable(column, value) for column, value in keys], span)
    return block("compare", "side").format(row=SHADOW, also=also, relation=comparison.shadow_relation, where=where)


def _expected(comparison: Comparison) -> Query:
    """Render that a source row belongs in the shadow: what cannot be said of it (NULL) does not take it out."""
    return sql.SQL("({} IS NOT FALSE)").format(comparison.only.over(SOURCE)) if comparison.only else ALL


def _in_range(keys: Sequence[sql.Composable], comparison: Comparison, span: Span) -> Query:
    row = sql.SQL("({})").format(_list(keys))
    ends = [(">", span.low), ("<=", span.high)]
    return _all(
        sql.SQL("{} {} ({})").format(row, sql.SQL(sign), _literals(comparison, end))
        for sign, end in ends
        if end is not None
    )


def _literals(comparison: Comparison, key: Key) -> Query:
    return _list(_cast(sql.Literal(text), column.common_type) for column, text in zip(comparison.key, key, strict=True))


def _in_slice(keys: Sequence[sql.Composable], span: Span) -> Query:
    if span.slices == 1:
        return ALL
    texts = _list(sql.SQL("({})::text").format(key) for key in keys)
    return sql.SQL(
        "(pg_catalog.hashtextextended(pg_catalog.jsonb_build_array({})::text, 0) & 2147483647) % {} = {}"
    ).format(texts, sql.Literal(span.slices), sql.Literal(span.slice))


def _names(comparison: Comparison, *, extra: bool) -> list[str]:
    return [column.shadow if extra else column.source for column in comparison.key]


def _keys(comparison: Comparison, suspects: Sequence[dict[str, Any]], *, extra: bool) -> Query:
    """Render the keys of suspects as rows `k`."""
    values = [{**each["key"], "_pgduet_id": each["id"]} for each in suspects]
    columns = [(sql.Identifier("_pgduet_id"), "bigint")]
    columns += [
        (sql.Identifier(column.shadow if extra else column.source), column.shadow_type if extra else column.source_type)
        for column in comparison.key
    ]
    return block("compare", "keys").format(
        keys=sql.Literal(Jsonb(values)),
        columns=_list(sql.SQL("{} {}").format(name, trusted(kind)) for name, kind in columns),
    )


def _among(comparison: Comparison, suspects: Sequence[dict[str, Any]], *, extra: bool) -> Query:
    keys = _shadow_keys(comparison) if extra else _source_keys(comparison)
    names = _names(comparison, extra=extra)
    return block("compare", "among").format(
        columns=_list(keys),
        names=_list(sql.SQL("k.{}").format(sql.Identifier(name)) for name in names),
        keys=_keys(comparison, suspects, extra=extra),
    )


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
    return _object((name, sql.SQL("{}.{}::text").format(row, sql.Identifier(name))) for name in names)


def _source_keys(comparison: Comparison) -> list[sql.Composable]:
    return [sql.SQL("s.{}").format(sql.Identifier(column.source)) for column in comparison.key]


def _shadow_keys(comparison: Comparison) -> list[sql.Composable]:
    return [sql.SQL("f.{}").format(sql.Identifier(column.shadow)) for column in comparison.key]


def _cast(value: sql.Composable, kind: str) -> Query:
    return sql.SQL("({}::{})").format(value, trusted(kind))


def _object(pairs: Any) -> Query:
    parts = [sql.SQL("{}, {}").format(sql.Literal(name), value) for name, value in pairs]
    pieces = [_list(parts[start : start + _AT_ONCE]) for start in range(0, len(parts), _AT_ONCE)] or [sql.SQL("")]
    return sql.SQL("({})").format(
        sql.SQL(" || ").join(sql.SQL("jsonb_build_object({})").format(piece) for piece in pieces)
    )


def _array(values: Any) -> Query:
    return sql.SQL("jsonb_build_array({})").format(_list(values))


def _any(conditions: Any) -> Query:
    parts = list(conditions)
    return sql.SQL("({})").format(sql.SQL(" OR ").join(parts)) if parts else sql.SQL("false")


def _all(conditions: Any) -> Query:
    parts = [part for part in conditions if part is not ALL]
    return sql.SQL("({})").format(sql.SQL(" AND ").join(parts)) if parts else ALL


def _list(parts: Any) -> Query:
    return sql.SQL(", ").join(parts)
