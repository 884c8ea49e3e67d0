"""How strongly a new client's statement locks the anchor's rows: for another key where it may give one, else for none (ADR 28).

Where a row's key changes, PostgreSQL locks it against those who refer to it (a child's insert holds it FOR KEY SHARE) before it
has locked anything else. The policies lock the anchor's row first and do not see what a statement is about to write. Were they
to take the weaker lock, it would have to be raised when the row is written: a deadlock with a child's client, who refers to the
row and then changes it. So a trigger for each statement on the shadow, which fires before the first row is read, says that it
sets a column of the key; the row is then locked for that from the beginning. All others lock it so that children can come.
The anchor is written likewise: its key is in the list of columns only where it changes. PostgreSQL goes by that list, and not by
the values, on a table with a BEFORE trigger.
Limits: who sets a key to what it is locks it for another one all the same, as on any table with a BEFORE trigger. A column that is
unique but not the key locks weakly first, where it changes, too: to go by the list there would hold up each client that sets all
columns. In a statement of several parts (WITH … UPDATE) the trigger fires for the first part alone.
"""

from collections.abc import Sequence

from psycopg import sql

from pgduet.operations.names import trigger_name
from pgduet.operations.shadow_design import AnchorColumn, ShadowDesign
from pgduet.operations.shadow_keys import NEW, OLD, any_of, function, shadow_changed, trigger
from pgduet.operations.statement import Query, Statement, identifiers, trusted
from pgduet.sql import block

FUNCTION = "shadow_rekeys"
_WEAK, _STRONG = "NO KEY UPDATE", "UPDATE"
_TIMES = ("before", "after")


def triggers(design: ShadowDesign, plan: str) -> list[Statement]:
    """Create what tells that a statement sets a column of the key; ours, which a row's write runs, do not."""
    if not _rekeys(design):
        return []
    made = [function(design, FUNCTION, block("shadow", "rekeys").format(mark=_mark(design)))]
    columns = identifiers(design.key_names).as_string(None)
    condition = sql.SQL(" {}").format(block("shadow", "when_a_client"))
    for time, name in zip(_TIMES, trigger_names(plan), strict=True):
        when = f"{time.upper()} UPDATE OF {columns}"
        made += trigger(design, design.shadow, name, FUNCTION, when, "STATEMENT", condition)
    return made


def trigger_names(plan: str) -> tuple[str, ...]:
    """Name the triggers on the shadow."""
    return tuple(trigger_name(plan, f"shadow_rekey_{time}") for time in _TIMES)


def lock_row(design: ShadowDesign, condition: sql.Composable, strength: str) -> Query:
    """Render the lock of a row of the anchor; FOUND tells whether it is there."""
    template = block("shadow", "lock_moving_row" if design.parted else "lock_row")
    parts = {"relation": design.relation, "same": condition}
    lock = template.format(**parts, strength=trusted(strength))
    if strength != _WEAK or not _rekeys(design):
        return lock
    strong = template.format(**parts, strength=trusted(_STRONG))
    return block("shadow", "lock_as_wanted").format(mark=_mark(design), strong=strong, weak=lock)


def keys_change(design: ShadowDesign, written: Sequence[AnchorColumn]) -> Query:
    """Render that a row of the anchor gets another key, as far as columns that are written are concerned."""
    sources = {name: None for column in written if column.name in _keys(design) for name in column.sources}
    return any_of(shadow_changed(design, name, OLD, NEW) for name in sources)


def keyless(design: ShadowDesign, written: Sequence[AnchorColumn]) -> list[AnchorColumn]:
    """Give the columns that are written where no key changes."""
    return [column for column in written if column.name not in _keys(design)]


def _keys(design: ShadowDesign) -> set[str]:
    """Name the anchor's columns by which rows may be referred to."""
    named = {name for key in (*design.unique, *design.freed) for name in key.anchor}
    return named | {column.anchor for column in design.key}


def _rekeys(design: ShadowDesign) -> bool:
    """Tell whether new clients can give a row another key: not one that belongs to a row of another table."""
    return design.kind != "extract_table"


def _mark(design: ShadowDesign) -> sql.Literal:
    """Give what stands for the shadow whatever the two tables are called."""
    return sql.Literal(f"{design.schema_name}.{design.physical}")
