"""What was found to differ is given what the authority says, under the row's lock, once, and with a record."""

import asyncio
from typing import Any

import psycopg
import pytest
from support.twins import MIGRATION, REFERENCE, Twins, twins

from pgduet.barriers import HOOKS
from pgduet.phases import Authority
from pgduet.postgres import suspects

Connection = psycopg.AsyncConnection[Any]


async def make(conn: Connection, rows: int = 300) -> None:
    await conn.execute(
        "CREATE TABLE old (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount numeric(10,2), note text)"
    )
    await conn.execute(
        "CREATE TABLE new (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount numeric(10,2), note text)"
    )
    await conn.execute(
        "INSERT INTO old (amount, note) SELECT i, 'note ' || i FROM generate_series(1, %s) i", (rows,), prepare=False
    )
    await conn.execute("INSERT INTO new OVERRIDING SYSTEM VALUE SELECT * FROM old")
    await conn.execute("UPDATE new SET note = 'another' WHERE id <= 3")
    await conn.execute("DELETE FROM new WHERE id BETWEEN 11 AND 13")
    await conn.execute(
        "INSERT INTO new OVERRIDING SYSTEM VALUE SELECT i, 0, 'x' FROM generate_series(%s::int, %s::int) i",
        (rows + 701, rows + 703),
        prepare=False,
    )


async def both(t: Twins) -> tuple[list[Any], list[Any]]:
    return await t.rows("SELECT * FROM public.old ORDER BY id"), await t.rows("SELECT * FROM public.new ORDER BY id")


async def audited(t: Twins) -> list[Any]:
    return await t.rows("SELECT action, actor, reason, affected, evidence FROM pgduet.audit ORDER BY seq")


async def test_the_old_side_is_left_alone_while_it_has_authority(dsn: str, conn: Connection) -> None:
    await make(conn)
    async with twins(dsn) as t:
        before, _ = await both(t)
        assert len(await t.drifted()) == 9
        assert (await t.repair()).written == 9
        old, new = await both(t)
        assert old == before
        assert new == before
        assert await t.drifted() == []


async def test_the_new_side_is_left_alone_once_it_has_authority(dsn: str, conn: Connection) -> None:
    await make(conn)
    async with twins(dsn) as t:
        _, before = await both(t)
        assert len(await t.drifted()) == 9
        assert (await t.repair(Authority.NEW)).written == 9
        old, new = await both(t)
        assert new == before
        assert old == before
        assert await t.drifted() == []


async def test_a_repair_can_run_twice_and_is_recorded_once_with_its_keys(dsn: str, conn: Connection) -> None:
    await make(conn)
    async with twins(dsn) as t:
        await t.drifted()
        assert (await t.repair()).written == 9
        ((action, actor, reason, affected, evidence),) = await audited(t)
        assert (action, actor, reason) == ("repair", REFERENCE.actor, REFERENCE.reason)
        assert affected == {"relation": '"public"."old"', "shadow": '"public"."new"', "rows": 9}
        assert evidence["authority"] == "old"
        assert {"kind": "missing", "key": {"id": 11}} in evidence["repaired"]
        assert len(evidence["repaired"]) == 9
        again = await t.repair()
        assert (again.written, again.left) == (0, 9), "it finds them in step"
        assert len(await audited(t)) == 1


async def test_a_row_that_was_put_right_meanwhile_is_not_written(dsn: str, conn: Connection) -> None:
    await make(conn)
    async with twins(dsn) as t:
        await t.drifted()
        await conn.execute("UPDATE new SET note = 'note ' || id WHERE id = 1")
        await conn.execute("UPDATE old SET note = 'newer' WHERE id = 2")
        await conn.execute("DELETE FROM old WHERE id = 12")
        await conn.execute("INSERT INTO old OVERRIDING SYSTEM VALUE VALUES (1002, 0, 'x')")
        ((xmin,),) = await t.rows("SELECT xmin::text FROM public.new WHERE id = 1")
        done = await t.repair()
        assert (done.written, done.left) == (6, 3)
        ((*_, affected, evidence),) = await audited(t)
        told = {(each["kind"], each["key"]["id"]) for each in evidence["repaired"]}
        assert (len(told), affected["rows"]) == (6, 6), "what was right already is not in the record"
        assert not told & {("mismatch", 1), ("missing", 12), ("extra", 1002)}
        assert await t.rows("SELECT xmin::text FROM public.new WHERE id = 1") == [(xmin,)]
        assert await t.rows("SELECT note FROM public.new WHERE id = 2") == [("newer",)]
        assert await t.drifted() == []


async def test_a_repair_waits_for_no_client_and_comes_back_to_what_it_holds(dsn: str, conn: Connection) -> None:
    await make(conn)
    async with twins(dsn) as t, await psycopg.AsyncConnection.connect(dsn) as client:
        await t.drifted()
        await client.execute("UPDATE old SET note = 'theirs' WHERE id = 2")
        task = asyncio.create_task(t.repair())
        async with asyncio.timeout(20):
            while (await count(conn, "SELECT count(*) FROM new WHERE note = 'another'")) > 1:
                await asyncio.sleep(0.02)
        assert not task.done()
        await client.commit()
        assert (await task).written == 9
        assert await t.rows("SELECT note FROM public.new WHERE id = 2") == [("theirs",)]
        assert await t.drifted() == []


