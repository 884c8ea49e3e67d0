"""Scenario 22: a table with `updated_at` and audit triggers. The backfill changes neither.

The user's triggers are mute for it. Where they cannot be (the worker's role may not mute them, or they fire in every session), the
plan is refused, unless it says `user_triggers: fire`; and they never fire because a right went after the check.
"""

from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.asking import one, refused_by_check_and_start
from support.harness import Harness, schema_dump
from support.mutants import Attribute, Clause, Code, Mutant, must_fail
from support.plans import STARS, create_reviews
from support.roles import ordinary_role
from support.worlds import World

from pgduet.local import EmbeddedPostgres
from pgduet.phases import Phase
from pgduet.postgres import batches, muting, sampled

Connection = psycopg.AsyncConnection[Any]
ROWS = 1_000

AUDIT = """
CREATE TABLE public.audit (id bigint, was text, now text);
CREATE TABLE public.statements (at timestamptz NOT NULL DEFAULT now());
CREATE FUNCTION public.note_row() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.audit VALUES (NEW.id, OLD.rating, NEW.rating); RETURN NULL; END $$;
CREATE FUNCTION public.note_statement() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.statements DEFAULT VALUES; RETURN NULL; END $$;
CREATE TRIGGER note_row AFTER UPDATE ON public.reviews FOR EACH ROW EXECUTE FUNCTION public.note_row();
CREATE TRIGGER note_statement AFTER UPDATE ON public.reviews FOR EACH STATEMENT EXECUTE FUNCTION public.note_statement();
"""
STAMPS = "SELECT md5(string_agg(updated_at::text, ' ' ORDER BY id)) FROM public.reviews"
AUDITED = "SELECT (SELECT count(*) FROM public.audit) + (SELECT count(*) FROM public.statements)"


async def create(conn: Connection) -> None:
    """Create the table with its triggers."""
    await create_reviews(conn, ROWS)
    await conn.execute(AUDIT.encode())


def as_application(stage: Harness) -> str:
    """Name the role of a worker that may mute nothing."""
    return stage.queue.replace("test-", "worker_")


async def fill(stage: Harness, conn: Connection, wish: str) -> None:
    """Go through the whole backfill, the publication and the cutover, and look at what the triggers did."""
    stamps = await one(conn, STAMPS)
    async with stage.worker():
        await stage.start(stage.plan(STARS, user_triggers=wish))
        await stage.waits("window", Phase.SOAK)
        if wish == "suppress":
            assert await one(conn, AUDITED) == 0, "an audit trigger has fired for us"
            assert await one(conn, STAMPS) == stamps, "updated_at of rows that nobody wrote has changed"
        else:
            assert await one(conn, "SELECT count(*) FROM public.audit") == ROWS
        # A client's own write fires them, whatever the plan says.
        await conn.execute("UPDATE public_v2.reviews SET stars = 4 WHERE id = 7")
        await conn.execute("UPDATE public_v1.reviews SET rating = '5' WHERE id = 7")
    written = await conn.execute("SELECT was, now FROM public.audit WHERE id = 7 AND was <> now")
    assert await written.fetchall() == [("3", "4"), ("4", "5")]


async def suppressed(stage: Harness, conn: Connection) -> None:
    await create(conn)
    await fill(stage, conn, "suppress")


