"""Resolves `shadow_table` and `extract_table`: what to ask of PostgreSQL, what cannot be, and the design of the shadow (ADR 28).

A column whose value stays the same, in its type or a wider integer, needs no expression; every other one has `up` and `down`, and
left out they mean the column itself, converted.
"""

from collections.abc import Iterator, Mapping

from pgduet.errors import NotSupported
from pgduet.operations.alter_column import carried_default, same
from pgduet.operations.answers import ADD_UP, Answers, KeyPath, place
from pgduet.operations.column_design import Follows, without_length
from pgduet.operations.expressions import Expression, Question
from pgduet.operations.facts import ColumnFacts, TableFacts
from pgduet.operations.names import fit, working_name
from pgduet.operations.shadow_design import AnchorColumn, KeyColumn, Partition, ShadowColumn, ShadowDesign, ShadowKey
from pgduet.plan.columns import NewColumn
from pgduet.plan.shadow_operations import ExtractTable, PartitionBy, ShadowTable

Types = Mapping[KeyPath, str]
_WIDER = {("smallint", "integer"), ("smallint", "bigint"), ("integer", "bigint")}


def questions(index: int, operation: ShadowTable | ExtractTable, table: TableFacts, types: Types) -> Iterator[Question]:
    """Ask for every expression, over the columns that it may read."""
    if isinstance(operation, ExtractTable):
        yield from _of_extraction(index, operation, table, types)
    else:
        yield from _of_shadow(index, operation, table, types)


def _of_shadow(index: int, operation: ShadowTable, table: TableFacts, types: Types) -> Iterator[Question]:
    top: KeyPath = ("operations", index, "shadow_table")
    before = {column.name: column.type for column in table.columns}
    after = {name: kind for name, kind in before.items() if name not in operation.replaces}
    after |= {column.name: types[*top, "columns", number] for number, column in enumerate(operation.columns)}
    for number, column in enumerate(operation.columns):
        path = (*top, "columns", number)
        into = without_length(types[path])
        old = table.column(column.name)
        if column.up is not None:
            yield Question((*path, "up"), column.up, before, into, str(operation.relation))
        elif old is not None and not _stays(old.type, types[path]):
            yield Question((*path, "up"), same(column.name), before, into, str(operation.relation), implied=True)
        if column.default is not None:
            # Without `up`, a new column's default is what rows begin with.
            free = column.up is not None or old is not None
            over = str(operation.relation)
            yield Question((*path, "default"), column.default, {}, into, over, may_change=free, cure=ADD_UP)
    new = f"the new shape of {operation.relation}"
    for each in table.columns:
        path = (*top, "down", each.name)
        into = without_length(each.type)
        if each.name in operation.down:
            yield Question(path, operation.down[each.name], after, into, new)
        elif each.name in after and not _stays(each.type, after[each.name]):
            yield Question(path, same(each.name), after, into, new, implied=True)


def _of_extraction(index: int, operation: ExtractTable, table: TableFacts, types: Types) -> Iterator[Question]:
    top: KeyPath = ("operations", index, "extract_table")
    before = {column.name: column.type for column in table.columns}
    after = {shown: before[name] for name, shown in operation.key.items() if name in before}
    for number, moved in enumerate(operation.columns):
        after[moved.new_name] = types.get((*top, "columns", number), before.get(moved.name, ""))
    for number, moved in enumerate(operation.columns):
        path = (*top, "columns", number)
        old, new = before.get(moved.name, ""), after[moved.new_name]
        if moved.up is None and moved.down is None and _stays(old, new):
            continue
        up, down = moved.up or same(moved.name), moved.down or same(moved.new_name)
        implied = moved.up is None
        yield Question((*path, "up"), up, before, without_length(new), str(operation.relation), implied=implied)
        yield Question((*path, "down"), down, after, without_length(old), str(operation.target), implied=implied)
    filled = " OR ".join(f"{same(moved.name)} IS NOT NULL" for moved in operation.columns)
    when = operation.when or filled
    yield Question((*top, "when"), when, before, "boolean", str(operation.relation), implied=operation.when is None)


