"""A table becomes the first partition of a parent above it, under clients of both versions; no row moves (ADR 31)."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.asking import client_error
from support.attached import attached
from support.cycle import QUICK
from support.harness import POLL_S, Harness, schema_dump
from support.mutants import Clause, Code, must_fail
from support.pgbench import Pgbench
from support.plans import overlaid, replace
from support.roles import ordinary_role
from support.worlds import World, on_newest

from pgduet import barriers, observe
from pgduet.activities.shapes.attach import Attach
from pgduet.messages import Status
from pgduet.operations import attach_final
from pgduet.phases import Phase, State

TABLE = """
CREATE TABLE public.reviews (
    id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at   timestamptz NOT NULL DEFAULT timestamptz '2026-05-01 00:00+00',
    n    int NOT NULL DEFAULT 0,
    note text
);
CREATE INDEX reviews_note ON public.reviews (note);
INSERT INTO public.reviews (note) SELECT 'note ' || i FROM generate_series(1, 500) i;
"""
PARTS = {
    "reviews_2026": "FOR VALUES FROM (MINVALUE) TO ('2027-01-01 00:00+00')",
    "reviews_2027": "FOR VALUES FROM ('2027-01-01 00:00+00') TO ('2028-01-01 00:00+00')",
    "reviews_rest": "DEFAULT",
}
OPERATION = attached(table="public.reviews", partition_by={"partitions": PARTS})
POLICY = overlaid(QUICK, {"soak": {"window_s": 3600, "legacy_idle_s": 0.5}})
PATIENCE_S = 180.0
"""A worker costs seconds to start, a killed one 5 s until it is given up; a busy machine may take many times that."""
BEYOND = "INSERT INTO {}.reviews (at, note) VALUES ('2027-03-01 00:00+00', 'beyond') RETURNING id"
ERRORS = "clients saw errors"
TAKEN = "a number was given twice"
SCRIPT = r"""
\set id random(1, 500)
\set hot random(100001, 100005)
INSERT INTO reviews (note) VALUES ('{name}') RETURNING id AS made \gset
UPDATE reviews SET n = n + 1 WHERE id = :id;
UPDATE reviews SET at = at + interval '1 day' WHERE id = :made;
SELECT note FROM reviews WHERE id = :made FOR UPDATE;
INSERT INTO reviews (id, at, note) OVERRIDING SYSTEM VALUE VALUES (:hot, '2026-06-01', 'hot')
    ON CONFLICT ({key}) DO UPDATE SET n = reviews.n + 1;
