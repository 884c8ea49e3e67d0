"""Asks PostgreSQL whether what hangs on a column works over its successor, and for the definition that it would have.

An index is made on an empty temporary table that has the columns with their new types; then the columns get their physical names
there, and PostgreSQL itself writes the definition down. All of it is rolled back: no table of anybody's is read or locked.
Limits: an index whose definition names its table more than once, or a check of a type that the new column does not suit, is
reported as lost, not carried.
"""

import itertools
from collections.abc import Mapping

import psycopg
from psycopg import sql

from pgduet.errors import PgduetError
from pgduet.operations import carry, questions
from pgduet.operations.answers import Accepted
from pgduet.operations.column_design import ColumnMapping
from pgduet.operations.expressions import Expression
from pgduet.operations.facts import ColumnFacts, IndexFacts, TableFacts
from pgduet.operations.statement import trusted
from pgduet.postgres.expressions import Rollback, analyse
from pgduet.postgres.session import Connection
from pgduet.sql import block

SHAPE = "_pgduet_shape"


async def carried_indexes(
    conn: Connection, table: TableFacts, mappings: tuple[ColumnMapping, ...]
) -> dict[tuple[str, str], Accepted]:
    """Give what indexes are over the new columns, by table and name; what does not work is left out."""
    wanted = carry.wanted_indexes(table, mappings)
    label = sql.Identifier(table.schema_name, table.table).as_string(None)
    found = {}
    for index in wanted:
        tried = await _tried(conn, table, mappings, index)
        if tried is not None:
            found[label, index.name] = tried
    return found


async def carried_checks(
    conn: Connection, table: TableFacts, mappings: tuple[ColumnMapping, ...]
) -> dict[str, Expression]:
    """Give the checks that PostgreSQL accepts over the new columns, by name."""
    found = {}
    for question in questions.carried_checks(table, _types(mappings)):
        name = str(question.path[-1])
        columns = next(check.columns for check in table.checks if check.name == name)
        if carry.concerned(columns, mappings):
            try:
                found[name] = await analyse(conn, question)
            except PgduetError:
                continue
    return found


def _types(mappings: tuple[ColumnMapping, ...]) -> Mapping[str, str]:
    return {old.name: new.type for m in mappings for old, new in m.pairs}


def _type_of(column: ColumnFacts, types: Mapping[str, str]) -> str:
    kind = types.get(column.name, column.type)
    return f"{kind} COLLATE {column.collation}" if column.collation and kind == column.type else kind


async def _tried(
    conn: Connection, table: TableFacts, mappings: tuple[ColumnMapping, ...], index: IndexFacts
) -> Accepted | None:
    # PostgreSQL quotes where it must, psycopg always.
    parts = [(name, sql.Identifier(name).as_string(None)) for name in (table.schema_name, table.table)]
    rests = [
        index.definition.partition(f" ON {only}{schema}.{name} ")[2]
        for only, schema, name in itertools.product(("", "ONLY "), *parts)
    ]
    rest = next(filter(None, rests), None)
    if rest is None:
        return None
    types = _types(mappings)
    columns = [
        sql.SQL("{} {}").format(
            sql.Identifier(column.name),
            trusted(_type_of(column, types)),
        )
        for column in table.columns
    ]
    create = block("carrying", "shape").format(shape=sql.Identifier(SHAPE), columns=sql.SQL(", ").join(columns))
    unique = sql.SQL("UNIQUE ") if index.unique else sql.SQL("")
    make = block("carrying", "index").format(unique=unique, shape=sql.Identifier(SHAPE), definition=trusted(rest))
    found: Accepted | None = None
    try:
        async with conn.transaction():
            await conn.execute(create)
            await conn.execute(make)
            for old, physical in carry.successors(mappings).items():
                await conn.execute(
                    block("carrying", "rename").format(
                        shape=sql.Identifier(SHAPE), column=sql.Identifier(old), name=sql.Identifier(physical)
                    )
                )
            found = await accepted(conn)
            raise Rollback
    except Rollback:
        pass
    except psycopg.Error:
        return None
    return found


async def accepted(conn: Connection) -> Accepted:
    """Read the index that was made on the temporary table; the session's search path is lost to the transaction."""
    await conn.execute("SET LOCAL search_path = ''")
    (found,) = await (await conn.execute(block("carrying", "accepted"))).fetchall()
    return Accepted(
        definition=found["definition"].partition(f"{SHAPE} ")[2],
        columns=tuple(found["columns"]),
        keys=tuple(found["keys"]),
        predicate=found["predicate"],
        nulls_distinct=found["nulls_distinct"],
    )
