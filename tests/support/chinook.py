"""The Chinook database: a shop's real schema, with its invoices multiplied.

The script is not ours and is not kept here (MIT; `chinook-LICENSE.txt` beside it). It is looked for where `PGDUET_CHINOOK` says,
or else as `shared/data/chinook.sql` beside the checkout.
"""

import os
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgduet.plan.locate import read
from support.harness import ROOT

Connection = psycopg.AsyncConnection[Any]
PLANS = ROOT / "examples" / "chinook"
LINES = 2_240
"""So many lines the script has, of 412 invoices."""
_MORE = (
    # A copy's invoices and lines are numbered as the originals are, further on, so that each line finds its invoice.
    """
    INSERT INTO invoice SELECT invoice_id + {step} * copy, customer_id, invoice_date + copy * interval '1 minute', billing_address,
           billing_city, billing_state, billing_country, billing_postal_code, total
      FROM invoice, generate_series(1, {copies}) AS copy
    """,
    """
    INSERT INTO invoice_line (invoice_id, track_id, unit_price, quantity)
    SELECT invoice_id + {step} * copy, track_id, unit_price, quantity FROM invoice_line, generate_series(1, {copies}) AS copy
     ORDER BY 1
    """,
    "SELECT setval(pg_get_serial_sequence('invoice', 'invoice_id'), max(invoice_id)) FROM invoice",
    "VACUUM ANALYZE",
)


def script() -> Path:
    """Find the script, or skip the test and say where it was looked for."""
    given = os.environ.get("PGDUET_CHINOOK")
    beside = [parent / "shared" / "data" / "chinook.sql" for parent in ROOT.parents]
    found = next((path for path in ([Path(given)] if given else beside) if path.is_file()), None)
    if found is None:
        pytest.skip("chinook.sql is absent: neither PGDUET_CHINOOK nor ../shared/data has it")
    return found


async def create(conn: Connection, lines: int) -> None:
    """Create the database as the script does, then multiply invoices until there are so many lines."""
    await conn.execute(script().read_bytes())
    ((step, copies),) = await (
        await conn.execute("SELECT max(invoice_id), greatest(ceil(%s / %s)::int - 1, 0) FROM invoice", (lines, LINES))
    ).fetchall()
    for statement in _MORE:
        await conn.execute(sql.SQL(statement).format(step=sql.Literal(step), copies=sql.Literal(copies)))


def plan(name: str, database: str, policy: dict[str, Any]) -> dict[str, Any]:
    """Read a plan from the examples, for a database and with a policy of the test's."""
    data, _ = read((PLANS / f"{name}.yaml").read_text(encoding="utf-8"))
    return data | {"database": database, "policy": policy}
