"""Scenario 20: row level security, generated columns, BEFORE triggers, partitions, an inbound foreign key, inheritance.

It works, or is refused at check with the reason; on PostgreSQL 15, 16 and 18. Each mechanism is taken out once, and its fault seen.
"""

import secrets
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.harness import Harness
from support.worlds import World
from temporalio.client import WorkflowFailureError

from pgduet.failures import error_from
from pgduet.operations import names, refusals, resolve, sync, views
from pgduet.phases import Phase, State
from pgduet.sql import load

Connection = psycopg.AsyncConnection[Any]
THINGS = """
CREATE ROLE {tenant};
CREATE TABLE public.things (
    id      bigint,
    region  text NOT NULL,
    tenant  text NOT NULL DEFAULT current_user,
    size    text NOT NULL,
    label   text,
    length  int GENERATED ALWAYS AS (length(label)) STORED,
    PRIMARY KEY (id, region)
) PARTITION BY LIST (region);
CREATE TABLE public.things_eu PARTITION OF public.things FOR VALUES IN ('eu');
CREATE TABLE public.things_us PARTITION OF public.things FOR VALUES IN ('us');
CREATE TABLE public.parts (thing bigint, region text,
    FOREIGN KEY (thing, region) REFERENCES public.things ON UPDATE CASCADE ON DELETE CASCADE);
CREATE FUNCTION public.tenfold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.size := NEW.size || '0'; RETURN NEW; END $$;
CREATE FUNCTION public.emigrate() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF NEW.label = 'go' THEN NEW.region := 'us'; NEW.label := 'gone'; END IF; RETURN NEW; END $$;
INSERT INTO public.things (id, region, tenant, size, label)
SELECT i, CASE WHEN i % 2 = 0 THEN 'eu' ELSE 'us' END, 'somebody', i % 9, 'thing' FROM generate_series(1, 300) i;
INSERT INTO public.parts SELECT id, region FROM public.things;
CREATE TRIGGER tenfold BEFORE INSERT ON public.things_eu FOR EACH ROW EXECUTE FUNCTION public.tenfold();
CREATE TRIGGER emigrate BEFORE UPDATE ON public.things FOR EACH ROW EXECUTE FUNCTION public.emigrate();
ALTER TABLE public.things ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON public.things USING (tenant = current_user);
GRANT SELECT, INSERT, UPDATE, DELETE ON public.things TO {tenant};
"""
SIZE = {"alter_column": {"table": "public.things", "column": "size", "type": "int"}}
QUICK: dict[str, Any] = {
    "backfill": {"parallelism": 1},
    "shadow": {"min_samples": 1},
    "shift": {"steps": [100], "bake_s": 0, "max_latency_ratio": 1000},
    "gates": {"cutover": "auto", "contract": "auto"},
}
MUTANTS = (
    "as it is",
    "views have the rights of who asks",
    "the sync fires after the user's triggers",
    "where the user has BEFORE triggers, any update fires the sync",
)
HEIRS, GENERATED = "inheritance is refused", "a generated source is refused"


