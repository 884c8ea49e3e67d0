"""Rows of a changed table: which need filling, which disagree, and the statements that fill, count, repair, save and restore.

Every statement works on a range of heap pages or on one snapshot of the whole table; none needs a key, but where there is a
primary key, rows are named by it.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from psycopg import sql

from pgduet.operations.column_design import ROW, ColumnMapping, OldColumn, image_differs
from pgduet.operations.constraints import CarriedIndex, Exclusion
from pgduet.operations.design import Design, TableDesign, down_is_sure, up_is_sure
from pgduet.operations.names import MARKER, REPAIRED
from pgduet.operations.statement import Query, trusted
from pgduet.phases import SyncMode
from pgduet.sql import block

FALSE, TRUE = sql.SQL("false"), sql.SQL("true")
Bound = int | sql.Composable
"""A page, or what renders the `tid` of one."""


def pages(first: Bound, last: Bound) -> Query:
    """Restrict to the heap pages from `first` up to, not including, `last`."""
    return block("rows", "pages").format(row=ROW, first=_tid(first), last=_tid(last))


def tid(page: int) -> str:
    """Give what stands before the first row of a page, as text."""
    return f"({page},0)"


def _tid(bound: Bound) -> sql.Composable:
    return sql.Literal(tid(bound)) if isinstance(bound, int) else bound


def needs(table: TableDesign) -> Query:
    """Tell that a row's new columns are not what `up` gives."""
    return _any(column.differs(column.of(ROW), column.up_value(ROW)) for column in table.derived)


def inconsistent(table: TableDesign, mode: SyncMode) -> Query:
    """Tell that a row's two representations disagree.

    Until publication every derived column equals `up`. From then on a row is consistent when `up` gives the new side or
    `down` the old one (a lossy map cannot do both), and an added column is the new version's own.
    """
    if mode is SyncMode.FILL:
        return needs(table)
    return _any(
        sql.SQL("(({}) AND ({}))").format(_forward(mapping), _backward(table, mapping))
        for mapping in table.mappings
        if mapping.mirrors
    )


def violates(table: TableDesign) -> Query:
    """Tell that a row breaks a constraint that the new version will have (uniqueness and exclusion are counted by themselves)."""
    broken: list[sql.Composable] = [
        sql.SQL("{}.{} IS NULL").format(ROW, sql.Identifier(column)) for column, _ in table.must_fill
    ]
    broken += [sql.SQL("({}) IS FALSE").format(check.holds(ROW)) for check in table.checks]
    return _any([*broken, *(key.orphan(ROW) for key in table.foreign_keys)])


def uniqueness(table: TableDesign) -> list[CarriedIndex]:
    """Give the indexes by which rows are to be unique that are not so yet."""
    return [index for index in table.indexes if index.counted]


def duplicates(table: TableDesign, index: CarriedIndex) -> Query:
    """Count the rows that break a coming uniqueness."""
    keys = _keys(index)
    return block("rows", "duplicates").format(columns=_list(keys), filled=index.filled(keys), relation=table.relation)


def duplicated(table: TableDesign, index: CarriedIndex, limit: int) -> Query:
    """Name the rows that break a coming uniqueness, one of each value as well."""
    keys = _keys(index)
    texts = _list(sql.SQL("{}::text").format(key) for key in keys)
    return block("rows", "duplicated").format(
        key=table.key_of(ROW),
        detail=sql.SQL("jsonb_build_object('unique', {}, 'value', _pgduet_value)::text").format(
            sql.Literal(index.shown)
        ),
        values=sql.SQL("jsonb_build_array({})").format(texts),
        columns=_list(keys),
        filled=index.filled(keys),
        relation=table.relation,
        limit=sql.Literal(limit),
    )


def _keys(index: CarriedIndex) -> list[sql.Composable]:
    """Give what must differ between rows."""
    return [trusted(key) for key in index.keys] or [sql.Identifier(name) for name in index.brought]


def clashes(table: TableDesign, exclusion: Exclusion) -> Query:
    """Count the pairs of rows that break a coming exclusion."""
    return block("rows", "clashes").format(**_clash(table, exclusion))


