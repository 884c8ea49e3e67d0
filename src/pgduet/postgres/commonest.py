"""The value that `up` gives most often: rows that exist begin with it, and the backfill need not write those for which it is right.

PostgreSQL keeps one value for all rows that are older than a column and touches none of them. Which value it is decides about work
alone, never about what is right: the backfill asks each row whether the column is what `up` gives, the sync trigger computes
anew whatever it finds while rows are being filled, and nobody reads the column before parity was proved.

Limits: only types whose equal values are the same bit by bit; a share below a quarter is not worth it; a sample of pages says
nothing for sure. The value is held in memory and in PostgreSQL's catalogue, and goes nowhere else.
"""

from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgduet.operations.column_design import ROW, NewColumn, is_exact
from pgduet.operations.design import TableDesign
from pgduet.postgres.heaps import all_pages
from pgduet.postgres.session import Connection
from pgduet.sql import block

SAMPLE_PAGES = 100
SAMPLE_ROWS = 5_000
WORTH_IT = 0.25
LONGEST = 1_000
PATIENCE = "2s"


@dataclass(frozen=True, slots=True)
class Commonest:
    """A value as text, and its share of the sampled rows."""

    value: str
    share: float


async def commonest_values(conn: Connection, table: TableDesign) -> dict[str, Commonest]:
    """Find what each column in the making should begin with, by physical name."""
    wanted = [column for column in table.derived if is_exact(column.type) and column.collation is None]
    if not wanted:
        return {}
    pages = await all_pages(conn, table)
    percent = min(100.0, 100.0 * SAMPLE_PAGES / max(1, pages))
    found = {column.physical: await _commonest(conn, table, column, percent) for column in wanted}
    return {name: one for name, one in found.items() if one is not None}


async def _commonest(conn: Connection, table: TableDesign, column: NewColumn, percent: float) -> Commonest | None:
    query = block("survey", "commonest").format(
        value=column.up_value(ROW),
        relation=table.relation,
        percent=sql.Literal(percent),
        limit=sql.Literal(SAMPLE_ROWS),
    )
    try:
        async with conn.transaction():
            await conn.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(PATIENCE)))
            row = await (await conn.execute(query)).fetchone()
    except (psycopg.DataError, psycopg.errors.QueryCanceled, psycopg.errors.RaiseException):
        return None  # some row cannot be mapped, or `up` takes long: the backfill will see
    if row is None or row["value"] is None or row["share"] < WORTH_IT or len(row["value"]) > LONGEST:
        return None
    return Commonest(row["value"], row["share"])
