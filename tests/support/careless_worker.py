"""A worker that moves the cursor before the batch, in a transaction of its own: for the test that must see what that loses."""

from pgduet import runtime
from pgduet.postgres.batches import Batches
from support.mutants import Code

APART = Code(
    "the one transaction of batch and cursor",
    Batches._fill,
    """        done = await self.conn.execute(rows.fill(self.migration.design, self.table, self.cursor, last))
        await self._advance(last, done.rowcount)
    await self._committed(last, done.rowcount)
""",
    """        await self._advance(last, 0)
    first = self.cursor
    await self._committed(last, 0)
    await self.conn.execute(rows.fill(self.migration.design, self.table, first, last))
""",
)

if __name__ == "__main__":
    with APART.applied():
        runtime.main()
