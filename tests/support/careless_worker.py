"""A worker that moves the cursor before the batch, in a transaction of its own: for the test that must see what that loses."""

from pgduet import runtime
from pgduet.postgres.batches import Batches
from support.mutants import Code

APART = Code(
    "the one transaction of batch and cursor",
    Batches._fill,
    r"""        done = await self.conn.execute(fill)
        await reach("batch.before_commit")
        moved = await self.conn.execute(sql.SQL("{};\nCOMMIT").format(self._advance(last, done.rowcount)))
    await self._committed(last, done.rowcount, await moved.fetchone())
""",
    """        moved = await self.conn.execute(self._advance(last, 0))
    await self._committed(last, 0, await moved.fetchone())
    await self.conn.execute(fill)
    await self.conn.commit()
""",
)

if __name__ == "__main__":
    with APART.applied():
        runtime.main()
