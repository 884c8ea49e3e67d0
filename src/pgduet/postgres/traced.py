"""The engine's cursor: each statement becomes a span, without any of its values.

Mechanism: parameters stay placeholders; a literal that was composed into a statement, and a role, is shown as `?`; names and
the plan's own expressions are shown. PostgreSQL's answer is told by the number of rows and, on failure, the SQLSTATE: never by
its text, which may quote a row. Nothing is rendered unless the span is recorded.
Limits: BEGIN, COMMIT and what libraries run on raw connections are not seen. An own cursor, and not
`opentelemetry-instrumentation-psycopg`: that one records the whole text with composed values, the host and the user.
"""

import re
from typing import Any, Self

import psycopg
from psycopg import sql
from psycopg.abc import Params
from psycopg.rows import Row

from pgduet.operations.statement import Role
from pgduet.telemetry.spans import statement

MOST_CHARACTERS = 2000
_TARGETED = re.compile(
    r"(INSERT INTO|UPDATE(?: ONLY)?|DELETE FROM|LOCK TABLE|(?:CREATE|ALTER|DROP) (?:TABLE|SCHEMA|VIEW)"
    r"(?: IF (?:NOT )?EXISTS)?)\s+((?:\"[^\"]*\"|[\w.])+)",
    re.IGNORECASE,
)
_FROM = re.compile(r"\(\w+\s+FROM\b|\bFROM\s+((?=[a-z_\"])(?:\"[^\"]*\"|[\w.])+)(?![\w.\"]*\s*\()", re.IGNORECASE)
"""The first table of a SELECT; `extract(epoch FROM x)` names none, nor does a function."""
_WORDS = re.compile(r"(?:CREATE|ALTER|DROP|SET|BEGIN|COMMENT|GRANT)\b(?: OR REPLACE)?(?:\s+\w+)?|\w+", re.IGNORECASE)
_COMMENTS = re.compile(r"^\s*--.*\n?", re.MULTILINE)


class TracedCursor(psycopg.AsyncCursor[Row]):
    """Runs statements as its base does."""

    async def execute(self, query: Any, params: Params | None = None, **options: Any) -> Self:
        """Run a statement within a span."""
        with statement(lambda: described(query)) as seen:
            try:
                await super().execute(query, params, **options)
            except psycopg.Error as error:
                seen.set_attribute("db.response.status_code", error.sqlstate or "")
                raise
            seen.set_attribute("db.response.returned_rows" if self.description else "pgduet.rows", self.rowcount)
        return self


def described(query: Any) -> tuple[str, str]:
    """Give a statement's summary (what it does to which table) and its text without values."""
    text = _COMMENTS.sub("", _text(query)).strip()
    if found := _TARGETED.match(text):
        summary = f"{found[1].upper()} {found[2]}"
    else:
        first = _WORDS.match(text)
        summary = first[0].upper() if first else "statement"
        if summary in {"SELECT", "WITH"}:
            summary = f"SELECT {next(filter(None, _FROM.findall(text)), '')}"
    return " ".join(summary.split())[:120], text[:MOST_CHARACTERS]


def _text(query: Any) -> str:
    match query:
        case bytes():
            return query.decode(errors="replace")
        case sql.Composed():
            return "".join(_text(part) for part in query)
        case sql.Literal() | Role():
            return "?"
        case sql.Composable():
            return query.as_string(None)
        case _:
            return str(query)
