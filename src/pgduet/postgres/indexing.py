"""What PostgreSQL says of the indexes of a plan: those that it asks for, those that it drops, and the one by which rows are named.

An index that is asked for is made on an empty temporary table that has the columns as they will be, by their names in the table;
what PostgreSQL then writes down is what will be built. All of it is rolled back: no table of anybody's is read or locked.
Limits: whether a unique index holds for the rows that exist is for parity to say.
"""

from collections.abc import Iterator, Mapping

import psycopg
from psycopg import sql

from pgduet.errors import IndexInvalid, NameTaken, NotSupported, Place
from pgduet.operations import create_index, table_constraints
from pgduet.operations.answers import Accepted, Answers, KeyPath, place
from pgduet.operations.constraints import DroppedIndex, ReplicaIdentity
from pgduet.operations.design import Design, TableDesign
from pgduet.operations.facts import NamedIndex, TableFacts
from pgduet.operations.replica_identity import Publication, failing
from pgduet.operations.statement import trusted
from pgduet.plan.index_operations import CreateIndex, DropIndex, SetReplicaIdentity
from pgduet.plan.models import Plan
from pgduet.plan.names import TableName
from pgduet.postgres import catalogue
from pgduet.postgres.carrying import SHAPE, accepted
from pgduet.postgres.expressions import Rollback
from pgduet.postgres.session import Connection
from pgduet.sql import block

Facts = Mapping[str, TableFacts]


async def with_indexes(conn: Connection, plan: Plan, design: Design, facts: Facts, answers: Answers) -> Design:
    """Add to a design what the plan says of indexes and replica identities.

    Raises:
        PlanInvalid: PostgreSQL does not accept an index, a name is taken, or writes would be refused.
    """
    dropped = [await _dropped(conn, position, each) for position, each in _drops(plan)]
    going = {(index.schema_name, index.name) for index in dropped}
    tables = []
    for table in design.tables:
        known = facts[str(TableName(table.schema_name, table.table))]
        made = []
        for position, operation in create_index.asked(plan, table):
            wanted = create_index.definition(position, operation, table, answers)
            found = await _accepted(conn, table, known, operation, wanted, position, answers)
            free = not await catalogue.relation_there(conn, operation.index.schema, operation.name)
            goes = (table.schema_name, operation.name) in going or operation.name in table.dropped_constraints
            if not free and not goes:
                raise _taken(operation, position)
            made.append(create_index.index(plan.name, position, operation, table, found, free=free))
        changed = table.model_copy(update={"indexes": (*table.indexes, *made)})
        tables.append(changed.model_copy(update={"identity": await _identity(conn, plan, changed, known)}))
    return design.model_copy(update={"tables": tuple(tables), "dropped_indexes": tuple(dropped)})


def _drops(plan: Plan) -> Iterator[tuple[int, DropIndex]]:
    return ((position, o) for position, o in enumerate(plan.operations) if isinstance(o, DropIndex))


# An index that is asked for


async def _accepted(
    conn: Connection,
    table: TableDesign,
    facts: TableFacts,
    operation: CreateIndex,
    wanted: sql.Composable,
    position: int,
    answers: Answers,
) -> Accepted:
    columns = sql.SQL(", ").join(_columns(table, facts))
    create = block("carrying", "shape").format(shape=sql.Identifier(SHAPE), columns=columns)
    unique = sql.SQL("UNIQUE ") if operation.unique else sql.SQL("")
    make = block("carrying", "index").format(unique=unique, shape=sql.Identifier(SHAPE), definition=wanted)
    found: Accepted | None = None
    try:
        async with conn.transaction():
            await conn.execute(create)
            await conn.execute(make)
            found = await accepted(conn)
            raise Rollback
    except Rollback:
        pass
    except psycopg.Error as error:
        raise _refused(error, operation, position, answers) from error
    assert found is not None  # noqa: S101  (it was made in this transaction)
    return found


def _columns(table: TableDesign, facts: TableFacts) -> Iterator[sql.Composed]:
    """Render the columns of the new version by their names in the table."""
    kept = set(table.kept)
    for column in facts.columns:
        if column.name in kept:
            kind = f"{column.type} COLLATE {column.collation}" if column.collation else column.type
            yield sql.SQL("{} {}").format(sql.Identifier(column.name), trusted(kind))
    for made in table.new_columns:
        kind = f"{made.type} COLLATE {made.collation}" if made.collation else made.type
        yield sql.SQL("{} {}").format(sql.Identifier(made.physical), trusted(kind))