def resolve(
    plan: str,
    index: int,
    operation: ShadowTable | ExtractTable,
    table: TableFacts,
    answers: Answers,
    *,
    sequence: str | None = None,
) -> ShadowDesign:
    """Make the design; `sequence` is the quoted name of the one that numbers an identity."""
    if isinstance(operation, ExtractTable):
        return _extraction(plan, index, operation, table, answers)
    return _shadow(plan, index, operation, table, answers, sequence)


def _shadow(
    plan: str, index: int, operation: ShadowTable, table: TableFacts, answers: Answers, sequence: str | None
) -> ShadowDesign:
    top: KeyPath = ("operations", index, "shadow_table")
    columns = _ordered(operation, list(_columns(top, operation, table, answers)))
    types = {column.name: column.type for column in columns}
    anchors = tuple(_anchor(top, column, types, answers) for column in table.columns)
    unchanged = {column.same for column in columns if column.same is not None}
    numbered = _numbered(table)
    default = numbered.default if numbered else None
    if numbered is not None and numbered.identity and sequence is not None:
        default = f"nextval('{sequence.replace(chr(39), chr(39) * 2)}'::regclass)"
    return ShadowDesign(
        kind="shadow_table",
        position=index,
        schema_name=table.schema_name,
        table=table.table,
        physical=fit(f"_pgduet_{plan}_{table.table}"),
        shown_as=table.table,
        key=tuple(
            KeyColumn(anchor=name, anchor_type=_facts(table, name).type, shadow=name, shadow_type=types[name])
            for name in table.key
        ),
        columns=tuple(columns),
        anchors=anchors,
        primary=operation.primary_key,
        unique=tuple(_unique(plan, operation, table, unchanged)),
        freed=tuple(_freed(plan, operation, table, unchanged)),
        guarded=_guarded(columns, table),
        rereads=_rereads(table),
        postpones=_postpones(table),
        identity=any(column.identity for column in table.columns),
        numbering=default,
        numbered=numbered.name if numbered and len(table.key) > 1 else "",
        moves=table.kind == "p" or _refers_to_itself(table),
        parted=table.kind == "p",
        **_partitioned(operation.partition_by, table.table),
    )


def _columns(top: KeyPath, operation: ShadowTable, table: TableFacts, answers: Answers) -> Iterator[ShadowColumn]:
    named = {column.name: (number, column) for number, column in enumerate(operation.columns)}
    for old in table.columns:
        if old.name in operation.replaces:
            continue
        if old.name in named:
            number, column = named.pop(old.name)
            yield _changed((*top, "columns", number), _in_key(column, operation), old, table, answers)
        else:
            yield ShadowColumn(
                name=old.name,
                type=old.type,
                nullable=not old.not_null and old.name not in operation.primary_key,
                same=None if old.generated else old.name,
                generated=old.formula,
                default=None if old.generated else _kept_default(old, table),
                collation=old.collation,
                comment=old.comment,
                statistics=old.statistics,
                follows=("not_null", "comment", *(() if old.generated else _follows_default(old, table))),
            )
    for number, column in named.values():
        yield _changed((*top, "columns", number), _in_key(column, operation), None, table, answers)


def _in_key(column: NewColumn, operation: ShadowTable) -> NewColumn:
    return column.model_copy(update={"nullable": False}) if column.name in operation.primary_key else column


def _changed(
    path: KeyPath, column: NewColumn, old: ColumnFacts | None, table: TableFacts, answers: Answers
) -> ShadowColumn:
    up = answers.expressions.get((*path, "up"))
    default = answers.expressions.get((*path, "default"))
    kept = None
    if old and _kept_default(old, table) is not None:
        kept = carried_default(old, up, answers.types[path]) if up else old.default
    if up is None and old is None:
        up = default
    return ShadowColumn(
        name=column.name,
        type=answers.types[path],
        nullable=column.nullable and column.name not in table.key,
        up=up,
        same=column.name if up is None and old is not None else None,
        default=default.canonical if default else kept,
        comment=column.comment or (old.comment if old else None),
        statistics=old.statistics if old else None,
        follows=_follows(column, old, table),
    )


