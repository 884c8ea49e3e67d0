"""What the new version requires, declared without blocking: indexes built concurrently, constraints added and then validated.

A row that breaks a constraint binds nobody:
everything is released, and the migration says which constraint it was. All is made under working names. When a table has all of
it, one transaction gives what the plan creates its own name and notes so: by that note alone such a constraint is known as ours.
"""

from collections.abc import Sequence

import psycopg
from psycopg import errors

from pgduet.activities.building import beside_clients, build
from pgduet.activities.engine import Work
from pgduet.barriers import reach
from pgduet.errors import GateRefused
from pgduet.operations import columns, declare, partitioned, replica_identity
from pgduet.operations.constraints import Exclusion, ForeignKey
from pgduet.operations.design import TableDesign
from pgduet.operations.statement import Statement, Table
from pgduet.postgres import store
from pgduet.postgres.building import valid
from pgduet.postgres.constraints import refuse_standing_on
from pgduet.postgres.indexing import check_identity
from pgduet.postgres.session import Connection, condition
from pgduet.sql import block

_TAKEN = (errors.DuplicateObject, errors.DuplicateTable)


async def build_indexes(work: Work) -> list[str]:
    """Build the indexes that bind nobody; returns their names."""
    return [
        index.name
        for table in work.migration.design.tables
        for index in declare.early(table)
        if await build(work, table, index)
    ]


async def declare_constraints(work: Work) -> int:
    """Declare all that binds everybody from cutover on; returns the tries that the locks took."""
    tries = 0
    try:
        for table in work.migration.design.tables:
            if not await _has_own_names(work, table):
                tries += await _declare(work, table)
        for created in work.migration.design.created:
            for key in created.foreign_keys:
                tries += await _refer(work, created, key)
                await beside_clients(work, declare.validate(created, key.working))
        for table in work.migration.design.tables:
            if table.identity and table.identity.widens:
                await check_identity(work.conn, table, table.identity)
                tries += await _locked(work, replica_identity.at_cutover(table))
    except (errors.IntegrityError, psycopg.DataError, *_TAKEN) as error:
        await release_constraints(work)
        raise _refusal(error) from None
    return tries


async def release_constraints(work: Work) -> None:
    """Take back what `declare_constraints` declared."""
    design = work.migration.design
    for table in design.tables:
        was = table.identity.was_index if table.identity else None
        index_there = was is not None and bool(await valid(work.conn, table, was))
        await _locked(work, replica_identity.back(table, index_there=index_there))
        named = await _has_own_names(work, table)
        going = [*declare.bound(table, named=named), *(index.working for index in declare.late(table))]
        await refuse_standing_on(work.conn, table, going)
        for inbound in table.rekey.inbound if table.rekey else ():
            there = await _there(work, inbound, [inbound.key])
            off = declare.release(inbound, [key.working for key in there])
            await _locked(work, [*declare.release_keys(there), *off])
        keys = declare.release_keys(table.foreign_keys)
        bound = declare.release(table, declare.bound(table, named=named))
        await _locked(work, [*keys, *bound, *columns.release(design, table)], (table, False) if named else None)
        for index in declare.late(table):
            if table.partitioned:
                await _locked(work, [partitioned.drop(table, index)])
            else:
                await beside_clients(work, declare.drop_index(table, index))
    for created in design.created:
        there = await _there(work, created, created.foreign_keys)
        await _locked(work, [*declare.release_keys(there), *declare.release(created, [key.working for key in there])])


async def _declare(work: Work, table: TableDesign) -> int:
    design = work.migration.design
    tries = 0
    for index in declare.late(table):
        if not await _is_constraint(work, table, index.working):
            await build(work, table, index)
    tries += await _locked(work, [*columns.prove_required(design, table), *declare.checks(table, table.checks)])
    for key in table.foreign_keys:
        tries += await _refer(work, table, key)
    for inbound in table.rekey.inbound if table.rekey else ():
        tries += await _refer(work, inbound, inbound.key)
        await beside_clients(work, declare.validate(inbound, inbound.key.working))
    names = [check.working for check in table.checks] + [key.working for key in table.foreign_keys]
    validations = [*columns.validate_required(design, table), *(declare.validate(table, name) for name in names)]
    for statement in validations:
        await beside_clients(work, statement)
    tries += await _locked(work, columns.require(design, table))
    for index in declare.late(table):
        if index.constraint and not await _is_constraint(work, table, index.working):
            tries += await _locked(work, [declare.unique(table, index)])
    for exclusion in table.exclusions:
        tries += await _exclude(work, table, exclusion)
    own_names = declare.own_names(table)
    return tries + await _locked(work, own_names, (table, True) if own_names else None)


async def _exclude(work: Work, table: TableDesign, exclusion: Exclusion) -> int:
    limit_ms = work.migration.policy.lock_timeout_ms
    try:
        return await _locked(work, declare.exclusion(table, exclusion, limit_ms))
    except errors.QueryCanceled:
        await release_constraints(work)
        raise GateRefused(
            f"{exclusion.name} was not built within {limit_ms} ms, and clients wait no longer than that",
            hint="The table has grown: roll back, and bring the constraint with a new table or in a window of your own.",
        ) from None


async def _has_own_names(work: Work, table: TableDesign) -> bool:
    """Tell whether all of a table is declared, and what the plan creates has its own name."""
    controls = await store.controls(work.conn, work.migration.id)
    return bool(controls.get(f"declared {table.label}"))


def _refusal(error: psycopg.Error) -> GateRefused:
    if isinstance(error, _TAKEN):
        return GateRefused(
            f"a name of the new version is taken since preflight: {error.diag.message_primary}",
            hint="Drop or rename what has it, then advance, or roll back.",
        )
    if isinstance(error, psycopg.DataError):
        return GateRefused(
            f"a check of the new version fails on a row: {condition(error.sqlstate)}",
            hint="Correct the row, or roll back and write a check that is false for it instead of failing.",
        )
    return GateRefused(
        f"rows break what the new version requires: {_named(error)}",
        hint="`pgduet verify` names the rows; correct them, then advance, or roll back.",
    )


async def _refer(work: Work, table: Table, key: ForeignKey) -> int:
    """Add a foreign key unless it is there: to drop it would lock readers out of its target."""
    return 0 if await _is_constraint(work, table, key.working) else await _locked(work, declare.foreign_key(table, key))


async def _there(work: Work, table: Table, keys: Sequence[ForeignKey]) -> list[ForeignKey]:
    return [key for key in keys if await _is_constraint(work, table, key.working)]


async def _is_constraint(work: Work, table: Table, name: str) -> bool:
    where = {"relation": table.label, "name": name}
    found = await (await work.conn.execute(block("declare", "constraint_there"), where)).fetchall()
    return bool(found[0]["there"])


async def _locked(work: Work, statements: list[Statement], named: tuple[TableDesign, bool] | None = None) -> int:
    """Run statements under the lock budget; `named` is noted in the same transaction."""
    if not statements:
        return 0

    async def also(conn: Connection) -> None:
        if named:
            table, whether = named
            await store.set_controls(conn, work.migration.id, {f"declared {table.label}": whether})
        await reach("constraint.before_commit")

    tries = await work.locked(statements, also)
    await reach("constraint.after_commit")
    return tries


def _named(error: psycopg.Error) -> str:
    return error.diag.constraint_name or error.diag.message_primary or type(error).__name__
