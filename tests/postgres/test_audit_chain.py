"""The audit log against a real server: concurrent appends, every kind of tampering, and who may do what."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import AsyncConnection, sql

from pgduet import audit
from pgduet.audit import Entry, Receipt, chain
from pgduet.audit.checker import Checker
from pgduet.errors import ActRefused, AuditBroken
from pgduet.postgres.databases import Database
from pgduet.postgres.session import session
from pgduet.sql import block

Conn = AsyncConnection[Any]


@pytest.fixture
async def log(conn: Conn) -> Conn:
    """A database with an empty log."""
    await conn.execute(block("audit", "create_audit"))
    return conn


@pytest.fixture
async def filled(log: Conn) -> Conn:
    """A log of six entries."""
    await fill(log, 6)
    return log


@pytest.fixture
async def stranger(log: Conn, dsn: str) -> AsyncIterator[Conn]:
    """A connection of a role that owns nothing; it may use the schema, as every role may."""
    await log.execute("GRANT USAGE ON SCHEMA pgduet TO PUBLIC")
    async with role_of(log, dsn) as conn:
        yield conn


class role_of:  # noqa: N801  reads as a function
    """Connect as a fresh role, which goes when the block ends."""

    def __init__(self, conn: Conn, dsn: str, *, owner: bool = False) -> None:
        self._admin, self._dsn, self._owner = conn, dsn, owner

    async def __aenter__(self) -> Conn:
        cursor = await self._admin.execute("SELECT 'role_' || current_database()")
        (name,) = await cursor.fetchone() or ("",)
        self._name = sql.Identifier(name)
        await self._admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(self._name))
        if self._owner:
            for statement in ("ALTER SCHEMA pgduet OWNER TO {}", "ALTER TABLE pgduet.audit OWNER TO {}",
                              "ALTER TABLE pgduet.audit_head OWNER TO {}"):  # fmt: skip
                await self._admin.execute(sql.SQL(statement).format(self._name))
        self._conn = await AsyncConnection.connect(self._dsn, user=name, autocommit=True)
        return self._conn

    async def __aexit__(self, *_: object) -> None:
        await self._conn.close()
        await self._admin.execute(sql.SQL("DROP OWNED BY {}").format(self._name))
        await self._admin.execute(sql.SQL("DROP ROLE {}").format(self._name))


async def fill(conn: Conn, count: int) -> list[Receipt]:
    receipts = []
    for number in range(count):
        async with conn.transaction():
            entry = Entry(actor="ann", action="advance", migration="m", affected={"n": number}, reason="because")
            receipts.append(await audit.append(conn, entry))
    return receipts


async def tamper(conn: Conn, *statements: LiteralString | sql.Composed) -> None:
    """Write as a superuser who has put the triggers out of the way."""
    async with conn.transaction():
        for trigger in ("DISABLE", "ENABLE ALWAYS"):
            if trigger == "ENABLE ALWAYS":
                for statement in statements:
                    await conn.execute(statement)
            for table, name in (
                ("audit", "audit_refuse"),
                ("audit_head", "audit_head_refuse"),
                ("audit_head", "audit_head_moves"),
            ):
                await conn.execute(
                    sql.SQL("ALTER TABLE pgduet.{} {} TRIGGER {}").format(
                        sql.Identifier(table), sql.SQL(trigger), sql.Identifier(name)
                    )
                )


async def problems(conn: Conn, head: tuple[int, str] | None = None) -> list[tuple[int, str]]:
    return [(problem.seq, problem.what) for problem in (await audit.verify(conn, head)).problems]


async def test_sixty_concurrent_appends_from_twelve_connections_make_one_chain(log: Conn, dsn: str) -> None:
    async def appender(who: int) -> list[Receipt]:
        async with await AsyncConnection.connect(dsn) as conn:
            receipts = []
            for number in range(5):
                receipts.append(await audit.append(conn, Entry(actor=f"actor-{who}", action=f"act-{number}")))
                await conn.commit()
            return receipts

    receipts = [receipt for some in await asyncio.gather(*map(appender, range(12))) for receipt in some]
    assert sorted(receipt.seq for receipt in receipts) == list(range(1, 61))
    found = await audit.verify(log)
    assert (found.entries, found.head_seq, found.problems) == (60, 60, [])
    assert found.intact
    assert await audit.head(log) == Receipt(60, found.head_hash) == max(receipts, key=lambda receipt: receipt.seq)


async def test_an_empty_log_verifies(log: Conn) -> None:
    found = await audit.verify(log)
    assert (found.entries, found.head_seq, found.head_hash, found.problems) == (0, 0, audit.ZERO_HASH, [])
    assert await audit.head(log) == Receipt(0, audit.ZERO_HASH)


async def test_a_log_longer_than_a_page_verifies(filled: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    for rows in (1, 2, 3, 5, 6, 7):
        monkeypatch.setattr(chain, "PAGE_ROWS", rows)
        found = await audit.verify(filled)
        assert (found.entries, found.head_seq, found.problems) == (6, 6, [])


async def test_creating_it_again_changes_nothing(filled: Conn) -> None:
    before = await audit.head(filled)
    await filled.execute(block("audit", "create_audit"))
    assert await audit.head(filled) == before
    assert await problems(filled) == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await filled.execute("SET session_replication_role = replica; DELETE FROM pgduet.audit")


class Colour(StrEnum):
    RED = "red"


AWKWARD: dict[str, object] = {
    "beyond": [2**53, -(2**64), 10**40, 1e300, float(2**60)],
    "within": [2**53 - 1, -(2**53) + 1, 0.1, 1.0, -0.0, 5e-324, 1.5e-7, 123456789.125],
    "not numbers": [float("nan"), float("inf")],
    "text": ["é", "\x00", "\ud800", "\u2028", "😀", '"\\', Colour.RED],
    "others": [Decimal("1.10"), datetime(2026, 1, 1, tzinfo=UTC), (1, 2), {3}, None, True],
    "😀": {1: "a", "nested": {"z": 1, "a": {}}},
}


async def test_values_that_json_cannot_hold_are_kept_as_text_and_verify(log: Conn) -> None:
    async with log.transaction():
        await audit.append(log, Entry(actor="a\x00b", action="\ud800", affected=AWKWARD, evidence=AWKWARD))
    assert await problems(log) == []
    (line,) = [line async for line in audit.export(log)]
    assert line["affected"]["beyond"][:3] == [str(2**53), str(-(2**64)), str(10**40)]
    assert line["affected"]["not numbers"] == ["nan", "inf"]
    assert line["actor"] == "a\\x00b"


async def test_the_session_s_time_zone_does_not_matter(filled: Conn) -> None:
    await filled.execute("SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'SQL, DMY'; SET extra_float_digits = -5")
    await fill(filled, 1)
    assert await problems(filled) == []


async def test_an_append_rolls_back_with_the_caller_s_transaction(filled: Conn) -> None:
    before = await audit.head(filled)
    async with filled.transaction(force_rollback=True):
        assert (await audit.append(filled, Entry(actor="ann", action="undone"))).seq == 7
    assert await audit.head(filled) == before
    (receipt,) = await fill(filled, 1)
    assert receipt.seq == 7
    assert await problems(filled) == []


async def test_several_appends_in_one_transaction_follow_each_other(log: Conn) -> None:
    async with log.transaction():
        first = await audit.append(log, Entry(actor="ann", action="one"))
        second = await audit.append(log, Entry(actor="ann", action="two"))
    assert (first.seq, second.seq) == (1, 2)
    assert await problems(log) == []


async def test_an_append_outside_a_transaction_is_refused(log: Conn) -> None:
    with pytest.raises(ActRefused, match="transaction of its act"):
        await audit.append(log, Entry(actor="ann", action="alone"))


async def test_an_append_to_an_older_snapshot_is_refused(log: Conn) -> None:
    async with log.transaction():
        await log.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        with pytest.raises(ActRefused, match="READ COMMITTED"):
            await audit.append(log, Entry(actor="ann", action="late"))


async def test_an_export_checks_without_its_database(filled: Conn) -> None:
    lines = [json.loads(json.dumps(line)) async for line in audit.export(filled)]
    head = await audit.head(filled)
    checker = Checker((head.seq, head.hash))
    for line in lines:
        checker.take(line)
    assert checker.finish((head.seq, head.hash)).problems == []
    assert list(lines[0]) == ["seq", "at", "actor", "action", "migration", "affected", "reason", "evidence",
                              "prev_hash", "hash"]  # fmt: skip


EDITS: list[LiteralString] = [
    "actor = 'eve'",
    "action = 'approve'",
    "migration = NULL",
    "reason = ''",
    "at = at + interval '1 microsecond'",
    "affected = '{\"n\": 3}'",
    "affected = '{\"n\": 20000000000000000000}'",
    'evidence = \'{"n": "2"}\'',
]


@pytest.mark.parametrize("edit", EDITS)
async def test_an_edit_is_noticed(filled: Conn, edit: LiteralString) -> None:
    await tamper(filled, sql.SQL("UPDATE pgduet.audit SET {} WHERE seq = 3").format(sql.SQL(edit)))
    assert await problems(filled) == [(3, "its content does not match its hash")]


async def test_an_edit_with_its_hash_made_anew_is_noticed(filled: Conn) -> None:
    await tamper(
        filled,
        "UPDATE pgduet.audit SET actor = 'eve', hash = sha256('x') WHERE seq = 3",
    )
    assert (4, "does not follow entry 3") in await problems(filled)


async def test_a_deletion_in_the_middle_is_noticed(filled: Conn) -> None:
    await tamper(filled, "DELETE FROM pgduet.audit WHERE seq IN (3, 4)")
    assert await problems(filled) == [(3, "missing: the next entry found is 5"), (5, "does not follow entry 2")]


async def test_a_deletion_with_the_rest_moved_up_is_noticed(filled: Conn) -> None:
    await tamper(
        filled,
        "DELETE FROM pgduet.audit WHERE seq = 3",
        "UPDATE pgduet.audit SET seq = 3 WHERE seq = 4",
        "UPDATE pgduet.audit SET seq = 4 WHERE seq = 5",
        "UPDATE pgduet.audit SET seq = 5 WHERE seq = 6",
        "UPDATE pgduet.audit_head SET seq = 5",
    )
    found = await problems(filled)
    assert (3, "does not follow entry 2") in found
    assert {seq for seq, _ in found} == {3, 4, 5}


async def test_a_tail_cut_off_is_noticed(filled: Conn) -> None:
    await tamper(filled, "DELETE FROM pgduet.audit WHERE seq > 4")
    assert await problems(filled) == [(5, "missing at the tail: the head row says 6 entries")]


async def test_a_tail_cut_off_with_the_head_set_back_shows_only_against_a_head_kept_outside(filled: Conn) -> None:
    kept = await audit.head(filled)
    await tamper(
        filled,
        "DELETE FROM pgduet.audit WHERE seq > 4",
        "UPDATE pgduet.audit_head h SET seq = a.seq, hash = a.hash FROM pgduet.audit a WHERE a.seq = 4",
    )
    assert await problems(filled) == []
    assert await problems(filled, (kept.seq, kept.hash)) == [(6, "missing: this entry was the head kept outside")]


async def test_a_head_kept_outside_is_found_in_a_log_that_has_grown(filled: Conn) -> None:
    kept = await audit.head(filled)
    await fill(filled, 3)
    assert await problems(filled, (kept.seq, kept.hash)) == []
    assert await problems(filled, (0, audit.ZERO_HASH)) == []


async def test_two_rows_swapped_are_noticed(filled: Conn) -> None:
    await tamper(
        filled,
        "UPDATE pgduet.audit SET seq = -1 WHERE seq = 3",
        "UPDATE pgduet.audit SET seq = 3 WHERE seq = 4",
        "UPDATE pgduet.audit SET seq = 4 WHERE seq = -1",
    )
    found = await problems(filled)
    assert (3, "its content does not match its hash") in found
    assert (4, "its content does not match its hash") in found
    assert (3, "does not follow entry 2") in found


async def test_a_log_emptied_and_written_anew_is_noticed(filled: Conn) -> None:
    kept = await audit.head(filled)
    await tamper(filled, "TRUNCATE pgduet.audit")
    assert await problems(filled) == [(1, "missing at the tail: the head row says 6 entries")]
    await tamper(filled, "UPDATE pgduet.audit_head SET seq = 0, hash = decode(repeat('00', 32), 'hex')")
    await fill(filled, 6)
    assert await problems(filled) == [], "a whole new chain is sound in itself"
    assert await problems(filled, (kept.seq, kept.hash)) == [(6, "its hash is not the one kept outside")]


async def test_rows_written_back_with_the_old_head_are_noticed(filled: Conn) -> None:
    await tamper(filled, "UPDATE pgduet.audit_head SET hash = sha256('x')")
    assert await problems(filled) == [(6, "is not the entry that the head row names (6)")]
    await tamper(filled, "DELETE FROM pgduet.audit_head")
    assert await problems(filled) == [(6, "the head row is missing")]
    with pytest.raises(AuditBroken, match="no head"):
        await fill(filled, 1)


async def test_a_fork_is_noticed(filled: Conn) -> None:
    await tamper(
        filled,
        "ALTER TABLE pgduet.audit DROP CONSTRAINT audit_prev_hash_key",
        "UPDATE pgduet.audit SET prev_hash = (SELECT prev_hash FROM pgduet.audit WHERE seq = 4) WHERE seq = 5",
    )
    assert (5, "fork: it follows the same entry as entry 4") in await problems(filled)


async def test_a_row_with_a_number_that_exists_does_not_hide_at_a_page_s_edge(
    filled: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "PAGE_ROWS", 3)
    await tamper(
        filled,
        "ALTER TABLE pgduet.audit DROP CONSTRAINT audit_pkey",
        "INSERT INTO pgduet.audit SELECT seq, at, 'eve', action, migration, affected, reason, evidence, "
        "sha256('p'), decode(repeat('ff', 32), 'hex') FROM pgduet.audit WHERE seq = 3",
    )
    assert (3, "stands after entry 3") in await problems(filled)


async def test_entries_beyond_the_head_stop_the_next_append(filled: Conn) -> None:
    await filled.execute("INSERT INTO pgduet.audit SELECT 7, at, actor, action, migration, affected, reason, evidence, "
                         "sha256('p'), sha256('h') FROM pgduet.audit WHERE seq = 1")  # fmt: skip
    with pytest.raises(AuditBroken, match="beyond its head"):
        await fill(filled, 1)
    assert (7, "does not follow entry 6") in await problems(filled)


WRITES: list[LiteralString] = [
    "UPDATE pgduet.audit SET actor = 'eve'",
    "UPDATE pgduet.audit SET actor = 'eve' WHERE false",
    "DELETE FROM pgduet.audit",
    "TRUNCATE pgduet.audit",
    "INSERT INTO pgduet.audit SELECT * FROM pgduet.audit ON CONFLICT (seq) DO UPDATE SET actor = 'eve'",
    "DELETE FROM pgduet.audit_head",
    "TRUNCATE pgduet.audit_head",
    "UPDATE pgduet.audit_head SET seq = seq - 1",
    "UPDATE pgduet.audit_head SET seq = seq + 2",
    "UPDATE pgduet.audit_head SET seq = seq + 1",
    "UPDATE pgduet.audit_head SET hash = sha256('x')",
    "INSERT INTO pgduet.audit_head (one, seq, hash) VALUES (true, 0, '')",
]


async def test_the_owner_can_append_but_change_nothing(filled: Conn, dsn: str) -> None:
    async with role_of(filled, dsn, owner=True) as owner:
        await fill(owner, 1)
        for write in WRITES:
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="audit log"):
                await owner.execute(write)
        assert await problems(owner) == []
        for table in ("schema pgduet", "table pgduet.audit", "table pgduet.audit_head"):
            await filled.execute(sql.SQL("ALTER {} OWNER TO CURRENT_USER").format(sql.SQL(table)))


async def test_another_role_can_neither_read_nor_write(stranger: Conn) -> None:
    for statement in (*WRITES, "SELECT FROM pgduet.audit", "SELECT FROM pgduet.audit_head"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"):
            await stranger.execute(statement)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await fill(stranger, 1)


async def test_our_sessions_append_whatever_isolation_the_database_has_by_default(log: Conn, dsn: str) -> None:
    name = sql.Identifier(log.info.dbname)
    await log.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = 'repeatable read'").format(name))
    for bare in (False, True):
        async with session(Database("shop", dsn), "test", bare=bare) as conn, conn.transaction():
            await audit.append(conn, Entry(actor="ann", action="one"))