def _follows(column: NewColumn, old: ColumnFacts | None, table: TableFacts) -> tuple[Follows, ...]:
    """Tell what the plan does not say of a column that there is."""
    if old is None:
        return ()
    of_default = _follows_default(old, table) if column.default is None else ()
    return (*of_default, *(() if column.comment else ("comment",)))


def _follows_default(old: ColumnFacts, table: TableFacts) -> tuple[Follows, ...]:
    """Tell that a column has the default that it had, unless the trigger numbers it."""
    numbered = _numbered(table)
    return () if numbered is not None and old.name == numbered.name else ("default",)


def _anchor(top: KeyPath, column: ColumnFacts, types: Mapping[str, str], answers: Answers) -> AnchorColumn:
    down = answers.expressions.get((*top, "down", column.name))
    kept = column.name in types and down is None and not column.generated
    return AnchorColumn(
        name=column.name,
        type=column.type,
        not_null=column.not_null,
        down=down,
        same=column.name if kept else None,
        may_raise=not (kept and types[column.name] == column.type),
        always=column.always,
    )


def _unique(plan: str, operation: ShadowTable, table: TableFacts, unchanged: set[str]) -> Iterator[ShadowKey]:
    spread = set(operation.partition_by.columns) if operation.partition_by else set()
    for index in table.indexes:
        if index.unique and index.constraint and set(index.columns) <= unchanged and spread <= set(index.columns):
            yield ShadowKey(
                name=index.name, working=working_name(plan, index.name), anchor=index.columns, shadow=index.columns
            )


def _freed(plan: str, operation: ShadowTable, table: TableFacts, unchanged: set[str]) -> Iterator[ShadowKey]:
    spread = set(operation.partition_by.columns) if operation.partition_by else set()
    for index in table.indexes:
        apart = index.unique and not index.constraint and index.keys and not set(table.key) <= set(index.keys)
        if apart and spread <= set(index.keys) <= unchanged:
            yield ShadowKey(
                name=index.name, working=working_name(plan, index.name), anchor=index.keys, shadow=index.keys
            )


def _ordered(operation: ShadowTable, columns: list[ShadowColumn]) -> list[ShadowColumn]:
    place_of = {name: number for number, name in enumerate(operation.order)}
    return sorted(columns, key=lambda column: place_of.get(column.name, len(place_of)))


def _partitioned(by: PartitionBy | None, table: str) -> dict[str, object]:
    if by is None:
        return {}
    quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in by.columns)
    partitions = [Partition(name=each.name, bound=each.bound) for each in by.partitions]
    if by.modulus is not None:
        bounds = [f"FOR VALUES WITH (MODULUS {by.modulus}, REMAINDER {number})" for number in range(by.modulus)]
        partitions = [Partition(name=fit(f"{table}_p{number}"), bound=bound) for number, bound in enumerate(bounds)]
    return {
        "partition_by": f"{by.method.upper()} ({quoted})",
        "partition_key": by.columns,
        "partitions": tuple(partitions),
    }


def _extraction(plan: str, index: int, operation: ExtractTable, table: TableFacts, answers: Answers) -> ShadowDesign:
    top: KeyPath = ("operations", index, "extract_table")
    key = tuple(
        KeyColumn(anchor=name, anchor_type=kind, shadow=operation.key[name], shadow_type=kind)
        for name in table.key
        if (kind := _facts(table, name).type)
    )
    columns = [ShadowColumn(name=each.shadow, type=each.shadow_type, nullable=False, same=each.anchor) for each in key]
    anchors = {
        column.name: AnchorColumn(name=column.name, type=column.type, not_null=column.not_null)
        for column in table.columns
    }
    for each in key:
        anchors[each.anchor] = anchors[each.anchor].model_copy(update={"same": each.shadow, "may_raise": False})
    for number, moved in enumerate(operation.columns):
        path = (*top, "columns", number)
        old = _facts(table, moved.name)
        up: Expression | None = answers.expressions.get((*path, "up"))
        kind = answers.types.get(path, old.type)
        stays = None if up else moved.name
        columns.append(ShadowColumn(name=moved.new_name, type=kind, up=up, same=stays, comment=old.comment))
        anchors[moved.name] = anchors[moved.name].model_copy(
            update={
                "down": answers.expressions.get((*path, "down")),
                "same": None if up else moved.new_name,
                "may_raise": kind != old.type or up is not None,
                "emptied": old.default if old.not_null and old.default is not None else "NULL",
            }
        )
    return ShadowDesign(
        kind="extract_table",
        position=index,
        schema_name=table.schema_name,
        table=table.table,
        physical=fit(f"_pgduet_{plan}_{operation.target.name}"),
        shown_as=operation.target.name,
        key=key,
        columns=tuple(columns),
        anchors=tuple(anchors.values()),
        exists=_sure((*top, "when"), answers),
        guarded=_guarded(columns, table),
        rereads=_rereads(table),
        postpones=_postpones(table),
        moves=table.kind == "p" or _refers_to_itself(table),
        parted=table.kind == "p",
    )


