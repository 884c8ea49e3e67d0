"""Parity of a shadow from its design: each kind of drift is named and repaired on the way that is safe in each phase."""

import asyncio
import secrets
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.mutants import Code, must_fail
from support.shadows import CUSTOMERS, Shadow, addresses, create_orders, over, parted, wide

from pgduet.barriers import HOOKS
from pgduet.messages import Reference
from pgduet.operations import pairing, shadow_mending
from pgduet.operations.aggregates import Aggregate, Measured
from pgduet.operations.shadow_design import ShadowColumn, ShadowDesign
from pgduet.phases import Authority
from pgduet.plan.policy import Policy
from pgduet.postgres.counterpart import Compared
from pgduet.postgres.databases import Database
from pgduet.postgres.pace import Pace
from pgduet.postgres.session import session
from pgduet.postgres.shadow_parity import ShadowParity, Standing

Connection = psycopg.AsyncConnection[Any]
REFERENCE = Reference(database="shop", name="wide-orders", migration_id=1, actor="tester", reason="drift was found")
ROWS = 2000
PACE = Pace.of(Policy())
SHADOW = wide().shadow_label


class Checked:
    """A shadow, and its comparison as an activity runs it, on two sessions."""

    def __init__(self, conn: Connection, dsn: str, design: ShadowDesign, *, published: bool) -> None:
        self.m = Shadow(conn, design)
        self.conn, self.dsn, self.design, self.published = conn, dsn, design, published
        self.role: str | None = None
        self.asked = 0

    async def compare(
        self, *, repair: bool = False, authority: Authority = Authority.OLD, request: str | None = None, **more: Any
    ) -> Compared:
        """Compare anew, or go on by a request."""
        self.asked += 1
        async with AsyncExitStack() as stack:
            database = Database("shop", self.dsn, self.role)
            sessions = [await stack.enter_async_context(session(database, "test")) for _ in range(2)]
            parity = ShadowParity(sessions, self.design, REFERENCE, Standing(self.published, authority), PACE)
            return await parity.whole(request or f"try {self.asked}", repair=repair, **more)

    async def engine(self, *queries: str) -> None:
        """Write the shadow past everything, as nobody should."""
        async with self.conn.transaction():
            await self.conn.execute("SELECT set_config('pgduet.engine', %s, true)", (self.design.shadow_label,))
            for query in queries:
                await self.conn.execute(query.encode())

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask for rows."""
        return [tuple(row) for row in await (await self.conn.execute(query.encode())).fetchall()]

    async def notes(self) -> set[tuple[str, str]]:
        """Give the drift that is noted and not resolved."""
        found = await self.rows("SELECT kind, key::text FROM pgduet.drift WHERE resolved_at IS NULL")
        return {(kind, key) for kind, key in found}


@pytest.fixture(params=[False, True], ids=["before publication", "published"])
async def orders(request: pytest.FixtureRequest, dsn: str, conn: Connection) -> Checked:
    """Give a shadow of orders, before and after publication."""
    await create_orders(conn, ROWS)
    checked = Checked(conn, dsn, wide(), published=request.param)
    await checked.m.expand()
    await checked.m.copy()
    await checked.m.keyed()
    await checked.m.drain()
    if request.param:
        await checked.m.publish()
    await conn.execute("ANALYZE public.orders")
    return checked


DRIFT = (
    f"UPDATE {SHADOW} SET amount = amount + 5 WHERE id IN (10, 20, 30)",
    f"UPDATE {SHADOW} SET note = 'by hand', at = at + interval '1 s' WHERE id = 40",
    f"DELETE FROM {SHADOW} WHERE id IN (100, 200)",
    f"INSERT INTO {SHADOW} (id, code, amount, at) VALUES (-1, 'x1', 1, now()), (10000000000, 'x2', 1, now())",
)
NAMED = {
    *(("mismatch", f'{{"id": {n}}}') for n in (10, 20, 30, 40)),
    *(("missing", f'{{"id": {n}}}') for n in (100, 200)),
    *(("extra", f'{{"id": {n}}}') for n in (-1, 10_000_000_000)),
}


async def test_a_shadow_in_step_is_clean(orders: Checked) -> None:
    found = await orders.compare()
    assert (found.clean, found.rows, found.shadow_rows) == (True, ROWS, ROWS)


async def test_drift_is_named_key_by_key_and_repaired_towards_the_old_side(orders: Checked) -> None:
    await orders.engine(*DRIFT)
    found = await orders.compare()
    assert (found.mismatches, found.settled.confirmed) == (8, {"mismatch": 4, "missing": 2, "extra": 2})
    assert await orders.notes() == NAMED
    before = await orders.rows("SELECT * FROM public.orders ORDER BY id")
    found = await orders.compare(repair=True)
    assert (found.clean, found.repaired, found.shadow_rows) == (True, 8, ROWS)
    assert await orders.rows("SELECT * FROM public.orders ORDER BY id") == before
    assert (await orders.m.parity())[1] == 0
    assert await orders.notes() == set()
    logged = await orders.rows("SELECT actor, evidence FROM pgduet.audit WHERE action = 'repair'")
    keys = {(each["kind"], f'{{"id": {each["key"]["id"]}}}') for _, told in logged for each in told["repaired"]}
    assert keys == NAMED
    assert {actor for actor, _ in logged} == {"tester"}


async def test_a_repair_finds_nothing_to_do_the_second_time(orders: Checked) -> None:
    await orders.engine(*DRIFT)
    found = await orders.compare(repair=True, request="one")
    again = await orders.compare(repair=True, request="one")
    assert (found.repaired, again.repaired, again.clean, again.parts) == (8, 8, True, found.parts)
    logged = await orders.rows("SELECT sum((affected ->> 'rows')::int)::int FROM pgduet.audit WHERE action = 'repair'")
    assert logged == [(8,)]


async def test_a_repair_that_was_killed_half_way_goes_on_and_repairs_each_row_once(
    orders: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    await orders.engine(*DRIFT)
    monkeypatch.setattr("pgduet.postgres.suspects.REPAIRED_AT_ONCE", 3)
    commits = 0

    async def dies() -> None:
        nonlocal commits
        commits += 1
        if commits == 2:
            raise asyncio.CancelledError

    compared = await orders.compare(request="one")
    monkeypatch.setitem(HOOKS, "batch.after_commit", dies)
    with pytest.raises(asyncio.CancelledError):
        await orders.compare(repair=True, request="one")
    monkeypatch.undo()
    found = await orders.compare(repair=True, request="one")
    assert (found.clean, found.repaired, found.parts != compared.parts) == (True, 8, True)
    logged = await orders.rows("SELECT sum((affected ->> 'rows')::int)::int FROM pgduet.audit WHERE action = 'repair'")
    assert logged == [(8,)]


async def test_what_stands_in_the_journal_is_under_way_and_no_drift(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 100)
    orders = Checked(conn, dsn, wide(), published=False)
    await orders.m.expand()
    await orders.m.copy()
    await orders.m.keyed()
    async with conn.transaction():
        await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await conn.execute("UPDATE public.orders SET amount = 7 WHERE id = 5")
    assert await orders.m.parity() == (100, 1)
    assert (await orders.compare()).clean


@pytest.fixture
async def published(dsn: str, conn: Connection) -> Checked:
    """Give a shadow in the hands of both versions, with a column that only the new one knows, and what old could not hold."""
    await create_orders(conn, ROWS)
    base = wide()
    columns = (*base.columns, ShadowColumn(name="priority", type="integer"))
    checked = Checked(conn, dsn, base.model_copy(update={"columns": columns, "unmappable": "archive"}), published=True)
    await checked.m.published()
    await conn.execute("UPDATE public_v2.orders SET priority = id WHERE id <= 50")
    return checked


async def test_a_repair_after_publication_keeps_what_only_the_new_version_knows(published: Checked) -> None:
    await published.engine(DRIFT[0])
    assert (await published.compare(repair=True)).clean
    assert await published.rows("SELECT priority FROM public_v2.orders WHERE id IN (10, 20, 30) ORDER BY id") == [
        (10,),
        (20,),
        (30,),
    ]


async def a_new_client_writes_while_its_row_is_repaired(published: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    await published.engine(DRIFT[0])
    await published.compare(request="one")
    query = "UPDATE public_v2.orders SET priority = 77 WHERE id = 20"
    waits = f"SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query = '{query}'"
    writing: list[asyncio.Task[Any]] = []
    async with await psycopg.AsyncConnection.connect(published.dsn, autocommit=True) as client:

        async def begin() -> None:
            if writing:
                return
            writing.append(asyncio.create_task(client.execute(query)))
            async with asyncio.timeout(20):
                while (await published.rows(waits)) == [(0,)]:
                    await asyncio.sleep(0.01)

        monkeypatch.setitem(HOOKS, "batch.before_commit", begin)
        found = await published.compare(repair=True, request="one")
        (done,) = await asyncio.gather(*writing)
    assert done.rowcount == 1, "a new client's write found its row gone"
    assert found.clean
    assert await published.rows("SELECT priority FROM public_v2.orders WHERE id = 20") == [(77,)]


async def test_a_new_client_who_waits_for_a_row_under_repair_writes_it(
    published: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_new_client_writes_while_its_row_is_repaired(published, monkeypatch)


async def test_that_client_would_write_nothing_if_the_row_were_written_anew(
    published: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    drains = Code(
        "rows are written in place from publication on",
        shadow_mending.in_place,
        "yield towards.update(lacking)",
        "yield Towards(comparison, Authority.OLD).remove(lacking)",
    )

    def remove(towards: Any, suspects: Any) -> Any:
        among = shadow_mending.among(towards.comparison, suspects, extra=False)
        query = shadow_mending.sql.SQL("DELETE FROM {} AS f USING {} AS s WHERE {} AND {}")
        parts = towards.comparison.shadow_relation, towards.comparison.source_relation
        return query.format(*parts, among, shadow_mending.match(towards.comparison, mapped=False))

    monkeypatch.setattr(shadow_mending.Towards, "remove", remove, raising=False)
    scenario = a_new_client_writes_while_its_row_is_repaired(published, monkeypatch)
    await must_fail(scenario, drains, says="found its row gone")


async def test_after_cutover_the_anchor_is_given_what_the_shadow_says(published: Checked) -> None:
    await published.engine(*DRIFT)
    before = await published.rows(f"SELECT * FROM {SHADOW} WHERE id < 10000000000 ORDER BY id")
    found = await published.compare(repair=True, authority=Authority.NEW)
    # What the anchor's key cannot hold has no place there, and stays named.
    assert (found.mismatches, found.repaired, found.settled.confirmed) == (1, 7, {"extra": 1})
    assert await published.rows(f"SELECT * FROM {SHADOW} WHERE id < 10000000000 ORDER BY id") == before
    assert await published.rows("SELECT amount, note FROM public.orders WHERE id IN (20, 40) ORDER BY id") == [
        (5, None),
        (0, "by hand"),
    ]
    assert await published.rows("SELECT id FROM public.orders WHERE id IN (100, 200, -1)") == [(-1,)]
    told = await published.rows(
        "SELECT jsonb_path_query(evidence, '$.repaired[*].key.id')::bigint FROM pgduet.audit WHERE action = 'repair' ORDER BY 1"
    )
    assert told == [(-1,), (10,), (20,), (30,), (40,), (100,), (200,)]


async def test_a_row_that_others_may_refer_to_is_not_deleted_nor_said_to_be(published: Checked) -> None:
    await published.engine(f"DELETE FROM {SHADOW} WHERE id = 100", f"UPDATE {SHADOW} SET amount = 5 WHERE id = 10")
    published.design = published.design.model_copy(update={"inbound": ('"public"."items"',)})
    found = await published.compare(repair=True, authority=Authority.NEW)
    assert (found.repaired, found.settled.confirmed) == (1, {"missing": 1})
    told = await published.rows("SELECT evidence -> 'repaired' FROM pgduet.audit WHERE action = 'repair'")
    assert [each["key"] for (batch,) in told for each in batch] == [{"id": 10}]


async def test_after_cutover_the_users_triggers_are_mute_and_foreign_keys_are_not(published: Checked) -> None:
    conn = published.conn
    await conn.execute("CREATE TABLE public.steps (n int PRIMARY KEY)")
    await conn.execute("INSERT INTO public.steps SELECT generate_series(0, 10)")
    await conn.execute("ALTER TABLE public.orders ADD FOREIGN KEY (amount) REFERENCES public.steps")
    await conn.execute(
        """CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.note := 'touched'; RETURN NEW; END $$"""
    )
    await conn.execute(
        "CREATE TRIGGER touch BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.touch()"
    )
    await published.engine(
        f"UPDATE {SHADOW} SET at = at + interval '1 s' WHERE id IN (10, 20)",
        f"UPDATE {SHADOW} SET amount = 77 WHERE id = 30",
    )
    found = await published.compare(repair=True, authority=Authority.NEW)
    assert (found.mismatches, found.repaired) == (1, 2), "an amount that no step has stays as it is"
    rows = "SELECT amount, note, extract(second FROM at)::int FROM public.orders WHERE id IN (10, 20, 30) ORDER BY id"
    assert await published.rows(rows) == [(0, None, 1), (0, None, 1), (0, None, 0)]


def shop(relation: str, amount: str) -> Measured:
    group = over("(t.id % 4)")
    return Measured(relation=("public", relation), value=over(amount), type="numeric", groups=(group,))


async def test_aggregates_that_are_declared_are_off_as_well(orders: Checked) -> None:
    turnover = Aggregate(
        name="turnover",
        measure="sum",
        old=shop("orders", "t.amount"),
        new=shop(orders.design.physical, "t.amount"),
    )
    assert (await orders.compare(aggregates=(turnover,))).clean
    await orders.engine(DRIFT[0])
    found = await orders.compare(aggregates=(turnover,))
    assert [(each.name, each.differing, each.groups) for each in found.aggregates] == [("turnover", 2, [[0], [2]])]
    details = await orders.rows("SELECT detail FROM pgduet.drift WHERE kind = 'aggregate' AND resolved_at IS NULL")
    assert sorted(details) == [('{"old":"0","new":"10"}',), ('{"old":"0","new":"5"}',)]
    found = await orders.compare(aggregates=(turnover,), repair=True)
    assert (found.clean, found.repaired) == (True, 3)


# Extraction


@pytest.fixture(params=[False, True], ids=["before publication", "published"])
async def customers(request: pytest.FixtureRequest, dsn: str, conn: Connection) -> Checked:
    """Give customers whose addresses are extracted; of those in DE alone, which cannot be said of one without a country."""
    await create_orders(conn, 0)
    await conn.execute(CUSTOMERS)
    checked = Checked(conn, dsn, addresses(), published=request.param)
    await checked.m.expand()
    await checked.m.copy()
    await checked.m.keyed()
    await checked.m.drain()
    if request.param:
        await checked.m.publish()
    return checked


async def test_an_extracted_row_is_changed_missing_or_too_many(customers: Checked) -> None:
    shadow = customers.design.shadow_label
    assert (await customers.compare()).clean
    await customers.engine(
        f"UPDATE {shadow} SET city = 'Elsewhere' WHERE customer_id = 2",
        f"DELETE FROM {shadow} WHERE customer_id = 4",
        f"INSERT INTO {shadow} VALUES (1, 'none', 'NONE'), (99, 'orphan', 'NONE')",
    )
    found = await customers.compare()
    assert found.settled.confirmed == {"mismatch": 1, "missing": 1, "extra": 2}
    named = {("mismatch", '{"id": 2}'), ("missing", '{"id": 4}')}
    assert await customers.notes() == named | {("extra", f'{{"customer_id": {n}}}') for n in (1, 99)}
    before = await customers.rows("SELECT * FROM public.customers ORDER BY id")
    assert (await customers.compare(repair=True)).clean
    assert await customers.rows("SELECT * FROM public.customers ORDER BY id") == before


async def test_after_cutover_an_extracted_row_decides_about_the_parents_columns(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 0)
    await conn.execute(CUSTOMERS)
    customers = Checked(conn, dsn, addresses(), published=True)
    await customers.m.published()
    shadow = customers.design.shadow_label
    await customers.engine(
        f"UPDATE {shadow} SET city = 'PARIS' WHERE customer_id = 2",
        f"DELETE FROM {shadow} WHERE customer_id = 4",
        f"INSERT INTO {shadow} VALUES (1, 'some', 'ROME'), (99, 'orphan', 'NONE')",
    )
    found = await customers.compare(repair=True, authority=Authority.NEW)
    assert (found.settled.confirmed, found.repaired) == ({"extra": 1}, 3), "who has no parent stays named"
    assert await customers.rows("SELECT street, city FROM public.customers WHERE id IN (1, 2, 4) ORDER BY id") == [
        ("some", "ROME"),
        ("s2", "PARIS"),
        (None, None),
    ]


async def filtered(dsn: str, conn: Connection) -> None:
    """Scenario 10: the plan's filter drops valid rows with NULL helpers: parity names the missing keys and blocks."""
    await create_orders(conn, 0)
    await conn.execute(CUSTOMERS)
    await conn.execute("ALTER TABLE public.customers ADD country text DEFAULT 'DE'")
    await conn.execute("UPDATE public.customers SET country = NULL WHERE id IN (4, 8)")
    await conn.execute("UPDATE public.customers SET country = 'FR' WHERE id = 6")
    only = over("((t.street IS NOT NULL) AND (t.country = 'DE'::text))")
    customers = Checked(conn, dsn, addresses(exists=only), published=False)
    await customers.m.expand()
    await customers.m.copy()
    await customers.m.keyed()
    await customers.m.drain()
    assert (await customers.m.parity())[1] == 0, "the filter itself sees nothing"
    found = await customers.compare(repair=True)
    assert found.settled.confirmed == {"missing": 2}, "rows that the filter dropped were not missed"
    assert await customers.notes() == {("missing", '{"id": 4}'), ("missing", '{"id": 8}')}
    await conn.execute("UPDATE public.customers SET country = 'DE' WHERE id IN (4, 8)")
    assert (await customers.compare()).clean


