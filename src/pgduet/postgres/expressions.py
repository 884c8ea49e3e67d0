"""Has PostgreSQL itself parse a plan's expressions: columns, types, volatility, and a text that means the same everywhere.

Each expression becomes the only output of a temporary view over a row of typed NULLs, in a transaction that is rolled back:
no table is read, locked or changed. Deparsed with an empty search_path, the view's text has every function behind its schema and
every column behind one alias. The parse tree tells which functions are called, and so whether the value can be trusted to be
the same tomorrow. Limits: a function that is declared immutable but is not cannot be seen through.
"""

import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

from pgduet.errors import ExpressionInvalid, ExpressionVolatile, PgduetError, UnknownColumn
from pgduet.operations.expressions import Expression, Question
from pgduet.operations.statement import Query, trusted
from pgduet.postgres.certain import Called, certain
from pgduet.postgres.session import Connection
from pgduet.sql import block, text

_CHANGING = frozenset(
    {
        *("now", "transaction_timestamp", "statement_timestamp", "clock_timestamp", "timeofday"),
        *("txid_current", "txid_current_if_assigned", "txid_current_snapshot"),
        *("pg_current_xact_id", "pg_current_xact_id_if_assigned", "pg_current_snapshot", "pg_backend_pid"),
    }
)
"""Built-in functions that PostgreSQL calls stable, because they are so within one statement or transaction."""
_SERIAL = {
    **dict.fromkeys(("smallserial", "serial2"), "smallint"),
    **dict.fromkeys(("serial", "serial4"), "integer"),
    **dict.fromkeys(("bigserial", "serial8"), "bigint"),
}


class Rollback(Exception):
    """Ends the transaction of an analysis."""


async def canonical_type(conn: Connection, name: str) -> str:
    """Give a type's full name in PostgreSQL's spelling.

    Raises:
        ExpressionInvalid: PostgreSQL knows no such type.
    """
    query = sql.SQL("{} NULL::{} AS value").format(block("expressions", "view"), trusted(name))
    try:
        found = await _parse(conn, query)
    except psycopg.Error as error:
        raise ExpressionInvalid(f"{_first_line(error)}", hint=_type_hint(name)) from error
    if found is None or found["outputs"] != 1:
        raise ExpressionInvalid(f"{name!r} is not one type")
    return str(found["type"])


async def analyse(conn: Connection, question: Question) -> Expression:
    """Parse one expression.

    Raises:
        UnknownColumn, ExpressionInvalid, ExpressionVolatile: with `snippet` showing the spot.
    """
    alias = "_pgduet_row_" + hashlib.sha256(question.source.encode()).hexdigest()[:8]
    head = text("expressions", "view") + (" CAST((\n" if question.into else " ((\n")
    end = f"\n) AS {question.into})" if question.into else "\n))"
    query = sql.Composed(
        [
            trusted(head + question.source),
            trusted(f"{end} AS _pgduet_value FROM (SELECT "),
            sql.SQL(", ").join(
                sql.SQL("NULL::{} AS {}").format(trusted(kind), sql.Identifier(name))
                for name, kind in question.scope.items()
            )
            if question.scope
            else sql.SQL("NULL::integer AS _pgduet_none"),
            sql.SQL(") AS {}, (SELECT 1 AS _pgduet_other) AS _pgduet_two").format(sql.Identifier(alias)),
        ]
    )
    try:
        found = await _parse(conn, query)
    except psycopg.Error as error:
        raise _explain(error, question, len(head)) from error
    if found is None or found["outputs"] != 1:
        raise ExpressionInvalid(f"expected one expression, got {question.source!r}")
    parsed = str(found["tree"])
    called = await _called(conn, parsed)
    volatility = await _functions(conn, question, parsed, called)
    if question.kept and not volatility:
        raise ExpressionInvalid(
            "a generated column must be immutable",
            snippet=question.source,
            hint="Name what it depends on, such as a time zone, or fill a plain column by the application.",
        )
    canonical = _value_of(found["definition"])
    built_in = {int(row["oid"]): Called(row["short"], row["name"]) for row in called if row["built_in"]}
    expression = Expression(source=question.source, canonical=canonical, alias=alias, immutable=volatility)
    if (judged := certain(parsed, built_in)).raises:
        return expression
    types = tuple((name, question.scope[name]) for name in expression.columns)
    return expression.model_copy(update={"certain": judged.model_copy(update={"types": types})})


