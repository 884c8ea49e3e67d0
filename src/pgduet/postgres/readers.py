"""Trigger functions that know an old column by name: from contract on they would fail, and their table's clients with them.

Mechanism: the source of each enabled trigger's function is searched for NEW.<column> and OLD.<column> of columns that the new
version does not have. A function that also names a column which only the new version has, or that the plan's own SQL replaces
at contract, is taken to be ready.
Limits: a search in text. PostgreSQL itself does not know what a PL/pgSQL function reads, and neither do we where it builds
its statements at run time.
"""

import re
from collections.abc import Iterable

from pgduet.operations.design import Design, TableDesign
from pgduet.plan.table_operations import without_comments
from pgduet.postgres import catalogue
from pgduet.postgres.session import Connection


async def old_readers(conn: Connection, design: Design) -> list[str]:
    """Describe the functions that would break, each once."""
    scripts = [script.up for script in design.scripts if script.at == "contract"]
    found: dict[str, None] = {}
    for table in design.tables:
        rows = await catalogue.rows(conn, "trigger_functions", {"schema": table.schema_name, "table": table.table})
        for row in rows:
            names = _read(row["source"], _leaving(table))
            ready = _read(row["source"], _coming(table)) or any(_mentions(text, row["function"]) for text in scripts)
            if names and not ready:
                where = f"{row['schema']}.{row['function']} of {table.schema_name}.{table.table}"
                found[f"trigger function {where} (reads {', '.join(names)})"] = None
    return list(found)


def assigned(source: str, names: Iterable[str]) -> list[str]:
    """Tell which of some columns a trigger's function gives a value of its own."""
    bare = without_comments(source)
    return [name for name in names if re.search(rf"\bnew\s*\.\s*{_spelled(name)}\s*:?=", bare, re.IGNORECASE)]


def _leaving(table: TableDesign) -> list[str]:
    kept = set(table.new_names)
    return [name for name in table.columns if name not in kept]


def _coming(table: TableDesign) -> list[str]:
    known = set(table.columns)
    return [name for name in table.new_names if name not in known]


def _read(source: str, names: Iterable[str]) -> list[str]:
    bare = without_comments(source)
    return [name for name in names if re.search(rf"\b(?:new|old)\s*\.\s*{_spelled(name)}", bare, re.IGNORECASE)]


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w$]){_spelled(name)}", without_comments(text), re.IGNORECASE) is not None


def _spelled(name: str) -> str:
    quoted = re.escape('"' + name.replace('"', '""') + '"')
    return rf"(?:{quoted}|{re.escape(name)}(?![\w$]))"