def _refused(error: psycopg.Error, operation: CreateIndex, position: int, answers: Answers) -> IndexInvalid:
    """Say what PostgreSQL says, at the key that it is about."""
    top: KeyPath = ("operations", position, "create_index")
    message = error.diag.message_primary or str(error)
    path: KeyPath = (*top, "columns")
    if "access method" in message and "operator class" not in message:
        path = (*top, "method")
    elif "parameter" in message or "for option" in message:
        path = (*top, "storage_parameters")
    elif "IMMUTABLE" in message:
        changing = (p for p, e in answers.expressions.items() if p[:3] == top and not e.immutable)
        path = next(changing, path)
    hint = error.diag.message_hint or "See CREATE INDEX in PostgreSQL's manual."
    return IndexInvalid(f"PostgreSQL does not accept index {operation.name}: {message}", place=place(path), hint=hint)


def _taken(operation: CreateIndex, position: int) -> NameTaken:
    return NameTaken(
        f'schema {operation.index.schema} already has a relation "{operation.name}"',
        place=place(("operations", position, "create_index", "name")),
        hint="Choose another name, or drop that index or constraint in the same plan.",
    )


# An index that goes


async def _dropped(conn: Connection, position: int, operation: DropIndex) -> DroppedIndex:
    where = place(("operations", position, "drop_index", "name"))
    found = await catalogue.index(conn, operation.index.schema, operation.index.name)
    if operation.relation and operation.relation.name != found.table:
        raise IndexInvalid(
            f"{operation.index} is an index of {found.schema_name}.{found.table}, not of {operation.relation}",
            place=where,
            hint="Correct `table`, or leave it out.",
        )
    dropped = DroppedIndex(
        schema_name=found.schema_name,
        name=operation.index.name,
        table=sql.Identifier(found.schema_name, found.table).as_string(None),
        position=position,
    )
    _refuse_needed(dropped, found, where)
    return dropped


async def check_still_droppable(conn: Connection, dropped: DroppedIndex) -> None:
    """Refuse, while there is a way back, what PostgreSQL would refuse after it, and an index of another table."""
    found = await catalogue.index_if_there(conn, dropped.schema_name, dropped.name)
    if found is None:
        return
    if sql.Identifier(found.schema_name, found.table).as_string(None) != dropped.table:
        raise NameTaken(
            f"index {dropped.schema_name}.{dropped.name} is one of {found.schema_name}.{found.table} by now",
            hint="Rename it, then advance.",
        )
    _refuse_needed(dropped, found, None)


def _refuse_needed(dropped: DroppedIndex, found: NamedIndex, where: Place | None) -> None:
    name = f"{dropped.schema_name}.{dropped.name}"
    if found.constraint:
        raise NotSupported(
            f"index {name} stands behind the constraint {found.constraint}",
            place=where,
            hint="Drop the constraint, which takes its index along: `drop_constraint`.",
        )
    if found.identity:
        raise NotSupported(
            f"index {name} is the replica identity of {found.schema_name}.{found.table}",
            place=where,
            hint="Set another one first, in a plan of its own: `set_replica_identity`.",
        )
    if found.inbound:
        raise NotSupported(
            f"on index {name} stand {', '.join(found.inbound)}",
            place=where,
            hint="Drop those foreign keys first.",
        )
    if found.part_of:
        raise NotSupported(
            f"index {name} is the part of a partition in {found.part_of}, which PostgreSQL drops as a whole only",
            place=where,
            hint="Leave the index out of the plan.",
        )
    if found.partitioned:
        raise NotSupported(
            f"index {name} is partitioned, and cannot be dropped without locking clients out",
            place=where,
            hint="Leave the index out of the plan.",
        )


# Replica identity


