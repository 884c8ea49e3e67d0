"""Writes of merged rows by new clients before contract: each is one more row of its group, or is refused (ADR 32).

What a client writes it has computed from what it read. So an UPDATE must read the group as it is when nobody else of the new
version can write it: the statement says by a setting that it writes, and the view then reads each group by a function that locks it
first and reads it afterwards, by a newer snapshot. Old clients are neither waited for nor excluded: the row that is added says the
difference to what was read, and theirs stay.
"""

from psycopg import sql

from pgduet.operations.column_design import without_length
from pgduet.operations.merge_rows_design import MergedColumn, MergeDesign
from pgduet.operations.merge_rows_rows import fields, parts, reading
from pgduet.operations.shadow_keys import NEW, NOTHING, any_of, listed, quoted
from pgduet.operations.statement import Lock, Query, Statement, identifiers, trusted
from pgduet.sql import block

HIDDEN = "pgduet_archive"
"""Nobody may use this schema: what is in it can be called by way of a view only."""
_ADDS, _MADE, _K = sql.SQL("_pgduet_adds"), sql.SQL("_pgduet_made"), sql.SQL("k")


def create(design: MergeDesign) -> list[Statement]:
    """Create what keeps new clients apart, where they may write."""
    if not design.writable:
        return []
    keys = [sql.SQL("{} {} NOT NULL").format(sql.Identifier(key.target), trusted(key.type)) for key in design.key]
    locks = block("merging", "create_locks").format(
        locks=design.locks, columns=listed(keys), key=identifiers(design.target_key)
    )
    known = parts(design)
    values = listed(sql.SQL("${}").format(sql.Literal(number + 1)) for number in range(len(design.key)))
    body = block("merging", "lock_group").format(**known, locks=design.locks, values=values)
    function = block("merging", "row_function").format(
        function=_locking(design),
        arguments=listed(trusted(key.type) for key in design.key),
        target=design.target,
        body=quoted(body),
    )
    return [Statement(locks, "what keeps new clients apart"), Statement(function, f"locks groups of {design.label}")]


def drop(design: MergeDesign) -> list[Statement]:
    """Drop it, once no view calls it."""
    if not design.writable:
        return []
    arguments = listed(trusted(key.type) for key in design.key)
    function = block("merging", "drop_function").format(function=sql.SQL("{}({})").format(_locking(design), arguments))
    locks = block("merging", "drop_table").format(relation=design.locks)
    return [
        Statement(function, f"groups of {design.label} are locked no more"),
        Statement(locks, "drop what kept new clients apart", Lock.ACCESS_EXCLUSIVE, design.locks.as_string(None)),
    ]


def shown(design: MergeDesign) -> Query:
    """Render what the new version's view is: for reading, and where new clients may write, for that."""
    if not design.writable:
        return reading(design)
    known = parts(design)
    return block("merging", "reading_and_writing").format(
        **known,
        reading=reading(design),
        flag=sql.Literal(design.flag),
        function=_locking(design),
        k_key=listed(fields(_K, design.target_key)),
    )


def write(design: MergeDesign, plan: str) -> Query:
    """Render what happens to a new client's write."""
    known = parts(design)
    key_changed = any_of(_differ(name) for name in design.target_key)
    columns = [*design.source_key, *(each.name for each in design.adds)]
    values = [*fields(NEW, design.target_key), *(_added(design, number) for number in range(len(design.adds)))]
    name = design.shown_as
    return block("merging", "write").format(
        target=design.target,
        relation=design.relation,
        locks=design.locks,
        key=known["key"],
        o_key=known["o_key"],
        new_key=listed(fields(NEW, design.target_key)),
        key_changed=key_changed,
        changed=any_of(_differ(each.name) for each in design.columns),
        differences=sql.SQL("\n    ").join(map(_difference, design.columns)),
        columns=identifiers(columns),
        values=listed(values),
        apart=any_of([*map(_apart, design.columns), *_moved(design)]),
        schema=sql.Literal(design.schema_name),
        table=sql.Literal(name),
        constraint=sql.Literal(design.key_name),
        read_only=sql.Literal(f"merged rows of {name} cannot be deleted, or given another key, yet"),
        duplicate=sql.Literal(f'duplicate key value violates unique constraint "{design.key_name}"'),
        no_equivalent=sql.Literal(f"what is written to {name} has no equivalent in {design.label}"),
        hint=sql.Literal(
            f"One more row of {design.label} would have to make it; migration {plan} lets it be written from contract on."
        ),
    )


def writing(design: MergeDesign) -> Query:
    """Render what says that a statement writes."""
    return block("merging", "writing").format(flag=sql.Literal(design.flag))


def _locking(design: MergeDesign) -> sql.Identifier:
    return sql.Identifier(HIDDEN, design.routine_name("merge_group"))


def _added(design: MergeDesign, number: int) -> Query:
    """Render a column of the row that is added, converted as an assignment would convert it."""
    each = design.adds[number]
    return sql.SQL("{}::{}").format(each.down.over(_ADDS), trusted(without_length(each.type)))


def _differ(name: str) -> Query:
    field = sql.Identifier(name)
    return sql.SQL("(OLD.{0} IS DISTINCT FROM NEW.{0})").format(field)


def _difference(column: MergedColumn) -> Query:
    """Render what is added to a measure: a difference, or of minima and maxima what is written."""
    if column.measure not in {"count", "sum"}:
        return NOTHING
    name = sql.Identifier(column.name)
    return sql.SQL("_pgduet_adds.{0} := coalesce(NEW.{0}, 0) - coalesce(OLD.{0}, 0);").format(name)


def _apart(column: MergedColumn) -> Query:
    """Render that a group with one more row is not what was written."""
    name = sql.Identifier(column.name)
    value: sql.Composable = sql.SQL("1") if column.value is None else column.value.over(_MADE)
    together = {
        "count": "coalesce(_pgduet_before.{0}, 0) + ({1} IS NOT NULL)::integer",
        "sum": "CASE WHEN {1} IS NULL THEN _pgduet_before.{0} ELSE coalesce(_pgduet_before.{0}, 0) + {1} END",
        "min": "least(_pgduet_before.{0}, {1})",
        "max": "greatest(_pgduet_before.{0}, {1})",
    }[column.measure]
    return sql.SQL("(NEW.{} IS DISTINCT FROM {})").format(name, trusted(together).format(name, value))


def _moved(design: MergeDesign) -> list[Query]:
    """Render that the row is in another group: a trigger of the user's can do that."""
    pairs = zip(fields(_MADE, design.source_key), fields(NEW, design.target_key), strict=True)
    return [sql.SQL("({} IS DISTINCT FROM {})").format(*pair) for pair in pairs]