async def refused(stage: Harness, conn: Connection, bin_dir: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without the right, and triggers that nobody can mute."""
    await create(conn)
    owner = await ordinary_role(conn, as_application(stage), stage.dsn)
    await conn.execute("GRANT ALL ON public.audit, public.statements TO PUBLIC")
    for dsn, trigger, mode in ((owner, "touch", "ENABLE"), (stage.dsn, "note_row", "ENABLE ALWAYS")):
        monkeypatch.setenv(stage.variable, dsn)
        await conn.execute(f"ALTER TABLE public.reviews {mode} TRIGGER {trigger}".encode())
        before = schema_dump(bin_dir, stage.dsn)
        async with stage.worker():
            error = await refused_by_check_and_start(stage, stage.plan(STARS))
        assert error is not None, "a plan whose triggers cannot be muted is not refused"
        assert error.place is not None
        assert error.place.path == "policy.user_triggers"
        assert trigger in error.message
        assert "user_triggers: fire" in (error.hint or "")
        assert schema_dump(bin_dir, stage.dsn) == before
    assert await one(conn, AUDITED) == 0


async def right_gone(stage: Harness, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """The right to mute is taken away after the check: the backfill stops, and says why."""
    await create(conn)
    stamps = await one(conn, STAMPS)
    role = as_application(stage)
    monkeypatch.setenv(stage.variable, await ordinary_role(conn, role, stage.dsn))
    await conn.execute("GRANT ALL ON public.audit, public.statements TO PUBLIC")
    named = sql.Identifier(role)
    await conn.execute(sql.SQL("GRANT SET ON PARAMETER session_replication_role TO {}").format(named))
    async with stage.worker():
        await stage.start(stage.plan(STARS, gates={"backfill": "manual"}))
        await stage.waits("gate", Phase.DUAL_WRITE)
        await conn.execute(sql.SQL("REVOKE SET ON PARAMETER session_replication_role FROM {}").format(named))
        await stage.act("advance")
        status = await stage.until(lambda s: s.failure is not None or Phase.VERIFY.reached(s.phase))
        assert status.phase is Phase.BACKFILL, "it goes on without the right to mute"
        assert "may not mute" in (status.failure or "")
        assert await one(conn, AUDITED) == 0
        await conn.execute(sql.SQL("GRANT SET ON PARAMETER session_replication_role TO {}").format(named))
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)
    assert await one(conn, AUDITED) == 0
    assert await one(conn, STAMPS) == stamps


async def test_the_backfill_changes_neither(world: World) -> None:
    await suppressed(world.stage, world.conn)


async def test_a_plan_whose_triggers_cannot_be_muted_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await refused(world.stage, world.conn, world.server.bin_dir, monkeypatch)


async def test_where_the_right_goes_after_the_check_the_backfill_stops_instead_of_firing_them(
    stage: Harness, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await right_gone(stage, conn, monkeypatch)


async def test_they_fire_where_the_plan_says_so_and_no_right_is_needed(
    stage: Harness, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(conn)
    await conn.execute("ALTER TABLE public.reviews ENABLE ALWAYS TRIGGER note_row")
    monkeypatch.setenv(stage.variable, await ordinary_role(conn, as_application(stage), stage.dsn))
    await conn.execute("GRANT ALL ON public.audit, public.statements TO PUBLIC")
    await fill(stage, conn, "fire")


async def never(*_: object) -> bool:
    """Mute nothing."""
    return False


async def test_without_muting_the_scenario_fails(stage: Harness, conn: Connection) -> None:
    unmuted = Attribute("the session's own replication role", batches, "mutes", never)
    await must_fail(suppressed(stage, conn), unmuted, says="an audit trigger has fired for us")


REFUSALS: list[Mutant] = [
    Attribute("the question at check", sampled, "mutes", never),
    Clause(
        "the difference between ordinary triggers and others", "catalogue", "update_triggers", "tgenabled::text", "'O'"
    ),
]


@pytest.mark.parametrize("mutant", REFUSALS, ids=[mutant.name for mutant in REFUSALS])
async def test_without_the_question_nothing_is_refused(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, mutant: Mutant
) -> None:
    says = "a plan whose triggers cannot be muted is not refused"
    await must_fail(refused(stage, conn, postgres.bin_dir, monkeypatch), mutant, says=says)


async def test_without_the_second_question_the_backfill_fires_them(
    stage: Harness, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_once = Code("the second question", muting.mutes, "if ordinary and not muted:", "if False:")
    again = Attribute("the question at check", sampled, "mutes", never)
    says = "it goes on without the right to mute"
    await must_fail(right_gone(stage, conn, monkeypatch), asked_once, again, says=says)
