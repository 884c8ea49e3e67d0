"""The audit log as people use it: anchored in Temporal, verified, exported; and every tampering noticed by the command."""

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.forging import tamper, write_anew
from support.harness import ROOT, Harness
from support.plans import create_reviews
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowFailureError

from pgduet import audit, runtime
from pgduet.activities import auditing
from pgduet.anchoring import kept
from pgduet.audit.wire import check_file
from pgduet.audits import ANCHORS
from pgduet.client import Migrations
from pgduet.errors import AuditBroken, AuditDiverged, AuditMissing, UnknownDatabase
from pgduet.messages import Start
from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]
QUICK: dict[str, Any] = {
    "shadow": {"mode": "skip"},
    "shift": {"steps": [100], "bake_s": 0},
    "soak": {"window_s": 0, "legacy_idle_s": 0},
    "gates": {"cutover": "auto", "contract": "auto"},
}
PHASES = 9
"""Between preflight and done; each is entered once."""


@pytest.fixture(autouse=True)
async def reviews(conn: Connection) -> None:
    await create_reviews(conn, 300)


@dataclass
class Done:
    code: int
    out: str
    err: str


async def pgduet(stage: Harness, *arguments: str) -> Done:
    """Run the real command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pgduet.cli.main",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"TEMPORAL_ADDRESS": stage.address, "PGDUET_TASK_QUEUE": stage.queue},
        cwd=stage.scratch,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


def client(stage: Harness) -> Migrations:
    return Migrations(stage.client, task_queue=stage.queue)


async def migrated(stage: Harness, **policy: Any) -> None:
    await stage.start(stage.plan(**(QUICK | policy)))
    assert (await stage.result()).state is State.DONE


async def anchored(stage: Harness, count: int) -> None:
    """Wait until the listing knows the anchors of runs that have ended."""
    async with asyncio.timeout(20):
        while len((await kept(stage.client, stage.database)).heads) != count:
            await asyncio.sleep(0.05)


async def test_a_migration_anchors_the_log_at_each_phase_and_verifies(stage: Harness) -> None:
    async with stage.worker():
        await migrated(stage)
        await anchored(stage, PHASES + 2)
        verdict = await client(stage).audit_verify(stage.database)
        assert (verdict.intact, verdict.error()) == (True, None)
        assert (verdict.anchors, verdict.migrations, verdict.agreed) == (PHASES + 2, 1, PHASES + 2)
        assert verdict.anchored_to == verdict.entries, "the last entry is the end, and that is anchored"
        told = await pgduet(stage, "audit", "verify", stage.database)
        assert told.code == 0, told.err
        assert told.out.startswith(f"verifies  audit log of {stage.database}, {verdict.entries} entries")
        assert "11 heads of 1 migration in Temporal agree" in told.out
        facts = json.loads((await pgduet(stage, "audit", "verify", stage.database, "--json")).out)
    assert facts == verdict.model_dump(mode="json") | {"intact": True}


async def test_the_memo_changes_with_the_phase_and_not_with_batches_or_acts(stage: Harness) -> None:
    async with stage.worker():
        await stage.start(stage.plan(gates={"shadow": "manual"}, backfill={"batch_target_ms": 1}))
        await stage.waits("gate", Phase.VERIFY)
        for _ in range(3):
            await stage.act("verify")
        events = [event.event_type async for event in stage.handle.fetch_history_events()]
        memo = await (await stage.handle.describe()).memo()
        await runtime.replayer().replay_workflow(await stage.handle.fetch_history())
    assert events.count(EventType.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED) == len(memo[ANCHORS]) == 1 + 4


async def test_a_rollback_and_an_adopted_run_are_anchored_too(stage: Harness) -> None:
    plan = stage.plan(gates={"shadow": "manual"})
    async with stage.worker():
        await stage.start(plan)
        await stage.waits("gate", Phase.VERIFY)
        await stage.handle.terminate("lost")
        await stage.start(plan)
        await stage.waits("gate", Phase.VERIFY)
        await stage.act("abort")
        assert (await stage.result()).state is State.ROLLED_BACK
        await anchored(stage, 5 + len({"abort", "undo_verify", "undo_backfill", "undo_dual_write", "undo_expand"}) + 1)
        verdict = await client(stage).audit_verify(stage.database)
    assert verdict.error() is None
    assert (verdict.migrations, verdict.anchored_to) == (1, verdict.entries)


@pytest.mark.parametrize("memo", [5, "x", ["x", 7, None, "1:zz"], {"a": 1}])
async def test_a_memo_of_somebody_else_s_neither_stops_a_migration_nor_is_an_anchor(
    stage: Harness, memo: object
) -> None:
    async with stage.worker():
        handle = await stage.client.start_workflow(
            "Migration",
            Start(plan=stage.plan(gates={"dual_write": "manual"})),
            id=f"migration/{stage.database}/review-stars",
            task_queue=stage.queue,
            memo={ANCHORS: memo},
        )
        stage.handles.append(handle)
        await stage.waits("gate", Phase.EXPAND)
        verdict = await client(stage).audit_verify(stage.database)
    assert (verdict.intact, verdict.anchors) == (True, 2)


async def test_a_migration_without_a_memo_is_no_anchor_and_the_page_says_so(stage: Harness) -> None:
    async with stage.worker():
        await client(stage).setup(stage.database)
        handle = await stage.client.start_workflow(
            "Migration", {"plan": {}}, id=f"migration/{stage.database}/nothing", task_queue=stage.queue
        )
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        told = await pgduet(stage, "audit", "verify", stage.database)
    assert told.code == 0, told.err
    assert "anchors  none: nothing outside vouches for it" in told.out


Tampering = Callable[[Connection], Awaitable[None]]


def by_sql(*statements: Any) -> Tampering:
    return lambda conn: tamper(conn, *statements)


def by_writing_anew(seq: int, change: dict[str, Any] | None) -> Tampering:
    return lambda conn: write_anew(conn, seq, change)


BACK = "UPDATE pgduet.audit_head h SET seq = a.seq, hash = a.hash FROM pgduet.audit a WHERE a.seq = 6"
WAYS: dict[str, tuple[Tampering, str, str]] = {
    **{
        f"an edit of {field}": (
            by_sql(f"UPDATE pgduet.audit SET {field} = {value} WHERE seq = 5"),
            "PD-3001",
            "entry 5: its content does not match its hash",
        )
        for field, value in {
            "at": "at + interval '1 microsecond'",
            "actor": "'eve'",
            "action": "'approve'",
            "migration": "'another'",
            "affected": "'{}'",
            "reason": "'because'",
            "evidence": "'{\"rows\": 0}'",
        }.items()
    },
    "a deletion in the middle": (
        by_sql("DELETE FROM pgduet.audit WHERE seq = 5"),
        "PD-3001",
        "entry 5: missing: the next entry found is 6",
    ),
    "two entries swapped": (
        by_sql(
            "UPDATE pgduet.audit SET seq = -1 WHERE seq = 5",
            "UPDATE pgduet.audit SET seq = 5 WHERE seq = 6",
            "UPDATE pgduet.audit SET seq = 6 WHERE seq = -1",
        ),
        "PD-3001",
        "entry 5: does not follow entry 4",
    ),
    "the tail cut off": (
        by_sql("DELETE FROM pgduet.audit WHERE seq > 6"),
        "PD-3001",
        "entry 7: missing at the tail: the head row says",
    ),
    "the tail cut off and the head set back": (
        by_sql("DELETE FROM pgduet.audit WHERE seq > 6", BACK),
        "PD-3002",
        "missing: this entry was the head that review-stars kept in Temporal",
    ),
    "an edit with everything after it written anew": (
        by_writing_anew(5, {"actor": "eve"}),
        "PD-3002",
        "its hash is not the one that review-stars kept in Temporal",
    ),
    "a deletion with everything after it written anew": (
        by_writing_anew(5, None),
        "PD-3002",
        "its hash is not the one that review-stars kept in Temporal",
    ),
    "a whole log written anew": (
        by_writing_anew(1, {"actor": "eve"}),
        "PD-3002",
        "entry 1: its hash is not the one that review-stars kept in Temporal",
    ),
    "a log emptied": (
        by_sql("TRUNCATE pgduet.audit", "UPDATE pgduet.audit_head SET seq = 0, hash = decode(repeat('00', 32), 'hex')"),
        "PD-3002",
        "entry 1: missing: this entry was the head that review-stars kept in Temporal",
    ),
    "the head row changed": (
        by_sql("UPDATE pgduet.audit_head SET hash = sha256('x')"),
        "PD-3001",
        "is not the entry that the head row names",
    ),
    "the head row deleted": (by_sql("DELETE FROM pgduet.audit_head"), "PD-3001", "the head row is missing"),
}


async def test_every_tampering_is_noticed_with_its_entry_and_what_to_do(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await migrated(stage)
        await anchored(stage, PHASES + 2)
        for name, (forge, code, what) in WAYS.items():
            await conn.execute("CREATE TABLE public.kept AS SELECT * FROM pgduet.audit")
            await conn.execute("CREATE TABLE public.kept_head AS SELECT * FROM pgduet.audit_head")
            await forge(conn)
            verdict = await client(stage).audit_verify(stage.database)
            error = verdict.error()
            assert error is not None, name
            assert type(error) is (AuditBroken if code == "PD-3001" else AuditDiverged), name
            assert what in error.message, name
            assert verdict.doubtful_from is not None, name
            told = await pgduet(stage, "audit", "verify", stage.database)
            assert (told.code, told.out) == (1, ""), name
            assert told.err.startswith(f"failed  {code}\n  the audit log of {stage.database} does not verify"), name
            assert what in told.err, name
            assert "pgduet audit export" in told.err, name
            await tamper(
                conn,
                "TRUNCATE pgduet.audit",
                "DELETE FROM pgduet.audit_head",
                "INSERT INTO pgduet.audit_head SELECT * FROM public.kept_head",
                "INSERT INTO pgduet.audit SELECT * FROM public.kept",
                "DROP TABLE public.kept, public.kept_head",
            )
            assert (await client(stage).audit_verify(stage.database)).intact, f"put back after {name}"


async def test_a_fork_is_narrowed_down_to_where_anchors_agree(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await migrated(stage)
        await anchored(stage, PHASES + 2)
        heads = sorted((await kept(stage.client, stage.database)).heads)
        before, after = heads[4][0], heads[5][0]
        await write_anew(conn, after, {"reason": "forged"})
        verdict = await client(stage).audit_verify(stage.database)
        told = json.loads((await pgduet(stage, "audit", "verify", stage.database, "--json")).out)
    assert (verdict.agreed, verdict.anchored_to, verdict.doubtful_from) == (5, before, before + 1)
    assert [problem.seq for problem in verdict.problems] == [seq for seq, _ in heads[5:]]
    assert told["error"]["code"] == "PD-3002"
    assert told["problems"] == [problem.model_dump() for problem in verdict.problems]


async def test_a_head_kept_by_somebody_shows_what_no_anchor_does(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await client(stage).setup(stage.database, actor="ann")
        async with conn.transaction():
            await audit.append(conn, audit.Entry(actor="ann", action="by hand"))
        head = (await pgduet(stage, "audit", "head", stage.database)).out.strip()
        assert head == await client(stage).audit_head(stage.database)
        assert head.startswith("2:")
        told = await pgduet(stage, "audit", "verify", stage.database, "--head", head)
        assert told.code == 0, told.err
        assert "1 head that you kept agree" in told.out
        late = await pgduet(stage, "audit", "verify", stage.database, "--timeout", "0.001")
        assert (late.code, "timed out" in late.err) == (3, True)
        await write_anew(conn, 2, {"actor": "eve"})
        assert (await pgduet(stage, "audit", "verify", stage.database)).code == 0, "sound in itself"
        told = await pgduet(stage, "audit", "verify", stage.database, "--head", head)
    assert told.code == 1
    assert "entry 2: its hash is not the one kept outside" in told.err


async def test_a_log_that_was_dropped_is_told_from_one_that_never_was(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        with pytest.raises(AuditMissing, match="has no audit log\n"):
            await client(stage).audit_head(stage.database)
        await migrated(stage)
        await anchored(stage, PHASES + 2)
        await conn.execute("DROP SCHEMA pgduet CASCADE")
        told = await pgduet(stage, "audit", "verify", stage.database)
        assert told.code == 1
        assert "failed  PD-3003" in told.err
        assert "1 of its migrations kept heads of one in Temporal, up to entry" in told.err
        with pytest.raises(UnknownDatabase):
            await client(stage).audit_verify("nowhere")
        assert (await pgduet(stage, "audit", "export", "nowhere")).code == 1


async def test_an_export_is_checked_by_its_file_and_every_edit_of_a_byte_shows(
    stage: Harness, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "PAGE_BYTES", 2_000)
    export = stage.scratch / "export.jsonl"
    async with stage.worker():
        await migrated(stage)
        told = await pgduet(stage, "audit", "export", stage.database, "--output", str(export))
        assert told.code == 0, told.err
        again = await pgduet(stage, "audit", "export", stage.database, "--output", str(export))
        assert (again.code, "is not overwritten" in again.err) == (1, True)
        nowhere = await pgduet(stage, "audit", "export", stage.database, "--output", "no/such/place")
        assert (nowhere.code, "cannot be written" in nowhere.err) == (1, True)
        unknown = await pgduet(stage, "audit", "export", "nowhere", "--output", str(stage.scratch / "other"))
        assert (unknown.code, "PD-1061" in unknown.err) == (1, True)
        piped = await pgduet(stage, "audit", "export", stage.database)
        whole = await client(stage).audit_verify(stage.database)
        live = await pgduet(stage, "audit", "verify", stage.database, "--file", str(export))
    assert live.code == 0, live.err
    assert sorted(path.name for path in stage.scratch.iterdir()) == ["export.jsonl"]
    content = export.read_bytes()
    assert piped.out.encode() == content
    assert recipe(export) == whole.head
    stage.address = "127.0.0.1:1"  # No server any more.
    told = await pgduet(stage, "audit", "verify", "--file", str(export), "--head", whole.head, "--json")
    assert told.code == 0, told.out
    assert json.loads(told.out)["head"] == whole.head
    for place in range(0, len(content) - 1, 97):
        edited = bytearray(content)
        edited[place] ^= 1
        export.write_bytes(edited)
        assert not check_file(export).intact, f"byte {place}: {content[place - 20 : place + 20]!r}"
    told = await pgduet(stage, "audit", "verify", "--file", str(export))
    assert (told.code, "failed  PD-3001" in told.err) == (1, True)
    lines = content.splitlines(keepends=True)
    export.write_bytes(b"".join(lines[:-2]))
    assert check_file(export).intact, "a shorter log is a log"
    told = await pgduet(stage, "audit", "verify", "--file", str(export), "--head", whole.head)
    assert (told.code, f"entry {len(lines)}: missing" in told.err) == (1, True)


def recipe(export: Path) -> str:
    """Check an export as the documentation says that anybody can."""
    page = (ROOT / "docs/explanation/audit.md").read_text()
    code = page.partition("```python\n# recipe\n")[2].partition("```")[0]
    assert code
    said: list[str] = []
    names: dict[str, Any] = {"print": lambda *words: said.append(":".join(map(str, words)))}
    exec(code.replace("sys.argv[1]", repr(str(export))), names)  # noqa: S102
    return said[-1]


async def test_an_export_that_is_broken_fails_the_recipe(tmp_path: Path, conn: Connection) -> None:
    export = tmp_path / "export.jsonl"
    export.write_text('{"seq":1,"hash":"' + hashlib.sha256(b"").hexdigest() + '","prev_hash":""}\n')
    with pytest.raises(AssertionError):
        recipe(export)


async def test_a_later_log_goes_on_from_an_earlier_export_or_is_not_the_same(stage: Harness, conn: Connection) -> None:
    export = stage.scratch / "before.jsonl"
    async with stage.worker():
        await stage.start(stage.plan(gates={"verify": "manual"}))
        await stage.waits("gate", Phase.BACKFILL)
        assert (await pgduet(stage, "audit", "export", stage.database, "--output", str(export))).code == 0
        await stage.act("advance")
        await stage.until(Phase.SOAK)
        same = await pgduet(stage, "audit", "verify", stage.database, "--file", str(export))
        assert same.code == 0, same.err
        await write_anew(conn, 2, {"actor": "eve"})
        other = await pgduet(stage, "audit", "verify", stage.database, "--file", str(export))
    assert other.code == 1
    assert "its hash is not the one kept outside" in other.err


async def test_a_broken_log_can_be_exported_and_its_export_is_as_broken(stage: Harness, conn: Connection) -> None:
    export = stage.scratch / "evidence.jsonl"
    async with stage.worker():
        await migrated(stage)
        await tamper(conn, """UPDATE pgduet.audit SET evidence = '{"n": 20000000000000000000}' WHERE seq = 3""")
        assert (await pgduet(stage, "audit", "export", stage.database, "--output", str(export))).code == 0
    assert [(each.seq, each.kind) for each in check_file(export).problems] == [(3, "edited")]


async def test_an_export_has_keys_but_no_secret_and_no_value_of_a_row(stage: Harness, conn: Connection) -> None:
    await conn.execute("UPDATE reviews SET note = 'for nobody''s eyes' WHERE id = 42")
    async with stage.worker():
        await stage.start(stage.plan())
        await stage.waits("window", Phase.SOAK)
        await conn.execute("ALTER TABLE reviews DISABLE TRIGGER ALL")
        await conn.execute("UPDATE reviews SET rating = '987654', note = 'for nobody''s eyes' WHERE id = 42")
        await conn.execute('ALTER TABLE reviews ENABLE ALWAYS TRIGGER "~pgduet_insert_review-stars"')
        await conn.execute('ALTER TABLE reviews ENABLE ALWAYS TRIGGER "~pgduet_update_review-stars"')
        await stage.act("verify", repair=True)
        text = "\n".join([line async for line in client(stage).audit_export(stage.database)])
    assert '"verify"' in text or "parity" in text
    for secret in (stage.dsn, "nobody", "987654", "note 7", "password"):
        assert secret not in text, secret
    host = psycopg.conninfo.conninfo_to_dict(stage.dsn).get("host")
    assert host is None or str(host) not in text


async def test_a_log_of_thousands_of_entries_goes_in_pages(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await client(stage).setup(stage.database, actor="ann")
        async with conn.transaction():
            for number in range(2_500):
                await audit.append(conn, audit.Entry(actor="ann", action="act", evidence={"number": number}))
        verdict = await client(stage).audit_verify(stage.database)
        lines = [line async for line in client(stage).audit_export(stage.database)]
        await tamper(conn, "UPDATE pgduet.audit SET actor = 'eve' WHERE seq > 100")
        broken = await client(stage).audit_verify(stage.database)
    assert (verdict.intact, verdict.entries) == (True, 2_501)
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, 2_502))
    assert (broken.found, len(broken.problems), broken.doubtful_from) == (2_401, 100, 101)
    assert "… and 2,391 more" in str(broken.error())
