"""What preflight knows of a plan before anything is touched: its design, its hazards, its rights."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.plans import MOOD, STARS, create_reviews, parsed, replace

from pgduet.errors import DownIncomplete, MissingRights, NotSupported, UnknownTable
from pgduet.operations.design import Design
from pgduet.plan.models import Plan
from pgduet.postgres.databases import Database
from pgduet.postgres.session import Connection, session
from pgduet.postgres.survey import Survey, survey

Client = psycopg.AsyncConnection[Any]


@pytest.fixture
async def bare(dsn: str, conn: Client) -> AsyncIterator[Connection]:
    """Give a session of the worker's on a database with the table."""
    await create_reviews(conn, 3000)
    async with session(Database("shop", dsn), "test", bare=True) as connection:
        yield connection


def hazards(found: Survey) -> dict[str, str]:
    """Give hazards by id, with where they are."""
    return {hazard.id: hazard.where for hazard in found.hazards}


async def test_a_design_holds_physical_names_canonical_expressions_and_keys(bare: Connection) -> None:
    found = await survey(bare, parsed())
    (table,) = found.design.tables
    assert (table.key, table.key_types, table.always_fire) == (("id",), ("bigint",), True)
    assert [(c.name, c.type, c.nullable) for c in table.new_columns] == [
        ("stars", "integer", False),
        ("mood", "text", True),
    ]
    assert table.physical == {"stars": "_pgduet_review-stars_stars", "mood": "_pgduet_review-stars_mood"}
    assert table.kept == ("id", "note", "updated_at")
    assert table.derived[0].up is not None
    assert table.derived[0].up.columns == ("rating",)
    assert Design.model_validate(found.design.model_dump(mode="json")) == found.design


async def test_it_reads_rows_and_writes_nothing(bare: Connection, conn: Client) -> None:
    query = (
        "SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_namespace)"
    )
    before = await (await conn.execute(query)).fetchone()
    await survey(bare, parsed())
    after = await (await conn.execute(query)).fetchone()
    assert after is not None
    assert before is not None
    assert (after[0], after[1]) == (before[0], before[1])


async def test_it_waits_for_nobody_who_holds_the_table(bare: Connection, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as client:
        await client.execute("LOCK TABLE public.reviews IN ROW EXCLUSIVE MODE")
        await survey(bare, parsed())
        cursor = await client.execute(
            "SELECT count(*) FROM pg_locks WHERE relation = 'public.reviews'::regclass AND pid = %s",
            (bare.info.backend_pid,),
        )
        assert await cursor.fetchone() == (0,), "and keeps no lock"


async def test_a_table_without_a_key_and_with_triggers_and_checks_has_hazards(bare: Connection, conn: Client) -> None:
    await conn.execute("ALTER TABLE public.reviews DROP CONSTRAINT reviews_pkey, ADD CHECK (length(rating) < 9)")
    await conn.execute("CREATE INDEX by_rating ON public.reviews (rating)")
    found = hazards(await survey(bare, parsed()))
    assert {"PD-H05", "PD-H06", "PD-H07", "PD-H12"} <= set(found)
    assert "index by_rating" in found["PD-H06"]
    assert "check reviews_rating_check" in found["PD-H06"]
    assert "touch" in found["PD-H12"]


async def test_a_lossy_map_is_counted_in_a_sample(bare: Connection, conn: Client) -> None:
    await conn.execute("UPDATE public.reviews SET rating = '05' WHERE id IN (1, 2)")
    # A row's new version moves to the table's end, past the sample.
    await conn.execute("CLUSTER public.reviews USING reviews_pkey")
    assert "2 of 2000 sampled rows" in hazards(await survey(bare, parsed(STARS)))["PD-H02"]


async def test_rows_on_which_up_raises_are_a_hazard_and_no_refusal(bare: Connection, conn: Client) -> None:
    await conn.execute("UPDATE public.reviews SET rating = 'five' WHERE id = 1")
    await conn.execute("CLUSTER public.reviews USING reviews_pkey")
    assert "invalid text representation (22P02)" in hazards(await survey(bare, parsed(STARS)))["PD-H03"]


async def test_a_stable_expression_is_a_hazard(bare: Connection) -> None:
    plan = parsed(
        {"add_column": {"table": "public.reviews", "column": {"name": "day", "type": "text", "up": "updated_at::text"}}}
    )
    assert "day" in hazards(await survey(bare, plan))["PD-H01"]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("CREATE VIEW public.good AS SELECT id FROM public.reviews WHERE rating = '5'", "view"),
        ("ALTER TABLE public.reviews ADD COLUMN twice text GENERATED ALWAYS AS (rating || rating) STORED", "twice"),
        ("CREATE POLICY own ON public.reviews USING (rating = '5')", "policy"),
        (
            (
                "ALTER TABLE public.reviews ALTER rating SET NOT NULL; CREATE UNIQUE INDEX by ON public.reviews (rating, id);"
                "ALTER TABLE public.reviews REPLICA IDENTITY USING INDEX by"
            ),
            "index public.by (the replica identity)",
        ),
        (
            (
                "ALTER TABLE public.reviews ALTER rating SET NOT NULL, ADD CONSTRAINT one UNIQUE (rating, id);"
                "ALTER TABLE public.reviews REPLICA IDENTITY USING INDEX one"
            ),
            "(the replica identity)",
        ),
    ],
)
async def test_what_depends_on_a_replaced_column_is_named(
    bare: Connection, conn: Client, statement: str, reason: str
) -> None:
    await conn.execute(statement.encode())
    with pytest.raises(NotSupported) as caught:
        await survey(bare, parsed())
    assert reason in caught.value.message
    assert caught.value.hint


