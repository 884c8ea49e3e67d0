"""Operations that give whole tables another shape: what to ask, what to refuse, which names they want; by kind.

`pgduet.postgres.shaped` makes the designs, since whether a table can be attached, and what a measure's type is, PostgreSQL says.
"""

from collections.abc import Iterator, Mapping, Sequence

from pgduet.operations import shadow_refusals, shadow_resolve
from pgduet.operations.answers import KeyPath
from pgduet.operations.expressions import Question
from pgduet.operations.facts import TableFacts
from pgduet.plan.columns import NewColumn
from pgduet.plan.models import ExtractTable, MergeRows, Plan, ShadowTable, ShapeOperation
from pgduet.plan.names import TableName
from pgduet.plan.shadow_operations import MovedColumn

Types = Mapping[KeyPath, str]
Known = Mapping[str, TableFacts]


def shaping(plan: Plan) -> Iterator[tuple[int, ShapeOperation]]:
    """Walk the operations that give a table another shape, with their position in the plan."""
    for index, operation in enumerate(plan.operations):
        if isinstance(operation, ShapeOperation):
            yield index, operation


def types_to_ask(plan: Plan) -> Iterator[tuple[KeyPath, str]]:
    """Walk the types that these operations name."""
    for index, operation in shaping(plan):
        top: KeyPath = ("operations", index, operation.kind, "columns")
        if isinstance(operation, ShadowTable | ExtractTable):
            columns: Sequence[NewColumn | MovedColumn] = operation.columns
            for number, column in enumerate(columns):
                if column.type is not None:
                    yield (*top, number), column.type


def questions(plan: Plan, facts: Known, types: Types) -> Iterator[Question]:
    """Ask for their expressions."""
    for index, operation in shaping(plan):
        if isinstance(operation, ShadowTable | ExtractTable):
            yield from shadow_resolve.questions(index, operation, facts[str(operation.relation)], types)


def refuse(plan: Plan, facts: Known) -> None:
    """Refuse what the catalogue cannot take.

    Raises:
        UnknownColumn, NotSupported: with the path in the plan.
    """
    for index, operation in shaping(plan):
        if isinstance(operation, ShadowTable | ExtractTable):
            shadow_refusals.refuse(index, operation, facts[str(operation.relation)])


def wanted(plan: Plan) -> Iterator[tuple[KeyPath, TableName]]:
    """Walk the names of tables that the operations bring, which must be free."""
    for index, operation in shaping(plan):
        top: KeyPath = ("operations", index, operation.kind)
        match operation:
            case ShadowTable() if operation.partition_by:
                for number, each in enumerate(operation.partition_by.partitions):
                    path = (*top, "partition_by", "partitions", number, "name")
                    yield path, TableName(operation.relation.schema, each.name)
            case ExtractTable():
                yield (*top, "into"), operation.target
            case MergeRows() if operation.target != operation.relation:
                yield (*top, "into"), operation.target