async def test_10_the_plans_filter_drops_valid_rows_with_null_helpers(dsn: str, conn: Connection) -> None:
    await filtered(dsn, conn)


async def test_10_would_pass_if_the_filters_own_word_were_taken(dsn: str, conn: Connection) -> None:
    trusting = Code("what cannot be said of a row does not take it out", pairing.expected, "IS NOT FALSE", "IS TRUE")
    await must_fail(filtered(dsn, conn), trusting, says="rows that the filter dropped were not missed")


# Other shapes


async def test_a_partitioned_shadow_is_compared_by_the_anchors_key(dsn: str, conn: Connection) -> None:
    await create_orders(conn, ROWS)
    await conn.execute("UPDATE public.orders SET at = at + (id % 90) * interval '1 day'")
    orders = Checked(conn, dsn, parted(), published=False)
    await orders.m.expand()
    await orders.m.copy()
    await orders.m.keyed()
    await orders.m.drain()
    assert (await orders.compare()).clean
    await orders.engine(
        f"INSERT INTO {SHADOW} (id, code, amount, at) VALUES (7, 'c7', 0, '2026-02-20')",
        f"UPDATE {SHADOW} SET at = '2026-03-20' WHERE id = 9",
    )
    found = await orders.compare()
    assert (found.settled.confirmed, await orders.notes()) == (
        {"mismatch": 2},
        {("mismatch", '{"id": 7}'), ("mismatch", '{"id": 9}')},
    )
    assert (await orders.compare(repair=True)).clean