async def test_a_row_that_a_client_inserts_while_its_extra_twin_is_taken_away_is_kept(
    dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repair waits for the client's row, and decides by what it finds after that, not by what it saw before."""
    monkeypatch.setattr(suspects, "ROW_LOCK_WAIT", "30s")
    await make(conn)
    await conn.execute(
        """CREATE FUNCTION sync() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO public.new OVERRIDING SYSTEM VALUE VALUES (NEW.id, NEW.amount, NEW.note)
        ON CONFLICT (id) DO UPDATE SET amount = excluded.amount, note = excluded.note; RETURN NULL; END $$"""
    )
    await conn.execute("CREATE TRIGGER sync AFTER INSERT OR UPDATE ON old FOR EACH ROW EXECUTE FUNCTION sync()")
    async with twins(dsn) as t, await psycopg.AsyncConnection.connect(dsn) as client:
        await t.drifted()
        await client.execute("INSERT INTO old OVERRIDING SYSTEM VALUE VALUES (1002, 7, 'theirs')")
        task = asyncio.create_task(t.repair())
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        async with asyncio.timeout(20):
            while not await count(conn, waits):
                await asyncio.sleep(0.02)
        await client.commit()
        await task
        assert await t.rows("SELECT amount, note FROM public.new WHERE id = 1002") == [(7, "theirs")]
        assert await t.drifted() == []


async def test_confirmed_drift_is_noted_by_key_and_resolved_when_it_is_not_found_again(
    dsn: str, conn: Connection
) -> None:
    await make(conn)
    async with twins(dsn) as t:
        await t.drifted()
        for _ in range(2):
            await suspects.note(t.conn, t.comparison, MIGRATION, t.parts, None)
        notes = "SELECT kind, key, detail FROM pgduet.drift WHERE resolved_at IS NULL ORDER BY id"
        found = await t.rows(notes)
        assert [(kind, key["id"]) for kind, key, _ in found] == [
            *(("mismatch", n) for n in (1, 2, 3)),
            *(("missing", n) for n in (11, 12, 13)),
            *(("extra", n) for n in (1001, 1002, 1003)),
        ]
        assert "another" in found[0][2]
        assert "note 1" in found[0][2]
        await t.repair()
        ((before,),) = await t.rows("SELECT clock_timestamp()")
        assert await t.drifted() == []
        await suspects.note(t.conn, t.comparison, MIGRATION, t.parts, before)
        assert await t.rows(notes) == []


async def test_a_thousand_rows_among_many_are_all_named_and_all_repaired(dsn: str, conn: Connection) -> None:
    await make(conn, 20_000)
    await conn.execute("UPDATE new SET amount = amount + 0.01 WHERE id % 50 = 0")
    await conn.execute("DELETE FROM new WHERE id % 50 = 1 AND id > 20")
    await conn.execute("INSERT INTO new OVERRIDING SYSTEM VALUE SELECT -i, 0, 'x' FROM generate_series(1, 200) i")
    async with twins(dsn) as t:
        expected = await t.rows(
            """SELECT CASE WHEN o.id IS NULL THEN 'extra' WHEN n.id IS NULL THEN 'missing' ELSE 'mismatch' END AS kind,
            coalesce(o.id, n.id) AS id FROM public.old o FULL JOIN public.new n ON n.id = o.id
            WHERE ROW(o.id, o.amount, o.note) IS DISTINCT FROM ROW(n.id, n.amount, n.note)"""
        )
        assert len(expected) > 1000
        found = await t.drifted()
        assert sorted((kind, key["id"]) for kind, key in found) == sorted(expected)
        assert (await t.repair()).written == len(expected)
        records = await audited(t)
        assert sum(affected["rows"] for _, _, _, affected, _ in records) == len(expected)
        assert await t.drifted() == []


async def test_a_repair_that_is_stopped_has_no_record_of_what_it_did_not_write(
    dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stop() -> None:
        raise asyncio.CancelledError

    await make(conn)
    async with twins(dsn) as t:
        await t.drifted()
        monkeypatch.setitem(HOOKS, "batch.before_commit", stop)
        with pytest.raises(asyncio.CancelledError):
            await t.repair()
        monkeypatch.undo()
        assert await audited(t) == []
        assert len(await t.drifted()) == 9


async def test_rows_that_something_refuses_stay_and_the_others_are_repaired(dsn: str, conn: Connection) -> None:
    await make(conn)
    async with twins(dsn) as t:
        await t.drifted()
        await conn.execute(
            """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$"""
        )
        await conn.execute(
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON new DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        done = await t.repair()
        assert (done.written, done.left) == (6, 3)
        told = [each["kind"] for *_, evidence in await audited(t) for each in evidence["repaired"]]
        assert "missing" not in told
        assert await t.drifted() == [("missing", {"id": n}) for n in (11, 12, 13)]


async def count(conn: Connection, query: str) -> int:
    ((number,),) = await (await conn.execute(query.encode())).fetchall()
    return int(number)
