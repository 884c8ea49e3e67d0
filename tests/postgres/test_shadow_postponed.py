"""A new client's statement over several rows, beside triggers that write others of them: it is not refused, and nothing is lost."""

from typing import Any

import psycopg
import pytest
from psycopg import errors
from support.mutants import Clause, must_fail
from support.resolving import resolved
from support.shadows import PLAN, Shadow, create_orders
from support.swaps import DIRECT, NEW_VIEW, Swapping, make_roles, same_types
from support.worlds import on_each_version

from pgduet.operations import shadow_reverse
from pgduet.operations.shadow_sync import Form
from pgduet.plan.shadow_operations import ShadowTable

Connection = psycopg.AsyncConnection[Any]
ALREADY = "a row of orders was already changed by a trigger that this statement has fired"

TRIGGERS = """
CREATE FUNCTION public.only_one() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.note = 'only' THEN UPDATE public.orders SET note = NULL WHERE note = 'only' AND id <> NEW.id; END IF;
    IF NEW.note = 'count' THEN UPDATE public.orders SET amount = amount + 1 WHERE id = NEW.id + 1; END IF;
    IF NEW.note = 'drop' THEN DELETE FROM public.orders WHERE id = NEW.id + 1; END IF;
    IF NEW.note = 'renumber' THEN UPDATE public.orders SET id = id + 1000 WHERE id = NEW.id + 1; END IF;
    IF NEW.note = 'renew' THEN
      UPDATE public.orders SET amount = 7 WHERE id = NEW.id + 1;
      UPDATE public.orders SET id = id + 1000 WHERE id = NEW.id + 1;
      UPDATE public.orders SET amount = amount + 1 WHERE id = NEW.id + 1001;
      INSERT INTO public.orders (id, code) VALUES (NEW.id + 1, 'renewed');
    END IF;
    RETURN NULL; END $$;
CREATE TRIGGER only_one AFTER UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.only_one();
"""
COUNTING = """
CREATE FUNCTION public.counts() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.note = 'count' THEN
      EXECUTE format('UPDATE %s SET amount = amount + 1 WHERE id = $1', TG_RELID::regclass) USING NEW.id + 1;
    END IF;
    RETURN NULL; END $$;
CREATE TRIGGER counts AFTER UPDATE OF note ON public.orders FOR EACH ROW EXECUTE FUNCTION public.counts();
"""
RELATED = """
ALTER TABLE public.orders ADD parent int REFERENCES public.orders ON UPDATE CASCADE ON DELETE {};
UPDATE public.orders SET parent = id - 1 WHERE id > 1
"""


async def published(conn: Connection, setup: str, **shape: Any) -> Shadow:
    """Give a published shadow of ten orders, of a table on which something writes other rows."""
    await create_orders(conn, 10)
    await conn.execute(setup.encode())
    change = {"table": "orders", "columns": [{"name": "id", "type": "bigint"}], **shape}
    m = Shadow(conn, await resolved(conn, ShadowTable.model_validate(change)))
    await m.published()
    return m


async def meets_what_triggers_wrote(conn: Connection) -> None:
    """Write several rows in one statement, of which triggers write some."""
    m = await published(conn, TRIGGERS)
    await conn.execute("UPDATE public_v2.orders SET note = 'only' WHERE id = 5")
    # The new one takes the mark from the old one, to which the statement comes later.
    await conn.execute(
        "UPDATE public_v2.orders SET note = CASE WHEN id = 2 THEN 'only' END, amount = 3 WHERE id IN (2, 5)"
    )
    assert await m.parity() == (10, 0), "the sides differ"
    assert await m.one("SELECT note, amount FROM public_v2.orders WHERE id = 2") == ("only", 3)
    assert await m.one("SELECT note, amount FROM public_v2.orders WHERE id = 5") == (None, 3)
    async with conn.transaction():
        await conn.execute("UPDATE public_v2.orders SET note = 'count' WHERE id IN (6, 7)")
        assert await m.parity() == (10, 0), "the sides differ"  # at the statement's end, not the transaction's
    for key in (7, 8):  # the one was of the statement itself
        assert await m.one("SELECT amount FROM public_v2.orders WHERE id = %s", key) == (1,), (
            "a trigger's write is lost"
        )
    async with conn.transaction():  # a client that defers nothing
        await conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
        await conn.execute("UPDATE public_v2.orders SET note = 'count' WHERE id = 6")
        assert await m.parity() == (10, 0), "the sides differ"


@on_each_version
async def test_a_statement_meets_what_triggers_wrote_to_its_other_rows(conn: Connection) -> None:
    await meets_what_triggers_wrote(conn)


AT_ONCE = Clause(
    "what triggers write beside is postponed",
    "shadow",
    "postpone",
    "IF current_setting('pgduet.within', true) = {mark} AND",
    "IF false AND",
)
OVERWRITTEN = Clause("a row that was postponed is met as the anchor has it", "shadow", "met", "{columns}")
AT_COMMIT = Clause("a statement's end settles it", "shadow", "at_end", "PERFORM {settle}();", "NULL;")


