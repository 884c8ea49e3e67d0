"""Row level security of the user's: both versions' clients see and write exactly the rows that they saw before, in every phase."""

from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.rows import dict_row
from support.carrying import Carrying
from support.shadows import over
from support.worlds import on_each_version

from pgduet.operations import shadow_security
from pgduet.operations.shadow_design import AnchorColumn, KeyColumn, ShadowColumn, ShadowDesign
from pgduet.postgres import store

pytestmark = on_each_version
Connection = psycopg.AsyncConnection[Any]

TENANT, OTHER, MASTER, AUDITOR = "pgduet_rls_tenant", "pgduet_rls_other", "pgduet_rls_owner", "pgduet_rls_auditor"

ORDERS = """
CREATE TABLE public.members (name text, tenant int);
INSERT INTO public.members VALUES ('pgduet_rls_tenant', 1), ('pgduet_rls_other', 2);
ALTER TABLE public.members ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON public.members USING (name = current_user);
CREATE TABLE public.orders (id int PRIMARY KEY, tenant int NOT NULL, state text, amount int NOT NULL DEFAULT 0);
INSERT INTO public.orders SELECT i, i % 3, CASE WHEN i % 5 = 0 THEN 'closed' ELSE 'open' END, i FROM generate_series(1, 30) i;
CREATE POLICY tenants ON public.orders TO pgduet_rls_tenant, pgduet_rls_other
  USING (tenant IN (SELECT m.tenant FROM public.members m))
  WITH CHECK (tenant IN (SELECT m.tenant FROM public.members m) AND amount < 1000);
CREATE POLICY shared ON public.orders FOR SELECT TO pgduet_rls_tenant USING (tenant = 0);
CREATE POLICY settled ON public.orders AS RESTRICTIVE FOR UPDATE USING (state <> 'closed') WITH CHECK (true);
CREATE POLICY kept ON public.orders AS RESTRICTIVE FOR DELETE TO pgduet_rls_other USING (id > 10);
ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.orders TO pgduet_rls_tenant, pgduet_rls_other, pgduet_rls_auditor;
GRANT SELECT ON public.members TO pgduet_rls_tenant, pgduet_rls_other, pgduet_rls_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC;
GRANT CREATE ON SCHEMA public TO pgduet_rls_owner;
ALTER TABLE public.orders OWNER TO pgduet_rls_owner;
"""

TRIES = (
    "SELECT id FROM {} ORDER BY id",
    "SELECT id FROM {} WHERE amount > 7 ORDER BY id FOR UPDATE",
    "UPDATE {} SET amount = amount + 1 WHERE id < 12 RETURNING id",
    "UPDATE {} SET amount = amount + 1",
    "UPDATE {} SET tenant = 2 WHERE id = 1",
    "UPDATE {} SET amount = 5000 WHERE id = 1",
    "INSERT INTO {} (id, tenant) VALUES (100, 1)",
    "INSERT INTO {} (id, tenant) VALUES (101, 2) RETURNING tenant",
    "INSERT INTO {} (id, tenant, amount) VALUES (102, 1, 1000)",
    "INSERT INTO {} (id, tenant) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET amount = 77",
    "INSERT INTO {} (id, tenant) VALUES (2, 1) ON CONFLICT (id) DO UPDATE SET amount = 78",
    "DELETE FROM {} WHERE id < 20",
    "DELETE FROM {}",
)


def design() -> ShadowDesign:
    """Design its shadow: the key is wider, `state` is called `status`, `amount` is a bigint."""
    kept = {"id": "integer", "tenant": "integer", "amount": "integer"}
    return ShadowDesign(
        kind="shadow_table",
        position=0,
        schema_name="public",
        table="orders",
        physical="_pgduet_rls_orders",
        shown_as="orders",
        key=(KeyColumn(anchor="id", anchor_type="integer", shadow="id", shadow_type="bigint"),),
        columns=(
            ShadowColumn(name="id", type="bigint", nullable=False, same="id"),
            ShadowColumn(name="tenant", type="integer", nullable=False, same="tenant"),
            ShadowColumn(name="status", type="text", up=over("t.state")),
            ShadowColumn(name="amount", type="bigint", nullable=False, same="amount", default="0"),
        ),
        anchors=(
            *(AnchorColumn(name=name, type=kind, not_null=True, same=name) for name, kind in kept.items()),
            AnchorColumn(name="state", type="text", down=over("t.status"), may_raise=False),
        ),
        guarded=False,
    )


