"""Anybody on the task queue's namespace can send anything: no message wedges a workflow, and a migration goes on to its end."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from support.harness import Harness
from support.holding import held_at
from support.hostile import EMPTY, HUGE, MALFORMED, ROTTEN, gathered
from support.plans import create_reviews
from support.raw import Raw, failed_tasks, payload
from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from pgduet.messages import Answer, Status, workflow_id
from pgduet.phases import Phase, State
from pgduet.workflows.desk import DECISIONS_KEPT, ERRANDS_QUEUED, IGNORED_KEPT

Connection = psycopg.AsyncConnection[Any]

SIGNALS = ("advance", "approve", "abort", "pause", "resume", "throttle", "route", "backfill_report")
UPDATES = ("advance", "approve", "abort", "pause", "resume", "throttle", "route", "verify")
QUERIES = ("status", "plan", "next_commands")
NEEDS_AN_ARGUMENT = ("approve", "throttle", "route", "backfill_report")
"""To the others a message without an argument is an act like any other."""


@pytest.fixture(autouse=True)
async def reviews(conn: Connection) -> None:
    await create_reviews(conn, 200)


class Bombardment:
    """Everything malformed, at one workflow."""

    def __init__(self, stage: Harness) -> None:
        self.stage = stage
        self.raw = Raw(stage.client, stage.handle.id)
        self.refused = 0

    async def __call__(self, *, thorough: bool = False) -> None:
        """Send it all, and see that nothing has changed by it."""
        before = await self.stage.status()
        await self.signals()
        await self.updates(thorough=thorough)
        await self.queries()
        after = await self.stage.status()
        changed = {name for name in Status.model_fields if getattr(before, name) != getattr(after, name)}
        assert changed <= {"decisions"}, changed
        assert len(after.decisions) <= DECISIONS_KEPT
        ignored = [line for line in after.decisions if "ignored: " in line]
        assert len(ignored) == IGNORED_KEPT
        assert all(len(line) <= 330 and line.isprintable() for line in after.decisions)
        assert len(after.model_dump_json()) < 50_000
        assert await failed_tasks(self.stage.client, self.stage.handle.id) == []

    async def signals(self) -> None:
        calls = [
            lambda name=name, args=args: self.raw.signal(name, *args)
            for args in MALFORMED.values()
            for name in (*SIGNALS, "no such signal", "__private", "x" * 500)
        ]
        calls += [
            lambda name=name, args=args: self.raw.signal(name, *args, header=ROTTEN)
            for args in EMPTY.values()
            for name in (*NEEDS_AN_ARGUMENT, "no such signal", "")
            if name
        ]
        calls.append(lambda: self.raw.signal("abort", payload(json.dumps({"reason": "x" * HUGE}).encode())))
        await gathered(calls)

    async def updates(self, *, thorough: bool) -> None:
        """Each payload meets one of the updates, or, where that is asked for, all of them."""
        named = list(MALFORMED.items())
        calls = [
            lambda name=name, args=args, what=what: self.update(name, what, args)
            for number, (what, args) in enumerate(named)
            for name in (UPDATES if thorough else (UPDATES[number % len(UPDATES)],))
        ]
        calls.append(
            lambda: self.update("abort", "huge", [payload(json.dumps({"actor": "x" * HUGE}).encode())]),
        )
        await gathered(calls, at_once=8)
        outcome = await self.raw.update("no such update", payload(b"{}"))
        assert "not found" in outcome.failure.message

    async def update(self, name: str, what: str, args: list[Payload]) -> None:
        outcome = await self.raw.update(name, *args, header=ROTTEN)
        failure = outcome.failure
        assert failure.application_failure_info.type == "ActRefused", (name, what, outcome)
        assert len(failure.message) < 1_000, (name, what)
        assert failure.message.isprintable(), (name, what)

    async def queries(self) -> None:
        answers = {name: await self.raw.query(name) for name in QUERIES}
        for number, args in enumerate(MALFORMED.values()):
            name = QUERIES[number % len(QUERIES)]
            assert await self.raw.query(name, *args) == answers[name]
        with pytest.raises(RPCError):
            await self.raw.query("no such query")


async def test_in_every_state_malformed_messages_change_nothing(stage: Harness, conn: Connection) -> None:
    plan = stage.plan(gates={"dual_write": "manual"})
    async with stage.worker():
        # before preflight has ended
        await conn.execute("SELECT pg_advisory_lock(hashtext('pgduet.setup'))")
        await stage.start(plan)
        bombard = Bombardment(stage)
        await bombard()
        assert (await stage.status()).phase is Phase.PREFLIGHT
        # running
        async with held_at("expand.after_commit") as there:
            await conn.execute("SELECT pg_advisory_unlock(hashtext('pgduet.setup'))")
            await there()
            await bombard()
        # waiting
        await stage.waits("gate", Phase.EXPAND)
        await bombard(thorough=True)
        # paused
        await stage.act("pause")
        await bombard()
        await stage.act("resume")
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)
        # rolling back
        async with held_at("undo_expand.after_commit") as there:
            await stage.act("abort")
            await there()
            await bombard()
        status = await stage.result()
        assert status.state is State.ROLLED_BACK
        assert any("abort by tester" in line for line in status.decisions), "the flood has not washed it away"
        # closed: each query is answered by a replay of the whole history
        for name, what in zip(QUERIES, ("deep objects", "encrypted", "two arguments"), strict=True):
            assert await bombard.raw.query(name, *MALFORMED[what]) == await bombard.raw.query(name)
        with pytest.raises(RPCError) as caught:
            await bombard.raw.signal("advance", payload(b"{}"))
        assert caught.value.status is RPCStatusCode.NOT_FOUND


async def test_past_the_point_of_no_return_they_do_not_stop_contract(stage: Harness) -> None:
    async with stage.worker():
        async with held_at("contract.after_commit") as there:
            await stage.start(stage.plan(soak={"window_s": 0, "legacy_idle_s": 0}, gates={"contract": "auto"}))
            await there()
            await Bombardment(stage)()
        assert (await stage.result()).state is State.DONE


async def test_malformed_messages_to_a_backfill_child_do_not_stop_it(stage: Harness) -> None:
    async with stage.worker():
        async with held_at("batch.after_commit") as there:
            await stage.start(stage.plan(backfill={"parallelism": 1}))
            await there()
            child = Raw(stage.client, f"{stage.handle.id}/backfill/0")
            calls = [
                lambda name=name, args=args: child.signal(name, *args)
                for args in MALFORMED.values()
                for name in ("resume", "no such signal")
            ]
            await gathered(calls)
        await stage.waits("window", Phase.SOAK)
        assert await failed_tasks(stage.client, child.execution.workflow_id) == []


async def test_headers_that_nobody_can_read_do_not_keep_an_act_from_being_taken(stage: Harness) -> None:
    async with stage.worker():
        raw = Raw(stage.client, workflow_id(stage.database, "review-stars"))
        stage.handles.append(stage.client.get_workflow_handle(raw.execution.workflow_id))
        start = {"plan": stage.plan(gates={"expand": "manual", "dual_write": "manual"}), "actor": "stranger"}
        await raw.start("Migration", stage.queue, payload(json.dumps(start).encode()), header=ROTTEN)
        await stage.waits("gate", Phase.PREFLIGHT)
        await raw.signal("advance", header=ROTTEN)
        await stage.waits("gate", Phase.EXPAND)
        outcome = await raw.update("abort", payload(b'{"actor": "stranger"}'), header=ROTTEN)
        assert outcome.HasField("success")
        await stage.until(lambda status: status.state is State.ROLLED_BACK)
        assert await failed_tasks(stage.client, raw.execution.workflow_id) == []


WRITTEN = "<img src=x onerror=alert(1)> **bold** [x](http://example.com) `code` | a_b"


async def test_a_name_full_of_marks_is_recorded_as_it_is_and_shown_as_it_is(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await stage.start(stage.plan(gates={"dual_write": "manual"}, approvals={"dual_write": 2}))
        await stage.waits("approval", Phase.EXPAND)
        answer = await stage.handle.execute_update(
            "approve", {"actor": WRITTEN, "reason": "one\ntwo", "gate": "dual_write"}, result_type=Answer
        )
        assert answer.message == "1 of 2 approvals for dual_write"
        await stage.until(lambda s: s.waiting_for is not None and "1 of 2" in s.waiting_for.detail)
        details = (await stage.handle.query("__temporal_workflow_metadata")).current_details
        status = await stage.status()
        assert status.waiting_for is not None
        assert WRITTEN in status.waiting_for.detail
        assert f"approve by {WRITTEN}: one two" in status.decisions[-1]
        assert WRITTEN not in details
        assert r"\<img src=x onerror=alert(1)\> \*\*bold\*\* \[x\](http://example.com) \`code\` \| a_b" in details

        async def written() -> list[Any]:
            cursor = await conn.execute("SELECT actor, reason FROM pgduet.audit WHERE action = 'approve'")
            return await cursor.fetchall()

        while not (found := await written()):
            await stage.status()
        assert found == [(WRITTEN, "one\ntwo")]


def flood(stage: Harness, raw: Raw, count: int) -> list[Callable[[], Awaitable[Any]]]:
    """Make signals, each of which would be accepted if it came alone."""
    kinds: list[tuple[str, Callable[[int], dict[str, Any]]]] = [
        ("throttle", lambda n: {"actor": f"a{n}", "pause_ms": n % 100}),
        ("approve", lambda n: {"actor": f"a{n}", "gate": "contract"}),
        ("approve", lambda n: {"actor": f"a{n}", "gate": "dual_write"}),
        ("pause", lambda n: {"actor": f"a{n}", "reason": "r" * 2_000}),
        ("resume", lambda n: {"actor": f"a{n}"}),
    ]

    def call(number: int) -> Callable[[], Awaitable[Any]]:
        name, made = kinds[number % len(kinds)]
        return lambda: raw.signal(name, payload(json.dumps(made(number)).encode()))

    return [call(number) for number in range(count)]


async def test_two_thousand_signals_leave_a_workflow_that_answers_and_goes_on(stage: Harness, conn: Connection) -> None:
    await stage.start(stage.plan(gates={"dual_write": "manual"}, approvals={"dual_write": 3, "contract": 2}))
    raw = Raw(stage.client, stage.handle.id)
    # Half of them pile up while no worker is there, and arrive at once.
    await gathered(flood(stage, raw, 1_000), at_once=100)
    async with stage.worker():
        await stage.until(lambda status: bool(status.decisions))
        await gathered(flood(stage, raw, 1_000), at_once=100)
        await gathered([lambda: raw.signal("throttle", payload(b'{"pause_ms": "x"}')) for _ in range(200)], at_once=100)

        async def settled() -> Status:
            # A pause at the end of the flood would hold it; resume is refused where it is not paused.
            with_pause = await stage.status()
            if with_pause.state is State.PAUSED:
                await raw.signal("resume", payload(b'{"actor": "tester"}'))
            return await stage.status()

        while (status := await settled()).phase is not Phase.SOAK:
            await asyncio.sleep(0.05)
        assert len(status.approvals["dual_write"]) == 3, "the gate opened at the number that the policy asks"
        assert len(status.approvals["contract"]) == 2
        assert len(status.decisions) <= DECISIONS_KEPT
        assert sum("ignored" in line for line in status.decisions) <= IGNORED_KEPT
        assert len(status.model_dump_json()) < 50_000
        history = await stage.handle.fetch_history()
        activities = sum(e.HasField("activity_task_scheduled_event_attributes") for e in history.events)
        assert len(history.events) < 2_200 + 3 * 1_000, "one event for each signal, and little else"
        assert activities < 500
        assert await failed_tasks(stage.client, stage.handle.id) == []
        await stage.act("abort")
        assert (await stage.result()).state is State.ROLLED_BACK


async def test_two_hundred_aborts_are_one_decision(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await stage.start(stage.plan(gates={"dual_write": "manual"}))
        await stage.waits("gate", Phase.EXPAND)
        raw = Raw(stage.client, stage.handle.id)
        async with held_at("claim.after_commit") as there:
            await raw.signal("abort", payload(b'{"actor": "first"}'))
            await there()
            await gathered([lambda: raw.signal("abort", payload(b'{"force": true}')) for _ in range(200)])
            outcome = await raw.update("abort", payload(b"{}"))
            assert outcome.failure.message == "other aborts are being decided already"
        assert (await stage.result()).state is State.ROLLED_BACK
        history = await stage.handle.fetch_history()
        names = [event.activity_task_scheduled_event_attributes.activity_type.name for event in history.events]
        assert names.count("claim_rollback") == 2, "the first, and one that asks for more"
    told = await conn.execute("SELECT actor FROM pgduet.audit WHERE action = 'abort' ORDER BY seq")
    assert [row[0] for row in await told.fetchall()] == ["first", "unknown"]


async def test_acts_that_need_an_activity_are_refused_while_too_many_wait(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await stage.start(stage.plan())
        await stage.waits("window", Phase.SOAK)
        raw = Raw(stage.client, stage.handle.id)
        async with held_at("route.after_commit") as there:
            await raw.signal("route", payload(b'{"read_percent": 40}'))
            await there()
            await gathered([lambda: raw.signal("throttle", payload(b'{"pause_ms": 1}')) for _ in range(40)])
            with pytest.raises(WorkflowUpdateFailedError) as caught:
                await stage.act("throttle", pause_ms=5)
            assert isinstance(caught.value.cause, ApplicationError)
            assert f"{ERRANDS_QUEUED} acts are waiting" in caught.value.cause.message
        await stage.act("abort", reason="an abort needs no place in the queue")
        assert (await stage.result()).state is State.ROLLED_BACK
    told = await conn.execute("SELECT count(*) FROM pgduet.audit WHERE action = 'controls'")
    count = await told.fetchone()
    assert count is not None
    assert count[0] < ERRANDS_QUEUED
