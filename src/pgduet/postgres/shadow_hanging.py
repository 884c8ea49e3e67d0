"""Says what hangs on an anchor over the shadow's columns, for contract: checks, foreign keys both ways, triggers (ADR 28)."""

from psycopg import sql

from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.shadow_final import Hung, HungConstraint
from pgduet.postgres.expressions import Rollback
from pgduet.postgres.session import Connection
from pgduet.postgres.shadow_reading import Reading, open_reading
from pgduet.postgres.shadow_trial import Row


async def translated(conn: Connection, design: ShadowDesign, hung: Hung) -> Hung:
    """Give constraints and triggers in the shadow's words; what has no successor is left out.

    Foreign keys of others point to the successors of the columns that they refer to.
    """
    if design.kind == "extract_table":
        return hung
    reading = await open_reading(conn, design)
    try:
        async with conn.transaction():
            await reading.read_hung()
            raise Rollback
    except Rollback:
        return _said(reading, hung)


def _said(reading: Reading, hung: Hung) -> Hung:
    checks = {row["name"]: words["definition"] for row, words in reading.trial.said("check")}
    triggers = {row["name"]: words["definition"] for row, words in reading.trial.said("trigger")}
    fires = {name: fired for name, _, fired in hung.triggers}
    keys = {
        (row["schema"], row["table"], row["name"]): row for row in reading.rows["constraints"] if row["kind"] == "f"
    }
    outbound: list[HungConstraint] = []
    for each in hung.outbound:
        row = keys.get((each.schema_name, each.table, each.name))
        definition = checks.get(each.name) if row is None else _foreign(reading, row)
        if definition is not None:
            outbound.append(each.model_copy(update={"definition": definition}))
    inbound = [
        each.model_copy(update={"definition": definition})
        for each in hung.inbound
        if (definition := _foreign(reading, keys[each.schema_name, each.table, each.name])) is not None
    ]
    return hung.model_copy(
        update={
            "outbound": tuple(outbound),
            "inbound": tuple(inbound),
            "triggers": tuple((name, text, fires[name]) for name, text in triggers.items() if name in fires),
        }
    )


def _foreign(reading: Reading, row: Row) -> str | None:
    """Write a foreign key over successors; what follows the columns stays as PostgreSQL has it."""
    us = (reading.design.schema_name, reading.design.table)
    columns = reading.names(row["columns"]) if row["own"] else row["columns"]
    targets = reading.names(row["targets"]) if (row["target_schema"], row["target"]) == us else row["targets"]
    if columns is None or targets is None:
        return None
    tail = str(row["tail"])
    if row["own"] and row["cleared"] and (cleared := reading.names(row["cleared"])):
        # ON DELETE SET NULL (columns)
        before, _, rest = tail.partition(" (")
        tail = f"{before} ({_named(cleared)}){rest.partition(')')[2]}"
    target = sql.Identifier(row["target_schema"], row["target"]).as_string(None)
    return f"FOREIGN KEY ({_named(columns)}) REFERENCES {target} ({_named(targets)}){tail}"


def _named(names: list[str]) -> str:
    return ", ".join(sql.Identifier(name).as_string(None) for name in names)