INSERT INTO reviews (id, at, note) OVERRIDING SYSTEM VALUE VALUES (:hot, '2026-06-01', 'hot') ON CONFLICT DO NOTHING;
DELETE FROM reviews WHERE id = :hot;
"""


async def in_soak(stage: Harness, plan: dict[str, Any]) -> None:
    """Go as far as both versions are in use."""
    await stage.start(plan)
    await stage.waits("gate", Phase.SHADOW, 60)
    await stage.act("advance")
    await stage.waits("window", Phase.SOAK, 60)


async def ended(stage: Harness, state: State) -> None:
    """See how it ends."""
    status = await stage.until(lambda status: status.state in {State.DONE, State.ROLLED_BACK}, 60)
    assert status.state is state, status.failure
    await stage.result(60)


def held(status: Status) -> bool:
    """Tell whether something went wrong, and somebody is asked."""
    return status.waiting_for is not None and status.waiting_for.kind == "error"


async def file_of(world: World, name: str) -> int:
    """Ask which file a table is in."""
    return int(await world.one("SELECT pg_relation_filenode(%s)", (name,)))


async def clients_there_and_back_and_to_the_end(world: World) -> None:
    """Let prepared clients of base table and both versions work through both ways; nobody sees an error, no row moves."""
    await world.conn.execute(TABLE.encode())
    stage, plan = world.stage, world.stage.plan(*OPERATION, **POLICY)
    before, file = schema_dump(world.server.bin_dir, stage.dsn), await file_of(world, "public.reviews")
    async with stage.worker():
        for last in (False, True):
            async with AsyncExitStack() as until:

                async def begin(path: str, until: AsyncExitStack = until, turn: bool = last) -> Pgbench:  # noqa: FBT001
                    name = f"{path} {turn}"
                    key = "id, at" if path == "public_v2" else "id"
                    script = SCRIPT.replace("{name}", name).replace("{key}", key)
                    each = Pgbench(world, name, script, clients=2, protocol="prepared", search_path=path)
                    return await until.enter_async_context(each)

                clients = [await begin("public")]
                await stage.start(plan)
                await stage.waits("gate", Phase.SHADOW, 60)
                clients += [await begin("public_v1"), await begin("public_v2")]
                await stage.act("advance")
                await stage.waits("window", Phase.SOAK, 60)
                for each in clients:
                    await each.working(20)
                leaving = clients[:2] if last else clients[2:]
                for each in leaving:
                    assert each.errors == [], ERRORS
                    assert (await each.end())[1] == 0, ERRORS
                await stage.act("advance" if last else "abort")
                await ended(stage, State.DONE if last else State.ROLLED_BACK)
                for each in (each for each in clients if each not in leaving):
                    await each.working(20)
                    assert each.errors == [], ERRORS
                    done, failed = await each.end()
                    assert (each.errors, failed) == ([], 0), ERRORS
                    assert await each.written() == done, "what was acknowledged is not there"
            if not last:
                assert schema_dump(world.server.bin_dir, stage.dsn) == before
                assert await file_of(world, "public.reviews") == file
    assert await file_of(world, "public.reviews_2026") == file
    largest = await world.one("SELECT max(id) FROM public.reviews WHERE id < 100000")
    for name in ("public", "public_v2"):
        made = await world.one(BEYOND.format(name))
        assert made > largest, TAKEN
        largest = made
    assert (
        await world.one("SELECT tableoid::regclass::text FROM public.reviews WHERE id = %s", (largest,))
        == "reviews_2027"
    )


async def test_clients_of_both_versions_see_no_error_and_no_row_moves(world: World) -> None:
    await clients_there_and_back_and_to_the_end(world)


@on_newest
async def test_without_going_on_where_the_numbers_are_a_number_is_given_twice(world: World) -> None:
    mutant = Clause("the sequence goes on", "attach", "go_on", "s.last_value, s.is_called", "1, false")
    await must_fail(clients_there_and_back_and_to_the_end(world), mutant, says=ERRORS)


HOT = r"""
\set hot random(100001, 100005)
\set other random(100001, 100005)
INSERT INTO reviews (id, at, note) OVERRIDING SYSTEM VALUE VALUES (:hot, '2026-06-01', 'hot')
    ON CONFLICT ({key}) DO UPDATE SET n = reviews.n + 1;
