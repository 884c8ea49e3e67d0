"""A real schema under load: Chinook's lines become wide and partitioned, its addresses a table, its totals merged rows.

Each plan of `examples/chinook` goes to soak, is rolled back from there, and goes to the end, while applications of both versions
sell, correct, move and read. Nobody sees an error, both versions see the same in one snapshot, and everything that was acknowledged
is there after the rollback and at the end.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from support import chinook
from support.harness import schema_dump
from support.shop import BOOKED, NOWHERE, NewAddresses, NewLines, NewTotals, Old, Shop, shop
from support.worlds import World, on_newest

from pgduet.phases import Phase, State

FEW, MANY = 20_000, 500_000
WORKED, WORKED_LONG = 25, 300
POLICY: dict[str, Any] = {
    "shadow": {"min_samples": 1},
    "shift": {"steps": [100], "bake_s": 0, "max_latency_ratio": 1000},
    "soak": {"window_s": 3600, "legacy_idle_s": 0.5},
    "gates": {"shadow": "manual", "cutover": "auto", "contract": "auto"},
    "rollback": {"automatic_on": []},
}
ADDRESS = "address, city, state, country, postal_code"
SAME = {
    "invoice-lines": (
        "SELECT invoice_line_id, invoice_id, track_id, unit_price, quantity FROM public_v1.invoice_line",
        "SELECT invoice_line_id, invoice_id, track_id, unit_price, quantity FROM public_v2.invoice_line",
    ),
    "customer-address": (
        f"SELECT customer_id, {ADDRESS} FROM public_v1.customer WHERE num_nonnulls({ADDRESS}) > 0",
        f"SELECT customer_id, {ADDRESS} FROM public_v2.customer_address",
    ),
    "invoice-totals": (
        "SELECT invoice_id, count(*), sum(unit_price * quantity) FROM public_v1.invoice_line GROUP BY 1",
        "SELECT invoice_id, lines, total FROM public_v2.invoice_total",
    ),
}
"""What the versions must see alike, by plan."""
APART = "the versions see different rows"
ERRORS = "an application saw an error"
LOST = "what was acknowledged is not there"


@dataclass
class Way:
    """One plan on its way, and who is at work beside it."""

    world: World
    shop: Shop
    name: str
    new: type[Old]
    originals: dict[int, tuple[int, Decimal, int]]
    """The lines that were there: by number, their invoice, price and quantity."""
    worked: int
    patience_s: float

    async def to_soak(self) -> None:
        """Go to soak; new applications come once there is a new version."""
        stage = self.world.stage
        await stage.start(chinook.plan(self.name, stage.database, POLICY))
        await stage.gets_to("gate", Phase.VERIFY, self.patience_s)
        await self.shop.come("v1", "old", "public_v1", Old)
        await self.shop.come("v2", "new", "public_v2", self.new)
        await self.work()
        await self.alike()
        await stage.act("advance")
        await stage.gets_to("window", Phase.SOAK, self.patience_s)
        await self.work()
        await self.alike()

    async def work(self) -> None:
        """Let everybody work; what anybody has seen go wrong ends the test."""
        await self.shop.working(self.worked)
        assert self.shop.ledger.errors == [], ERRORS

    async def alike(self) -> None:
        """Ask for what the versions see differently, in one snapshot, while all are at work."""
        old, new = SAME[self.name]
        differing = await self.world.rows(f"(({old}) EXCEPT ({new})) UNION ALL (({new}) EXCEPT ({old}))")
        assert differing == [], APART

    async def back(self) -> None:
        """Roll back while all are at work; those of the new version leave once the old one is in charge."""
        before = self.shop.ledger.done.copy()
        await self.world.stage.act("abort")
        await self.work()
        await self.shop.leave("v2", "v1")
        assert (await self.world.stage.result(self.patience_s)).state is State.ROLLED_BACK
        await self.work()
        await self.shop.leave("tables")
        assert self.shop.ledger.done.total() > before.total()
        await self.nothing_is_lost()

    async def nothing_is_lost(self) -> None:
        """Compare all that was acknowledged with the tables as they were."""
        assert self.shop.ledger.errors == [], ERRORS
        await self.lines_are_there("public.invoice_line")
        rows = await self.world.rows(f"SELECT customer_id, {ADDRESS} FROM public.customer")
        stored = {row[0]: tuple(row[1:]) for row in rows}
        assert {key: stored[key] for key in self.shop.ledger.addresses} == self.shop.ledger.addresses, LOST

    def totals(self) -> dict[int, tuple[int, Decimal]]:
        """Reckon what each invoice comes to: how many lines, and their total."""
        ledger = self.shop.ledger
        lines = [
            (invoice, price, quantity + ledger.corrections[number])
            for number, (invoice, price, quantity) in self.originals.items()
        ]
        lines += [(key, line.price, line.quantity) for key, own in ledger.invoices.items() for line in own.values()]
        lines += [(invoice, BOOKED, 1) for invoice, times in ledger.booked.items() for _ in range(times)]
        found: dict[int, tuple[int, Decimal]] = {}
        for invoice, price, quantity in lines:
            count, total = found.get(invoice, (0, Decimal(0)))
            found[invoice] = (count + 1, total + price * quantity)
        return found

    async def lines_are_there(self, table: str) -> None:
        """Compare lines: those that were sold, those that were corrected, and how many there are."""
        stored = await self.sold_lines_are_there(table)
        known = len(self.originals) + len(self.shop.ledger.lines) + self.shop.ledger.booked.total()
        assert stored == known, "lines came from nowhere, or are gone"

    async def sold_lines_are_there(self, table: str) -> int:
        """Compare lines that were sold or corrected; gives how many lines there are."""
        rows = await self.world.rows(f"SELECT invoice_line_id, unit_price, quantity FROM {table}")
        stored = {row[0]: (row[1], row[2]) for row in rows}
        sold = self.shop.ledger.lines
        assert {key: stored.get(key) for key in sold} == {
            key: (line.price, line.quantity) for key, line in sold.items()
        }, LOST
        corrected = {key: self.originals[key][2] + more for key, more in self.shop.ledger.corrections.items()}
        assert {key: stored[key][1] for key in corrected} == corrected, LOST
        return len(stored)

    async def to_the_end(self) -> None:
        """Contract while new applications are at work."""
        await self.shop.leave("v1", "tables")
        await self.world.stage.act("advance")
        status = await self.world.stage.result(self.patience_s)
        assert status.state is State.DONE
        await self.work()
        await self.shop.leave("v2")
        assert self.shop.ledger.errors == [], ERRORS


async def passed(world: World, name: str, new: type[Old], lines: int, worked: int, patience_s: float) -> Way:
    """Take a plan to soak, back, to soak again and to the end."""
    await chinook.create(world.conn, lines)
    rows = await world.rows("SELECT invoice_line_id, invoice_id, unit_price, quantity FROM public.invoice_line")
    originals = {row[0]: (row[1], row[2], row[3]) for row in rows}
    async with shop(world.stage.dsn) as clients, world.stage.worker():
        way = Way(world, clients, name, new, originals, worked, patience_s)
        before = schema_dump(world.server.bin_dir, world.stage.dsn)
        await clients.come("tables", "tables", "public", Old)
        await way.to_soak()
        await way.back()
        assert schema_dump(world.server.bin_dir, world.stage.dsn) == before
        await clients.come("tables", "tables", "public", Old)
        await way.to_soak()
        await way.to_the_end()
    return way


sizes = pytest.mark.parametrize(
    ("lines", "worked", "patience_s"),
    [(FEW, WORKED, 60.0), pytest.param(MANY, WORKED_LONG, 300.0, marks=[pytest.mark.long, pytest.mark.timeout(1200)])],
)


@on_newest
@sizes
async def test_invoice_lines_become_wide_and_partitioned(
    world: World, lines: int, worked: int, patience_s: float
) -> None:
    way = await passed(world, "invoice-lines", NewLines, lines, worked, patience_s)
    await way.nothing_is_lost()
    kind = "SELECT relkind::text, (SELECT count(*) FROM pg_inherits WHERE inhparent = c.oid) FROM pg_class c"
    assert await world.rows(f"{kind} WHERE oid = 'public.invoice_line'::regclass") == [("p", 8)]
    assert await world.one("SELECT pg_typeof(invoice_line_id)::text FROM public.invoice_line LIMIT 1") == "bigint"
    largest = await world.one("SELECT max(invoice_line_id) FROM public.invoice_line")
    put = (
        "INSERT INTO public.invoice_line (invoice_id, track_id, unit_price, quantity) VALUES (1, 1, 1, 1)"
        " RETURNING invoice_line_id"
    )
    assert await world.one(put) > largest, "the next number is taken"
    sequence = await world.one("SELECT pg_get_serial_sequence('public.invoice_line', 'invoice_line_id')")
    await world.conn.execute("SELECT setval(%s, (2 ^ 31)::bigint)", (sequence,))
    assert await world.one(put) == 2**31 + 1
    foreign = await world.rows(
        "SELECT confrelid::regclass::text, convalidated FROM pg_constraint"
        " WHERE conrelid = 'public.invoice_line'::regclass AND contype = 'f' ORDER BY 1"
    )
    assert foreign == [("invoice", True), ("track", True)]


@on_newest
@sizes
async def test_addresses_become_a_table(world: World, lines: int, worked: int, patience_s: float) -> None:
    way = await passed(world, "customer-address", NewAddresses, lines, worked, patience_s)
    await way.lines_are_there("public.invoice_line")
    rows = await world.rows(f"SELECT customer_id, {ADDRESS} FROM public.customer_address")
    stored = {row[0]: tuple(row[1:]) for row in rows}
    ledger = way.shop.ledger.addresses
    assert {key: stored.get(key, NOWHERE) for key in ledger} == ledger, LOST
    left = await world.rows(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'public.customer'::regclass AND attnum > 0 AND NOT attisdropped"
        " AND attname IN ('address', 'city', 'state', 'country', 'postal_code')"
    )
    assert left == []


@on_newest
@sizes
async def test_totals_are_merged_from_lines(world: World, lines: int, worked: int, patience_s: float) -> None:
    way = await passed(world, "invoice-totals", NewTotals, lines, worked, patience_s)
    rows = await world.rows("SELECT invoice_id, lines, total FROM invoice_total")
    assert {row[0]: (row[1], row[2]) for row in rows} == way.totals(), LOST
    archived = await world.rows(
        "SELECT relname FROM pg_class WHERE relnamespace = 'pgduet_archive'::regnamespace AND relkind = 'r'"
        " AND relname LIKE '%invoice_line%'"
    )
    assert len(archived) == 1
    await way.sold_lines_are_there(f'pgduet_archive."{archived[0][0]}"')


def test_every_plan_of_the_examples_is_run() -> None:
    assert {file.stem for file in chinook.PLANS.glob("*.yaml")} == set(SAME)
