"""Parity of a merge: its groups compared range by range with what the new version reads, and repaired by notes (ADR 32).

The source is right whoever has authority: a write of merged rows is one of the source. A repair notes the group, so that readers
ask the source from its commit on, and drains.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Unpack

from pgduet.messages import Reference
from pgduet.operations import merge_comparison, merge_rows_rows
from pgduet.operations.comparing import Span
from pgduet.operations.comparison import Comparison
from pgduet.operations.merge_rows_design import MergeDesign
from pgduet.operations.statement import Query
from pgduet.phases import Authority
from pgduet.postgres import counterpart, suspects
from pgduet.postgres.counterpart import Compared
from pgduet.postgres.session import Connection
from pgduet.postgres.suspects import Suspects
from pgduet.postgres.traits import traits
from pgduet.postgres.whole import DRAIN_S, REST_S, How, Whole

NOTES = 2000


class MergeParity(Whole):
    """One merge, compared and repaired on sessions that are given."""

    def __init__(
        self, sessions: Sequence[Connection], design: MergeDesign, reference: Reference, **how: Unpack[How]
    ) -> None:
        """Take the sessions."""
        super().__init__(sessions, reference, **how)
        self.design = design
        self.reading = merge_rows_rows.reading(design)

    async def _comparison(self) -> Comparison:
        source, target = await traits(self.conn, self.design.label), await traits(self.conn, self.design.target_label)
        return merge_comparison.comparison(self.design, source, target)

    async def compared(self, request: str, before: int) -> Compared:
        """Compare once."""

        def chunk(compared: Comparison, span: Span, named: bool) -> Query:  # noqa: FBT001  (as chunks are rendered)
            return merge_comparison.chunk(self.design, compared, span, named=named)

        return await counterpart.compare(
            self.sessions,
            await self._comparison(),
            self.reference.migration_id,
            request=request,
            before=before,
            exactly=chunk,
            progress=self.progress,
            brakes=self.brakes,
        )

    async def repair(self, parts: Sequence[int]) -> suspects.Repaired:
        """Note the groups that differ, and drain."""
        compared = await self._comparison()
        self.progress(f"{self.design.label}: repairing")

        async def noted(conn: Connection, found: Suspects) -> Suspects:
            await conn.execute(merge_comparison.note(self.design, compared, found))
            return found

        done = await suspects.repair(self.conn, compared, self.reference, parts, Authority.OLD, write=noted)
        ends, place = time.monotonic() + DRAIN_S, merge_rows_rows.START
        while time.monotonic() < ends:
            row = await (await self.conn.execute(merge_rows_rows.drain(self.design, NOTES, place))).fetchone()
            assert row is not None  # noqa: S101  (a function gives one row)
            if row["taken_notes"] == 0 and place == merge_rows_rows.START:
                break
            place = row["place"] if row["taken_notes"] > 0 else merge_rows_rows.START
            await asyncio.sleep(0 if row["taken_notes"] > 0 else REST_S)
        return done
