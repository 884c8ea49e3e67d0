"""Scenario 19: a broken `up`: a syntax error, and a division by zero on one row.

The first is refused at check and at start, and nothing is touched. The second stops the backfill, which names the row's key;
after the rollback nothing is left behind: the schema is what it was, to the byte.
"""

from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.asking import one, refused_by_check_and_start
from support.chained import leftovers
from support.harness import Harness, schema_dump
from support.mutants import Clause, Code, Mutant, must_fail
from support.worlds import World

from pgduet.activities.expand import Expand
from pgduet.local import EmbeddedPostgres
from pgduet.phases import Phase, State
from pgduet.postgres.expressions import analyse

Connection = psycopg.AsyncConnection[Any]

CAKES = """
CREATE TABLE public.cakes (id int PRIMARY KEY, guests int NOT NULL CHECK (guests >= 0), grams int NOT NULL DEFAULT 1000);
INSERT INTO public.cakes SELECT i, CASE i WHEN 777 THEN 0 ELSE i END FROM generate_series(1, 1000) i;
"""
DIGEST = "SELECT md5(string_agg(c::text, ' ' ORDER BY id)) FROM public.cakes c"


def share(up: str) -> dict[str, Any]:
    """Write the operation that adds what each guest gets."""
    return {"add_column": {"table": "public.cakes", "column": {"name": "share", "type": "int", "up": up}}}


async def scenario(stage: Harness, conn: Connection, bin_dir: Path) -> None:
    await conn.execute(CAKES.encode())
    before, digest = schema_dump(bin_dir, stage.dsn), await one(conn, DIGEST)
    async with stage.worker():
        error = await refused_by_check_and_start(stage, stage.plan(share("grams / (guests")))
        assert error is not None, "a syntax error is not refused"
        assert type(error).__name__ == "ExpressionInvalid"
        assert "syntax error" in error.message
        assert error.place is not None
        assert error.place.path == "operations[0].add_column.column.up"
        assert error.snippet is not None
        assert schema_dump(bin_dir, stage.dsn) == before
        assert await one(conn, "SELECT count(*) FROM pgduet.migration") == 0

        await stage.start(stage.plan(share("grams / guests")))
        status = await stage.until(lambda s: s.waiting_for is not None)
        assert status.phase is Phase.BACKFILL, "a row without a value does not stop the backfill"
        assert "{'id': 777}: division by zero (22012)" in (status.failure or ""), "the row is not named"
        await stage.act("abort", reason="test")
        assert (await stage.result()).state is State.ROLLED_BACK
    assert await leftovers(conn) == [], "something is left behind"
    assert schema_dump(bin_dir, stage.dsn) == before
    assert await one(conn, DIGEST) == digest


async def test_it_is_refused_at_check_or_stops_the_backfill_by_key_and_leaves_nothing_behind(world: World) -> None:
    await scenario(world.stage, world.conn, world.server.bin_dir)


MUTANTS: list[tuple[Mutant, str]] = [
    (
        Code(
            "PostgreSQL's word on an expression",
            analyse,
            "raise _explain(error, question, len(head)) from error",
            "return Expression(source=question.source, canonical=question.source, alias=alias, immutable=True)",
        ),
        "a syntax error is not refused",
    ),
    (
        Clause(
            "the search for rows that `up` cannot map", "rows", "unmapped", "AND {try_up}(t) IS NOT NULL", "AND false"
        ),
        "a row without a value does not stop the backfill",
    ),
    (
        Code(
            "the columns' undo",
            Expand.undo_expand,
            "await step.run(columns.drop(table), table.label)",
            "pass",
        ),
        "something is left behind",
    ),
]


@pytest.mark.parametrize(("mutant", "says"), MUTANTS, ids=[mutant.name for mutant, _ in MUTANTS])
async def test_the_scenario_sees_what_is_missing(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres, mutant: Mutant, says: str
) -> None:
    await must_fail(scenario(stage, conn, postgres.bin_dir), mutant, says=says)
