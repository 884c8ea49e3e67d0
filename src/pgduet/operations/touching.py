"""Which tables a plan is about, by its file alone: those that it changes, and those to which its foreign keys refer."""

from psycopg import sql

from pgduet.operations.references import asked
from pgduet.operations.shaped import wanted
from pgduet.plan.models import CreateTable, DropIndex, DropTable, Plan, RenameTable, Sql
from pgduet.plan.names import TableName


def touched(plan: Plan) -> frozenset[str]:
    """Give the quoted names of all tables that a plan changes, brings, takes, or names beside its SQL."""
    found = [*plan.tables(), *plan.shaped(), *(name for _, name in wanted(plan))]
    for operation in plan.operations:
        match operation:
            case RenameTable():
                found.append(TableName(operation.relation.schema, operation.to))
            case CreateTable() | DropTable():
                found.append(operation.relation)
            case DropIndex() if operation.relation:
                found.append(operation.relation)
            case Sql():
                found += operation.touched
    return frozenset(_label(name) for name in found)


def referred(plan: Plan) -> frozenset[str]:
    """Give the quoted names of all tables to which the plan's own foreign keys refer."""
    return frozenset(_label(references.relation) for _, references in asked(plan))


def _label(name: TableName) -> str:
    return sql.Identifier(name.schema, name.name).as_string(None)
