"""A shadow in step with its anchor, statement by statement, on the rendered SQL."""

from collections.abc import Callable, Coroutine
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from support.mutants import Clause, Code, Mutant, must_fail
from support.shadows import PARTS, PLAN, Shadow, create_orders, of_parts, parted, wide

from pgduet.operations import shadow_final, shadow_keys, shadow_reverse, shadow_rows, shadow_sync
from pgduet.operations.shadow_design import KeyColumn, ShadowDesign
from pgduet.operations.shadow_sync import Form

Connection = psycopg.AsyncConnection[Any]


async def both(m: Shadow, key: int) -> tuple[Any, ...]:
    """Read a row on both sides: code, amount, note."""
    ask = "SELECT code, amount, note FROM {} WHERE id = %s"
    old = await (await m.conn.execute(ask.format("public.orders").encode(), (key,))).fetchone()
    new = await (await m.conn.execute(ask.format("public_v2.orders").encode(), (key,))).fetchone()
    assert old == new
    return tuple(old) if old else ()


@pytest.fixture
async def m(conn: Connection) -> Shadow:
    """Give a published shadow of ten orders."""
    await create_orders(conn, 10)
    shadow = Shadow(conn, wide())
    await shadow.published()
    assert await shadow.parity() == (10, 0)
    return shadow


@pytest.mark.parametrize("role", ["origin", "replica"])
async def test_every_way_an_old_client_writes_reaches_the_shadow(m: Shadow, role: str) -> None:
    conn = m.conn
    await conn.execute(f"SET session_replication_role = {role}".encode())
    await conn.execute("INSERT INTO public.orders (id, code) VALUES (100, 'x')")
    assert await both(m, 100) == ("x", 0, None)
    await conn.execute("UPDATE public.orders SET amount = 7, note = NULL WHERE id = 1")
    assert await both(m, 1) == ("c1", 7, None)
    await conn.execute("DELETE FROM public.orders WHERE id = 2")
    assert await both(m, 2) == ()
    await conn.execute("UPDATE public.orders SET id = 300 WHERE id = 3")
    assert (await both(m, 3), await both(m, 300)) == ((), ("c3", 0, None))
    await conn.execute(
        "INSERT INTO public.orders (id, code) VALUES (4, 'c4') ON CONFLICT (id) DO UPDATE SET amount = 44"
    )
    assert await both(m, 4) == ("c4", 44, None)
    async with conn.cursor().copy("COPY public.orders (id, code, amount) FROM STDIN") as copy:
        await copy.write("500\tcopied\t5\n")
    assert await both(m, 500) == ("copied", 5, None)
    await conn.execute(
        "MERGE INTO public.orders o USING (VALUES (5, 'c5'), (501, 'merged')) v(id, code) ON o.id = v.id"
        " WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, code) VALUES (v.id, v.code)"
    )
    assert (await both(m, 5), await both(m, 501)) == ((), ("merged", 0, None))
    rows, wrong = await m.parity()
    assert wrong == 0
    await conn.execute("TRUNCATE public.orders")
    assert await m.parity() == (0, 0)
    assert rows == 11