INSERT INTO reviews (id, at, note) OVERRIDING SYSTEM VALUE VALUES (:other, '2026-06-01', 'hot') ON CONFLICT DO NOTHING;
UPDATE reviews SET n = n + 1 WHERE id = :other;
DELETE FROM reviews WHERE id = :hot;
INSERT INTO reviews (note) VALUES ('{name}');
"""
"""Keys that are absent half of the time, each wanted by everybody."""


async def upserts_of_the_same_few_keys(world: World) -> None:
    """Upsert as fast as the server can, by both versions, each by its own key, while a row has two unique indexes."""
    await world.conn.execute(TABLE.encode())
    stage = world.stage
    async with stage.worker(), AsyncExitStack() as until:
        await in_soak(stage, stage.plan(*OPERATION, **POLICY))
        working = []
        for path, key in (("public", "id"), ("public_v2", "id, at")):
            script = HOT.replace("{key}", key).replace("{name}", path)
            clients = Pgbench(world, path, script, clients=8, protocol="prepared", search_path=path, rate=None)
            working.append(await until.enter_async_context(clients))
        for each in working:
            await each.working(2_000)
        assert [error for each in working for error in each.errors] == [], ERRORS


async def test_upserts_of_the_same_few_keys_are_never_refused(world: World) -> None:
    await upserts_of_the_same_few_keys(world)


@on_newest
async def test_without_a_claim_they_are(world: World) -> None:
    mutant = Clause("whoever inserts a key claims it", "rekey", "claim_body", "INSERT INTO {claims} VALUES ({key});")
    await must_fail(upserts_of_the_same_few_keys(world), mutant, says=ERRORS)


async def a_row_beyond_the_bound(world: World) -> None:
    """Write a row that has no place in the first partition, while both versions are in use; contract holds, and goes on."""
    await world.conn.execute(TABLE.encode())
    stage = world.stage
    async with stage.worker():
        await in_soak(stage, stage.plan(*OPERATION, **POLICY))
        key = await world.one(BEYOND.format("public_v1"))
        await stage.act("advance")
        status = await stage.until(held, 60)
        assert status.waiting_for is not None
        assert f"lie beyond the bound of its first partition, reviews_2026: id {key}" in status.waiting_for.detail
        assert "pgduet advance review-stars" in status.waiting_for.next_commands
        assert "pgduet rollback review-stars" in status.waiting_for.next_commands
        # Nothing is half done: either version writes what it likes, and there is a way back.
        for name in ("public", "public_v1", "public_v2"):
            assert await client_error(world.conn, BEYOND.format(name)) is None, "a client is refused"
        assert await world.one("SELECT count(*) FROM public_v2.reviews WHERE note = 'beyond'") == 4
        assert not await world.one("SELECT coalesce((controls ->> 'no_return')::bool, false) FROM pgduet.migration")
        await world.conn.execute("UPDATE public.reviews SET at = '2026-12-31 00:00+00' WHERE note = 'beyond'")
        await stage.act("advance")
        await ended(stage, State.DONE)
    assert await world.one("SELECT count(*) FROM public.reviews_2026 WHERE note = 'beyond'") == 4


async def test_a_row_beyond_the_bound_holds_contract_and_nothing_is_half_done(world: World) -> None:
    await a_row_beyond_the_bound(world)


async def a_row_comes_at_the_last_moment(world: World) -> None:
    """Commit a row beyond the bound after contract has looked, in a transaction that was open all the time."""
    await world.conn.execute(TABLE.encode())
    stage = world.stage
    async with stage.worker(), world.client() as late:
        await in_soak(stage, stage.plan(*OPERATION, **POLICY))
        await late.execute("INSERT INTO public_v2.reviews (at, note) VALUES ('2027-03-01 00:00+00', 'late')")
        await stage.act("advance")
        assert "ACCESS EXCLUSIVE on" in await lock_wait(world)
        await late.commit()
        status = await stage.until(held, 60)
        assert status.waiting_for is not None
        assert "lie beyond the bound" in status.waiting_for.detail
        assert await client_error(world.conn, BEYOND.format("public")) is None, "a client is refused"
        # From here there is a way back as from before.
        await stage.act("abort")
        await ended(stage, State.ROLLED_BACK)
    assert await world.one("SELECT count(*) FROM public.reviews WHERE note IN ('late', 'beyond')") == 2


async def lock_wait(world: World) -> str:
    """Wait until a step of ours waits for a lock; gives what is said of it."""
    async with asyncio.timeout(60):
        while True:
            status = (await observe.look(world.stage.client, world.stage.handle.id)).status
            if status.waiting_for and status.waiting_for.kind == "lock":
                return status.waiting_for.detail
            await asyncio.sleep(POLL_S)


async def test_a_row_that_comes_at_the_last_moment_holds_contract_too(world: World) -> None:
    await a_row_comes_at_the_last_moment(world)


@on_newest
async def test_without_lifting_the_bound_clients_would_be_refused(world: World) -> None:
    mutant = Code("the bound is lifted", Attach.unsettle, "is not None", "== 1")
    await must_fail(a_row_comes_at_the_last_moment(world), mutant, says="a client is refused")


PHASES = [
    Phase.DUAL_WRITE,
    Phase.BACKFILL,
    Phase.VERIFY,
    Phase.SHADOW,
    Phase.SHIFT,
    Phase.CUTOVER,
    Phase.SOAK,
    Phase.CONTRACT,
]


@on_newest
async def test_a_rollback_from_every_phase_leaves_the_schema_as_it_was(world: World) -> None:
    await world.conn.execute(TABLE.encode())
    stage = world.stage
    before = schema_dump(world.server.bin_dir, stage.dsn)
    gates = {"gates": {str(phase): "manual" for phase in PHASES}, "approvals": {"cutover": 0, "contract": 0}}
    policy = overlaid(POLICY, gates | {"soak": {"window_s": 0}})
    async with stage.worker():
        for phase in PHASES:
            await stage.start(stage.plan(*OPERATION, **policy))
            for earlier in PHASES[: PHASES.index(phase)]:
                await stage.until(_at_gate(earlier), 60)
                await stage.act("advance")
            await stage.until(_at_gate(phase), 60)
            assert (await client_error(world.conn, BEYOND.format("public"))) is None
            await world.conn.execute("DELETE FROM public.reviews WHERE note = 'beyond'")
            await stage.act("abort")
            await ended(stage, State.ROLLED_BACK)
            assert schema_dump(world.server.bin_dir, stage.dsn) == before, phase


def _at_gate(phase: Phase) -> Any:
    def there(status: Status) -> bool:
        waits = status.waiting_for
        return waits is not None and waits.kind == "gate" and waits.detail.endswith(f"before {phase}")

    return there


MANY = {"reviews_old": "FOR VALUES FROM (MINVALUE) TO ('2027-01-01 00:00+00')", "reviews_rest": "DEFAULT"} | {
    f"reviews_{year}": f"FOR VALUES FROM ('{year}-01-01 00:00+00') TO ('{year + 1}-01-01 00:00+00')"
    for year in range(2027, 2027 + 2 * attach_final.AT_ONCE)
}


@pytest.mark.early
@on_newest
@pytest.mark.long
async def test_a_worker_killed_at_each_of_its_steps_changes_nothing_of_the_outcome(world: World) -> None:
    await world.conn.execute(TABLE.encode())
    stage = world.stage
    before = schema_dump(world.server.bin_dir, stage.dsn)
    plan = stage.plan(*attached(table="public.reviews", partition_by={"partitions": MANY}), **POLICY)
    with stage.worker_process("publish.after_commit=kill") as worker:
        await stage.start(plan)
        await worker.killed(PATIENCE_S)
    with stage.worker_process("undo_verify.after_commit=kill") as worker:
        await stage.waits("gate", Phase.SHADOW, PATIENCE_S)
        await stage.act("abort")
        await worker.killed(PATIENCE_S)
    with stage.worker_process():
        await ended(stage, State.ROLLED_BACK)
        assert schema_dump(world.server.bin_dir, stage.dsn) == before
        await in_soak(stage, plan)
    with stage.worker_process("constraint.after_commit=kill") as worker:
        await stage.until(Phase.SOAK, PATIENCE_S)
        await stage.act("advance")
        await worker.killed(PATIENCE_S)
    # The old version's schema goes first, then the table becomes a partition, then come the others.
    with stage.worker_process("contract.after_commit=kill@2") as worker:
        await worker.killed(PATIENCE_S)
        assert await world.one("SELECT count(*) FROM pg_inherits WHERE inhparent = 'public.reviews'::regclass") > 0
    with stage.worker_process():
        await ended(stage, State.DONE)
    assert await world.one("SELECT count(*) FROM pg_inherits WHERE inhparent = 'public.reviews'::regclass") == len(MANY)
    assert await world.one(BEYOND.format("public_v2")) == 501
    assert await world.one("SELECT tableoid::regclass::text FROM public.reviews WHERE id = 501") == "reviews_2027"


@pytest.mark.long
@on_newest
async def test_every_step_that_is_cut_short_is_taken_again(world: World) -> None:
    await world.conn.execute(TABLE.encode())
    stage = world.stage
    before, times = schema_dump(world.server.bin_dir, stage.dsn), 0

    def cutting() -> Any:
        seen, due = 0, 1

        async def hook() -> None:
            nonlocal seen, due, times
            seen += 1
            if seen == due:
                due, times = 2 * due + 1, times + 1
                raise psycopg.OperationalError("the connection went")

        return hook

    names = [name for name in barriers.NAMES if not name.startswith(("record", "note", "open", "claim", "route"))]
    async with stage.worker():
        for last in (False, True):
            for name in names:
                barriers.HOOKS[name] = cutting()
            try:
                await in_soak(stage, stage.plan(*OPERATION, **POLICY))
                await stage.act("advance" if last else "abort")
                await ended(stage, State.DONE if last else State.ROLLED_BACK)
            finally:
                for name in names:
                    del barriers.HOOKS[name]
            if not last:
                assert schema_dump(world.server.bin_dir, stage.dsn) == before
    assert times > 12
    assert await world.one(BEYOND.format("public")) == 501


@asynccontextmanager
async def checked(stage: Harness, *operations: dict[str, Any]) -> AsyncIterator[dict[str, list[str]]]:
    """Have the command line check a plan; gives its hazards, by their ids."""
    file = stage.scratch / "plan.json"
    file.write_text(json.dumps(stage.plan(*operations, **POLICY)))
    done = await stage.command("check", str(file), "--database", "--json")
    assert done.returncode == 0, done.stderr or done.stdout
    found: dict[str, list[str]] = {}
    for each in json.loads(done.stdout)["hazards"]:
        found.setdefault(each["id"], []).append(each["where"])
    yield found


@on_newest
async def test_check_says_which_way_is_taken_and_why_not_the_cheaper_one(world: World) -> None:
    await world.conn.execute(TABLE.encode())
    stage = world.stage
    async with stage.worker():
        async with checked(stage, *OPERATION) as found:
            assert found["PD-H45"] == ["public.reviews: by range of at"]
            assert found["PD-H49"] == ["public.reviews, attached: no row is copied"]
            assert found["PD-H48"] == [
                "public.reviews becomes reviews_2026: rows from '2027-01-01 00:00+00' on hold contract"
            ]
            assert not {"PD-H46", "PD-H47"} & set(found)
        await world.conn.execute(
            "CREATE FUNCTION public.dated() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.at := now(); RETURN NEW; END $$;"
            "CREATE TRIGGER dated BEFORE INSERT ON public.reviews FOR EACH ROW EXECUTE FUNCTION public.dated()"
        )
        bounded = {name: bound for name, bound in PARTS.items() if bound != "DEFAULT"}
        operation = attached(table="public.reviews")[0]["shadow_table"]
        operation["partition_by"] = operation["partition_by"] | {"partitions": bounded}
        async with checked(stage, {"shadow_table": operation}) as found:
            assert found["PD-H47"] == ["public.reviews: dated sets at"]
            assert found["PD-H48"][0].endswith("; there is no DEFAULT partition")
        await world.conn.execute("DROP TRIGGER dated ON public.reviews")
        await world.conn.execute(BEYOND.format("public"))
        async with checked(stage, *OPERATION) as found:
            assert found["PD-H46"] == ["public.reviews: rows lie beyond the bound of reviews_2026 (id 501)"]
            assert "PD-H49" not in found
        await world.conn.execute("DELETE FROM public.reviews WHERE note = 'beyond'")
        await world.conn.execute("CREATE UNIQUE INDEX one ON public.reviews (note)")
        async with checked(stage, *OPERATION) as found:
            assert found["PD-H46"] == [
                "public.reviews: has a unique index, which would hold in each partition only (public.one)"
            ]


async def a_later_plan_shows_the_table_too(world: World) -> None:
    """Begin another plan while the table is under its parent: its version shows it, writes through it, and outlives contract."""
    await world.conn.execute(TABLE.encode())
    await world.conn.execute(
        "CREATE TABLE public.shops (id int PRIMARY KEY, staff text NOT NULL); INSERT INTO public.shops VALUES (1, '7')"
    )
    stage = world.stage
    crew = {"name": "crew", "type": "int", "nullable": False, "up": "staff::int"}
    later = stage.plan(replace("public.shops", {"staff": "crew::text"}, crew), name="later", **POLICY)
    async with stage.worker():
        await in_soak(stage, stage.plan(*OPERATION, **POLICY))
        first = stage.handle
        await in_soak(stage, later | {"version": {"from": "2", "to": "3"}})
        assert await world.one("SELECT to_regclass('public_v3.reviews') IS NOT NULL"), "version 3 lacks the table"
        assert await world.one("INSERT INTO public_v3.reviews (note) VALUES ('new') RETURNING id") == 501
        error = await client_error(
            world.conn, "INSERT INTO public_v3.reviews (note) VALUES ('x') ON CONFLICT (id) DO NOTHING"
        )
        assert isinstance(error, psycopg.errors.InvalidColumnReference), "version 3 shows the table not by the parent"
        assert await world.one("SELECT note FROM public_v1.reviews WHERE id = 501") == "new"
        stage.handles.append(first)
        await stage.act("advance")
        await ended(stage, State.DONE)
        for name in ("public", "public_v2", "public_v3"):
            await world.one(BEYOND.format(name))
        assert await world.one("SELECT count(*) FROM public_v3.reviews WHERE note = 'beyond'") == 3


async def test_a_later_plan_shows_the_table_too(world: World) -> None:
    await a_later_plan_shows_the_table_too(world)


@on_newest
async def test_without_going_by_the_parent_it_would_show_one_partition(world: World) -> None:
    mutant = Code(
        "the view shows the parent",
        Attach.views,
        "self.design.parent if await self._has_parent(conn) else self.design.relation",
        "self.design.relation",
    )
    await must_fail(a_later_plan_shows_the_table_too(world), mutant, says="not by the parent")


@on_newest
async def test_what_has_come_to_the_table_meanwhile_is_there_afterwards(world: World) -> None:
    await world.conn.execute(TABLE.encode())
    stage = world.stage
    async with stage.worker():
        await in_soak(stage, stage.plan(*OPERATION, **POLICY))
        await world.conn.execute(
            "ALTER TABLE public.reviews ALTER n SET DEFAULT 5, ADD CONSTRAINT small CHECK (n < 100000)"
        )
        await world.conn.execute("COMMENT ON COLUMN public.reviews.n IS 'since'")
        await world.conn.execute("UPDATE public.reviews SET note = '' WHERE note IS NULL")
        await world.conn.execute("ALTER TABLE public.reviews ALTER note SET NOT NULL")
        await world.conn.execute("CREATE INDEX reviews_n ON public.reviews (n)")
        await world.conn.execute(
            "GRANT SELECT ON public.reviews TO pg_monitor; GRANT INSERT (note) ON public.reviews TO PUBLIC"
        )
        error = await client_error(world.conn, "ALTER TABLE public.reviews ADD COLUMN more int")
        assert error is not None
        await world.conn.execute("CREATE UNIQUE INDEX one ON public.reviews (note, id)")
        await stage.act("advance")
        status = await stage.until(held, 60)
        assert status.waiting_for is not None
        assert "has a unique index, which would hold in each partition only (public.one)" in status.waiting_for.detail
        await world.conn.execute("DROP INDEX public.one")
        await stage.act("advance")
        await ended(stage, State.DONE)
    assert await world.one("INSERT INTO public.reviews (at, note) VALUES ('2027-03-01 00:00+00', 'x') RETURNING n") == 5
    for change, state in (("n = 100000", "23514"), ("note = NULL", "23502")):
        error = await client_error(world.conn, f"UPDATE public.reviews SET {change} WHERE note = 'x'")
        assert error is not None
        assert error.sqlstate == state
    comments = "SELECT col_description(attrelid, attnum) FROM pg_attribute WHERE attrelid = 'public.reviews'::regclass"
    assert await world.one(f"{comments} AND attname = 'n'") == "since"
    assert await world.one("SELECT has_table_privilege('pg_monitor', 'public.reviews', 'SELECT')")
    assert await world.one("SELECT has_column_privilege('pg_monitor', 'public.reviews', 'note', 'INSERT')")
    assert await world.one("SELECT count(*) FROM pg_index WHERE indrelid = 'public.reviews_2027'::regclass") == 3


@on_newest
async def test_an_ordinary_role_is_enough_and_an_application_with_grants_writes_all_through(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.conn.execute(TABLE.encode())
    stage = world.stage
    role = stage.queue.replace("test-", "worker_")
    application = role.replace("worker_", "app_")
    await world.conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(application)))
    grant = "GRANT SELECT, INSERT, UPDATE, DELETE ON reviews TO {}"
    await world.conn.execute(sql.SQL(grant).format(sql.Identifier(application)))
    monkeypatch.setenv(stage.variable, await ordinary_role(world.conn, role, stage.dsn))

    async def write(*names: str) -> None:
        async with await psycopg.AsyncConnection.connect(
            stage.dsn.replace("postgres@", f"{application}@"), autocommit=True
        ) as app:
            for name in names:
                made = await app.execute(f"INSERT INTO {name}.reviews (note) VALUES ('app') RETURNING id".encode())
                await app.execute(f"UPDATE {name}.reviews SET n = 1 WHERE id = %s".encode(), await made.fetchone())

    async with stage.worker():
        await in_soak(stage, stage.plan(*OPERATION, **POLICY))
        await write("public", "public_v1", "public_v2")
        await stage.act("advance")
        await ended(stage, State.DONE)
        await write("public", "public_v2")
    assert await world.one("SELECT count(*) FROM reviews WHERE note = 'app' AND n = 1") == 5


@pytest.mark.parametrize("step", ["publish", "undo_verify", "contract"])
@on_newest
async def test_a_step_waits_for_an_open_transaction_within_the_budget(world: World, step: str) -> None:
    await world.conn.execute(TABLE.encode())
    stage = world.stage
    async with stage.worker(), world.client() as opened:
        await opened.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        name = "public" if step == "publish" else "public_v2" if step == "contract" else "public_v1"
        update = f"UPDATE {name}.reviews SET n = 1 WHERE id = %s"
        if step == "publish":
            await stage.start(stage.plan(*OPERATION, **overlaid(POLICY, {"gates": {"verify": "manual"}})))
            await stage.until(_at_gate(Phase.VERIFY), 60)
            await opened.execute(update, (1,))
            await stage.act("advance")
        else:
            await in_soak(stage, stage.plan(*OPERATION, **POLICY))
            await opened.execute(update, (1,))
            await stage.act("abort" if step == "undo_verify" else "advance")
        assert "ACCESS EXCLUSIVE on" in await lock_wait(world)
        # Others are let by meanwhile; and the open transaction goes on as it likes.
        assert await client_error(world.conn, "UPDATE public.reviews SET n = 2 WHERE id = 2") is None
        await opened.execute(update, (3,))
        await opened.commit()
        if step == "publish":
            await stage.waits("gate", Phase.SHADOW, 60)
        else:
            await ended(stage, State.ROLLED_BACK if step == "undo_verify" else State.DONE)
        assert (await (await opened.execute("SELECT sum(n) FROM public.reviews")).fetchone()) == (4,)
