"""Several rows become one: nothing that is written meanwhile is lost, and reads stay cheap while workers come and go."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from support.cycle import QUICK
from support.harness import TIMEOUT_S, schema_dump
from support.merged import BOOKED, EXAMPLE, TABLES, TOTALS
from support.mutants import Clause, Code, must_fail
from support.plans import overlaid
from support.worlds import World, on_newest

from pgduet import barriers
from pgduet.operations import merge_rows
from pgduet.phases import Phase, State
from pgduet.plan.load import load_plan

Connection = psycopg.AsyncConnection[Any]
SOAK = {"soak": {"window_s": 3600, "legacy_idle_s": 0.5}, "gates": {"shift": "auto"}}
NOTES = 'SELECT count(*) FROM pgduet."journal_public._pgduet_review-stars_totals"'
ADD = "UPDATE public_v2.totals SET total = total + 100 WHERE id = %s"
MENDED = "parity had to mend merged rows"
APART = """
SELECT count(*) FROM public_v2.totals t FULL JOIN
 (SELECT invoice_id AS id, count(*) AS lines, sum(amount) AS total, max(note) AS last FROM public.lines GROUP BY 1) o USING (id)
 WHERE (t.lines, t.total, t.last) IS DISTINCT FROM (o.lines, o.total, o.last)