async def test_a_comparison_that_is_asked_for_anew_is_made_anew(orders: Checked) -> None:
    first = await orders.compare(request="one")
    assert (await orders.compare(request="one")).checked_at == first.checked_at
    assert (await orders.compare(request="two")).checked_at > first.checked_at


async def by_an_ordinary_owner(dsn: str, conn: Connection) -> None:
    """Compare and repair as one who owns the tables, and whom the shadow's policies bind."""
    await create_orders(conn, 200)
    orders = Checked(conn, dsn, wide(), published=True)
    await orders.m.published()
    orders.role = f"owner_{secrets.token_hex(4)}"
    name = sql.Identifier(orders.role)
    try:
        await conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(name))
        await conn.execute(sql.SQL("GRANT ALL ON SCHEMA public, pgduet TO {}").format(name))
        await conn.execute(sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA pgduet TO {}").format(name))
        for relation in (orders.design.relation, orders.design.shadow):
            await conn.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(relation, name))
        await orders.engine(*DRIFT)
        try:
            found = await orders.compare(repair=True)
        except psycopg.errors.InsufficientPrivilege as error:
            raise AssertionError(str(error)) from error
        assert (found.clean, found.repaired) == (True, 8)
    finally:
        await conn.execute(sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(name))


async def test_an_owner_whom_the_policies_bind_sees_and_repairs_all(dsn: str, conn: Connection) -> None:
    await by_an_ordinary_owner(dsn, conn)


async def test_it_would_be_refused_a_look_if_it_did_not_say_that_they_hide_nothing(dsn: str, conn: Connection) -> None:
    blind = Code("sessions let the shadow's policies be", ShadowParity.compared, "map(see_all, self.sessions)", "()")
    await must_fail(by_an_ordinary_owner(dsn, conn), blind, says="row-level security policy")