async def type_of(conn: Connection, expression: Expression, scope: Mapping[str, str]) -> str:
    """Give the type of a parsed expression, in PostgreSQL's spelling; `scope` as it was parsed with."""
    columns = sql.SQL(", ").join(
        sql.SQL("NULL::{} AS {}").format(trusted(kind), sql.Identifier(name)) for name, kind in scope.items()
    )
    query = sql.SQL("{} {} AS value FROM (SELECT {}) AS t").format(
        block("expressions", "view"), expression.over(sql.SQL("t")), columns
    )
    found = await _parse(conn, query)
    assert found is not None  # noqa: S101  (PostgreSQL has taken it before)
    return str(found["type"])


async def _parse(conn: Connection, query: Query) -> dict[str, object] | None:
    found: dict[str, object] | None = None
    try:
        async with conn.transaction():
            # binary=True: the extended protocol, which takes one statement only.
            await conn.execute(query, binary=True)
            await conn.execute("SET LOCAL search_path = ''")
            found = await (await conn.execute(block("expressions", "parsed"))).fetchone()
            raise Rollback
    except Rollback:
        return found


async def _called(conn: Connection, parsed: str) -> list[dict[str, Any]]:
    """Read what is known of the functions that a tree calls, also by way of operators."""
    numbers = {"functions": _numbers(parsed, "funcid"), "operators": _numbers(parsed, "opno")}
    return await (await conn.execute(block("expressions", "functions"), numbers)).fetchall()


async def _functions(conn: Connection, question: Question, parsed: str, called: Sequence[Mapping[str, Any]]) -> bool:
    """Refuse what gives another value each time; tell whether the rest is immutable."""
    for flag, what in (
        ("hasSubLinks", "a subquery"),
        ("hasAggs", "an aggregate"),
        ("hasWindowFuncs", "a window function"),
        ("hasTargetSRFs", "a function that returns rows"),
    ):
        if f":{flag} true" in parsed:
            raise ExpressionInvalid(
                f"{what} cannot map one row to one row",
                snippet=question.source,
                hint="Write it over the row's own columns.",
            )
    changing = [
        row["name"] for row in called if row["volatility"] == "v" or (row["built_in"] and row["short"] in _CHANGING)
    ]
    if "{SQLVALUEFUNCTION" in parsed:
        changing.append("a current_… value")
    if changing and not question.may_change:
        raise ExpressionVolatile(
            f"{', '.join(changing)} gives another value each time it is asked",
            snippet=question.source,
            hint=question.cure
            or "Rows are mapped more than once and must come out the same: write an expression over the row's own columns"
            " that is immutable or stable, or a constant.",
        )
    # The expression itself stands in the last list of targets; those before are the row that it may read.
    spoken = parsed.rpartition(":targetList")[2]
    if "{COERCEVIAIO" in spoken:
        types = sorted(
            {int(number) for number in re.findall(r":(?:var|const|result|funcresult|opresult)type (\d+)", spoken)}
        )
        answer = await (await conn.execute(block("expressions", "settings_matter"), {"types": types})).fetchone()
        if answer is None or answer["yes"]:
            return False
    return all(row["volatility"] == "i" for row in called)


def _numbers(tree: str, field: str) -> list[int]:
    return sorted({int(number) for number in re.findall(rf":{field} (\d+)", tree)})


def _value_of(definition: object) -> str:
    shown = str(definition).strip()
    start, end = len("SELECT "), shown.rindex(" AS _pgduet_value\n")
    return shown[start:end]


def _type_hint(name: str) -> str:
    if whole := _SERIAL.get(name.strip().lower()):
        number = f"`{name}` is no type but short for a number with a sequence."
        return f"{number} In `create_table` write `type: {whole}` and `identity: by default`."
    return "Name a type that this database has."


def _explain(error: psycopg.Error, question: Question, head: int) -> PgduetError:
    position = int(error.diag.statement_position or 0) - 1 - head
    snippet = _caret(question.source, position) if 0 <= position <= len(question.source) else question.source
    if isinstance(error, psycopg.errors.UndefinedColumn):
        name = (re.search(r'column "?(?:\w+\.)?([^"]+?)"? does not exist', _first_line(error)) or ["", ""])[1]
        near = difflib.get_close_matches(name, question.scope, n=1)
        known = f'Did you mean "{near[0]}"?' if near else f"It has: {', '.join(question.scope)}."
        raised: PgduetError = UnknownColumn(
            f'column "{name}" does not exist in {question.over}. {known}', snippet=snippet
        )
    else:
        hint = error.diag.message_hint or "Correct the expression; PostgreSQL must accept it for a row of the table."
        raised = ExpressionInvalid(_first_line(error), snippet=snippet, hint=hint)
    return raised


def _caret(source: str, position: int) -> str:
    start = source.rfind("\n", 0, position) + 1
    end = source.find("\n", position)
    line = source[start : end if end >= 0 else None]
    return f"{line}\n{' ' * (position - start)}^"


def _first_line(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error).splitlines()[0]
