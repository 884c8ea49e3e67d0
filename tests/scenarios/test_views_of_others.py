"""Views over an altered column that are not as the table's owner would make them: another role's, or of the table's own name."""

from typing import Any

import psycopg
from psycopg import sql
from support.harness import Harness
from support.plans import create_reviews

from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]
ALTERED = {"alter_column": {"table": "public.reviews", "column": "rating", "type": "int"}}
QUICK = {"soak": {"window_s": 0, "legacy_idle_s": 0}, "gates": {"contract": "auto"}}


async def test_views_of_a_role_that_may_only_read_are_made_anew_and_their_other_tables_locked_by_nobody(
    stage: Harness, conn: Connection, dsn: str
) -> None:
    await create_reviews(conn, 50)
    reader = stage.queue.replace("test-", "reader_")
    role = sql.Identifier(reader)
    for statement in (
        "CREATE TABLE public.shops (id int)",
        "INSERT INTO public.shops VALUES (1)",
        "CREATE ROLE {role}",
        "GRANT SELECT ON public.reviews, public.shops TO {role}",
        "GRANT CREATE ON SCHEMA public TO {role}",
        # Its own type, and the column's.
        "CREATE VIEW public.good AS SELECT r.id FROM reviews r JOIN shops s ON s.id = 1 WHERE r.rating::int > 3",
        "CREATE VIEW public.rated AS SELECT rating FROM public.reviews",
        "ALTER VIEW public.good OWNER TO {role}",
        "ALTER VIEW public.rated OWNER TO {role}",
    ):
        await conn.execute(sql.SQL(statement).format(role=role))
    async with await psycopg.AsyncConnection.connect(dsn, application_name="user") as user:
        await user.execute("SELECT FROM public.shops")  # and keeps its lock
        async with stage.worker():
            await stage.start(stage.plan(ALTERED, **QUICK))
            status = await stage.until(lambda status: status.state is State.DONE or status.failure is not None)
            assert status.failure is None
            await stage.until(Phase.DONE)
    cursor = await conn.execute("SELECT viewowner = %s FROM pg_views WHERE schemaname = 'public'", [reader])
    assert await cursor.fetchall() == [(True,), (True,)]


async def test_views_of_the_tables_own_name_in_other_schemas_are_made_anew(stage: Harness, conn: Connection) -> None:
    await create_reviews(conn, 50)
    for statement in (
        "CREATE SCHEMA api",
        "CREATE SCHEMA web",
        "CREATE VIEW api.reviews AS SELECT id, rating FROM public.reviews",
        "CREATE VIEW web.reviews AS SELECT id FROM public.reviews WHERE rating::int <> 3",
    ):
        await conn.execute(statement.encode())
    async with stage.worker():
        await stage.start(stage.plan(ALTERED, **QUICK))
        assert (await stage.result()).state is State.DONE
    cursor = await conn.execute("SELECT pg_typeof(rating)::text FROM api.reviews LIMIT 1")
    assert await cursor.fetchone() == ("integer",)


async def test_what_contract_cannot_make_anew_stops_it_while_there_is_a_way_back(
    stage: Harness, conn: Connection
) -> None:
    await create_reviews(conn, 50)
    async with stage.worker():
        await stage.start(stage.plan(ALTERED, gates={"contract": "auto"}))
        await stage.waits("window", Phase.SOAK)
        await conn.execute("CREATE MATERIALIZED VIEW public.rated AS SELECT rating FROM public.reviews")
        await stage.act("advance")
        status = await stage.waits("error", Phase.CONTRACT)
        assert status.failure is not None
        assert 'view "public"."rated" reads the column' in status.failure
        assert status.waiting_for is not None
        assert "pgduet rollback review-stars" in status.waiting_for.next_commands
        await conn.execute("DROP MATERIALIZED VIEW public.rated")
        await stage.act("advance")
        assert (await stage.result()).state is State.DONE
