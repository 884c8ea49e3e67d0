"""Who may insert a key, while rows have a unique index for each version's form of it.

`INSERT … ON CONFLICT` is safe among concurrent clients for the index that it names; a second unique index that refuses the same row
raises 23505 instead. So before a row is inserted the trigger sees to it that the statement will find the row that is there, or
be alone with the key. Three things were measured to be needed (ADR 27):

- A claim on a key that is absent, which the next client waits for. It is a row of a table: a transaction holds any number.
- A lock on a row that is there, or it could be deleted between the trigger and the statement's own look.
- For a statement that may update, the lock that it will take anyway: PostgreSQL's own look can miss a row that is being updated.

Statement triggers say which kind of statement it is. Limit: `ON CONFLICT (id) DO NOTHING` of a row that others update at
that moment can still meet that miss; to lock such rows would have clients wait for each other that never did.
"""

from psycopg import sql

from pgduet.operations.design import Design, TableDesign
from pgduet.operations.names import trigger_name
from pgduet.operations.statement import Lock, Query, Statement, trusted
from pgduet.sql import block

_WRITES = sql.SQL("INSERT OR UPDATE")


def functions(design: Design, table: TableDesign) -> list[Statement]:
    """Create what keeps claims, and what makes them."""
    if table.rekey is None:
        return []
    claims = design.routine(table, "claims")
    arguments = sql.SQL(", ").join(
        sql.SQL("{} {}.{}%TYPE").format(trusted(f"v{number}"), table.relation, sql.Identifier(name))
        for number, name in enumerate(table.key)
    )
    values = [trusted(f"v{number}") for number in range(len(table.key))]
    same = [
        sql.SQL("t.{} = {}").format(sql.Identifier(name), value) for name, value in zip(table.key, values, strict=True)
    ]
    listed = sql.SQL(", ").join(values)
    # One whole number is its own hash.
    key = listed if len(values) == 1 else sql.SQL("hash_record_extended(ROW({}), 0)").format(listed)
    body = block("rekey", "claim_body").format(
        relation=table.relation, same=sql.SQL(" AND ").join(same), claims=claims, key=key
    )
    made = block("rekey", "claim").format(
        function=design.routine(table, "claim"), arguments=arguments, body=_quoted(body)
    )
    said = block("sync", "function").format(
        function=design.routine(table, "say"), body=_quoted(block("rekey", "say_body"))
    )
    return [
        Statement(block("rekey", "claims").format(claims=claims), f"claims on keys of {table.label}"),
        Statement(made, f"claim of {table.label}"),
        Statement(said, f"say of {table.label}"),
    ]


def triggers(design: Design, table: TableDesign) -> list[Statement]:
    """Create the statement triggers: they fire before those for rows, the second one after the first, by their names."""
    if table.rekey is None:
        return []
    own = [*table.key, *(new.physical for m in table.mappings if table.rekeys(m) for new in m.columns)]
    of_key = sql.SQL("UPDATE OF {}").format(sql.SQL(", ").join(map(sql.Identifier, own)))
    made = []
    for kind, events, argument in (("say_1", _WRITES, sql.SQL("")), ("say_2", of_key, sql.Literal("UPDATE KEY"))):
        trigger = sql.Identifier(trigger_name(design.name, kind))
        parts = {"trigger": trigger, "relation": table.relation}
        query = block("rekey", "say_trigger").format(
            **parts, events=events, function=design.routine(table, "say"), arguments=argument
        )
        made.append(Statement(query, f"trigger {kind} of {table.label}", Lock.SHARE_ROW_EXCLUSIVE, table.label))
        enable = block("sync", "enable_trigger").format(**parts)
        made.append(Statement(enable, f"{kind}, always", Lock.SHARE_ROW_EXCLUSIVE, table.label))
    return made


def untriggers(design: Design, table: TableDesign) -> list[Statement]:
    """Drop the statement triggers."""
    if table.rekey is None:
        return []
    made = []
    for kind in ("say_1", "say_2"):
        trigger = sql.Identifier(trigger_name(design.name, kind))
        query = block("sync", "drop_trigger").format(trigger=trigger, relation=table.relation)
        made.append(Statement(query, f"drop {kind} of {table.label}", Lock.ACCESS_EXCLUSIVE, table.label))
    return made


def drops(design: Design, table: TableDesign) -> list[Statement]:
    """Drop what `functions` created."""
    if table.rekey is None:
        return []
    gone = [block("sync", "drop_function").format(function=design.routine(table, kind)) for kind in ("claim", "say")]
    gone.append(block("rekey", "drop_claims").format(claims=design.routine(table, "claims")))
    return [Statement(query, f"drop claims of {table.label}") for query in gone]


def claiming(design: Design, table: TableDesign) -> list[Query]:
    """Render the claim on a row's key, for the trigger that fires when it is inserted."""
    if table.rekey is None:
        return []
    values = sql.SQL(", ").join(sql.SQL("NEW.{}").format(sql.Identifier(name)) for name in table.key)
    return [block("rekey", "claiming").format(function=design.routine(table, "claim"), values=values)]


def _quoted(body: sql.Composable) -> sql.Literal:
    return sql.Literal(body.as_string(None))
