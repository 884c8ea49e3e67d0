"""Chinook's applications, old and new: they sell, correct lines, take lines back, change addresses and read totals.

They never retry, and a ledger has what was acknowledged to them. Each application has a role, whose search_path names its version,
as services have. Invoices that a client has made are its own, and so are some of the customers; the first lines are everybody's.
"""

import random
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import psycopg

from support.groups import Connection, Groups

CUSTOMERS = 59
SHARED = 200
"""So many lines, the first ones, are everybody's to correct."""
INVOICES = 100
"""So many invoices, the first ones, are everybody's to book on."""
PAUSE_S = 0.003
BOOKED = Decimal("0.99")
PRICES = (Decimal("0.99"), Decimal("1.99"))

Address = tuple[str | None, ...]
NOWHERE: Address = (None,) * 5


@dataclass(frozen=True)
class Line:
    """A line as it was acknowledged last."""

    price: Decimal
    quantity: int


@dataclass
class Ledger:
    """What was acknowledged."""

    invoices: dict[int, dict[int, Line]] = field(default_factory=dict)
    corrections: Counter[int] = field(default_factory=Counter)
    """By line of everybody's: how much was added to its quantity."""
    booked: Counter[int] = field(default_factory=Counter)
    """By invoice of everybody's: how often `BOOKED` was added to its total, as one more line."""
    addresses: dict[int, Address] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    @property
    def lines(self) -> dict[int, Line]:
        """All lines that were sold and not taken back."""
        return {number: line for lines in self.invoices.values() for number, line in lines.items()}


