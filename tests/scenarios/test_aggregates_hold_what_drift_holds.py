"""Declared aggregates hold publication, cutover and soak as drift does, while every row agrees with itself."""

from typing import Any

import psycopg
from support.harness import Harness, pgduet
from support.plans import NAME, replace

from pgduet.phases import Phase

Connection = psycopg.AsyncConnection[Any]

WRONG_ALIKE = replace(
    "public.orders", {"price": "cents / 10"}, {"name": "cents", "type": "int", "up": "price * 10", "nullable": False}
)
TURNOVER: dict[str, Any] = {
    "name": "turnover",
    "table": "public.orders",
    "measure": "sum",
    "old": "price",
    "new": "cents / 100.0",
    "group_by": ["shop"],
}


async def create(conn: Connection, price: int) -> None:
    await conn.execute("CREATE TABLE public.orders (id int PRIMARY KEY, shop text NOT NULL, price int NOT NULL)")
    await conn.execute(
        "INSERT INTO public.orders SELECT i, 'shop ' || i %% 2, %s FROM generate_series(1, 100) i", (price,)
    )


async def sell(conn: Connection) -> None:
    """Write a row of which both versions say something else, each rightly by `up` and `down`."""
    await conn.execute("INSERT INTO public.orders VALUES (1000, 'shop 7', 25)")


async def give_back(conn: Connection) -> None:
    await conn.execute("DELETE FROM public.orders WHERE id = 1000")


async def test_a_wrong_mapping_is_held_before_anybody_sees_the_new_version(stage: Harness, conn: Connection) -> None:
    await create(conn, 5)
    async with stage.worker():
        await stage.start(stage.plan(WRONG_ALIKE, verify={"aggregates": [TURNOVER]}))
        status = await stage.waits("drift", Phase.VERIFY)
        assert status.waiting_for is not None
        assert "differs in 2 groups: shop 0, shop 1" in status.waiting_for.detail
        assert status.parity is not None
        assert status.parity.mismatches == 0
        assert [(each.name, each.groups) for each in status.parity.off] == [("turnover", [["shop 0"], ["shop 1"]])]
        answer = await stage.act("verify", repair=True)
        assert "turnover" in answer.message, "there is nothing in a row to repair"
        code, said = await pgduet(stage, "verify", NAME, "--database", stage.database)
        assert code == 1
        assert "0 differ" in said
        assert "differs in 2 groups: shop 0, shop 1" in said
        assert "1 of 1 aggregate differ" in (await pgduet(stage, "status", NAME, "--database", stage.database))[1]
        logged = await (
            await conn.execute("SELECT evidence #> '{aggregates,0,groups}' FROM pgduet.audit WHERE action = 'parity'")
        ).fetchall()
        assert logged[0] == ([["shop 0"], ["shop 1"]],)
        assert not await (await conn.execute("SELECT FROM pg_namespace WHERE nspname = 'public_v2'")).fetchall()
        await stage.act("abort")
        assert (await stage.result()).phase is Phase.ROLLED_BACK
        code, page = await pgduet(stage, "report", NAME, "--database", stage.database)
        assert code == 0
        assert "Declared aggregates" in page
        assert "2: shop 0, shop 1" in page


async def test_what_comes_apart_later_holds_the_cutover_and_the_soak(stage: Harness, conn: Connection) -> None:
    await create(conn, 0)
    policy = {"verify": {"aggregates": [TURNOVER]}}
    async with stage.worker():
        await stage.start(stage.plan(WRONG_ALIKE, gates={"cutover": "manual"}, approvals={"cutover": 1}, **policy))
        status = await stage.waits("approval", Phase.SHIFT)
        assert status.parity is not None
        assert [(each.name, each.differing) for each in status.parity.aggregates] == [("turnover", 0)]
        await sell(conn)
        await stage.act("approve", gate="cutover")
        status = await stage.waits("drift", Phase.CUTOVER)
        assert status.waiting_for is not None
        assert "0 of 101 rows differ" in status.waiting_for.detail
        assert "shop 7" in status.waiting_for.detail
        await give_back(conn)
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)
        await sell(conn)
        await stage.schedule().trigger()
        await stage.waits("drift", Phase.SOAK)
        await give_back(conn)
        await stage.schedule().trigger()
        await stage.waits("window", Phase.SOAK)
