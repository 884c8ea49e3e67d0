"""How constraints of the new version bind its own clients before cutover: by checks in the sync functions.

An old client's write that breaks one is accepted and counted; from cutover on PostgreSQL's own constraints bind everybody.
A check before each row must refuse nothing that PostgreSQL accepts at the end of the statement or of the transaction: what can be
deferred is not checked here, and a row may refer to itself, or to what its own statement wrote before it.
Limits: two new clients that write the same value at once are both accepted (parity counts them), `ON CONFLICT` finds a new
uniqueness only from cutover on, and a row that refers to one which the same statement writes after it is refused before cutover.
"""

from collections.abc import Iterator, Sequence

from psycopg import sql

from pgduet.operations.column_design import ColumnMapping
from pgduet.operations.constraints import CarriedIndex, ForeignKey
from pgduet.operations.design import Design, TableDesign
from pgduet.operations.statement import Query, Statement, trusted
from pgduet.sql import block

NEW = sql.SQL("NEW")


def refusals(design: Design, table: TableDesign, mapping: ColumnMapping) -> Iterator[Query]:
    """Render the checks for a write that changes a mapping's new columns."""
    mine = {column.physical for column in mapping.columns}
    for check in table.checks:
        if mine & {check.names.get(name, name) for name in check.expression.columns}:
            message = f'new row for relation "{table.table}" violates check constraint "{check.name}"'
            broken = sql.SQL("({}) IS FALSE").format(check.holds(NEW))
            yield _refusal(design, table, "check_violation", check.name, message, broken)
    for number, key in enumerate(table.foreign_keys):
        if mine & set(key.columns) and not key.deferrable:
            message = f'insert or update on table "{table.table}" violates foreign key constraint "{key.name}"'
            values = [sql.SQL("NEW.{}").format(sql.Identifier(name)) for name in key.columns]
            missing = sql.SQL("{}({})").format(_orphan(design, table, number), sql.SQL(", ").join(values))
            if key.target_relation == table.relation:
                missing = sql.SQL("(({}) AND {})").format(_not_itself(key, values), missing)
            yield _refusal(design, table, "foreign_key_violation", key.name, message, key.broken(values, missing))
    for number, index in enumerate(table.indexes):
        if mine & set(index.brought) and not index.deferrable:
            message = f'duplicate key value violates unique constraint "{index.name}"'
            values = [sql.SQL("NEW.{}").format(sql.Identifier(name)) for name in index.brought]
            # OLD is unassigned in an INSERT: its page and line are asked for by way of the row alone.
            own = sql.SQL("CASE WHEN TG_OP = 'UPDATE' THEN OLD.ctid END")
            broken = sql.SQL("{} AND {}({}, {})").format(
                index.filled(values), _taken(design, table, number), own, sql.SQL(", ").join(values)
            )
            yield _refusal(design, table, "unique_violation", index.name, message, broken)


def functions(design: Design, table: TableDesign) -> list[Statement]:
    """Create the functions that look into tables which the writing client may not read."""
    made = []
    for number, key in enumerate(table.foreign_keys):
        query = block("sync", "orphan_function").format(
            function=_orphan(design, table, number), arguments=_arguments(table, key.columns), body=_orphan_body(key)
        )
        made.append(Statement(query, f"check of {key.name}"))
    for number, index in enumerate(table.indexes):
        if index.brought:
            query = block("sync", "taken_function").format(
                function=_taken(design, table, number),
                arguments=_arguments(table, index.brought),
                body=_taken_body(table, index),
            )
            made.append(Statement(query, f"check of {index.name}"))
    return made


def drops(design: Design, table: TableDesign) -> list[Statement]:
    """Drop what `functions` created."""
    names = [_orphan(design, table, number) for number in range(len(table.foreign_keys))]
    names += [_taken(design, table, number) for number, index in enumerate(table.indexes) if index.brought]
    return [Statement(block("sync", "drop_function").format(function=name), "drop a check") for name in names]


def _refusal(
    design: Design, table: TableDesign, code: str, constraint: str, message: str, broken: sql.Composable
) -> Query:
    return block("sync", "broken").format(
        broken=broken,
        code=sql.Literal(code),
        message=sql.Literal(message),
        hint=sql.Literal(f"Version {design.to_version} requires it (migration {design.name})."),
        schema=sql.Literal(table.schema_name),
        table=sql.Literal(table.table),
        constraint=sql.Literal(constraint),
    )


def _not_itself(key: ForeignKey, values: Sequence[sql.Composable]) -> Query:
    targets = [sql.SQL("NEW.{}").format(sql.Identifier(name)) for name in key.target_columns]
    different = [sql.SQL("{} IS DISTINCT FROM {}").format(*pair) for pair in zip(values, targets, strict=True)]
    return sql.SQL(" OR ").join(different)


def _orphan(design: Design, table: TableDesign, number: int) -> sql.Identifier:
    return design.routine(table, f"orphan{number}")


def _taken(design: Design, table: TableDesign, number: int) -> sql.Identifier:
    return design.routine(table, f"taken{number}")


def _arguments(table: TableDesign, columns: tuple[str, ...]) -> Query:
    return sql.SQL(", ").join(
        sql.SQL("{} {}.{}%TYPE").format(trusted(f"v{number}"), table.relation, sql.Identifier(name))
        for number, name in enumerate(columns)
    )


def _orphan_body(key: ForeignKey) -> sql.Literal:
    same = [
        sql.SQL("r.{} = {}").format(sql.Identifier(name), trusted(f"v{number}"))
        for number, name in enumerate(key.target_columns)
    ]
    body = block("sync", "orphan_body").format(target=key.target_relation, same=sql.SQL(" AND ").join(same))
    return sql.Literal(body.as_string(None))


def _taken_body(table: TableDesign, index: CarriedIndex) -> sql.Literal:
    equal = sql.SQL("t.{} IS NOT DISTINCT FROM {}" if not index.nulls_distinct else "t.{} = {}")
    same = [equal.format(sql.Identifier(name), trusted(f"v{number}")) for number, name in enumerate(index.brought)]
    body = block("sync", "taken_body").format(relation=table.relation, same=sql.SQL(" AND ").join(same))
    return sql.Literal(body.as_string(None))
