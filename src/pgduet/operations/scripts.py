"""sql: the plan author's own statements, run as one so that they come whole or not at all.

They run by EXECUTE in an anonymous block: several statements are fine, and transaction control is refused by PostgreSQL itself.
"""

from psycopg import sql

from pgduet.operations.statement import Statement
from pgduet.operations.whole_tables import Script
from pgduet.sql import block


def run(script: Script, text: str, *, search_path: str) -> Statement:
    """Run a text under the role's own search_path."""
    body = sql.SQL("BEGIN PERFORM set_config('search_path', {}, true); EXECUTE {}; END").format(
        sql.Literal(search_path), sql.Literal(text)
    )
    query = block("tables", "script").format(body=sql.Literal(body.as_string(None)))
    return Statement(query, f"sql, operation {script.position}", theirs=True)