def mutate(monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    """Take one mechanism out."""
    if mutant == MUTANTS[1]:
        block = views.block

        def without(file: str, name: str) -> sql.SQL:
            return sql.SQL(block(file, name).as_string().replace(" WITH (security_invoker = true)", ""))

        monkeypatch.setattr(views, "block", without)
    elif mutant == MUTANTS[2]:
        monkeypatch.setattr(sync, "trigger_name", lambda plan, kind: names.fit(f"!pgduet_{kind}_{plan}"))
        # Else they would be taken for triggers of the user's that nothing mutes.
        known = load("catalogue")
        monkeypatch.setitem(known, "update_triggers", known["update_triggers"].replace("~pgduet", "!pgduet"))
    elif mutant == MUTANTS[3]:
        table = resolve.TableDesign
        monkeypatch.setattr(resolve, "TableDesign", lambda **given: table(**{**given, "always_fire": False}))


async def rows(conn: Connection, query: str) -> list[tuple[Any, ...]]:
    return await (await conn.execute(query.encode())).fetchall()


@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_table_with_all_of_it(world: World, monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    stage, conn = world.stage, world.conn
    tenant = sql.Identifier(f"tenant_{secrets.token_hex(4)}")
    await conn.execute(sql.SQL(THINGS).format(tenant=tenant))
    mutate(monkeypatch, mutant)
    async with stage.worker():
        await stage.start(stage.plan(SIZE, **QUICK))
        await stage.waits("window", Phase.SOAK)
        found = await used(conn, tenant)
        if mutant == MUTANTS[0]:
            await stage.act("abort")
            await stage.until(lambda status: status.state is State.ROLLED_BACK)
            await stage.start(stage.plan(SIZE, **QUICK))
            await stage.waits("window", Phase.SOAK)
            await stage.act("advance")
            assert (await stage.result()).state is State.DONE
    wanted: dict[str, Any] = {
        "sees its own rows only": [(900, 70, 3)],
        "the user's trigger came first": [("70", 70)],
        "moved by the user's trigger": [("us", "070", 70)],
        "generated": [(4,)],
        "its parts moved with it": [("us",)],
    }
    faults = {name for name in wanted if found[name] != wanted[name]}
    assert (
        faults
        == {
            MUTANTS[0]: set(),
            MUTANTS[1]: {"sees its own rows only"},
            MUTANTS[2]: {"sees its own rows only", "the user's trigger came first", "moved by the user's trigger"},
            MUTANTS[3]: {"moved by the user's trigger"},
        }[mutant]
    ), found


async def used(conn: Connection, tenant: sql.Identifier) -> dict[str, list[tuple[Any, ...]]]:
    """Use the table as clients of both versions do."""
    await conn.execute(sql.SQL("SET ROLE {}").format(tenant))
    await conn.execute("INSERT INTO public_v1.things (id, region, size, label) VALUES (900, 'eu', '7', 'abc')")
    seen = {"sees its own rows only": await rows(conn, "SELECT id, size, length FROM public_v2.things")}
    await conn.execute("RESET ROLE")
    both = "SELECT o.size, n.size FROM public_v1.things o JOIN public_v2.things n USING (id) WHERE id = 900"
    seen["the user's trigger came first"] = await rows(conn, both)
    await conn.execute("INSERT INTO public.parts VALUES (900, 'eu')")
    await conn.execute("UPDATE public_v1.things SET size = '070' WHERE id = 900")
    await conn.execute("UPDATE public_v1.things SET label = 'go' WHERE id = 900")
    moved = "SELECT o.region, o.size, n.size FROM public_v1.things o JOIN public_v2.things n USING (id) WHERE id = 900"
    seen["moved by the user's trigger"] = await rows(conn, moved)
    seen["generated"] = await rows(conn, "SELECT length FROM public_v2.things WHERE id = 900")
    seen["its parts moved with it"] = await rows(conn, "SELECT region FROM public.parts WHERE thing = 900")
    await conn.execute("DELETE FROM public_v2.things WHERE id = 900")
    return seen


@pytest.mark.parametrize("mutated", [False, True], ids=["as it is", HEIRS])
async def test_inheritance_is_refused(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    mutated: bool,  # noqa: FBT001
) -> None:
    stage, conn = world.stage, world.conn
    await conn.execute("CREATE TABLE public.animals (id int PRIMARY KEY, legs text NOT NULL)")
    await conn.execute("CREATE TABLE public.cats () INHERITS (public.animals)")
    await conn.execute("INSERT INTO public.animals VALUES (1, '4')")
    if mutated:
        monkeypatch.setattr(refusals, "_check_table", lambda *_: None)
    async with stage.worker():
        plan = stage.plan({"alter_column": {"table": "public.animals", "column": "legs", "type": "int"}}, **QUICK)
        await stage.start(plan)
        if not mutated:
            await refused(stage, "public.animals has parents or children by inheritance")
            return
        await stage.waits("window", Phase.SOAK)
        with pytest.raises(psycopg.errors.NotNullViolation):
            # No trigger of the parent's fires for an heir: its clients would see an error.
            await conn.execute("INSERT INTO public.cats VALUES (2, '3')")


@pytest.mark.parametrize("mutated", [False, True], ids=["as it is", GENERATED])
async def test_a_generated_source_is_refused(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    mutated: bool,  # noqa: FBT001
) -> None:
    stage, conn = world.stage, world.conn
    await conn.execute(
        "CREATE TABLE public.names (id int PRIMARY KEY, name text, size int GENERATED ALWAYS AS (length(name)) STORED)"
    )
    await conn.execute("INSERT INTO public.names VALUES (0, 'twelve')")
    if mutated:
        monkeypatch.setattr(resolve, "_refuse_generated", lambda *_: None)
    column = {"name": "half", "type": "int", "up": "size / 2"}
    async with stage.worker():
        await stage.start(stage.plan({"add_column": {"table": "public.names", "column": column}}, **QUICK))
        if not mutated:
            await refused(stage, '"size" is a generated column')
            return
        # The trigger finds it empty; the probe is the next to notice.
        status = await stage.waits("error", Phase.DUAL_WRITE)
        assert "a probe write did not reach the other representation" in str(status.failure)


async def test_columns_that_nobody_can_set_stand_in_no_way(world: World) -> None:
    stage, conn = world.stage, world.conn
    await conn.execute(
        "CREATE TABLE public.names (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
        " size int GENERATED ALWAYS AS (length(name)) STORED, name text)"
    )
    await conn.execute("INSERT INTO public.names (name) VALUES ('ann'), ('bob')")
    column = {"name": "mood", "type": "text", "up": "'fine'"}
    async with stage.worker():
        await stage.start(stage.plan({"add_column": {"table": "public.names", "column": column}}, **QUICK))
        await stage.waits("window", Phase.SOAK)
    assert await rows(conn, "SELECT size, mood FROM public_v2.names ORDER BY id") == [(3, "fine"), (3, "fine")]


async def refused(stage: Harness, reason: str) -> None:
    """Expect a refusal at preflight, with nothing done."""
    with pytest.raises(WorkflowFailureError) as caught:
        await stage.result()
    assert reason in str(error_from(caught.value))