async def test_every_way_a_new_client_writes_reaches_the_anchor(m: Shadow) -> None:
    conn = m.conn
    (key,) = await m.one("INSERT INTO public_v2.orders (code) VALUES ('numbered') RETURNING id")
    assert await both(m, key) == ("numbered", 0, None)
    await conn.execute("UPDATE public_v2.orders SET amount = amount + 7 WHERE id = 1")
    assert await both(m, 1) == ("c1", 7, None)
    await conn.execute("DELETE FROM public_v2.orders WHERE id = 2")
    assert await both(m, 2) == ()
    await conn.execute("UPDATE public_v2.orders SET id = 300 WHERE id = 3")
    assert (await both(m, 3), await both(m, 300)) == ((), ("c3", 0, None))
    upsert = "INSERT INTO public_v2.orders AS o (id, code) VALUES (4, 'c4') ON CONFLICT ({}) DO UPDATE SET amount = o.amount + 44"
    await conn.execute(upsert.format("id").encode())
    await conn.execute(upsert.format("code").encode())
    assert await both(m, 4) == ("c4", 88, None)
    await conn.execute("INSERT INTO public_v2.orders (id, code) VALUES (4, 'c4') ON CONFLICT DO NOTHING")
    assert await both(m, 4) == ("c4", 88, None)
    await conn.execute("INSERT INTO public_v2.orders (id, code) VALUES (400, 'c400') ON CONFLICT DO NOTHING")
    assert await both(m, 400) == ("c400", 0, None)
    with pytest.raises(errors.UniqueViolation):
        await conn.execute("INSERT INTO public_v2.orders (id, code) VALUES (400, 'other')")
    with pytest.raises(errors.UniqueViolation):
        await conn.execute("INSERT INTO public_v2.orders (id, code) VALUES (401, 'c400')")
    await conn.execute(
        "UPDATE public_v2.orders o SET note = v.note FROM (VALUES (6, 'a'), (7, 'b')) v(id, note) WHERE o.id = v.id"
    )
    assert (await both(m, 6), await both(m, 7)) == (("c6", 0, "a"), ("c7", 0, "b"))
    if conn.info.server_version >= 170000:  # before, MERGE cannot write through a view
        await conn.execute(
            "MERGE INTO public_v2.orders o USING (VALUES (8, 'c8'), (600, 'merged')) v(id, code) ON o.id = v.id"
            " WHEN MATCHED THEN UPDATE SET note = 'matched' WHEN NOT MATCHED THEN INSERT (id, code) VALUES (v.id, v.code)"
        )
        assert (await both(m, 8), await both(m, 600)) == (("c8", 0, "matched"), ("merged", 0, None))
    assert (await m.parity())[1] == 0


async def test_a_value_that_the_anchor_cannot_hold_is_refused_with_its_reason(m: Shadow) -> None:
    with pytest.raises(errors.DataException, match="no equivalent in the version before"):
        await m.conn.execute("UPDATE public_v2.orders SET amount = 3000000000 WHERE id = 1")
    with pytest.raises(errors.DataException, match="no equivalent in the version before"):
        await m.conn.execute("INSERT INTO public_v2.orders (id, code) VALUES (3000000000, 'far')")
    assert await both(m, 1) == ("c1", 0, None)
    assert (await m.parity())[1] == 0


async def test_what_a_trigger_of_the_user_writes_meanwhile_reaches_both_sides(conn: Connection) -> None:
    await create_orders(conn, 5)
    await conn.execute(
        """
        CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN NEW.note := 'touched'; RETURN NEW; END $$;
        CREATE FUNCTION public.next_one() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN IF pg_trigger_depth() < 4 THEN
            UPDATE public.orders SET amount = amount + 1 WHERE id = NEW.id + 1;
          END IF; RETURN NULL; END $$;
        CREATE TRIGGER touch BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.touch();
        CREATE TRIGGER next_one AFTER UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.next_one();
        """
    )
    m = Shadow(conn, wide(rereads=True))
    await m.published()
    await conn.execute("UPDATE public_v2.orders SET amount = 10 WHERE id = 1")
    assert await both(m, 1) == ("c1", 10, "touched")
    assert await both(m, 2) == ("c2", 1, "touched")
    await conn.execute("UPDATE public.orders SET amount = amount + 100")
    assert (await m.parity()) == (5, 0)