@pytest.fixture
async def m(conn: Connection) -> Carrying:
    """Give the table with its policies, and the mechanics of its shadow."""
    conn.row_factory = dict_row
    await store.set_up(conn)
    conn.row_factory = psycopg.rows.tuple_row
    for name, how in ((TENANT, ""), (OTHER, ""), (MASTER, ""), (AUDITOR, "BYPASSRLS")):
        text = f"DO $$ BEGIN IF to_regrole('{name}') IS NULL THEN CREATE ROLE {name} NOLOGIN {how}; END IF; END $$"
        await conn.execute(text.encode())
    await conn.execute(ORDERS.encode())
    return Carrying(conn, design())


async def tried(conn: Connection, relation: str, role: str) -> list[Any]:
    """Try all statements as a role, each for itself; gives rows, counts and errors, and leaves nothing behind."""
    found: list[Any] = []
    for text in TRIES:
        try:
            async with conn.transaction(force_rollback=True):
                await conn.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
                cursor = await conn.execute(text.replace("{}", relation).encode())
                found.append(sorted(await cursor.fetchall()) if cursor.description else cursor.rowcount)
        except errors.Error as error:
            found.append(error.sqlstate)
    return found


async def everybody(m: Carrying, relation: str) -> dict[str, list[Any]]:
    """Try as everybody: tenants, the owner, and one whom no policy binds."""
    return {role: await tried(m.conn, relation, role) for role in (TENANT, OTHER, MASTER, AUDITOR)}


async def test_both_versions_clients_see_and_write_the_rows_that_they_saw_before(m: Carrying) -> None:
    before = await everybody(m, "public.orders")
    assert len({repr(found) for found in before.values()}) == 3  # who owns it and whom nothing binds are alike
    await m.expand()
    assert await everybody(m, "public.orders") == before
    await m.copy()
    await m.keyed()
    assert await everybody(m, "public.orders") == before
    await m.drain()
    await m.run(shadow_security.secure(m.design, await m.carried()))
    await m.publish()
    assert await everybody(m, "public.orders") == before
    assert await everybody(m, "public_v2.orders") == before
    await m.cut_over()
    assert await everybody(m, "public.orders") == before
    assert await everybody(m, "public_v2.orders") == before
    assert await m.parity() == (30, 0)
    await m.contract()
    assert await everybody(m, "public.orders") == before
    assert await everybody(m, "public_v2.orders") == before
    left = "SELECT count(*)::int FROM pg_proc WHERE pronamespace = 'pgduet'::regnamespace AND proname LIKE %s"
    assert await m.one(left, "%orders%") == (0,)


async def test_a_policy_that_changes_meanwhile_holds_once_it_is_read_again(m: Carrying) -> None:
    await m.expand()
    await m.copy()
    await m.keyed()
    await m.drain()
    await m.run(shadow_security.secure(m.design, await m.carried()))
    await m.publish()
    await m.conn.execute("ALTER TABLE public.orders FORCE ROW LEVEL SECURITY")
    await m.conn.execute("CREATE POLICY also ON public.orders AS RESTRICTIVE USING (id <> 3)")
    await m.conn.execute("ALTER POLICY shared ON public.orders TO pgduet_rls_other, pgduet_rls_owner")
    wanted = await everybody(m, "public.orders")
    assert await everybody(m, "public_v2.orders") != wanted
    await m.run(shadow_security.secure(m.design, await m.carried()))
    assert await everybody(m, "public_v2.orders") == wanted
    await m.conn.execute("DROP POLICY tenants ON public.orders")
    await m.run(shadow_security.secure(m.design, await m.carried()))
    assert await everybody(m, "public_v2.orders") == await everybody(m, "public.orders")
    await m.conn.execute("ALTER TABLE public.orders DISABLE ROW LEVEL SECURITY")
    await m.run(shadow_security.secure(m.design, await m.carried()))
    assert await everybody(m, "public_v2.orders") == await everybody(m, "public.orders")


async def test_nothing_of_it_is_left_on_the_way_home(m: Carrying) -> None:
    await m.expand()
    await m.copy()
    await m.keyed()
    await m.run(shadow_security.secure(m.design, await m.carried()))
    await m.conn.execute("DROP POLICY tenants ON public.orders")
    await m.undone()
    left = "SELECT count(*)::int FROM pg_proc WHERE pronamespace = 'pgduet'::regnamespace AND proname ~ 'orders'"
    assert await m.one(left) == (0,)


async def test_a_policy_over_what_changes_is_told_with_its_reason(m: Carrying) -> None:
    m.design = m.design.model_copy(
        update={
            "columns": tuple(
                c if c.name != "status" else c.model_copy(update={"up": over("upper(t.state)")})
                for c in m.design.columns
            )
        }
    )
    lost = {(each.what, each.grave): each.why for each in (await m.carried()).lost}
    assert "reads state" in lost["settled", True]