async def test_our_own_version_views_do_not_count_as_dependents(bare: Connection, conn: Client) -> None:
    await conn.execute("CREATE SCHEMA public_v1")
    await conn.execute("COMMENT ON SCHEMA public_v1 IS 'pgduet version 1 of public'")
    await conn.execute("CREATE VIEW public_v1.reviews AS SELECT id, rating, note, updated_at FROM public.reviews")
    await survey(bare, parsed())


async def test_a_generated_column_is_no_source(bare: Connection, conn: Client) -> None:
    await conn.execute("ALTER TABLE public.reviews ADD COLUMN size int GENERATED ALWAYS AS (length(note)) STORED")
    added = {"add_column": {"table": "public.reviews", "column": {"name": "double", "type": "int", "up": "size * 2"}}}
    with pytest.raises(NotSupported) as caught:
        await survey(bare, parsed(added))
    assert "generated column's own expression" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE public.child () INHERITS (public.reviews)",
        "CREATE VIEW public.other AS SELECT 1 AS rating",
        "CREATE MATERIALIZED VIEW public.other AS SELECT '1' AS rating",
    ],
)
async def test_only_plain_tables_are_migrated(bare: Connection, conn: Client, statement: str) -> None:
    await conn.execute(statement.encode())
    name = "public.other" if "other" in statement else "public.reviews"
    column = {"name": "stars", "type": "int", "up": "rating::int", "nullable": False}
    with pytest.raises((NotSupported, UnknownTable)):
        await survey(bare, parsed(replace(name, {"rating": "stars::text"}, column)))


async def test_a_down_that_depends_on_what_may_be_empty_is_refused_unless_it_falls_back(bare: Connection) -> None:
    column = {"name": "stars", "type": "int", "up": "rating::int"}
    with pytest.raises(DownIncomplete):
        await survey(bare, parsed(replace("public.reviews", {"rating": "stars::text"}, column)))
    await survey(bare, parsed(replace("public.reviews", {"rating": "coalesce(stars::text, '0')"}, column)))


@pytest.fixture
async def role(conn: Client) -> AsyncIterator[str]:
    """Give a role without any right."""
    name = f"{conn.info.dbname}_worker"
    await conn.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
    yield name
    await conn.execute(sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(sql.Identifier(name)))


async def surveyed_as(dsn: str, role: str, plan: Plan) -> Survey:
    """Survey as a worker of another role."""
    async with session(Database("shop", dsn, role), "test", bare=True) as connection:
        return await survey(connection, plan)


async def test_a_role_that_does_not_own_the_table_is_told_so(bare: Connection, dsn: str, role: str) -> None:
    with pytest.raises(MissingRights) as caught:
        await surveyed_as(dsn, role, parsed())
    assert caught.value.place is not None
    assert caught.value.place.path == "operations[0].replace_columns.table"
    assert "--print-sql" in (caught.value.hint or "")


async def test_a_role_that_may_not_mute_triggers_must_say_that_they_may_fire(
    bare: Connection, conn: Client, dsn: str, role: str
) -> None:
    owner = sql.Identifier(role)
    await conn.execute(sql.SQL("ALTER TABLE public.reviews OWNER TO {}").format(owner))
    await conn.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(sql.Identifier(conn.info.dbname), owner))
    with pytest.raises(MissingRights) as caught:
        await surveyed_as(dsn, role, parsed(MOOD))
    assert "touch" in caught.value.message
    found = await surveyed_as(dsn, role, parsed(MOOD, user_triggers="fire"))
    assert "touch will fire" in hazards(found)["PD-H12"]
    await conn.execute(sql.SQL("GRANT SET ON PARAMETER session_replication_role TO {}").format(owner))
    assert "suppressed" in hazards(await surveyed_as(dsn, role, parsed(MOOD)))["PD-H12"]


async def test_a_view_that_could_not_be_created_again_is_refused_before_it_is_dropped(
    bare: Connection, conn: Client, dsn: str, role: str
) -> None:
    plan = parsed(
        {"alter_column": {"table": "public.reviews", "column": "rating", "type": "int"}}, user_triggers="fire"
    )
    for statement in (
        "ALTER TABLE public.reviews OWNER TO {role}",
        "GRANT CREATE ON DATABASE {database} TO {role}",
        "CREATE SCHEMA views",
        "GRANT USAGE ON SCHEMA views TO {role}",
        "CREATE VIEW views.rated AS SELECT rating FROM public.reviews",
        "ALTER VIEW views.rated OWNER TO {role}",
    ):
        parts = {"role": sql.Identifier(role), "database": sql.Identifier(conn.info.dbname)}
        await conn.execute(sql.SQL(statement).format(**parts))
    with pytest.raises(NotSupported, match="may create none in schema views"):
        await surveyed_as(dsn, role, plan)
    await conn.execute(sql.SQL("GRANT CREATE ON SCHEMA views TO {}").format(sql.Identifier(role)))
    await surveyed_as(dsn, role, plan)
