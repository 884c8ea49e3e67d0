"""Names that the new version gives: free of what stays when the plan is checked, given once, and still free before contract.

An index has its name in the whole schema, with tables, views and sequences; so has a constraint that stands on one. Any other
constraint has its name on its table alone.
"""

from collections.abc import Iterator, Mapping

from pgduet.errors import NameTaken
from pgduet.operations import carry, declare
from pgduet.operations.answers import KeyPath, place
from pgduet.operations.create_table import named_indexes
from pgduet.operations.design import Design, TableDesign
from pgduet.operations.facts import TableFacts
from pgduet.operations.names import unique_name
from pgduet.operations.table_constraints import leaving, renamed
from pgduet.plan.models import (
    CreateConstraint,
    CreateIndex,
    CreateTable,
    Plan,
    RenameConstraint,
    RenameTable,
    TableName,
)
from pgduet.postgres import catalogue
from pgduet.postgres.session import Connection
from pgduet.sql import block

Given = Iterator[tuple[KeyPath, TableName]]
_ON_INDEX = frozenset({"p", "u", "x"})


async def check_names(conn: Connection, plan: Plan, table: TableDesign, facts: TableFacts) -> None:
    """Refuse names of new constraints that something has which stays.

    Raises:
        NameTaken: with the path in the plan.
    """
    new = [check.name for check in table.checks if not check.carried]
    new += [key.name for key in table.foreign_keys if not key.carried]
    new += [index.name for index in table.indexes if index.brought]
    new += [exclusion.name for exclusion in table.exclusions] + [to for _, to in renamed(plan, facts)]
    at_the_end = [each.name for each in declare.constraints(table)]
    at_the_end += [index.name for index in table.indexes if not index.constraint]
    at_the_end += [to for _, to in table.renamed_constraints]
    going = set(carry.lost(facts, table.mappings, set()))
    stays = {name for name in facts.constraint_names if not any(what.endswith(f" {name}") for what in going)}
    stays -= leaving(plan, facts)
    for path, name in _of_constraints(plan, table, facts):
        if name.name not in facts.constraint_names and await catalogue.relation_there(conn, name.schema, name.name):
            raise _taken(table, name.name, path)
    for text in new:
        if text in stays or at_the_end.count(text) > 1:
            raise _taken(table, text, _place_of(plan, table, text))


def refuse_twice(plan: Plan, design: Design, facts: Mapping[str, TableFacts]) -> None:
    """Refuse names that two tables or indexes of one schema would get.

    Raises:
        NameTaken: with the path of the second one.
    """
    first: dict[TableName, KeyPath] = {}
    for path, name in _of_relations(plan, design, facts):
        if first.setdefault(name, path) != path:
            raise NameTaken(
                f'schema {name.schema} would get two relations "{name.name}": an index has its name in the whole schema',
                place=place(path),
                hint="Give one of them another name.",
            )


async def check_still_free(conn: Connection, design: Design, table: TableDesign) -> None:
    """Refuse, while there is a way back, what would keep contract from giving names: somebody has them by now.

    Raises:
        NameTaken: naming what has the name.
    """
    going = [*table.dropped_constraints, *(name for name, _ in table.renamed_constraints)]
    asked = {
        "relation": table.label,
        "schema": table.schema_name,
        "old_columns": [column.name for column in table.old_columns],
        "going": [*going, *(i.name for i in design.dropped_indexes if i.schema_name == table.schema_name)],
        "relations": [*_relations_at_contract(table), *([table.new_name] if table.new_name else [])],
        "constraints": _constraints_at_contract(table),
        "renamed": [name for name, _ in table.renamed_constraints],
        "to": [to for _, to in table.renamed_constraints],
        "columns": sorted(set(table.new_names) - set(table.columns)),
    }
    found = await (await conn.execute(block("declare", "in_the_way"), asked)).fetchall()
    if found:
        raise NameTaken(
            f"{found[0]['what']} has a name by now that version {design.to_version} of {table.label} is to get",
            hint="Rename or drop it, then advance.",
        )


def _relations_at_contract(table: TableDesign) -> list[str]:
    """Name the indexes that get their own names at contract."""
    return [each.name for each in table.indexes if not each.at_once and each.working != each.name]


def _constraints_at_contract(table: TableDesign) -> list[str]:
    """Name the constraints that get their own names at contract; an index behind one has it too."""
    made = [each.name for each in declare.constraints(table) if not each.at_once]
    return [*made, *(to for _, to in table.renamed_constraints)]


def _of_relations(plan: Plan, design: Design, facts: Mapping[str, TableFacts]) -> Given:
    """Walk the names that the plan gives to relations."""
    for index, operation in enumerate(plan.operations):
        top: KeyPath = ("operations", index, operation.kind)
        match operation:
            case CreateTable():
                yield (*top, "table"), operation.relation
                for at, name in named_indexes(operation):
                    yield (*top, *at), TableName(operation.relation.schema, name)
            case RenameTable():
                yield (*top, "to"), TableName(operation.relation.schema, operation.to)
            case CreateIndex():
                yield (*top, "name"), operation.index
    for table in design.tables:
        yield from _of_constraints(plan, table, facts[str(TableName(table.schema_name, table.table))])


def _of_constraints(plan: Plan, table: TableDesign, facts: TableFacts) -> Given:
    """Walk the names that the plan gives to constraints of a table that stand on an index."""
    relation = TableName(table.schema_name, table.table)
    for index, operation in enumerate(plan.operations):
        top: KeyPath = ("operations", index, operation.kind)
        match operation:
            case CreateConstraint() if operation.relation == relation and operation.on_index:
                yield (*top, "name"), TableName(table.schema_name, operation.name)
            case RenameConstraint() if operation.relation == relation:
                known = facts.constraint(operation.name)
                if known and known.kind in _ON_INDEX:
                    yield (*top, "to"), TableName(table.schema_name, operation.to)
    for mapping, number, path, given in carry.brought(plan, table.mappings):
        if given.unique:
            name = unique_name(table.table, mapping.columns[number].name, given.unique.name)
            yield (*path, "unique"), TableName(table.schema_name, name)


def _taken(table: TableDesign, name: str, path: KeyPath) -> NameTaken:
    return NameTaken(
        f'{table.label} or its schema already has a constraint, an index or a table "{name}"',
        place=place(path),
        hint="Give the new constraint another `name`.",
    )


def _place_of(plan: Plan, table: TableDesign, name: str) -> KeyPath:
    """Find the operation that brings a constraint."""
    relation = TableName(table.schema_name, table.table)
    for index, operation in enumerate(plan.operations):
        if isinstance(operation, CreateConstraint | RenameConstraint) and operation.relation == relation:
            key = "to" if isinstance(operation, RenameConstraint) else "name"
            if getattr(operation, key) == name:
                return ("operations", index, operation.kind, key)
    return ("operations", table.mappings[0].position, table.mappings[0].kind) if table.mappings else ()
