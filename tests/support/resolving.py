"""The design of a shadow from its operation and the catalogue, without a survey around it."""

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row

from pgduet.operations import shadow_refusals, shadow_resolve
from pgduet.operations.answers import Answers, KeyPath
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.plan.columns import NewColumn
from pgduet.plan.shadow_operations import ExtractTable, MovedColumn, ShadowTable
from pgduet.postgres import catalogue
from pgduet.postgres.expressions import analyse, canonical_type

Connection = psycopg.AsyncConnection[Any]


async def resolved(conn: Connection, operation: ShadowTable | ExtractTable) -> ShadowDesign:
    """Resolve an operation against the database, as a survey does."""
    before, conn.row_factory = conn.row_factory, dict_row
    try:
        relation = operation.relation
        facts = await catalogue.table(conn, relation.schema, relation.name)
        shadow_refusals.refuse(0, operation, facts)
        columns: Sequence[NewColumn | MovedColumn] = operation.columns
        named = [(number, column.type) for number, column in enumerate(columns)]
        types: dict[KeyPath, str] = {
            ("operations", 0, operation.kind, "columns", number): await canonical_type(conn, kind)
            for number, kind in named
            if kind is not None
        }
        asked = shadow_resolve.questions(0, operation, facts, types)
        expressions = {question.path: await analyse(conn, question) for question in asked}
        found = await (
            await conn.execute("SELECT pg_get_serial_sequence(%s, 'id') AS name", (str(relation),))
        ).fetchone()
        answers = Answers(types, expressions)
        return shadow_resolve.resolve("p", 0, operation, facts, answers, sequence=found["name"] if found else None)
    finally:
        conn.row_factory = before
