"""Parity of an anchor and its shadow: compared range by range, drift confirmed, noted and repaired (ADR 28, 29).

The writers' own transactions write both sides, so whatever one statement sees of a pair is exact, and a suspect is looked at again
without a delay. Before publication there is an exception: keys that stand in the journal, which is emptied before suspects are
looked at.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

from pgduet.messages import Reference
from pgduet.operations import shadow_mending as mending
from pgduet.operations.comparison import Comparison
from pgduet.operations.shadow_comparison import comparison
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.statement import Query
from pgduet.phases import Authority
from pgduet.postgres import counterpart, suspects
from pgduet.postgres.comparing import run
from pgduet.postgres.copying import Drain, see_all
from pgduet.postgres.counterpart import Compared
from pgduet.postgres.muting import mutes
from pgduet.postgres.pace import Pace
from pgduet.postgres.session import Connection
from pgduet.postgres.suspects import Suspects
from pgduet.postgres.traits import traits
from pgduet.postgres.whole import DRAIN_S, REST_S, How, Whole


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the migration of a shadow is."""

    published: bool
    authority: Authority
    user_triggers: str = "suppress"


class ShadowParity(Whole):
    """One shadow, compared and repaired on sessions that are given."""

    def __init__(
        self,
        sessions: Sequence[Connection],
        design: ShadowDesign,
        reference: Reference,
        standing: Standing,
        pace: Pace,
        **how: Unpack[How],
    ) -> None:
        """Take the sessions, the pace at which a journal is emptied, and how far the migration is."""
        super().__init__(sessions, reference, **how)
        self.design = design
        self.standing = standing
        self.pace = pace
        self.mute = False
        self.referring: frozenset[str] = frozenset()

    async def repair(self, parts: Sequence[int]) -> suspects.Repaired:
        """Give confirmed rows what the authority says, by the way that is safe now."""
        compared = await self.comparison()
        authority, write = self.standing.authority, self._noted
        if authority is Authority.NEW:
            write = self._anchors
            self.mute = await mutes(self.conn, self.design.relation_label, self.standing.user_triggers)
            found = await run(self.conn, "referring", {"relation": self.design.relation_label})
            self.referring = frozenset(row["name"] for row in found)
        elif self.standing.published:
            write = self._in_place
        self.progress(f"{self.design.label}: repairing")

        async def written(conn: Connection, found: Suspects) -> Suspects:
            await conn.execute(mending.engine(self.design))
            return await write(conn, compared, found)

        done = await suspects.repair(self.conn, compared, self.reference, parts, authority, write=written)
        if authority is Authority.OLD:
            await self.settling()
        return done

    async def comparison(self) -> Comparison:
        """Say what is compared, by the catalogue."""
        anchor, shadow = await asyncio.gather(
            traits(self.conn, self.design.relation_label), traits(self.sessions[-1], self.design.shadow_label)
        )
        return comparison(self.design, anchor, shadow, published=self.standing.published)

    async def settling(self) -> None:
        """Carry over what stands in the journal; from publication on nothing does."""
        if self.standing.published:
            return
        drain = Drain(self.conn, self.design)
        await drain.open()
        try:
            ends = time.monotonic() + DRAIN_S
            while not drain.finished and time.monotonic() < ends:
                before = drain.keys
                await drain.next(self.pace)
                await asyncio.sleep(self.pace.pause_ms / 1000 if drain.keys > before or drain.finished else REST_S)
        finally:
            await self.conn.execute("RESET lock_timeout")

    async def compared(self, request: str, before: int) -> Compared:
        """Compare once."""
        await asyncio.gather(*map(see_all, self.sessions))
        await self.settling()
        return await counterpart.compare(
            self.sessions,
            await self.comparison(),
            self.reference.migration_id,
            after_s=0.0,
            request=request,
            before=before,
            settling=self.settling,
            progress=self.progress,
            brakes=self.brakes,
        )

    async def _noted(self, conn: Connection, compared: Comparison, found: Suspects) -> Suspects:
        now = await suspects.seen(conn, compared, found)
        lacking, surplus = mending.apart([each for each in found if (now.get(each["id"]) or {}).get("kind")])
        if lacking:
            await conn.execute(mending.note(self.design, compared, lacking))
        if not surplus:
            return lacking
        await suspects.lock(conn, compared, surplus)
        return lacking + await suspects.changed(conn, compared, surplus, [mending.take_away(compared, surplus)])

    async def _in_place(self, conn: Connection, compared: Comparison, found: Suspects) -> Suspects:
        await suspects.lock(conn, compared, found)
        return await suspects.changed(conn, compared, found, mending.in_place(self.design, compared, found))

    async def _anchors(self, conn: Connection, compared: Comparison, found: Suspects) -> Suspects:
        await suspects.lock(conn, compared, found)
        written = []
        for each in found:
            await conn.execute(mending.name_row(self.design, compared, each))
            done = 0
            if self.mute and each["kind"] == "mismatch":
                # Foreign keys are mute as well, so what they are asked about is left to the second statement.
                await conn.execute("SET LOCAL session_replication_role = replica")
                done = await self._write(conn, mending.anchor_in_place(self.design, compared, each, self.referring))
                await conn.execute("SET LOCAL session_replication_role = origin")
            if done + await self._write(conn, mending.anchor_in_place(self.design, compared, each)):
                written.append(each)
        return written

    async def _write(self, conn: Connection, query: Query) -> int:
        return max(0, (await conn.execute(query)).rowcount)
