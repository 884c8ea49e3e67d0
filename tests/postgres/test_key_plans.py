"""What cannot be done with a column of a primary key is told before anything is touched, and what people should know is said."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from support.mechanics import mechanics
from support.plans import parsed

from pgduet.errors import NotSupported
from pgduet.operations import columns, declare, refusals, rekey, sync, views
from pgduet.operations.dependents import Dependents
from pgduet.postgres import catalogue
from pgduet.postgres.databases import Database
from pgduet.postgres.session import Connection, session
from pgduet.postgres.survey import survey

Client = psycopg.AsyncConnection[Any]

WORLD = """
CREATE TABLE public.shops (id int PRIMARY KEY, wide bigint UNIQUE, name text);
CREATE TABLE public.sales (id int PRIMARY KEY, shop int NOT NULL CONSTRAINT sold_in REFERENCES public.shops);
CREATE TABLE public.named (name varchar(9) PRIMARY KEY);
CREATE TABLE public.late (id int PRIMARY KEY DEFERRABLE);
CREATE TABLE public.grouped (id int PRIMARY KEY, name text);
CREATE VIEW public.groups AS SELECT id, name FROM public.grouped GROUP BY id;
CREATE TABLE public.split (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE public.halves (id int, at int PRIMARY KEY) PARTITION BY RANGE (at);
CREATE TABLE public.told (id int PRIMARY KEY);
ALTER TABLE public.told REPLICA IDENTITY USING INDEX told_pkey;
CREATE TABLE public.one (id int PRIMARY KEY);
CREATE TABLE public.many (id int CONSTRAINT in_parts REFERENCES public.one) PARTITION BY RANGE (id);
CREATE TABLE public.along (id int, more int, PRIMARY KEY (id) INCLUDE (more));
CREATE TABLE public.two (id int PRIMARY KEY);
CREATE TABLE public.unsure (two int);
ALTER TABLE public.unsure ADD CONSTRAINT not_seen FOREIGN KEY (two) REFERENCES public.two NOT VALID;
"""


@dataclass(frozen=True)
class Wrong:
    """A change of a column, the key that is wrong, and what is said."""

    table: str
    change: dict[str, Any]
    at: str
    says: str
    column: str = "id"

    @property
    def operation(self) -> dict[str, Any]:
        return {"alter_column": {"table": f"public.{self.table}", "column": self.column, **self.change}}


BIG = {"type": "bigint"}
WRONG = {
    "a narrower type": Wrong("shops", {"type": "smallint"}, "type", "integer cannot become smallint"),
    "another kind of type": Wrong("shops", {"type": "text"}, "type", "integer cannot become text"),
    "a key of text": Wrong("named", {"type": "text"}, "type", "character varying(9) cannot become text", "name"),
    "another value": Wrong("shops", {**BIG, "up": "id * 2"}, "up", "changes its type, name and comment only"),
    "a way back of its own": Wrong(
        "shops", {**BIG, "down": "least(id, 9)::int"}, "down", "type, name and comment only"
    ),
    "a default": Wrong("shops", {**BIG, "default": "7"}, "default", "type, name and comment only"),
    "a deferrable key": Wrong("late", BIG, "column", "and the key is deferrable"),
    "a view that groups by the key": Wrong("grouped", BIG, "column", "view public.groups"),
    "a partitioned table": Wrong("halves", BIG, "column", "the table is partitioned", "at"),
    "the replica identity": Wrong("told", BIG, "column", "by whose index replication names rows"),
    "what only the key's index has": Wrong("along", BIG, "column", "and its index only carries it along", "more"),
    "a partitioned table that refers": Wrong("one", BIG, "column", "in_parts of public.many, which is partitioned"),
    "a reference that is not validated": Wrong(
        "two", BIG, "column", "not_seen of public.unsure, which is not validated"
    ),
}


@pytest.fixture
async def bare(dsn: str, conn: Client) -> AsyncIterator[Connection]:
    """Give a session of the worker's on a database with the tables."""
    await conn.execute(WORLD.encode())
    async with session(Database("shop", dsn), "test", bare=True) as connection:
        yield connection


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
async def test_what_a_key_cannot_do_is_refused(bare: Connection, wrong: Wrong) -> None:
    with pytest.raises(NotSupported) as caught:
        await survey(bare, parsed(wrong.operation))
    assert caught.value.place is not None
    assert caught.value.place.path == f"operations[0].alter_column.{wrong.at}"
    assert wrong.says in caught.value.render()
    assert caught.value.hint


async def test_what_stays_narrower_than_the_key_is_told(bare: Connection) -> None:
    widened = Wrong("shops", BIG, "", "").operation
    also = {"alter_column": {"table": "public.sales", "column": "shop", **BIG}}
    for more, told in ([], ["public.sales: sold_in"]), ([also], []):
        found = (await survey(bare, parsed(widened, *more))).hazards
        assert [hazard.where for hazard in found if hazard.id == "PD-H31"] == told
        assert "PD-H30" in {hazard.id for hazard in found}


async def test_a_foreign_key_that_was_dropped_since_does_not_come_back(dsn: str, conn: Client) -> None:
    await conn.execute(WORLD.encode())
    async with mechanics(dsn, Wrong("shops", BIG, "", "").operation) as m:
        await m.published()
        for index in declare.early(m.table):
            await m.conn.execute(declare.build(m.table, index).sql)
        await m.run([*columns.prove_required(m.design, m.table), *columns.require(m.design, m.table)])
        assert m.table.rekey
        (inbound,) = m.table.rekey.inbound
        await m.run(declare.foreign_key(inbound, inbound.key))
        await conn.execute("ALTER TABLE public.sales DROP CONSTRAINT sold_in")
        facts = await catalogue.table(m.conn, "public", "shops")
        gone = [*views.drop_schema("public", "2", ("shops",)), *views.drop_inner_view(m.design, m.table)]
        before, after = rekey.before(m.table, facts), rekey.after(m.table, facts)
        final = [*columns.finish(m.table, {}, Dependents()), *declare.proper_names(m.table)]
        await m.run([*gone, *sync.remove(m.design, m.table), *before, *final, *after])
        keys = "SELECT conname FROM pg_constraint WHERE contype IN ('p', 'f') AND conrelid = ANY (%s::regclass[])"
        found = await m.rows(keys, [["public.shops", "public.sales"]])
        assert sorted(found) == [("sales_pkey",), ("shops_pkey",)]


async def test_what_has_come_to_stand_on_the_key_since_preflight_holds_contract(dsn: str, conn: Client) -> None:
    await conn.execute(WORLD.encode())
    async with mechanics(dsn, Wrong("shops", BIG, "", "").operation) as m:
        facts = await catalogue.table(m.conn, "public", "shops")
        refusals.refuse_held(m.table, facts)
        await conn.execute("CREATE TABLE public.rents (shop int CONSTRAINT rented REFERENCES public.shops)")
        with pytest.raises(NotSupported, match=r"rented of public\.rents refers to the key"):
            refusals.refuse_held(m.table, await catalogue.table(m.conn, "public", "shops"))
        await conn.execute(
            "DROP TABLE public.rents; CREATE VIEW public.names AS SELECT name FROM public.shops GROUP BY id"
        )
        with pytest.raises(NotSupported, match=r"view public\.names"):
            refusals.refuse_held(m.table, await catalogue.table(m.conn, "public", "shops"))
