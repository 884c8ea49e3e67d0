"""A created table that a rollback archived comes back where the plan still means the same one, and only there."""

from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.harness import Harness
from support.plans import FAST, overlaid

from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]

QUICK = overlaid(FAST, {"shift": {"steps": [100], "bake_s": 0}, "soak": {"legacy_idle_s": 0}})


def tags(stage: Harness, check: str) -> dict[str, Any]:
    columns = [
        {"name": "id", "type": "int", "identity": "by default", "primary_key": True},
        {"name": "tag", "type": "text"},
    ]
    named = {"name": "a_tag", "type": "check", "check": check}
    table = {"table": "public.tags", "columns": columns, "constraints": [named], "comment": "Tags"}
    return stage.plan({"create_table": table}, **QUICK)


async def there(stage: Harness, plan: dict[str, Any]) -> None:
    await stage.start(plan)
    await stage.waits("window", Phase.SOAK)


async def back(stage: Harness) -> None:
    await stage.act("abort")
    assert (await stage.result()).state is State.ROLLED_BACK


async def test_an_edited_table_is_made_anew_and_the_rows_of_the_other_one_stay_in_the_archive(
    stage: Harness, conn: Connection
) -> None:
    insert = "INSERT INTO public_v2.tags (tag) VALUES ('x')"
    async with stage.worker():
        await there(stage, tags(stage, "tag <> ''"))
        await conn.execute(insert)
        await back(stage)
        await there(stage, tags(stage, "tag <> 'x'"))
        with pytest.raises(psycopg.errors.CheckViolation):
            await conn.execute(insert)
        await conn.execute("INSERT INTO public_v2.tags (tag) VALUES ('')")
        await back(stage)
        await there(stage, tags(stage, "tag <> 'x'"))
        found = await conn.execute("SELECT tag, obj_description('public.tags'::regclass) FROM public_v2.tags")
        assert await found.fetchall() == [("", "Tags")], "the same plan: its rows are back"
        await back(stage)
        await there(stage, tags(stage, "tag <> ''"))
        await conn.execute(insert)
        await back(stage)
    found = await conn.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'pgduet_archive' AND tablename LIKE '%tags%'"
    )
    kept = {}
    for (name,) in await found.fetchall():
        rows = await conn.execute(sql.SQL("SELECT tag FROM {}").format(sql.Identifier("pgduet_archive", name)))
        kept[name] = await rows.fetchall()
    assert kept == {
        "review-stars/public.tags": [("x",)],
        "review-stars/public.tags/2": [("x",)],
        "review-stars/public.tags/4": [("",)],
    }