def clashing(table: TableDesign, exclusion: Exclusion, limit: int) -> Query:
    """Name the rows that break a coming exclusion."""
    return block("rows", "clashing").format(
        key=table.key_of(ROW), detail=_both_sides(table), limit=sql.Literal(limit), **_clash(table, exclusion)
    )


def _clash(table: TableDesign, exclusion: Exclusion) -> dict[str, sql.Composable]:
    """Render what an exclusion compares, and that two rows clash."""
    values = [
        sql.SQL("({}) AS {}").format(trusted(text), sql.Identifier(f"_v{number}"))
        for number, (text, _) in enumerate(exclusion.elements)
    ]
    clash = [
        sql.SQL("t.{0} {1} o.{0}").format(sql.Identifier(f"_v{number}"), trusted(operator))
        for number, (_, operator) in enumerate(exclusion.elements)
    ]
    where = trusted(exclusion.where) if exclusion.where else sql.SQL("true")
    parts = {"values": _list(values), "relation": table.relation, "where": where}
    return {**parts, "clash": sql.SQL(" AND ").join(clash)}


def fill(
    design: Design, table: TableDesign, first: Bound, last: Bound, *, how: str = "fill", safe: bool = False
) -> Query:
    """Fill a page range; `how` is a block of rows.sql: `fill`, `fill_unlocked` or `count_needed`.

    With `safe`, rows that `up` cannot map are made empty instead of failing the statement: they may have begun with a value.
    """
    condition, assign = needs(table), _assign(table)
    if safe:
        filled = _any(sql.SQL("{} IS NOT NULL").format(column.of(ROW)) for column in table.derived)
        condition = _mapped_or(design, table, needs(table), filled)
        assign = _assign(table, partial(_mapped_or, design, table, otherwise=sql.SQL("NULL")))
    return block("rows", how).format(relation=table.heap, assign=assign, pages=pages(first, last), needs=condition)


def unmapped(design: Design, table: TableDesign, first: int, last: int, limit: int) -> Query:
    """Name the rows of a page range that `up` cannot map, with PostgreSQL's reason."""
    return block("rows", "unmapped").format(
        key=table.key_of(ROW),
        try_up=design.routine(table, "try_up"),
        relation=table.heap,
        pages=pages(first, last),
        # What cannot be mapped is left empty: the costly question is asked of empty rows only.
        empty=_any(sql.SQL("{} IS NULL").format(column.of(ROW)) for column in table.derived),
        limit=sql.Literal(limit),
    )


def parity(design: Design, table: TableDesign, mode: SyncMode, first: int, last: int, *, safe: bool = False) -> Query:
    """Count a page range's rows, those whose representations disagree, and those that break a coming constraint."""
    bad = inconsistent(table, mode)
    return block("rows", "parity").format(
        inconsistent=_unmappable_or(design, table, bad) if safe and table.synced else bad,
        violates=violates(table),
        relation=table.heap,
        pages=pages(first, last),
    )


def differing(
    design: Design, table: TableDesign, mode: SyncMode, first: int, last: int, limit: int, *, safe: bool = False
) -> Query:
    """Name the rows of a page range that parity counted, with both sides' values."""
    bad = inconsistent(table, mode)
    return block("rows", "differing").format(
        key=table.key_of(ROW),
        inconsistent=_unmappable_or(design, table, bad) if safe and table.synced else bad,
        violates=violates(table),
        detail=_both_sides(table),
        relation=table.heap,
        pages=pages(first, last),
        limit=sql.Literal(limit),
    )


def repair_new(design: Design, table: TableDesign, mode: SyncMode, first: int, last: int) -> Query:
    """Give the new side of drifted rows what `up` says (authority: old)."""
    derived = [column for mapping in table.mappings if mapping.mirrors for column in mapping.derived]
    assign = (
        _assign(table)
        if mode is SyncMode.FILL
        else _list(sql.SQL("{} = {}").format(sql.Identifier(c.physical), c.up_value(ROW)) for c in derived)
    )
    return block("rows", "repair_new").format(
        relation=table.heap,
        assign=_list([assign, _marked()]),
        pages=pages(first, last),
        inconsistent=_safely(design, table, inconsistent(table, mode)),
    )


