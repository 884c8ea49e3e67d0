"""The stories whose histories are kept: what a migration can live through, told on real servers with a small table."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from temporalio.client import ScheduleActionExecutionStartWorkflow, WorkflowFailureError

from pgduet.messages import CheckInput, SetupInput, Start
from pgduet.phases import Phase, State
from support.harness import Harness

Connection = psycopg.AsyncConnection[Any]

ROWS = 2_000
STILL: dict[str, Any] = {"window_s": 86_400, "legacy_idle_s": 3_600}
"""A soak in which nothing happens by itself while a story is told."""
AT_ONCE: dict[str, Any] = {"window_s": 0, "legacy_idle_s": 0}
SHORT: dict[str, Any] = {
    "backfill": {"parallelism": 1},
    "shadow": {"mode": "skip"},
    "shift": {"steps": [100], "bake_s": 0},
}
"""The shortest way to soak."""


@dataclass(frozen=True)
class Story:
    """What happens, and after how many events the server suggests to continue as new (its own number by default)."""

    tell: Callable[[Harness, Connection], Awaitable[None]]
    suggested: int | None = None

    @property
    def name(self) -> str:
        return self.tell.__name__.replace("_", "-")


async def done(stage: Harness, conn: Connection) -> None:
    await stage.start(stage.plan(shift={"bake_s": 0}, soak=AT_ONCE, gates={"contract": "auto"}))
    assert (await stage.result()).state is State.DONE


async def rolled_back(stage: Harness, conn: Connection) -> None:
    await stage.start(stage.plan(**SHORT, soak=STILL))
    await stage.waits("window", Phase.SOAK)
    await stage.act("abort", reason="not today")
    assert (await stage.result()).state is State.ROLLED_BACK


async def continued(stage: Harness, conn: Connection) -> None:
    await stage.start(stage.plan(**SHORT, soak={"window_s": 3_600, "legacy_idle_s": 0, "census_every_s": 0}))
    handle = stage.client.get_workflow_handle(stage.handle.id)
    runs = {stage.handle.first_execution_run_id}
    while len(runs) < 3:
        runs.add((await handle.describe()).run_id)
    await stage.waits("window", Phase.SOAK)
    await stage.act("abort")
    assert (await stage.result()).state is State.ROLLED_BACK


async def acted_on(stage: Harness, conn: Connection) -> None:
    gates = {"backfill": "manual", "cutover": "manual", "contract": "manual"}
    policy = {
        **SHORT,
        "backfill": {"pause_ms": 5_000, "parallelism": 1},
        "shift": {"steps": [100], "bake_s": 600},
        "soak": STILL,
        "gates": gates,
        "approvals": {"cutover": 1, "contract": 2},
    }
    await stage.start(stage.plan(**policy))
    await stage.waits("gate", Phase.DUAL_WRITE)
    await stage.handle.signal("approve", 5)
    await stage.handle.signal("advance")
    await stage.until(Phase.BACKFILL)
    while await count(conn, "SELECT count(*) FROM pgduet.backfill_range WHERE cursor_block > 0") == 0:
        await stage.status()
    await stage.act("pause", reason="lunch")
    await stage.act("throttle", pause_ms=0)
    await stage.act("resume")
    await stage.waits("bake", Phase.SHIFT)
    await stage.act("advance")
    await stage.waits("approval", Phase.SHIFT)
    await stage.act("approve", gate="cutover")
    await stage.waits("window", Phase.SOAK)
    await stage.handle.signal("route", {"actor": "tester", "read_percent": 50})
    await stage.until(lambda status: status.read_percent == 50)
    await stage.act("verify")
    await stage.act("advance", reason="nobody is left")
    await stage.waits("approval", Phase.SOAK)
    await stage.act("approve", gate="contract")
    await stage.handle.execute_update("approve", {"actor": "second", "gate": "contract"})
    assert (await stage.result()).state is State.DONE


async def throttled(stage: Harness, conn: Connection) -> None:
    opens = datetime.now(UTC) + timedelta(hours=2)
    window = {"from": f"{opens:%H:%M}", "to": f"{opens + timedelta(hours=1):%H:%M}", "timezone": "UTC"}
    backfill = {"parallelism": 1, "window": window}
    await stage.start(stage.plan(**{**SHORT, "backfill": backfill}, gates={"verify": "manual"}))
    await stage.until(lambda status: status.backfill.throttle is not None)
    await stage.act("throttle", pause_ms=1)
    await stage.act("throttle", window="none", reason="it may at once")
    await stage.waits("gate", Phase.BACKFILL)
    await stage.act("throttle", reset=True)
    await stage.act("abort")
    assert (await stage.result()).state is State.ROLLED_BACK


async def stuck(stage: Harness, conn: Connection) -> None:
    await conn.execute("UPDATE public.reviews SET rating = 'five' WHERE id = 321")
    await stage.start(stage.plan(**SHORT, gates={"verify": "manual"}))
    await stage.waits("error", Phase.BACKFILL)
    await conn.execute("UPDATE public.reviews SET rating = '5' WHERE id = 321")
    await stage.act("advance", reason="the row is mended")
    await stage.waits("gate", Phase.BACKFILL)
    await conn.execute('CREATE VIEW report AS SELECT "_pgduet_review-stars_stars" FROM reviews')
    await stage.act("abort")
    await stage.until(lambda status: status.failure is not None)
    await conn.execute("DROP VIEW report")
    await stage.act("advance", reason="the view is gone")
    assert (await stage.result()).state is State.ROLLED_BACK


async def cancelled(stage: Harness, conn: Connection) -> None:
    await stage.start(stage.plan(gates={"backfill": "manual"}))
    await stage.waits("gate", Phase.DUAL_WRITE)
    await stage.handle.cancel()
    with suppress(WorkflowFailureError):
        await stage.result()
    assert (await stage.status()).state is State.ROLLED_BACK


async def reconciled(stage: Harness, conn: Connection) -> None:
    """Keep the history of a comparison by the schedule."""
    await stage.start(stage.plan(**SHORT, gates={"cutover": "manual"}))
    await stage.waits("approval", Phase.SHIFT)
    await stage.schedule().trigger()
    while not (started := (await stage.schedule().describe()).info.recent_actions):
        await stage.status()
    action = started[0].action
    assert isinstance(action, ScheduleActionExecutionStartWorkflow)
    run_id = action.first_execution_run_id
    comparison = stage.client.get_workflow_handle(action.workflow_id, run_id=run_id, first_execution_run_id=run_id)
    await comparison.result()
    await stage._end()
    stage.handles.append(comparison)


async def drifted(stage: Harness, conn: Connection) -> None:
    """Drift is found at a gate, and turns the migration back."""
    await stage.start(stage.plan(**SHORT, gates={"cutover": "manual"}, rollback={"automatic_on": ["drift"]}))
    await stage.waits("approval", Phase.SHIFT)
    await stage.act("pause")
    await stage.act("resume")
    await conn.execute("ALTER TABLE public.reviews DISABLE TRIGGER ALL")
    await conn.execute("UPDATE public.reviews SET rating = '0' WHERE id = 1")
    await stage.schedule().trigger()
    assert (await stage.result()).state is State.ROLLED_BACK


async def adopted(stage: Harness, conn: Connection) -> None:
    plan = stage.plan(gates={"verify": "manual"})
    await stage.start(plan)
    await stage.waits("gate", Phase.BACKFILL)
    await stage.handle.terminate("lost")
    await run(stage, "Migration", Start(plan=plan, actor="dba", mode="rollback"), stage.handle.id)


async def refused(stage: Harness, conn: Connection) -> None:
    with suppress(WorkflowFailureError):
        await run(stage, "Migration", {"plan": {"name": "review-stars"}}, f"migration/{stage.database}/refused")


async def setup(stage: Harness, conn: Connection) -> None:
    await run(stage, "Setup", SetupInput(database=stage.database), f"setup/{stage.database}")


async def check(stage: Harness, conn: Connection) -> None:
    await run(stage, "Check", CheckInput(plan=stage.plan()), f"check/{stage.database}")


async def count(conn: Connection, query: str) -> int:
    row = await (await conn.execute(query.encode())).fetchone()
    return int(row[0]) if row else 0


async def run(stage: Harness, workflow: str, argument: object, name: str) -> None:
    """Run a workflow to its end."""
    stage.handles.append(await stage.client.start_workflow(workflow, argument, id=name, task_queue=stage.queue))
    await stage.handle.result()


STORIES = [
    *(
        Story(tell)
        for tell in (
            done,
            rolled_back,
            acted_on,
            throttled,
            stuck,
            cancelled,
            reconciled,
            drifted,
            adopted,
            refused,
            setup,
            check,
        )
    ),
    Story(continued, suggested=60),
]