class Old:
    """A client of the schema as it was."""

    def __init__(self, conn: Connection, name: str, customers: list[int], ledger: Ledger, seed: int) -> None:
        self.conn = conn
        self.name = name
        self.customers = customers
        self.ledger = ledger
        self.chance = random.Random(seed)
        self.own: list[int] = []

    async def act(self) -> None:
        """Do what a shop does, once."""
        acts = (self.sell, self.correct, self.correct, self.take_back, self.change, self.move, self.read, self.read)
        act = self.chance.choice(acts)
        try:
            await act()
            self.ledger.done[self.name] += 1
        except psycopg.Error as error:
            self.ledger.errors.append(f"{self.name} {act.__name__}: {type(error).__name__}: {error}")

    async def one(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        """Run a statement; gives its first row."""
        cursor = await self.conn.execute(query.encode(), values)
        return await cursor.fetchone() if cursor.description else None

    async def sell(self) -> None:
        """Make an invoice with lines, in one transaction."""
        customer, lines = self.chance.randint(1, CUSTOMERS), {}
        async with self.conn.transaction():
            made = await self.one(
                "INSERT INTO invoice (customer_id, invoice_date, billing_country, total) VALUES (%s, now(), 'Norway', 0)"
                " RETURNING invoice_id",
                customer,
            )
            assert made
            for _ in range(self.chance.randint(1, 4)):
                line = Line(self.chance.choice(PRICES), self.chance.randint(1, 3))
                lines[await self.line(made[0], line)] = line
            total = sum(line.price * line.quantity for line in lines.values())
            await self.one("UPDATE invoice SET total = %s WHERE invoice_id = %s", total, made[0])
        self.ledger.invoices[made[0]] = lines
        self.own.append(made[0])

    async def line(self, invoice: int, line: Line) -> int:
        """Put a line in; gives its number."""
        made = await self.one(
            "INSERT INTO invoice_line (invoice_id, track_id, unit_price, quantity) VALUES (%s, %s, %s, %s)"
            " RETURNING invoice_line_id",
            *(invoice, self.chance.randint(1, 3000), line.price, line.quantity),
        )
        assert made
        return int(made[0])

    async def correct(self) -> None:
        """Add to the quantity of a line that others correct as well."""
        number = self.chance.randint(1, SHARED)
        await self.conn.execute("UPDATE invoice_line SET quantity = quantity + 1 WHERE invoice_line_id = %s", (number,))
        self.ledger.corrections[number] += 1

    def mine(self) -> tuple[int, int] | None:
        """Choose a line of an invoice that is ours."""
        invoice = self.chance.choice(self.own) if self.own else 0
        lines = list(self.ledger.invoices.get(invoice, ()))
        return (invoice, self.chance.choice(lines)) if lines else None

    async def take_back(self) -> None:
        """Delete a line of ours."""
        if found := self.mine():
            invoice, number = found
            await self.conn.execute("DELETE FROM invoice_line WHERE invoice_line_id = %s", (number,))
            del self.ledger.invoices[invoice][number]

    async def change(self) -> None:
        """Change a line of ours, and add one, in one transaction."""
        if found := self.mine():
            invoice, number = found
            price, more = self.chance.choice(PRICES), Line(Decimal("0.99"), 1)
            async with self.conn.transaction():
                was = await self.one(
                    "UPDATE invoice_line SET unit_price = %s WHERE invoice_line_id = %s RETURNING quantity",
                    price,
                    number,
                )
                assert was, f"{self.name} does not find its line {number}"
                added = await self.line(invoice, more)
            self.ledger.invoices[invoice] |= {number: Line(price, was[0]), added: more}

    async def move(self) -> None:
        """Change a customer's address, or take it away."""
        customer = self.chance.choice(self.customers)
        lives = self.chance.random() < 0.8
        address: Address = (
            (f"Street {self.chance.randint(1, 999)}", "Oslo", None, "Norway", f"{self.chance.randint(0, 9999):04}")
            if lives
            else NOWHERE
        )
        await self.moved(customer, address)
        self.ledger.addresses[customer] = address

    async def moved(self, customer: int, address: Address) -> None:
        """Write an address."""
        query = "UPDATE customer SET (address, city, state, country, postal_code) = (%s, %s, %s, %s, %s) WHERE customer_id = %s"
        await self.conn.execute(query, (*address, customer))

    async def read(self) -> None:
        """Read what was acknowledged: the total of an invoice of ours, and an address."""
        if self.own:
            invoice = self.chance.choice(self.own)
            lines = self.ledger.invoices[invoice].values()
            wanted = (len(lines), sum((line.price * line.quantity for line in lines), Decimal(0)))
            await self.expect(f"total of {invoice}", wanted, await self.total(invoice))
        customer = self.chance.choice(self.customers)
        if customer in self.ledger.addresses:
            await self.expect(f"address of {customer}", self.ledger.addresses[customer], await self.address(customer))

    async def expect(self, what: str, wanted: object, found: object) -> None:
        """Note what was read otherwise than it was written."""
        if wanted != found:
            self.ledger.errors.append(f"{self.name} reads {what} as {found}, was acknowledged {wanted}")

    async def total(self, invoice: int) -> tuple[int, Decimal]:
        """Read how many lines an invoice has, and what they come to."""
        row = await self.one(
            "SELECT count(*), coalesce(sum(unit_price * quantity), 0) FROM invoice_line WHERE invoice_id = %s", invoice
        )
        assert row
        return row[0], row[1]

    async def address(self, customer: int) -> Address:
        """Read an address."""
        row = await self.one(
            "SELECT address, city, state, country, postal_code FROM customer WHERE customer_id = %s", customer
        )
        assert row, f"{self.name} does not find customer {customer}"
        return row


class NewLines(Old):
    """A client of lines that are wide and partitioned: it says the same, of another table."""


class NewAddresses(Old):
    """A client for whom an address is a row."""

    async def moved(self, customer: int, address: Address) -> None:
        """Write an address, or delete it."""
        if address == NOWHERE:
            await self.conn.execute("DELETE FROM customer_address WHERE customer_id = %s", (customer,))
            return
        await self.conn.execute(
            "INSERT INTO customer_address (customer_id, address, city, state, country, postal_code)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (customer_id) DO UPDATE SET (address, city, state, country, postal_code)"
            " = (excluded.address, excluded.city, excluded.state, excluded.country, excluded.postal_code)",
            (customer, *address),
        )

    async def address(self, customer: int) -> Address:
        """Read an address."""
        row = await self.one(
            "SELECT address, city, state, country, postal_code FROM customer_address WHERE customer_id = %s", customer
        )
        return row or NOWHERE


class NewTotals(Old):
    """A client that knows no lines: it reads totals, and adds to them."""

    async def act(self) -> None:
        """Read the total of any invoice, or book something on one of everybody's."""
        try:
            if self.chance.random() < 0.4:
                await self.book(self.chance.randint(1, INVOICES))
            else:
                invoice = self.chance.choice([*self.ledger.invoices, self.chance.randint(1, INVOICES)])
                await self.one("SELECT lines, total FROM invoice_total WHERE invoice_id = %s", invoice)
            self.ledger.done[self.name] += 1
        except psycopg.Error as error:
            self.ledger.errors.append(f"{self.name}: {type(error).__name__}: {error}")

    async def book(self, invoice: int) -> None:
        """Add to a total."""
        query = "UPDATE invoice_total SET lines = lines + 1, total = total + %s WHERE invoice_id = %s"
        cursor = await self.conn.execute(query, (BOOKED, invoice))
        self.ledger.booked[invoice] += cursor.rowcount


class Shop(Groups[Ledger]):
    """All clients on one database."""

    came = 0

    async def come(self, group: str, role: str, schema: str, kind: type[Old], clients: int = 3) -> None:
        """Have clients come by a role; no two clients that are there at once have a customer in common."""
        await self.see(role, schema)
        first = list(self.roles).index(role) * 3

        def client(number: int) -> tuple[str, Callable[[Connection], Old]]:
            self.came += 1
            name, seed = f"{group} {number}", self.came
            customers = [customer for customer in range(1, CUSTOMERS + 1) if customer % 9 == first + number]
            return name, lambda conn: kind(conn, name, customers, self.ledger, seed)

        self.join(group, role, [client(number) for number in range(clients)])


def shop(dsn: str) -> AbstractAsyncContextManager[Shop]:
    """Give a shop with three roles; clients and roles are gone at the end."""
    return Shop(dsn, Ledger(), PAUSE_S, ("tables", "old", "new")).at_work()