async def test_a_row_of_a_partitioned_shadow_moves_between_partitions_by_either_version(conn: Connection) -> None:
    await create_orders(conn, 10)
    await conn.execute("CREATE TABLE public.items (order_id int REFERENCES public.orders ON DELETE CASCADE)")
    await conn.execute("INSERT INTO public.items VALUES (3)")
    m = Shadow(conn, parted())
    await m.published()
    await conn.execute("UPDATE public.orders SET at = '2026-02-10' WHERE id = 1")
    assert await m.one("SELECT count(*) FROM public.orders_1") == (1,)
    async with conn.transaction():
        await conn.execute("UPDATE public_v2.orders SET at = '2026-02-20 00:00+00' WHERE id = 2")
        await conn.execute("UPDATE public_v2.orders SET at = '2026-02-21 00:00+00' WHERE id = 2")
        await conn.execute("UPDATE public_v2.orders SET at = '2026-05-21 00:00+00', amount = 2 WHERE id = 3")
        assert await m.parity() == (10, 0)
        await conn.execute("DELETE FROM public_v2.orders WHERE id = 2")
        assert await m.parity() == (9, 0)
        await conn.execute("INSERT INTO public_v2.orders (id, code, at) VALUES (2, 'again', '2026-02-21 00:00+00')")
    assert await m.parity() == (10, 0)
    assert await both(m, 3) == ("c3", 2, None)
    assert await m.one("SELECT count(*) FROM public.items") == (1,)
    with pytest.raises(errors.UniqueViolation):
        await conn.execute("INSERT INTO public_v2.orders (id, code, at) VALUES (2, 'twice', '2026-01-05 00:00+00')")
    assert await m.parity() == (10, 0)


async def test_a_row_is_not_taken_for_another_whose_key_reads_alike(conn: Connection) -> None:
    await create_orders(conn, 0)
    await conn.execute("ALTER TABLE public.orders DROP CONSTRAINT orders_pkey, DROP CONSTRAINT orders_code_key")
    await conn.execute("ALTER TABLE public.orders ADD PRIMARY KEY (code, note)")
    await conn.execute(
        "INSERT INTO public.orders (code, note) VALUES ('a/b', 'c'), ('a', 'b/c'), ('a''/''b', 'c'), ('a', 'b''/''c')"
    )
    await conn.execute(
        "CREATE FUNCTION public.others() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " UPDATE public.orders SET amount = 8 WHERE amount = 0 AND code <> NEW.code; RETURN NEW; END $$;"
        "CREATE TRIGGER others BEFORE UPDATE ON public.orders FOR EACH ROW"
        " WHEN (NEW.amount = 7) EXECUTE FUNCTION public.others()"
    )
    key = tuple(KeyColumn(anchor=n, anchor_type="text", shadow=n, shadow_type="text") for n in ("code", "note"))
    m = Shadow(conn, wide(key=key, unique=(), rereads=True))
    await m.published()
    for code, note in (("a/b", "c"), ("a'/'b", "c")):
        await conn.execute("UPDATE public_v2.orders SET amount = 7 WHERE code = %s AND note = %s", (code, note))
        assert await m.parity() == (4, 0), code
        await conn.execute("UPDATE public.orders SET amount = 0")


async def test_keys_that_move_along_in_one_statement_lose_no_row(conn: Connection) -> None:
    await create_orders(conn, 10)
    await conn.execute("ALTER TABLE public.orders DROP CONSTRAINT orders_code_key, DROP CONSTRAINT orders_pkey")
    await conn.execute("ALTER TABLE public.orders ADD PRIMARY KEY (id) DEFERRABLE")
    m = Shadow(conn, wide(unique=()))
    await m.published()
    for change in ("id + 1", "id - 1", "-id", "13 - id", "CASE id WHEN -1 THEN -2 WHEN -2 THEN -1 ELSE id END"):
        await conn.execute(f"UPDATE public.orders SET id = {change}".encode())
        assert await m.parity() == (10, 0), change


