"""What a migration will cost, estimated before anything has been measured: for `check`, and kept at the start for the report.

Limits: rows and pages are the catalogue's (as of the last ANALYZE); the rate and the bytes are assumed.
"""

from typing import Any

from pgduet.plan.models import Plan, TableName, parse_table
from pgduet.postgres.survey import Survey

ROWS_PER_SECOND = 200_000
"""A cautious rate."""
ROW_REWRITE_BYTES = 300
INDEXED_PER_SECOND = 300_000
"""A cautious rate of a build that reads the table twice, not counting its wait for transactions of before."""
INDEX_ENTRY_BYTES = 40
"""An entry of a few short columns."""


def estimate(plan: Plan, surveyed: Survey) -> dict[str, Any]:
    """Estimate rows to fill, time, WAL, and what is locked how."""
    synced = {str(TableName(table.schema_name, table.table)): table for table in surveyed.design.synced}
    known = {name: facts for name, facts in surveyed.facts.items() if name in synced}
    rows = sum(max(0, facts.rows) for name, facts in known.items() if synced[name].derived)
    copied = [
        surveyed.facts[str(parse_table(each.label))]
        for each in surveyed.design.whole
        if each.label in surveyed.design.filled
    ]
    rows += sum(max(0, facts.rows) for facts in copied)
    tables = [
        f"{name} and its {facts.partitions} partitions" if facts.partitions else name
        for name, facts in surveyed.facts.items()
    ]
    locked = f"ACCESS EXCLUSIVE on {', '.join(tables)}"
    if pointed := sorted(str(parse_table(label)) for label in surveyed.design.referred):
        locked += f", SHARE ROW EXCLUSIVE on {', '.join(pointed)}"
    locked += f", at most {plan.policy.lock_timeout_ms} ms a try"
    indexes = [
        facts.rows
        for table in surveyed.design.tables
        for _ in table.indexes
        if (facts := surveyed.facts.get(str(TableName(table.schema_name, table.table))))
    ]
    # What becomes a partition gets one more unique index, and is not copied.
    indexes += [surveyed.facts[str(parse_table(each.label))].rows for each in surveyed.design.attached]
    return {
        "rows": int(rows),
        "backfill_s": round(rows / ROWS_PER_SECOND, 1),
        "wal_mb": round(rows * ROW_REWRITE_BYTES / 1e6),
        "pages_now": sum(facts.pages for facts in (*known.values(), *copied)),
        **({"index_build_s": round(sum(indexes) / INDEXED_PER_SECOND, 1)} if indexes else {}),
        **({"index_mb": round(sum(indexes) * INDEX_ENTRY_BYTES / 1e6)} if indexes else {}),
        "locks": locked if surveyed.facts else "none known",
    }
