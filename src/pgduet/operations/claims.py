"""Who may insert a key, while rows have a unique index for each version's form of it.

`INSERT … ON CONFLICT` is safe among concurrent clients for the index that it names; a second unique index that refuses the same row
raises 23505 instead. So before a row is inserted a trigger sees to it that the statement will find the row that is there, or be
alone with the key. Three things were measured to be needed (ADR 27):

- A claim on a key that is absent, which the next client waits for. It is a row of a table: a transaction makes any number.
- A lock on a row that is there, or it could be deleted between the trigger and the statement's own look.
- For a statement that may update, the lock that it will take anyway: PostgreSQL's own look can miss a row that is being updated.

Statement triggers say which kind of statement it is. Limit: `ON CONFLICT (id) DO NOTHING` of a row that others update at
that moment can still meet that miss; to lock such rows would have clients wait for each other that never did.
"""

from psycopg import sql

from pgduet.operations.design import Design, TableDesign
from pgduet.operations.names import trigger_name
from pgduet.operations.rekey import concerns
from pgduet.operations.statement import Lock, Query, Statement, identifiers
from pgduet.sql import block

_KINDS = ("key", "say_1", "say_2")
"""The triggers: the first one fires after that which maps an inserted row, the others before both; by their names."""


def functions(design: Design, table: TableDesign) -> list[Statement]:
    """Create what keeps claims, and what makes them."""
    if table.rekey is None:
        return []
    names = [sql.Identifier(name) for name in table.key]
    same = sql.SQL(" AND ").join(sql.SQL("t.{0} = NEW.{0}").format(name) for name in names)
    listed = sql.SQL(", ").join(sql.SQL("NEW.{}").format(name) for name in names)
    # One whole number is its own hash.
    key = listed if len(names) == 1 else sql.SQL("hash_record_extended(ROW({}), 0)").format(listed)
    claims = design.routine(table, "claims")
    claim = block("rekey", "claim_body").format(relation=table.relation, same=same, claims=claims, key=key)
    return [
        Statement(block("rekey", "claims").format(claims=claims), f"claims on keys of {table.label}"),
        _function(design, table, "claim", block("rekey", "claim"), claim),
        _function(design, table, "say", block("sync", "function"), block("rekey", "say_body")),
    ]


def triggers(design: Design, table: TableDesign) -> list[Statement]:
    """Create the triggers."""
    if table.rekey is None:
        return []
    own = [*table.key, *(new.physical for m in table.mappings if concerns(table, m) for new in m.columns)]
    of_key = sql.SQL("UPDATE OF {}").format(identifiers(own))
    say, claim = (design.routine(table, name) for name in ("say", "claim"))
    made = []
    for kind, query in (
        ("key", block("sync", "trigger").format(**_on(design, table, "key"), events=sql.SQL("INSERT"), function=claim)),
        ("say_1", _say(design, table, "say_1", sql.SQL("INSERT OR UPDATE"), say, sql.SQL(""))),
        ("say_2", _say(design, table, "say_2", of_key, say, sql.Literal("UPDATE KEY"))),
    ):
        enable = block("sync", "enable_trigger").format(**_on(design, table, kind))
        summary = f"trigger {kind} of {table.label}"
        made.append(Statement(query, summary, Lock.SHARE_ROW_EXCLUSIVE, table.label))
        made.append(Statement(enable, f"{summary}, always", Lock.SHARE_ROW_EXCLUSIVE, table.label))
    return made


def untriggers(design: Design, table: TableDesign) -> list[Statement]:
    """Drop the triggers."""
    if table.rekey is None:
        return []
    drops = [(kind, block("sync", "drop_trigger").format(**_on(design, table, kind))) for kind in _KINDS]
    return [
        Statement(drop, f"drop {kind} of {table.label}", Lock.ACCESS_EXCLUSIVE, table.label) for kind, drop in drops
    ]


def drops(design: Design, table: TableDesign) -> list[Statement]:
    """Drop what `functions` created."""
    if table.rekey is None:
        return []
    gone = [block("sync", "drop_function").format(function=design.routine(table, kind)) for kind in ("claim", "say")]
    gone.append(block("rekey", "drop_claims").format(claims=design.routine(table, "claims")))
    return [Statement(query, f"drop claims of {table.label}") for query in gone]


def _function(design: Design, table: TableDesign, kind: str, create: sql.SQL, body: sql.Composable) -> Statement:
    query = create.format(function=design.routine(table, kind), body=sql.Literal(body.as_string(None)))
    return Statement(query, f"{kind} of {table.label}")


def _on(design: Design, table: TableDesign, kind: str) -> dict[str, sql.Composable]:
    return {"trigger": sql.Identifier(trigger_name(design.name, kind)), "relation": table.relation}


def _say(
    design: Design,
    table: TableDesign,
    kind: str,
    events: sql.Composable,
    function: sql.Identifier,
    what: sql.Composable,
) -> Query:
    parts = _on(design, table, kind)
    return block("rekey", "say_trigger").format(**parts, events=events, function=function, arguments=what)