async def test_rows_of_a_partitioned_table_have_their_shadow_wherever_they_go(conn: Connection) -> None:
    await create_orders(conn, 0)
    await conn.execute("DROP TABLE public.orders")
    await conn.execute(PARTS)
    m = Shadow(conn, of_parts())
    await m.expand()
    for leaf in ("january", "later"):
        await conn.execute(shadow_rows.copy(m.design, sql.Identifier("public", leaf), 0, 10))
    await conn.execute("UPDATE public.orders SET at = '2026-03-01' WHERE id = 1")
    await m.keyed()
    await m.drain()
    await m.publish()
    assert await m.parity() == (10, 0)
    await conn.execute("UPDATE public.orders SET at = '2026-03-01', amount = 2 WHERE id = 2")
    await conn.execute("UPDATE public_v2.orders SET at = '2026-03-01', amount = 3 WHERE id = 3")
    await conn.execute("UPDATE public_v2.orders SET amount = 4 WHERE id = 4")
    async with conn.transaction():
        await conn.execute("UPDATE public_v2.orders SET at = '2026-03-01' WHERE id = 6")
        await conn.execute("UPDATE public.orders SET note = 'by the old' WHERE id = 6")
        assert await m.parity() == (10, 0)
    await conn.execute("DELETE FROM public_v2.orders WHERE id = 5")
    await conn.execute("INSERT INTO public_v2.orders (id, code, at) VALUES (50, 'new', '2026-04-01')")
    assert await m.parity() == (10, 0)
    assert await m.one("SELECT count(*), sum(amount)::int FROM public.later") == (5, 5)
    await conn.execute("SET session_replication_role = replica")
    await conn.execute("DELETE FROM public.later WHERE id = 2")
    assert await m.parity() == (9, 0)
    await conn.execute("TRUNCATE public.orders")
    assert await m.parity() == (0, 0)


async def test_what_changes_while_rows_are_copied_is_in_the_shadow_in_the_end(conn: Connection) -> None:
    await create_orders(conn, 3000)
    m = Shadow(conn, wide())
    await m.expand()
    last = await m.pages()
    for first in range(last):
        await conn.execute(f"UPDATE public.orders SET amount = amount + 1 WHERE id % 50 = {first % 50}".encode())
        await conn.execute(f"DELETE FROM public.orders WHERE id % 100 = {first % 100} AND id < 1000".encode())
        await conn.execute(f"INSERT INTO public.orders (id, code) VALUES ({10000 + first}, 'n{first}')".encode())
        await conn.execute(shadow_rows.copy(m.design, m.design.relation, first, first + 1))
    await m.keyed()
    await conn.execute("UPDATE public.orders SET amount = amount + 1 WHERE id % 7 = 0")
    assert await m.drain(100) > 0
    assert (await m.parity())[1] == 0
    await m.form(Form.BOTH)


ROLES = """
DO $$ BEGIN
  IF to_regrole('shadow_worker') IS NULL THEN CREATE ROLE shadow_worker NOLOGIN; CREATE ROLE shadow_app NOLOGIN; END IF;
  IF to_regrole('pgduet_view_owner') IS NULL THEN CREATE ROLE pgduet_view_owner NOLOGIN; END IF;
  EXECUTE format('GRANT CREATE ON DATABASE %I TO shadow_worker', current_database());
END $$;
GRANT pgduet_view_owner TO shadow_worker;
GRANT ALL ON SCHEMA public TO shadow_worker;
GRANT USAGE ON SCHEMA public TO shadow_app;
"""


async def test_neither_worker_nor_clients_need_to_be_superusers(conn: Connection) -> None:
    await conn.execute(ROLES)
    await conn.execute("SET SESSION AUTHORIZATION shadow_worker")
    await create_orders(conn, 10)
    m = Shadow(conn, wide())
    await m.expand()
    await m.copy()
    await conn.execute("UPDATE public.orders SET amount = 1")
    await m.keyed()
    assert await m.drain() == 10
    await m.publish()
    await conn.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON public.orders, public_v2.orders TO shadow_app")
    await conn.execute("GRANT USAGE ON SCHEMA public_v2 TO shadow_app")
    await conn.execute("SET SESSION AUTHORIZATION shadow_app")
    await conn.execute("SET row_security = off")  # as an old client may have it
    await conn.execute("UPDATE public.orders SET amount = 5 WHERE id = 1")
    await conn.execute("INSERT INTO public.orders (code) VALUES ('old')")
    await conn.execute("RESET row_security")
    await conn.execute("UPDATE public_v2.orders SET amount = 6 WHERE id = 2")
    await conn.execute("INSERT INTO public_v2.orders (code) VALUES ('new')")
    await conn.execute("DELETE FROM public_v2.orders WHERE id = 3")
    await conn.execute("DELETE FROM public.orders WHERE id = 4")
    assert (await both(m, 1), await both(m, 2)) == (("c1", 5, None), ("c2", 6, None))
    await conn.execute("RESET SESSION AUTHORIZATION")
    assert await m.parity() == (10, 0)