def repair_old(table: TableDesign, first: int, last: int) -> Query:
    """Give the old side of drifted rows what `down` says (authority: new)."""
    values = [
        sql.SQL("{} = {}").format(sql.Identifier(old.name), old.down_value(ROW, table.physical))
        for old in table.mirrored
    ]
    return block("rows", "repair_new").format(
        relation=table.heap,
        assign=_list([*values, _marked()]),
        pages=pages(first, last),
        inconsistent=sql.SQL("({})").format(inconsistent(table, SyncMode.BOTH)),
    )


def _marked() -> Query:
    """Change the marker: the sync triggers do not map such a write, which brings one side in line with the other."""
    marker, repaired = sql.Identifier(MARKER), sql.Literal(REPAIRED)
    return sql.SQL("{0} = CASE WHEN {1}.{0} IS DISTINCT FROM {2} THEN {2} END").format(marker, ROW, repaired)


def archive_new(design: Design, table: TableDesign, attempt: int, first: int, last: int) -> list[Query]:
    """Save what only the new version has in a page range: values that `up` does not give back. One statement for each mapping."""
    within = pages(first, last)
    return [_archive(design, table, mapping, attempt, "new", within) for mapping in table.mappings if mapping.columns]


def archive_old(design: Design, table: TableDesign, attempt: int, first: int, last: int) -> list[Query]:
    """Save what only the old version has in a page range: values that `down` does not give back. One statement for each mapping."""
    within = pages(first, last)
    return [_archive(design, table, mapping, attempt, "old", within) for mapping in table.mappings if mapping.replaces]


def restore(design: Design, table: TableDesign, mapping: ColumnMapping, ids: list[int]) -> Query:
    """Bring back archived values by their ids, where nobody has written since."""
    archive = sql.SQL("a")
    same, keys = _same_row(table, archive)
    return block("rows", "restore").format(
        relation=table.relation,
        assign=_list(
            sql.SQL("{} = (a.kept ->> {})::{}").format(
                sql.Identifier(column.physical), sql.Literal(column.name), trusted(column.type)
            )
            for column in mapping.columns
        ),
        key_columns=keys,
        ids=sql.Literal(ids),
        migration=sql.Literal(design.name),
        label=sql.Literal(table.label),
        mapping=sql.Literal(mapping.position),
        same_row=same,
        differs=_forward(mapping),
        beside=_texts({old.name: old.of(ROW) for old in mapping.replaces}),
    )


def _archive(
    design: Design, table: TableDesign, mapping: ColumnMapping, attempt: int, side: str, within: Query
) -> Query:
    new = _texts({column.name: column.of(ROW) for column in mapping.columns})
    old = _texts({column.name: column.of(ROW) for column in mapping.replaces})
    return block("rows", "archive").format(
        migration=sql.Literal(design.name),
        attempt=sql.Literal(attempt),
        label=sql.Literal(table.label),
        key=table.key_of(ROW),
        side=sql.Literal(side),
        mapping=sql.Literal(mapping.position),
        kept=new if side == "new" else old,
        beside=old if side == "new" else new,
        relation=table.heap,
        pages=within,
        differs=_forward_safe(design, table, mapping) if side == "new" else _backward_safe(design, table, mapping),
    )


def _forward_safe(design: Design, table: TableDesign, mapping: ColumnMapping) -> Query:
    if not mapping.derived or up_is_sure(table, mapping):
        return _forward(mapping)
    return sql.SQL("(CASE WHEN {}(t) IS NULL THEN {} ELSE {} END)").format(
        design.routine(table, "try_up"),
        _forward(mapping),
        _any(sql.SQL("{} IS NOT NULL").format(column.of(ROW)) for column in mapping.columns),
    )


def _forward(mapping: ColumnMapping) -> Query:
    """Tell that the new columns are not what `up` gives (for a column without `up`: not empty)."""
    return _any(column.differs(column.of(ROW), column.up_value(ROW)) for column in mapping.columns)


def _backward(table: TableDesign, mapping: ColumnMapping) -> Query:
    """Tell that the old columns are not what `down` gives, bit by bit: an old client's 1.00 is not a new client's 1.0."""
    return _any(_old_differs(table, old) for old in mapping.replaces)