def _sure(path: KeyPath, answers: Answers) -> Expression:
    """Give what says which rows of the anchor have one in the shadow: each write of a row asks it, and so does each look at one.

    Raises:
        NotSupported: PostgreSQL may fail to compute it. There is no other answer than yes or no for such a row, and the write is an
            old client's.
    """
    found = answers.expressions[path]
    if found.certain.raises:
        raise NotSupported(
            "PostgreSQL may fail to compute `when` for a row that an old client writes, whose write would fail with it",
            place=place(path),
            snippet=found.source,
            hint="Ask what never fails: IS NULL, comparisons with values of the same type, IN, AND, OR, NOT, CASE, coalesce."
            " Or leave `when` out: then each row in which any of the columns is not empty has one.",
        )
    return found


def _numbered(table: TableFacts) -> ColumnFacts | None:
    """Find the column of the key that PostgreSQL fills for who leaves it out: in a key of several the one with a sequence."""
    columns = [column for column in table.columns if column.name in table.key]
    if len(columns) == 1:
        return columns[0] if columns[0].default is not None or columns[0].identity else None
    by_sequence = (c for c in columns if c.identity or (c.default or "").startswith("nextval("))
    return next(by_sequence, None)


def _kept_default(column: ColumnFacts, table: TableFacts) -> str | None:
    """Give a column's default, unless the trigger numbers it."""
    numbered = _numbered(table)
    return None if numbered is not None and column.name == numbered.name else column.default


def _guarded(columns: list[ShadowColumn], table: TableFacts) -> bool:
    """Tell whether a row of the anchor may have no place in the shadow.

    A list or range of partitions has one for the rest, so what remains is an `up` that raises, and NULL where it must not be.
    """
    return not all(_is_sure(column, table) for column in columns if column.sources or column.up)


def _is_sure(column: ShadowColumn, table: TableFacts) -> bool:
    """Tell that each row of the anchor has a value for a column: it can be computed, and is there where it must be (ADR 26)."""
    if column.up is not None and not column.up.always_becomes(column.type):
        return False
    passed_on = column.up is None or column.up.certain.passes_on
    filled = column.up is not None and column.up.certain.filled
    return column.nullable or filled or (passed_on and all(_facts(table, name).not_null for name in column.sources))


def _rereads(table: TableFacts) -> bool:
    return any(column.generated for column in table.columns) or _writes_beside(table)


def _writes_beside(table: TableFacts) -> bool:
    """Tell whether a write of one row may write others."""
    return bool(table.user_triggers) or _refers_to_itself(table)


def _postpones(table: TableFacts) -> bool:
    """Tell whether what is written beside can wait: no trigger of ours defers that of partitions."""
    return table.kind != "p" and _writes_beside(table)


def _refers_to_itself(table: TableFacts) -> bool:
    """Tell whether PostgreSQL may write a row by the way while it is written: a cascade from its own key."""
    return any((key.target_schema, key.target) == (table.schema_name, table.table) for key in table.foreign)


def _stays(before: str, after: str) -> bool:
    return before == after or (before, after) in _WIDER


def _facts(table: TableFacts, name: str) -> ColumnFacts:
    column = table.column(name)
    assert column is not None  # noqa: S101  (checked before)
    return column
