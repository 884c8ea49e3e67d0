"""Traffic: what routers reported of their reads, and the engine's own probe of both versions.

Figures are totals of all routers that there were. A measurement that begins a step first lets connected routers hear of the
route's last change: what they report then of the time before counts for that time.
"""

import asyncio
import time

from pgduet.activities.engine import Work
from pgduet.activities.shapes.sampling import calmest, sampled
from pgduet.messages import Traffic, TrafficRequest
from pgduet.postgres import shadow_reads, store
from pgduet.sql import block

PROBE_SAMPLES = 40
EXAMPLES = 5
TOLD = ("who", "read", "key", "place", "kind", "answered")
"""What is told of a mismatch; what a service shows of its answers stays in the database."""
HEARD_WITHIN_S = 5.0
"""A router that is connected and hears nothing holds up no step."""
LOOK_EVERY_S = 0.25


async def measured(work: Work, request: TrafficRequest) -> Traffic:
    """Measure traffic; where a bake has ended, record what it brought."""
    if request.settled:
        await _heard(work)
    conn, name = work.conn, request.reference.name
    totals = (await (await conn.execute(block("census", "traffic"), {"migration": name})).fetchall())[0]
    latency = await shadow_reads.answered(conn, name)
    seen = await shadow_reads.mismatches(conn, name, EXAMPLES) if totals["mismatches"] else []
    probed = await calmest(lambda: sampled(work, PROBE_SAMPLES))
    traffic = Traffic(
        **totals,
        latency_old=latency["answered_old"].written(),
        latency_new=latency["answered_new"].written(),
        old_ms=probed.old_ms,
        new_ms=probed.new_ms,
        examples=[{name: row[name] for name in TOLD} for row in seen],
    )
    if request.since:
        await _baked(work, traffic.since(request.since).told())
    return traffic


async def _heard(work: Work) -> None:
    ends = time.monotonic() + HEARD_WITHIN_S
    while time.monotonic() < ends:
        cursor = await work.conn.execute(block("census", "behind"), {"migration": work.migration.name})
        if not (await cursor.fetchall())[0]["routers"]:
            break
        await asyncio.sleep(LOOK_EVERY_S)


async def _baked(work: Work, bake: Traffic) -> None:
    """Record what a step's bake measured: it is the evidence for the next step."""
    route = await store.run(work.conn, "route", {"migration": work.migration.name})
    evidence = {"read_percent": route[0]["read_percent"] if route else 0, **bake.model_dump(mode="json")}
    async with work.conn.transaction():
        await store.audited(work.conn, work.reference, "bake", evidence=evidence)