def _old_differs(table: TableDesign, old: OldColumn) -> Query:
    value = old.down_value(ROW, table.physical)
    inexact = old.name in table.inexact
    if inexact:  # images are compared between values of one type
        value = sql.SQL("({}::{})").format(value, trusted(old.type))
    return image_differs(old.of(ROW), value, inexact)


def _safely(design: Design, table: TableDesign, condition: sql.Composable) -> Query:
    return _mapped_or(design, table, condition, sql.SQL("false"))


def _mapped_or(design: Design, table: TableDesign, value: sql.Composable, otherwise: sql.Composable) -> Query:
    """Render a value of a row that `up` can map, or another one where it cannot."""
    return block("rows", "mappable").format(try_up=design.routine(table, "try_up"), value=value, otherwise=otherwise)


def _unmappable_or(design: Design, table: TableDesign, condition: sql.Composable) -> Query:
    """Judge a row whose expressions may raise: what `up` cannot map is drift; what `down` cannot, only where it is refused."""
    return block("rows", "judged").format(
        try_up=design.routine(table, "try_up"),
        try_down=design.routine(table, "try_down"),
        no_way_back=sql.Literal(design.unmappable == "refuse"),
        condition=condition,
    )


def _backward_safe(design: Design, table: TableDesign, mapping: ColumnMapping) -> Query:
    if down_is_sure(table, mapping):
        return _backward(table, mapping)
    return block("rows", "lost").format(try_down=design.routine(table, "try_down"), condition=_backward(table, mapping))


def _assign(table: TableDesign, guarded: Callable[[sql.Composable], sql.Composable] = lambda value: value) -> Query:
    return _list(sql.SQL("{} = {}").format(sql.Identifier(c.physical), guarded(c.up_value(ROW))) for c in table.derived)


def _both_sides(table: TableDesign) -> Query:
    """Render both representations as text; it names what differs, so it may hold the row's own values."""
    sources = [name for mapping in table.mappings for name in mapping.sources]
    old = {name: sql.SQL("t.{}").format(sql.Identifier(name)) for name in dict.fromkeys([*sources, *_bound(table)])}
    new = {column.name: column.of(ROW) for column in table.new_columns}
    return sql.SQL("jsonb_build_object('old', {}, 'new', {})::text").format(_texts(old), _texts(new))


def _bound(table: TableDesign) -> list[str]:
    """Name the table's own columns that the new version's constraints read."""
    read = [check.names.get(name, name) for check in table.checks for name in check.expression.columns]
    read += [name for key in table.foreign_keys for name in key.columns]
    read += [name for index in table.indexes for name in index.brought]
    return [name for name in (*read, *(column for column, _ in table.filled)) if name in table.columns]


def _same_row(table: TableDesign, archive: sql.Composable) -> tuple[Query, Query]:
    if not table.key:
        return sql.SQL("{} = {}.key").format(table.key_of(ROW), archive), sql.SQL("key")
    same = [
        sql.SQL("t.{} = {}.{}").format(sql.Identifier(name), archive, sql.Identifier(f"_key_{number}"))
        for number, name in enumerate(table.key)
    ]
    keys = [
        sql.SQL("(key ->> {})::{} AS {}").format(sql.Literal(name), trusted(kind), sql.Identifier(f"_key_{number}"))
        for number, (name, kind) in enumerate(zip(table.key, table.key_types, strict=True))
    ]
    return sql.SQL(" AND ").join(same), _list(keys)


def _texts(values: Mapping[str, sql.Composable]) -> Query:
    pairs = [sql.SQL("{}, {}::text").format(sql.Literal(name), value) for name, value in values.items()]
    return sql.SQL("jsonb_build_object({})").format(_list(pairs))


def _any(conditions: Iterable[sql.Composable]) -> Query:
    parts = list(conditions)
    return sql.SQL("({})").format(sql.SQL(" OR ").join(parts)) if parts else FALSE


def _list(parts: Iterable[sql.Composable]) -> Query:
    return sql.SQL(", ").join(parts)