def of_short_codes() -> ShadowDesign:
    """Design a shadow whose `code` is as short as the table's."""
    short = "character varying(8)"
    columns = [each.model_copy(update={"type": short}) if each.name == "code" else each for each in wide().columns]
    anchors = [each.model_copy(update={"type": short}) if each.name == "code" else each for each in wide().anchors]
    return wide(columns=tuple(columns), anchors=tuple(anchors))


async def test_a_type_without_a_guard_stays_so_that_no_client_meets_another(conn: Connection) -> None:
    await create_orders(conn, 3)
    await conn.execute("ALTER TABLE public.orders ALTER code TYPE varchar(8)")
    m = Shadow(conn, of_short_codes())
    await m.published()
    refused = []
    for change in ("ALTER code TYPE text", "DROP code"):
        try:
            await conn.execute(f"ALTER TABLE public.orders {change}".encode())
        except (errors.FeatureNotSupported, errors.DependentObjectsStillExist):
            refused.append(change)
        else:
            await conn.execute("UPDATE public.orders SET code = 'longer than eight' WHERE id = 1")
    assert refused == ["ALTER code TYPE text", "DROP code"]
    await conn.execute("ALTER TABLE public.orders ADD other int, ALTER code SET STATISTICS 50")
    await m.run(shadow_sync.drop_triggers(m.design, PLAN))
    await m.run([*shadow_reverse.drop_reverse(m.design, PLAN), *shadow_final.without_policies(m.design)])
    await m.run(shadow_sync.drop_functions(m.design))
    await conn.execute("ALTER TABLE public.orders ALTER code TYPE text")


TWICE = Clause(
    "what may be there twice goes", "shadow", "clear_journalled", "WHERE {s_is_j}", "WHERE false AND {s_is_j}"
)
AS_IT_WAS = Clause(
    "the row is read again",
    "shadow",
    "forward",
    "SELECT * INTO r FROM {relation} AS o WHERE {o_is_new};",
    "SELECT NEW.* INTO r;",
)
DEAF = Clause("the guard names a row", "shadow", "forward", "guard IN ({old_token}, {new_token})", "guard <> ''")
TORN = Clause("a move is no delete", "shadow", "moved_away", "FOUND AND ({differs})", "false AND ({differs})")
FREE = Clause("types are kept", "shadow", "kept_types", "SELECT {columns} FROM {relation} AS o", "SELECT 1")


ALIKE = Code("parts of a key are told apart", shadow_keys.token, "quote_literal({}::text)", "({}::text)")


@pytest.mark.parametrize(
    ("scenario", "mutant", "says"),
    [
        (test_what_changes_while_rows_are_copied_is_in_the_shadow_in_the_end, TWICE, "could not create unique index"),
        (test_what_a_trigger_of_the_user_writes_meanwhile_reaches_both_sides, AS_IT_WAS, "assert"),
        (test_what_a_trigger_of_the_user_writes_meanwhile_reaches_both_sides, DEAF, "assert"),
        (test_a_row_of_a_partitioned_shadow_moves_between_partitions_by_either_version, TORN, "assert"),
        (test_a_type_without_a_guard_stays_so_that_no_client_meets_another, FREE, "value too long"),
        (test_a_row_is_not_taken_for_another_whose_key_reads_alike, ALIKE, "a/b"),
    ],
    ids=lambda value: value.name if isinstance(value, Clause | Code) else "",
)
async def test_the_rule_is_needed(
    conn: Connection, scenario: Callable[..., Coroutine[Any, Any, None]], mutant: Mutant, says: str
) -> None:
    await must_fail(scenario(conn), mutant, says=says)
