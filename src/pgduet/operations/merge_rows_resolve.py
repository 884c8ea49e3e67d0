"""Resolves `merge_rows`: what to ask of PostgreSQL, what cannot be merged, and the design of the merge (ADR 32).

What is refused here is what would make a merged row depend on more than its group's rows as they are: on their order, on who
looks, on an error. And what would leave something hanging on the source, which goes to the archive at contract.
"""

from collections.abc import Iterator, Mapping, Sequence

from pgduet.errors import ColumnsChanged, DownIncomplete, NameTaken, NotSupported, UnknownColumn
from pgduet.hazards import Hazard, hazard
from pgduet.operations.answers import Answers, KeyPath, place
from pgduet.operations.column_design import without_length
from pgduet.operations.expressions import Question
from pgduet.operations.facts import ColumnFacts, Facts, TableFacts
from pgduet.operations.merge_rows_design import AddedColumn, GroupKey, MergedColumn, MergeDesign, SourceColumn
from pgduet.operations.names import fit
from pgduet.plan.merge_operations import MergeRows
from pgduet.plan.problems import did_you_mean, listed

_WHOLE = frozenset({"smallint", "integer", "bigint"})
SUMMED = _WHOLE | {"numeric"}
"""What can be summed up in any order to the same, and raises nothing: a sum is of a wider type."""
ORDERED = SUMMED | {
    *("oid", "date", "text", "character varying"),
    *("time without time zone", "timestamp without time zone", "timestamp with time zone"),
}
"""What has a smallest and a largest value whose equals are shown alike (of a numeric but for zeros at its end)."""
_EXACT_KEYS = (ORDERED - {"numeric"}) | {"boolean", "uuid", "name", "bytea", "time with time zone"}


class Source(Facts):
    """What a merge asks of its source beyond the facts of any table."""

    row_security: bool
    published: bool
    """Logical replication sends its rows to others."""
    indexed: bool
    """An index leads by the key, in its order."""
    ruled: tuple[str, ...] = ()
    """Rules that rewrite what is written to it."""


def questions(index: int, operation: MergeRows, table: TableFacts) -> Iterator[Question]:
    """Ask for every measure's value, over a row of the source."""
    scope = {column.name: column.type for column in table.columns}
    for number, column in enumerate(operation.columns):
        if column.value is not None:
            path = ("operations", index, "merge_rows", "columns", number, "value")
            yield Question(path, column.value, scope, "", str(operation.relation))


def down_questions(
    index: int, operation: MergeRows, table: TableFacts, types: Mapping[KeyPath, str]
) -> Iterator[Question]:
    """Ask for what a new client's write is for old clients, over what it adds to a merged row."""
    top: KeyPath = ("operations", index, "merge_rows")
    scope = {shown: column.type for name, shown in operation.key.items() if (column := table.column(name))}
    scope |= {column.name: types[*top, "columns", number] for number, column in enumerate(operation.columns)}
    known = [column.name for column in table.columns]
    for name, source in operation.down.items():
        path = (*top, "down", name)
        column = table.column(name)
        if column is None:
            message = f"{operation.relation} has no column `{name}`{did_you_mean(name, known)}"
            raise UnknownColumn(message, place=place(path), hint=f"It has: {', '.join(known)}.")
        if column.generated or column.identity:
            raise NotSupported(f'"{name}" numbers or computes itself', place=place(path), hint="Delete the key.")
        yield Question(path, source, scope, without_length(column.type), f"what is added to {operation.target}")


def refuse_incomplete(index: int, operation: MergeRows, table: TableFacts) -> None:
    """Refuse a `down` that leaves columns empty which must not be.

    Raises:
        DownIncomplete: naming them.
    """
    if not operation.down:
        return
    empty = [
        column.name
        for column in table.columns
        if column.not_null
        and column.default is None
        and not (column.identity or column.generated or column.name in operation.key or column.name in operation.down)
    ]
    if empty:
        raise DownIncomplete(
            f"`down` has no expression for {listed(empty)}, which must not be empty and has no default",
            place=place(("operations", index, "merge_rows", "down")),
            hint=" and ".join(f"Add `{name}: <SQL expression>`" for name in empty) + ".",
        )


def refuse(index: int, operation: MergeRows, table: TableFacts, source: Source) -> None:
    """Refuse what the catalogue cannot take.

    Raises:
        UnknownColumn: a column of the key is not there.
        NotSupported: the table, or its key, cannot be merged by.
    """
    top: KeyPath = ("operations", index, "merge_rows")
    _refuse_table((*top, "table"), table, source)
    columns = [column.name for column in table.columns]
    for name in operation.key:
        path = (*top, "key", name)
        column = table.column(name)
        if column is None:
            message = f"{operation.relation} has no column `{name}`{did_you_mean(name, columns)}"
            raise UnknownColumn(message, place=place(path), hint=f"It has: {', '.join(columns)}.")
        _refuse_key(path, column)


