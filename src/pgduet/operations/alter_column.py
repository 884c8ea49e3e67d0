"""alter_column: one column that changes; in place where the data stay the same, else beside the old one, kept in step.

A name, a default or a comment is a matter of the new version's view until contract. Another type, another nullability or a new
constraint binds clients of the new version only until cutover: then both forms must exist side by side. Without `up` and
`down` a value is the same on both sides, converted by an assignment's cast.
"""

from collections.abc import Iterator

from psycopg import sql

from pgduet.operations.answers import Answers, KeyPath
from pgduet.operations.column_design import Alias, ColumnMapping, Follows, NewColumn, OldColumn
from pgduet.operations.expressions import Expression
from pgduet.operations.facts import ColumnFacts, TableFacts
from pgduet.operations.names import physical_column
from pgduet.plan.models import AlterColumn

NULL = "NULL"


def copies(operation: AlterColumn, column: ColumnFacts) -> bool:
    """Tell whether the change needs a second column."""
    nullable = operation.nullable is not None and operation.nullable is column.not_null
    given = (operation.type, operation.check, operation.unique, operation.references, operation.up, operation.down)
    return nullable or any(value is not None for value in given)


def same(name: str) -> str:
    """Write the column itself as an expression."""
    return sql.Identifier(name).as_string(None)


def alias(index: int, operation: AlterColumn, column: ColumnFacts, answers: Answers) -> Alias:
    """Resolve a change that leaves the data alone."""
    default = answers.expressions.get(("operations", index, "alter_column", "default"))
    return Alias(
        name=operation.column,
        new_name=operation.new_name,
        type=column.type,
        position=index,
        default=default.canonical if default else None,
        comment=operation.comment,
    )


def mapping(plan: str, index: int, operation: AlterColumn, table: TableFacts, answers: Answers) -> ColumnMapping:
    """Resolve a change that needs a second column, which gets all that the old one has."""
    path: KeyPath = ("operations", index, "alter_column")
    old = table.column(operation.column)
    assert old is not None  # noqa: S101  (checked before)
    up = answers.expressions[*path, "up"]
    kind = answers.types[path]
    given = answers.expressions.get((*path, "default"))
    changes = {
        "name": operation.new_name,
        "physical": physical_column(plan, operation.new_name),
        "type": kind,
        "nullable": not old.not_null if operation.nullable is None else operation.nullable,
        "default": _not_null(given) if given else carried_default(old, up, kind),
        "comment": old.comment if operation.comment is None else operation.comment,
        "collation": old.collation if kind == old.type else None,
        "follows": tuple(_left(operation)),
    }
    made = successor(plan, table, old, up).model_copy(update=changes)
    replaced = OldColumn(name=old.name, type=old.type, not_null=old.not_null, down=answers.expressions[*path, "down"])
    return ColumnMapping(kind="alter_column", position=index, columns=(made,), replaces=(replaced,))


def _left(operation: AlterColumn) -> Iterator[Follows]:
    if operation.default is None:
        yield "default"
    if operation.nullable is None:
        yield "not_null"
    if operation.comment is None:
        yield "comment"


def successor(plan: str, table: TableFacts, old: ColumnFacts, up: Expression) -> NewColumn:
    """Make a column anew that is the same in all but its values."""
    return NewColumn(
        name=old.name,
        physical=physical_column(plan, old.name),
        type=old.type,
        nullable=not old.not_null,
        default=carried_default(old, up, old.type),
        comment=old.comment,
        up=up,
        collation=old.collation,
        statistics=old.statistics,
        grants=tuple((grantee, right) for name, grantee, right in table.column_grants if name == old.name),
        follows=("default", "not_null", "comment"),
    )


def carried_default(old: ColumnFacts, up: Expression, kind: str) -> str | None:
    """Map the old column's default, where `up` reads nothing else and reads it once."""
    if old.default is None or up.columns != (old.name,) or up.occurrences(old.name) != 1:
        return None
    value = up.given({old.name: old.default}).as_string(None)
    return f"{value}::{kind}"


def _not_null(default: Expression) -> str | None:
    return None if is_null(default.canonical) else default.canonical


def is_null(canonical: str) -> bool:
    """Tell whether a default only says that there is none."""
    return canonical.split("::", maxsplit=1)[0].strip("() ").upper() == NULL
