"""What a whole-table shape does in each phase: a second table beside one, or a parent above it (ADR 28, 31, 32).

The activities of the phases call every shape beside the tables that change in place, in the plan's order, and in the opposite one
when they undo. A method does nothing unless its kind overrides it. What holds for all of them:

- It can be called twice, and goes on where a killed try stopped: what is done is marked in the transaction that did it, or can be
  seen in the catalogue.
- Statements that lock a table of the user's run by `steps.locked`: under the lock budget, with audit entry and marks in the same
  transaction, and a barrier on each side of the commit.
- It never waits for a client's row. What must wait says for whom (`steps.waiting`).
- It keeps no state between calls: a new one is made for each activity.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pgduet.activities.engine import Work
from pgduet.messages import Parity, Part, ShadowResult
from pgduet.operations.attach_design import AttachDesign
from pgduet.operations.design import Design
from pgduet.operations.merge_rows_design import MergeDesign
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.statement import Statement
from pgduet.operations.views import Relation
from pgduet.phases import SyncMode
from pgduet.postgres.brakes import Brakes
from pgduet.postgres.filling import Filling
from pgduet.postgres.session import Connection

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Range:
    """A range to be filled, as `pgduet.backfill_range` keeps it: pages of `relation`, or what stands for them."""

    relation: str
    part: int
    block_from: int
    block_to: int


class Shape:
    """One table of a migration that gets another shape."""

    def __init__(self, plan: Design, design: ShadowDesign | AttachDesign | MergeDesign) -> None:
        """Take the whole migration's design, and the part that is this shape's."""
        self.plan = plan
        self.label = design.label
        """The quoted name of the table that old clients use; rows of the metadata are found by it."""
        self.schema_name = design.schema_name
        self.table = design.table
        self.position = design.position
        self.own = design.own

    # expand

    async def expand(self, work: Work) -> None:
        """Create what is ours, empty and seen by nobody; nothing of the user's changes or is locked beyond the budget."""

    async def undo_expand(self, work: Work) -> None:
        """Drop what `expand` created, whatever of it is there."""

    # dual_write

    async def dual_write(self, work: Work) -> int:
        """Have old clients' writes be heard; returns the tries that the locks took."""
        del work
        return 0

    async def undo_dual_write(self, work: Work) -> None:
        """Drop triggers and functions, those that `prepare_publication` made included. New clients are gone."""

    async def probe(self, conn: Connection) -> str:
        """Prove by a write that is rolled back that old clients' writes are heard; tells what was seen.

        Raises:
            GateRefused: they are not.
        """
        del conn
        return "nothing to map"

    # backfill

    async def ranges(self, conn: Connection, wide: int) -> list[Range]:
        """Cut what must be filled, where so many ranges are filled at once; nothing where no row is copied.

        It is asked again when the phase begins anew: ranges that are kept already stay as they are.
        """
        del conn, wide
        return []

    async def filling(self, work: Work, part: Part) -> Filling | None:
        """Give what fills a range of this shape's; nothing where the range is another's, or its table is gone."""
        del work, part
        return None

    async def unmapped(self, work: Work, limit: int) -> list[dict[str, object]]:
        """Name rows that the new shape cannot hold, as they are now: `relation`, `key`, `detail` (SQLSTATE first)."""
        del work, limit
        return []

    async def filled(self, work: Work) -> None:
        """Bring the new shape into step once all ranges are filled: after this every row is in it, or was named by `unmapped`.

        Its parts are bounded and heartbeats go on; while clients hold rows it rests, and says who they are.
        """

    async def weight(self, conn: Connection) -> int:
        """Count the pages of what has come beside the table."""
        del conn
        return 0

    # verify

    async def compare(self, work: Work, progress: Progress, brakes: Brakes, *, repair: bool) -> Parity | None:
        """Compare all rows of both versions; with `repair`, mend what drifted as the authority says and compare again.

        Drift is noted in `pgduet.drift` under the table's label. Nothing where there is one set of rows only.
        """
        del work, progress, brakes, repair
        return None

    async def prepare_publication(self, work: Work) -> None:
        """Do what takes long before the new version can be used, and turn the sync both ways. Nobody sees the new version yet."""

    async def opening(self, work: Work) -> Sequence[Statement]:
        """Give what must be in the transaction that publishes, before its views: it runs under the lock budget."""
        del work
        return ()

    @property
    def hidden(self) -> frozenset[str]:
        """The quoted names of tables that the new version, and later ones, do not show as they are."""
        return frozenset([self.label])

    async def views(self, conn: Connection, relations: Mapping[str, Relation], version: str) -> Sequence[Statement]:
        """Give the views of this version, or a later one, that stand in the hidden tables' place; `relations` by quoted name.

        Not once contract has given the table its final shape: it is shown as it is then.
        """
        del conn, relations, version
        return ()

    async def probe_back(self, conn: Connection) -> str:
        """Prove by a write that is rolled back that new clients' writes reach the old version; tells what was seen."""
        del conn
        return "nothing to map"

    async def restore(self, work: Work) -> int:
        """Bring back what an earlier attempt archived, where it still applies; returns how many values came back."""
        del work
        return 0

    async def closing(self, work: Work) -> Sequence[Statement]:
        """Give what must be in the transaction that drops the new version's views, after them. No new client is left."""
        del work
        return ()

    async def archive_new(self, conn: Connection, attempt: int) -> int:
        """Save what only the new version has, in the caller's transaction, which does so once; returns how many values."""
        del conn, attempt
        return 0

    # shadow, shift

    async def sample(self, conn: Connection, wanted: int) -> ShadowResult | None:
        """Read about so many rows through both versions, in one snapshot, and time it; nothing where that has no meaning."""
        del conn, wanted
        return None

    async def tend(self, work: Work) -> Sequence[str]:
        """Do what should be done now and then while both versions are in use, within a second: called with each census.

        Tells what somebody has changed that contract will not get past.
        """
        del work
        return ()

    # cutover

    async def declare(self, work: Work) -> int:
        """Declare what binds everybody from cutover on, without blocking; returns the tries that the locks took.

        Raises:
            GateRefused: rows break it; all is released again.
        """
        del work
        return 0

    async def release(self, work: Work) -> None:
        """Take back what `declare` declared."""

    def functions(self, work: Work, mode: SyncMode) -> Sequence[Statement]:
        """Give what the flip does (`ENFORCE`), and what makes safe (`BOTH`), in a transaction that locks no table of the user's."""
        del work, mode
        return ()

    # contract

    async def check_way(self, conn: Connection) -> None:
        """Refuse, while there is a way back, what contract could not get past.

        Raises:
            NotSupported, NameTaken, OutOfBounds, ColumnsChanged: naming what is in the way.
        """

    async def settle(self, work: Work) -> None:
        """Do the last thing that can fail, right before the point of no return; `unsettle` and `release` take it back.

        Raises:
            OutOfBounds: rows are in the way; nothing of it is left.
        """

    async def unsettle(self, work: Work) -> None:
        """Take it back: contract waits for others."""

    async def archive_old(self, conn: Connection, attempt: int) -> int:
        """Save what `down` cannot give back, in the caller's one snapshot; returns how many values."""
        del conn, attempt
        return 0

    async def contract(self, work: Work) -> None:
        """Give the table its final shape, and the views of this version and of later ones with it; older ones are gone.

        The transaction in which it has it marks `contracted LABEL`. What may follow (a validation) is for a second try, too.
        """

    @property
    def dropped(self) -> Sequence[str]:
        """Name what contract drops, for the record."""
        return ()