async def _identity(conn: Connection, plan: Plan, table: TableDesign, facts: TableFacts) -> ReplicaIdentity | None:
    for position, operation in enumerate(plan.operations):
        if not isinstance(operation, SetReplicaIdentity):
            continue
        if (operation.relation.schema, operation.relation.name) != (table.schema_name, table.table):
            continue
        path: KeyPath = ("operations", position, "set_replica_identity")
        columns: tuple[str, ...] = table.key if operation.identity == "default" else ()
        if operation.index is not None:
            columns = await _named_by(conn, plan, table, facts, operation.index, place((*path, "index")))
        wanted = ReplicaIdentity(
            identity=operation.identity,
            index=operation.index,
            was=facts.replica_identity,
            was_index=facts.identity_index,
            columns=columns,
            position=position,
        )
        await check_identity(conn, table, wanted)
        return wanted
    return None


async def check_identity(conn: Connection, table: TableDesign, wanted: ReplicaIdentity) -> None:
    """Refuse an identity under which PostgreSQL would refuse clients' updates and deletes.

    Raises:
        NotSupported: naming the publication.
    """
    where = {"schema": table.schema_name, "table": table.table}
    publications = [
        Publication(
            row["name"],
            None if row["listed"] is None else frozenset(row["listed"]),
            frozenset(row["chosen_by"]),
        )
        for row in await catalogue.rows(conn, "publications", where)
    ]
    if why := failing(wanted, publications):
        raise NotSupported(
            f"UPDATE and DELETE of {table.schema_name}.{table.table} would fail: {why}",
            place=place(("operations", wanted.position, "set_replica_identity", "identity")),
            hint="Change the publication first, or name rows by another identity.",
        )


async def check_identity_index(conn: Connection, table: TableDesign, wanted: ReplicaIdentity) -> None:
    """Refuse an index that rows cannot be named by any more: it is set at contract, when there is no way back.

    Raises:
        IndexInvalid: naming the index.
    """
    if wanted.index is None:
        return
    working = next((index.working for index in table.indexes if index.name == wanted.index), wanted.index)
    found = await catalogue.index_if_there(conn, table.schema_name, working)
    why = "it is not there any more" if found is None or found.table != table.table else found.unfit
    if why:
        raise IndexInvalid(
            f"rows of {table.schema_name}.{table.table} cannot be named by index {wanted.index}: {why}",
            hint="Create it again, then advance. Or roll back.",
        )


async def _named_by(
    conn: Connection, plan: Plan, table: TableDesign, facts: TableFacts, name: str, where: Place
) -> tuple[str, ...]:
    """Give the columns of the index by which rows are to be named; it is there, or the plan creates it."""
    created = next((o for _, o in create_index.asked(plan, table) if o.name == name), None)
    if created is not None:
        why, columns = _unfit(created, table, _may_be_empty(table, facts))
    else:
        found = await catalogue.index_if_there(conn, table.schema_name, name)
        if found is None or found.table != table.table:
            raise IndexInvalid(
                f"{table.schema_name}.{table.table} has no index {name}",
                place=where,
                hint="Name an index of the table, or one that the same plan creates.",
            )
        why, columns = found.unfit, found.columns
        carried = {index.name for index in table.indexes}
        going = {old.name for old in table.old_columns}
        if set(columns) & going and name not in carried:
            why = "it goes with a column that the plan takes away"
        if name in table.dropped_constraints or any(
            o.index == TableName(table.schema_name, name) for _, o in _drops(plan)
        ):
            why = "the plan drops it"
        if name in dict(table_constraints.renamed(plan, facts)):
            why = "the plan gives it another name"
    if why:
        hint = "Name a unique index of all rows over columns that must not be empty."
        raise IndexInvalid(f"rows cannot be named by index {name}: {why}", place=where, hint=hint)
    return columns


def _unfit(created: CreateIndex, table: TableDesign, may_be_empty: set[str]) -> tuple[str | None, tuple[str, ...]]:
    names = [each.column for each in created.columns]
    if not created.unique:
        return "it is not unique", ()
    if created.where is not None:
        return "it does not have all rows", ()
    if None in names:
        return "it is over an expression", ()
    columns = tuple(table.physical.get(name, name) for name in names if name)
    empty = sorted(may_be_empty & set(columns))
    return (f'its column "{empty[0]}" may be empty' if empty else None), columns


def _may_be_empty(table: TableDesign, facts: TableFacts) -> set[str]:
    making = {column.physical for column in table.new_columns if column.nullable}
    return making | {column.name for column in facts.columns if not column.not_null}
