"""Constraints over columns that move to a table of their own: what goes with them is told, what would hold them is refused."""

from typing import Any

from support.asking import refused_by_check_and_start
from support.cycle import Case, Cycle, new, old
from support.worlds import World, on_newest

CUSTOMERS = """
CREATE TABLE public.streets (name text PRIMARY KEY);
INSERT INTO public.streets VALUES ('Elm'), ('Oak');
CREATE TABLE public.customers (
    id int PRIMARY KEY, name text, street text REFERENCES public.streets, city text,
    CONSTRAINT short CHECK (length(street) < 9), CONSTRAINT apart CHECK (city <> name)
);
INSERT INTO public.customers SELECT i, 'n' || i, 'Elm', 'c' || i FROM generate_series(1, 50) i;
CREATE INDEX customers_street ON public.customers (street);
"""
PLAN: dict[str, Any] = {
    "extract_table": {
        "table": "public.customers",
        "into": "public.addresses",
        "key": {"id": "customer_id"},
        "columns": ["street", "city"],
    }
}
STEPS = (
    old("INSERT INTO customers VALUES ({n}, 'a', 'Oak', 'b')"),
    new("SELECT street, city FROM addresses WHERE customer_id = {n}", lambda _: [("Oak", "b")]),
    new("UPDATE addresses SET street = 'nowhere to be found' WHERE customer_id = {n}", lambda _: "23514"),
    new("UPDATE addresses SET street = 'Ash' WHERE customer_id = {n}", lambda _: "23503"),
    old("DELETE FROM customers WHERE id = {n}"),
)


@on_newest
async def test_constraints_over_what_moves_go_with_it_and_contract_comes_to_its_end(world: World) -> None:
    await world.conn.execute(CUSTOMERS.encode())
    await Cycle(world.stage, world.conn, world.server.bin_dir, Case("moved", [PLAN], STEPS, STEPS[1:1])).go()
    left = "SELECT conname::text FROM pg_constraint WHERE conrelid = 'public.customers'::regclass AND contype IN ('c', 'f')"
    assert await world.rows(left) == []
    assert await world.rows("SELECT indexname::text FROM pg_indexes WHERE tablename = 'addresses' ORDER BY 1") == [
        ("addresses_pkey",),
        ("customers_street",),
    ]


@on_newest
async def test_a_foreign_key_to_what_moves_is_refused(world: World) -> None:
    await world.conn.execute(CUSTOMERS.encode())
    await world.conn.execute("ALTER TABLE public.customers ADD CONSTRAINT one_city UNIQUE (city)")
    await world.conn.execute("CREATE TABLE public.cities (name text REFERENCES public.customers (city))")
    async with world.stage.worker():
        refused = await refused_by_check_and_start(world.stage, world.stage.plan(PLAN))
    assert refused is not None
    assert "foreign key cities_name_fkey of cities" in str(refused)