@pytest.mark.parametrize(
    ("mutant", "says"),
    [
        (AT_ONCE, "already modified by an operation triggered by the current command"),
        (OVERWRITTEN, "a trigger's write is lost"),
        (AT_COMMIT, "the sides differ"),
    ],
    ids=lambda each: each.name if isinstance(each, Clause) else "",
)
async def test_without_the_clause_it_is_refused_or_something_is_lost(
    conn: Connection, mutant: Clause, says: str
) -> None:
    await must_fail(meets_what_triggers_wrote(conn), mutant, says=says)


async def test_what_would_be_lost_is_refused(conn: Connection) -> None:
    m = await published(conn, TRIGGERS)
    before = await m.one("SELECT array_agg(o ORDER BY id)::text FROM public_v2.orders AS o")
    for statement, says in (
        ("UPDATE public_v2.orders SET note = 'count', amount = amount + 10 WHERE id IN (6, 7)", ALREADY),
        ("UPDATE public_v2.orders SET note = 'count', amount = amount + 1 WHERE id IN (6, 7)", ALREADY),
        ("UPDATE public_v2.orders SET note = 'drop' WHERE id IN (6, 7)", ALREADY),
        ("UPDATE public_v2.orders SET note = 'renumber' WHERE id IN (6, 7)", "already modified by an operation"),
    ):
        with pytest.raises(errors.TriggeredDataChangeViolation, match=says):
            await conn.execute(statement.encode())
    assert await m.one("SELECT array_agg(o ORDER BY id)::text FROM public_v2.orders AS o") == before
    assert await m.parity() == (10, 0)


async def test_whatever_a_trigger_does_to_rows_that_the_statement_leaves_alone_reaches_the_shadow(
    conn: Connection,
) -> None:
    m = await published(conn, TRIGGERS)
    for number, (note, at) in enumerate((("count", 1), ("drop", 3), ("renumber", 5), ("renew", 8))):
        await conn.execute("UPDATE public_v2.orders SET note = %s WHERE id = %s", (note, at))
        assert (await m.parity())[1] == 0, number
    assert await m.one("SELECT amount FROM public_v2.orders WHERE id = 1009") == (8,)
    await m.form(Form.ENFORCE)
    await conn.execute(
        "INSERT INTO public_v2.orders AS o (id, code) VALUES (1, 'c1'), (1009, 'c9'), (2000, 'far')"
        " ON CONFLICT (id) DO UPDATE SET note = 'count'"
    )
    assert await m.parity() == (11, 0)


@on_each_version
@pytest.mark.parametrize("action", ["CASCADE", "SET NULL"])
async def test_a_table_that_refers_to_itself_is_written_by_many_rows_at_once(conn: Connection, action: str) -> None:
    m = await published(conn, RELATED.format(action))
    await conn.execute("UPDATE public_v2.orders SET id = id + 100, amount = 3 WHERE id IN (3, 4, 9)")
    assert await m.parity() == (10, 0)
    assert await m.one("SELECT array_agg(parent ORDER BY id) FROM public_v2.orders WHERE id > 100") == ([2, 103, 8],)
    deleted = await conn.execute("DELETE FROM public_v2.orders WHERE id >= 5")
    assert deleted.rowcount == 8
    assert await m.parity() == (2, 0)


async def test_values_that_the_anchor_cannot_hold_are_nobodys_collision(conn: Connection) -> None:
    shape = {
        "columns": [{"name": "amount", "type": "text", "up": "amount::text"}],
        "down": {"amount": "length(amount)"},
    }
    m = await published(conn, TRIGGERS, **shape)
    m.design = m.design.model_copy(update={"unmappable": "archive"})
    await m.form(Form.BOTH)
    await m.run(shadow_reverse.reverse(m.design, PLAN))
    await conn.execute("UPDATE public_v2.orders SET amount = 'many' WHERE id = 3")
    await conn.execute("UPDATE public_v2.orders SET note = 'count', code = code || 'x' WHERE id IN (1, 3)")
    assert await m.one("SELECT amount, code FROM public_v2.orders WHERE id = 3") == ("many", "c3x")
    assert await m.one("SELECT amount FROM public.orders WHERE id = 3") == (4,)
    assert await m.one("SELECT amount FROM public_v2.orders WHERE id = 2") == ("1",)
    await conn.execute("UPDATE public_v2.orders SET note = 'count', code = code || 'y' WHERE id IN (2, 3)")
    assert await m.one("SELECT amount, code FROM public_v2.orders WHERE id = 3") == ("5", "c3xy")


async def test_it_holds_under_the_names_that_a_swap_gives_and_takes(dsn: str, conn: Connection) -> None:
    make_roles(dsn)
    await create_orders(conn, 10)
    await conn.execute(COUNTING)
    m = await Swapping(conn, same_types(rereads=True, postpones=True, unique=())).ready()
    await m.swap()
    for done, relation in enumerate((DIRECT, NEW_VIEW)):
        await conn.execute(f"UPDATE {relation} SET note = 'count' WHERE id IN (6, 7)".encode())
        assert await m.parity() == (10, 0)
        assert await m.one("SELECT array_agg(amount ORDER BY id) FROM public.orders WHERE id > 6") == (
            [done + 1, done + 1, 0, 0],
        )
    await m.swap_back()
    await conn.execute(b"UPDATE public_v2.orders SET note = 'count' WHERE id IN (6, 7)")
    assert await m.parity() == (10, 0)
    assert await m.one("SELECT array_agg(amount ORDER BY id) FROM public.orders WHERE id > 6") == ([3, 3, 0, 0],)
