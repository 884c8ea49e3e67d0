"""What a shadow has too much when its table was emptied while the shadow could not be (ADR 28).

TRUNCATE by an old client empties the shadow at once, unless somebody holds it: its key or an index is being built, or a vacuum is
at work. The client does not wait for that. That it happened is written down in its transaction, and the next drain finds it:
what the anchor does not have goes into the journal, piece by piece, and from there out of the shadow as other rows do. Limits:
until then the shadow has rows too much, which before publication nobody reads.
"""

from pgduet.barriers import reach
from pgduet.operations import shadow_rows
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.postgres.heaps import heaps_of, pages_of
from pgduet.postgres.session import Connection
from pgduet.sql import block

PIECE = 256
"""Pages of the shadow that are looked at in one statement: the anchor's weakest lock is held for about 25 ms."""


async def surplus_noted(conn: Connection, design: ShadowDesign) -> bool:
    """Put what is too much into the journal; tells whether there may be something.

    Raises:
        psycopg.errors.LockNotAvailable: a client holds the anchor; what is written down stays, and is to be looked at again.
    """
    asked = {"relation": design.shadow_label}
    found = [row["id"] for row in await (await conn.execute(block("shadow", "emptied"), asked)).fetchall()]
    if not found:
        return False
    for heap in await heaps_of(conn, design.shadow):
        for first in range(0, await pages_of(conn, heap), PIECE):
            await conn.execute(shadow_rows.journal_surplus(design, heap, first, first + PIECE))
    await reach("emptied.before_commit")
    await conn.execute(block("shadow", "emptied_done"), {"ids": found})
    await reach("emptied.after_commit")
    return True