def refuse_held(table: TableFacts, source: Source) -> None:
    """Refuse to contract what has changed since preflight, while there is a way back.

    Raises:
        NotSupported: naming what is in the way.
    """
    _refuse_table((), table, source)


def _refuse_table(path: KeyPath, table: TableFacts, source: Source) -> None:
    name = f"{table.schema_name}.{table.table}"
    inbound = sorted({what for column in table.columns for what in column.hanging("inbound", "itself")})
    views = sorted({what for column in table.columns for what in column.hanging("view")})
    reasons = {
        f"is a partition of {table.partition_of}": (
            bool(table.partition_of),
            "A TRUNCATE, ATTACH or DETACH beside it would not be seen. Merge an ordinary table.",
        ),
        "is partitioned": (
            table.kind == "p",
            "TRUNCATE, ATTACH and DETACH of a partition are not seen by the table's triggers. Merge an ordinary table.",
        ),
        "is not a table": (table.kind not in {"r", "p"}, "Merge an ordinary table."),
        "has parents or children by inheritance": (table.inherits, "Merge an ordinary table."),
        "is not kept through a crash as its merged rows are (it is temporary or unlogged)": (
            table.persistence != "p",
            f"ALTER TABLE {name} SET LOGGED first.",
        ),
        "has row level security": (
            source.row_security or table.hides_rows,
            "Whoever may read merged rows would see what comes of rows that are hidden from them. Disable it first.",
        ),
        f"is referred to: {'; '.join(inbound)}": (
            bool(inbound),
            "Its rows go to the archive at contract, and nothing can refer to them there. Drop these keys first.",
        ),
        f"is read by {'; '.join(views)}": (
            bool(views),
            "From contract on they would show what is in the archive. Drop them first, and make them anew after contract.",
        ),
        f"has rules ({', '.join(source.ruled)})": (bool(source.ruled), "Drop them first, or write them as triggers."),
    }
    for reason, (true, cure) in reasons.items():
        if true:
            where = place(path) if path else None
            raise NotSupported(f"{name} {reason}: its rows cannot be merged", place=where, hint=cure)


def _refuse_key(path: KeyPath, column: ColumnFacts) -> None:
    reasons = {
        "may be NULL": (
            not column.not_null,
            "A group that has no key cannot be told from others. Fill it and set it NOT NULL first, in a plan of its own.",
        ),
        "is a generated column": (
            column.generated,
            "It has no value of its own to be noted. Make it an ordinary column first, or merge by what it is computed from.",
        ),
        f"is of type {column.type}, of which equal values can be written differently": (
            _base(column.type) not in _EXACT_KEYS,
            "Merge by a column whose equal values are alike: an integer, a date, a text, a uuid.",
        ),
        f"has a collation of its own ({column.collation})": (
            column.collation is not None or not column.exact,
            "Merge by a column that is ordered as the database is.",
        ),
    }
    for reason, (true, cure) in reasons.items():
        if true:
            raise NotSupported(f'key "{column.name}" {reason}', place=place(path), hint=cure)


def refuse_measures(index: int, operation: MergeRows, table: TableFacts, answers: Answers) -> None:
    """Refuse measures that depend on the order of rows, or on which an old client's row could make a reader fail.

    Raises:
        NotSupported: with the path of the expression.
    """
    for number, column in enumerate(operation.columns):
        path: KeyPath = ("operations", index, "merge_rows", "columns", number, "value")
        expression = answers.expressions.get(path)
        if expression is None or column.value is None:
            continue
        kind = answers.types[path]
        allowed = {"sum": SUMMED, "count": None}.get(column.measure, ORDERED)
        if allowed is not None and _base(kind) not in allowed:
            raise NotSupported(
                f"the {column.measure} of values of type {kind} {_why(column.measure, _base(kind))}",
                place=place(path),
                snippet=f"{column.value}\n^",
                hint=f"Measure values of one of these types: {listed(sorted(allowed))}.",
            )
        read = [found for name in expression.columns if (found := table.column(name))]
        for each in read:
            if each.generated:
                hint = "Write the generated column's own expression instead of its name."
                raise NotSupported(_about(each, "is generated"), place=place(path), snippet=column.value, hint=hint)
            if each.collation is not None or not each.exact:
                hint = "Measure a column that is ordered as the database is."
                message = _about(each, f"has a collation of its own ({each.collation})")
                raise NotSupported(message, place=place(path), snippet=column.value, hint=hint)
        if expression.certain.raises or not expression.immutable:
            raise NotSupported(
                f"PostgreSQL may fail to compute `{column.name}` for a row that an old client writes: new clients who read its"
                " group would have the error",
                place=place(path),
                snippet=column.value,
                hint="Measure a column as it is, or by what never fails: a CASE, coalesce, a comparison, a cast to a wider integer,"
                " + - * of declared numerics. Compute the rest in the query that reads merged rows.",
            )


