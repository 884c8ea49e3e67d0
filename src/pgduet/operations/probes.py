"""Probe writes: statements that send one row through the sync, for `pgduet.postgres.probing` to run and roll back."""

from psycopg import sql

from pgduet.operations.column_design import ROW
from pgduet.operations.design import Design, TableDesign
from pgduet.operations.rows import inconsistent, needs
from pgduet.operations.statement import Query
from pgduet.phases import SyncMode
from pgduet.sql import block


def forward(design: Design, table: TableDesign) -> Query | None:
    """Update a row's source column to itself and ask whether the new columns are filled; None where nothing is derived."""
    settable = [name for name in (*table.mappings[0].sources, *table.columns) if name not in table.computed]
    if not table.derived or not settable:
        return None
    name = sql.Identifier(settable[0])
    return block("probes", "forward").format(
        relation=table.heap,
        touch=sql.SQL("{0} = t.{0}").format(name),
        mappable=_mappable(design, table),
        needs=needs(table),
    )


def reverse(design: Design, table: TableDesign) -> Query | None:
    """Give a row another row's new values and ask whether the old columns follow; None where nothing is replaced."""
    columns = [column for mapping in table.mappings if mapping.mirrors for column in mapping.columns]
    if not columns:
        return None
    return block("probes", "reverse").format(
        relation=table.heap,
        donors=sql.SQL(", ").join(sql.SQL("b.{}").format(sql.Identifier(column.physical)) for column in columns),
        assign=sql.SQL(", ").join(
            sql.SQL("{0} = pair.{0}").format(sql.Identifier(column.physical)) for column in columns
        ),
        mappable=_mappable(design, table),
        inconsistent=inconsistent(table, SyncMode.BOTH),
    )


def _mappable(design: Design, table: TableDesign) -> Query:
    return sql.SQL("{}({}) IS NULL").format(design.routine(table, "try_up"), ROW)