"""


async def create(world: World, invoices: int, each: int = 2) -> None:
    """Create the tables; the lines of an invoice lie side by side."""
    await world.conn.execute(TABLES.format(invoices=invoices, each=each).encode())
    await world.conn.execute("VACUUM ANALYZE public.lines")


async def two_rows_become_one(world: World) -> None:
    """Delete one of the two rows while its group is being filled, update both of another at once: the merged rows follow."""
    await create(world, 3000)
    times = Counter[str]()

    async def hook() -> None:
        times["batch"] += 1
        if times["batch"] == 1:
            # Groups of the batch that is not committed yet, and groups that no batch has read.
            await world.conn.execute("DELETE FROM public.lines WHERE invoice_id IN (1, 2999) AND amount = 1")
            await both_at_once(world, 2)
            await both_at_once(world, 2998)

    barriers.HOOKS["batch.before_commit"] = hook
    try:
        async with world.stage.worker():
            await world.stage.start(world.stage.plan(TOTALS, **overlaid(QUICK, {"backfill": {"batch_target_ms": 2}})))
            status = await world.stage.waits("gate", Phase.SHADOW, 60)
            assert times["batch"] > 1
            assert status.parity is not None
            assert (status.parity.rows, status.parity.mismatches) == (3000, 0)
            assert status.parity.repaired == 0, MENDED
            shown = await world.rows(
                "SELECT id, lines, total FROM public_v2.totals WHERE id IN (1, 2, 2998, 2999) ORDER BY id"
            )
            assert shown == [(1, 1, 2), (2, 2, 23), (2998, 2, 23), (2999, 1, 2)]
            assert await world.one(APART) == 0
    finally:
        del barriers.HOOKS["batch.before_commit"]


async def both_at_once(world: World, invoice: int) -> None:
    """Two clients update a line each of an invoice: neither has committed when the other one writes."""
    async with world.client() as one, world.client() as other:
        update = "UPDATE public.lines SET amount = amount + 10 WHERE invoice_id = %s AND amount = %s"
        await one.execute(update, (invoice, 1))
        await other.execute(update, (invoice, 2))
        await one.commit()
        await other.commit()


async def test_two_rows_become_one_while_one_is_deleted_and_both_are_updated_at_once(world: World) -> None:
    await two_rows_become_one(world)


UNSEEN = Clause("the probe looks for its note", "merging", "probe_look", "EXISTS (", "true OR EXISTS (")
NO_DELETE = Clause(
    "who deletes a row notes its group", "journal", "noted", "IF TG_OP <> 'INSERT' THEN", "IF TG_OP = 'UPDATE' THEN"
)
NO_UPDATE = Code(
    "who changes what is measured notes the group", merge_rows._note, 'sql.SQL("({} OR {})").format(key, read)', "key"
)


@on_newest
@pytest.mark.parametrize("mutant", [NO_DELETE, NO_UPDATE], ids=lambda mutant: mutant.name)
async def test_without_the_rule_a_merged_row_is_wrong(world: World, mutant: Clause | Code) -> None:
    await must_fail(two_rows_become_one(world), mutant, UNSEEN, says=MENDED)


# Clients of both versions, there and back and to the end


class Clients:
    """Old clients who write lines, each of them invoices of its own; new clients who compare what they read with the lines."""

    def __init__(self, world: World, *, writing: bool = False) -> None:
        self.world = world
        self.writing = writing
        """New clients write, too."""
        self.total: Counter[int] = Counter()
        self.seen: Counter[str] = Counter()
        self.stop = {"old": False, "new": True}

    async def writes(self, number: int) -> None:
        """Write as an old client, without ever retrying; the ledger is of what was acknowledged."""
        async with self.world.client(autocommit=True, application_name=f"old {number}") as conn:
            turn = 0
            while not self.stop["old"]:
                turn += 1
                invoice = 5000 + 10 * number + turn % 5
                await conn.execute("INSERT INTO public.lines (invoice_id, amount) VALUES (%s, %s)", (invoice, turn))
                self.total[invoice] += turn
                query = (
                    "UPDATE public.lines SET amount = amount + 1 WHERE id IN"
                    " (SELECT id FROM public.lines WHERE invoice_id = %s ORDER BY id LIMIT 2)"
                )
                more = (await conn.execute(query, (invoice,))).rowcount  # apart: others count while we wait
                self.total[invoice] += more
                query = (
                    "DELETE FROM public.lines WHERE id = (SELECT min(id) FROM public.lines WHERE invoice_id = %s"
                    " HAVING count(*) > 6) RETURNING amount"
                )
                for (amount,) in await (await conn.execute(query, (invoice,))).fetchall():
                    self.total[invoice] -= amount
                self.seen["old"] += 1
                await asyncio.sleep(0.002)

    async def reads(self, number: int) -> None:
        """Read as a new client: each read is a comparison with the lines, in one snapshot."""
        query = (
            "SELECT (SELECT total FROM public_v2.totals WHERE id = %(id)s) IS DISTINCT FROM"
            " (SELECT sum(amount) FROM public.lines WHERE invoice_id = %(id)s)"
        )
        while True:
            while self.stop["new"]:
                if self.stop["old"]:
                    return
                await asyncio.sleep(0.05)
            async with self.world.client(autocommit=True, application_name=f"new {number}") as conn:
                while not self.stop["new"]:
                    for invoice in range(5000 + number, 5060, 3):
                        ((wrong,),) = await (await conn.execute(query, {"id": invoice})).fetchall()
                        self.seen["read"] += 1
                        self.seen["read wrong"] += wrong
                        if self.writing and (await conn.execute(ADD, (invoice,))).rowcount:
                            self.total[invoice] += 100
                            self.seen["new"] += 1
                    await asyncio.sleep(0.002)

    async def working(self, *names: str, more: int = 40) -> None:
        """Wait until each kind has done so much more."""
        wanted = {name: self.seen[name] + more for name in names}
        async with asyncio.timeout(TIMEOUT_S):
            while any(self.seen[name] < count for name, count in wanted.items()):
                await asyncio.sleep(0.02)

    async def all_there(self, query: str = "SELECT id, total::int FROM public_v2.totals WHERE id >= 5000") -> None:
        """Every acknowledged increment is in the merged rows: asked when nobody writes."""
        assert dict(await self.world.rows(query)) == dict(self.total)
        assert self.seen["read wrong"] == 0


@asynccontextmanager
async def clients_of(world: World, *, writing: bool = False) -> AsyncIterator[Clients]:
    """Give clients at work."""
    clients = Clients(world, writing=writing)
    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(clients.writes(number))
            group.create_task(clients.reads(number))
        try:
            yield clients
        finally:
            clients.stop |= {"old": True, "new": True}


@pytest.mark.parametrize("operation", [TOTALS, BOOKED], ids=["read-only", "written"])
async def test_clients_of_both_versions_there_and_back_and_to_the_end(world: World, operation: dict[str, Any]) -> None:
    await create(world, 400, each=5)
    before = schema_dump(world.server.bin_dir, world.stage.dsn)
    plan = world.stage.plan(operation, **overlaid(QUICK, SOAK))
    stage = world.stage
    writing = ["new"] if operation is BOOKED else []
    async with stage.worker():
        async with clients_of(world, writing=operation is BOOKED) as clients:
            await clients.working("old")
            for last in (False, True):
                await stage.start(plan)
                await stage.waits("window", Phase.SOAK, 60)
                clients.stop["new"] = False
                await clients.working("old", "read", *writing, more=200)
                await until(world, NOTES, lambda notes: notes < 200)
                verified = await stage.act("verify")
                assert verified.message.startswith("0 of "), verified
                if last:
                    break
                clients.stop["new"] = True
                await stage.act("abort", reason="half of the way")
                assert (await stage.result(60)).state is State.ROLLED_BACK
                assert schema_dump(world.server.bin_dir, world.stage.dsn) == before
                await clients.working("old")
            clients.stop["new"] = True
        # The old clients have gone.
        await clients.all_there()
        kept = await world.one("SELECT count(*) FROM public.lines")
        await stage.act("advance")
        assert (await stage.result(60)).state is State.DONE
    await clients.all_there("SELECT id, total::int FROM public.totals WHERE id >= 5000")
    assert await world.one('SELECT count(*) FROM pgduet_archive."review-stars/public.lines/2"') == kept
    assert await world.one("SELECT count(*) FROM public.totals") == 400 + len(clients.total)


async def until(world: World, query: str, wanted: Callable[[Any], bool]) -> None:
    """Wait until the database answers so."""
    async with asyncio.timeout(TIMEOUT_S):
        while not wanted(await world.one(query)):
            await asyncio.sleep(0.05)


@on_newest
async def test_reads_stay_cheap_while_a_gate_waits_and_a_worker_is_killed(world: World) -> None:
    """Nobody drains while there is no worker: reads are right, and dear; the next one makes them cheap again, unasked."""
    await create(world, 2000, each=3)
    stage = world.stage
    burst = "UPDATE public.lines SET amount = amount + 1"
    with stage.worker_process() as first:
        await stage.start(stage.plan(TOTALS, **QUICK))
        await stage.waits("gate", Phase.SHADOW, 60)
        await world.conn.execute(burst)
        await until(world, NOTES, lambda notes: notes == 0)
        cheap = await touched(world)
        first.process.kill()
    await world.conn.execute(burst)
    assert await world.one(NOTES) == 6000
    assert await world.one(APART) == 0
    with stage.worker_process():
        await until(world, NOTES, lambda notes: notes == 0)
        await until_touched(world, cheap + 4)
        assert await world.one(APART) == 0
        await stage.act("abort", reason="seen")
        assert (await stage.result(60)).state is State.ROLLED_BACK
        migration = await world.one("SELECT id FROM pgduet.migration")
        drain = stage.client.get_workflow_handle(f"{stage.handle.id}/drain/{migration}")
        async with asyncio.timeout(TIMEOUT_S):
            assert (await drain.result())["finished"] is True


async def touched(world: World) -> int:
    """Count the pages that a new client's read of one row touches."""
    ((plan,),) = await world.rows("EXPLAIN (ANALYZE, BUFFERS, FORMAT json) SELECT * FROM public_v2.totals WHERE id = 7")
    return int(plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"])


async def until_touched(world: World, most: int) -> None:
    """Wait until a read touches no more pages than that."""
    async with asyncio.timeout(TIMEOUT_S):
        while await touched(world) > most:
            await asyncio.sleep(0.1)


SOME = (("batch.after_commit", "publish.before_commit"), ("undo_verify.before_commit",), ("contract.before_commit",))
OTHERS = (
    ("expand.before_commit", "expand.after_commit", "dual_write.before_commit", "dual_write.after_commit"),
    (
        "undo_verify.after_commit",
        "undo_dual_write.after_commit",
        "undo_expand.before_commit",
        "undo_expand.after_commit",
    ),
    ("contract.after_commit",),
)


@pytest.mark.early
@on_newest
@pytest.mark.parametrize(
    ("ahead", "back", "last"),
    [
        pytest.param(*SOME, id="some"),
        pytest.param(*OTHERS, id="others", marks=[pytest.mark.long, pytest.mark.timeout(900)]),
    ],
)
async def test_a_worker_killed_at_its_barriers_there_and_back_changes_nothing(
    world: World, ahead: tuple[str, ...], back: tuple[str, ...], last: tuple[str, ...]
) -> None:
    await create(world, 2000, each=3)
    before = schema_dump(world.server.bin_dir, world.stage.dsn)
    stage = world.stage
    plan = stage.plan(BOOKED, **overlaid(QUICK, SOAK | {"backfill": {"batch_target_ms": 2}}))
    await stage.start(plan)
    for barrier in ahead:
        await killed_at(world, barrier)
    for barrier in back:
        await killed_at(world, barrier, from_soak=barrier == back[0])
    with stage.worker_process():
        assert (await stage.result(60)).state is State.ROLLED_BACK
        assert schema_dump(world.server.bin_dir, world.stage.dsn) == before
        # The batch that was killed after its commit is not done again.
        assert await world.one("SELECT rows_done FROM pgduet.backfill_range") == 2000
        await stage.start(plan)
        await stage.waits("window", Phase.SOAK, 60)
        await world.conn.execute("UPDATE public_v2.totals SET total = total + 4 WHERE id = 6")
    await killed_at(world, last[0], "advance")
    with stage.worker_process():
        assert (await stage.result(60)).state is State.DONE
    shown = await world.rows("SELECT id, total FROM public.totals WHERE id IN (5, 6, 7) ORDER BY id")
    assert shown == [(5, 6), (6, 6 + 4), (7, 6 + 3 * len([*ahead, *back, *last]))]
    assert await world.one("SELECT count(*) FROM public.totals") == 2000


async def killed_at(world: World, barrier: str, act: str = "", *, from_soak: bool = False) -> None:
    """Run a worker until it is killed there, and write while there is none."""
    stage = world.stage
    with stage.worker_process(f"{barrier}=kill") as worker:
        if from_soak:
            await stage.waits("window", Phase.SOAK, 60)
            act = "abort"
        if act:
            await stage.act(act, reason="the next step")
        await worker.killed(60)
    await world.conn.execute("UPDATE public.lines SET amount = amount + 1 WHERE invoice_id = 7")


@on_newest
async def test_the_example_is_a_plan_that_works(world: World) -> None:
    await world.conn.execute(
        "CREATE TABLE public.lines (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, invoice_id bigint NOT NULL,"
        " amount numeric(12,2) NOT NULL, written_at timestamptz NOT NULL DEFAULT now());"
        " INSERT INTO public.lines (invoice_id, amount) SELECT i % 50, i FROM generate_series(1, 500) i"
    )
    stage = world.stage
    raw = load_plan(EXAMPLE).plan.model_dump(mode="json", by_alias=True)
    plan = raw | {"database": stage.database, "policy": overlaid(QUICK, SOAK)}
    file = stage.scratch / "totals.json"
    file.write_text(json.dumps(plan))
    async with stage.worker():
        checked = await stage.command("check", str(file), "--database")
        assert checked.returncode == 0, checked.stderr
        assert {f"PD-H4{number}" for number in range(4)} <= set(re.findall(r"PD-H\d\d", checked.stdout)), checked.stdout
        assert "lines → public.invoice_totals: lines, total, last_at" in checked.stdout
        await stage.start(plan)
        await stage.waits("window", Phase.SOAK, 60)
        assert await world.rows("SELECT lines, total::int FROM public_v2.invoice_totals WHERE id = 3") == [(10, 2280)]
        await stage.act("advance")
        assert (await stage.result(60)).state is State.DONE
        report = await stage.command("report", raw["name"], "--database", stage.database)
        assert report.returncode == 0, report.stderr
        assert "invoice_totals" in report.stdout
    assert await world.one("SELECT count(*) FROM public.invoice_totals") == 50


@on_newest
async def test_what_cannot_be_merged_is_refused_before_anything_is_touched(world: World) -> None:
    await create(world, 10)
    await world.conn.execute("CREATE VIEW public.mine AS SELECT amount FROM public.lines")
    stage = world.stage
    file = stage.scratch / "totals.yaml"
    file.write_text(json.dumps(stage.plan(TOTALS, **QUICK), indent=1))
    async with stage.worker():
        refused = await stage.command("check", str(file), "--database")
        assert refused.returncode == 1
        said = refused.stdout + refused.stderr
        assert "PD-1046" in said
        assert "operations[0].merge_rows.table" in said
        assert "on view public.mine: its rows cannot be merged" in said
        assert "Drop them first" in said
    assert await world.one("SELECT count(*) FROM pg_class WHERE relname LIKE '%totals%'") == 0