def resolve(
    plan: str, index: int, operation: MergeRows, table: TableFacts, answers: Answers, source: Source
) -> MergeDesign:
    """Make the design; `answers.types` has each value's type by its path, and by its column's what PostgreSQL measures it as."""
    top: KeyPath = ("operations", index, "merge_rows")
    columns = [
        MergedColumn(
            name=column.name,
            type=answers.types[*top, "columns", number],
            measure=column.measure,
            value=answers.expressions.get((*top, "columns", number, "value")),
        )
        for number, column in enumerate(operation.columns)
    ]
    reads = dict.fromkeys(name for column in columns if column.value for name in column.value.columns)
    physical = fit(f"_pgduet_{plan}_{operation.target.name}")
    return MergeDesign(
        position=index,
        schema_name=table.schema_name,
        table=table.table,
        physical=physical,
        shown_as=operation.target.name,
        key=tuple(
            GroupKey(source=name, target=shown, type=_facts(table, name).type) for name, shown in operation.key.items()
        ),
        columns=tuple(columns),
        reads=tuple(SourceColumn(name=name, type=_facts(table, name).type) for name in reads),
        known=tuple(column.name for column in table.columns),
        index=None if source.indexed else fit(f"{physical}_key"),
        adds=tuple(
            AddedColumn(name=name, type=_facts(table, name).type, down=answers.expressions[*top, "down", name])
            for name in operation.down
        ),
    )


def came(design: MergeDesign, table: TableFacts) -> list[str]:
    """Name columns that somebody has given the source since preflight: they would go to the archive with it, unmeasured."""
    if not design.known:
        return []
    return [f'{design.label}: column "{each.name}" has come' for each in table.columns if each.name not in design.known]


def refuse_came(plan: str, design: MergeDesign, table: TableFacts) -> None:
    """Refuse to archive such columns.

    Raises:
        ColumnsChanged: naming them.
    """
    if found := came(design, table):
        raise ColumnsChanged(
            f"since preflight of {'; '.join(found)}",
            hint=f"ALTER TABLE {design.label} DROP COLUMN …; then: pgduet advance {plan}. Or roll back, which keeps it:"
            f" pgduet rollback {plan}; then start again, with a measure of it.",
        )


def refuse_taken(design: MergeDesign, taken: Sequence[str]) -> None:
    """Refuse names for the merged table and its key that something has which stays; what the source has goes with it.

    Raises:
        NameTaken: with the path of the merged table's name.
    """
    for name in taken:
        raise NameTaken(
            f'schema {design.schema_name} already has a relation "{name}", which the merged table or its key is to be called',
            place=place(("operations", design.position, "merge_rows", "into")),
            hint="Choose another name.",
        )


def hazards(design: MergeDesign, source: Source, table: TableFacts) -> Iterator[Hazard]:
    """Say what people should know of a merge, whatever is done about it."""
    what = f"{design.label} → {design.shown_as}"
    yield hazard("PD-H44" if design.writable else "PD-H40", what)
    yield hazard("PD-H41", f"{what} (replicated)" if source.published else what)
    yield hazard("PD-H42", what)
    if design.index is not None:
        yield hazard("PD-H43", f"{design.label} ({', '.join(design.source_key)}), {table.pages * 8 // 1024:,} MB")


def _about(column: ColumnFacts, what: str) -> str:
    return f'"{column.name}" {what}: what is measured of it could not be told again'


def _why(measure: str, kind: str) -> str:
    if kind in {"real", "double precision"} and measure == "sum":
        return "depends on the order in which they are added"
    return "may fail, or be another one each time it is asked"


def _base(kind: str) -> str:
    """Name a type without its size."""
    head, _, rest = kind.partition("(")
    return head + rest.partition(")")[2] if rest else kind


def _facts(table: TableFacts, name: str) -> ColumnFacts:
    column = table.column(name)
    assert column is not None  # noqa: S101  (checked before)
    return column
