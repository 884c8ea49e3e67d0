"""set_replica_identity: by what logical replication names rows that were changed or deleted.

`full` takes nothing away from whoever reads the changes, so it comes with cutover: after the backfill, whose WAL it would double,
and with a way back. The others can take something away from readers of the old version: they come with contract.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from pgduet.operations.constraints import Identity, ReplicaIdentity
from pgduet.operations.design import TableDesign
from pgduet.operations.statement import Lock, Statement, on_table


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication of a table's updates or deletes: the columns that it lists, and those by which it chooses rows."""

    name: str
    listed: frozenset[str] | None
    chosen_by: frozenset[str]


def failing(wanted: ReplicaIdentity, publications: Sequence[Publication]) -> str | None:
    """Say why PostgreSQL would refuse the table's updates and deletes under an identity, if it would."""
    rows_by = frozenset(wanted.columns)
    for each in publications:
        if wanted.identity == "full":
            if each.listed is not None:
                return f"publication {each.name} lists columns, and rows would be named by all of them"
        elif not rows_by:
            return f"publication {each.name} publishes them, and nothing would name the row"
        elif each.listed is not None and (missing := sorted(rows_by - each.listed)):
            return f'publication {each.name} does not list "{missing[0]}", by which rows would be named'
        elif extra := sorted(each.chosen_by - rows_by):
            return f'publication {each.name} chooses rows by "{extra[0]}", by which rows would not be named'
    return None


def at_cutover(table: TableDesign) -> list[Statement]:
    """Set an identity that takes nothing away."""
    wanted = table.identity
    return _set(table, wanted.identity, wanted.index) if wanted and wanted.widens else []


def back(table: TableDesign, *, index_there: bool) -> list[Statement]:
    """Put back what was before `at_cutover`; to an index only if it is there."""
    wanted = table.identity
    if wanted is None or not wanted.widens or (wanted.was == "index" and not index_there):
        return []
    return _set(table, wanted.was, wanted.was_index)


def at_contract(table: TableDesign) -> list[Statement]:
    """Set an identity that takes something away."""
    wanted = table.identity
    return _set(table, wanted.identity, wanted.index) if wanted and not wanted.widens else []


def _set(table: TableDesign, identity: Identity, index: str | None) -> list[Statement]:
    parts = {"index": sql.Identifier(index)} if identity == "index" and index else {}
    summary = f"replica identity {identity}"
    return [on_table(table, "declare", f"identity_{identity}", summary, Lock.ACCESS_EXCLUSIVE, **parts)]
