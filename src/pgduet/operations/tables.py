"""Tables that a version brings or takes: made at expand, moved to `pgduet_archive` rather than dropped.

Moving keeps every row, bit by bit, in a time that does not depend on their number. Foreign keys to other tables are left behind, or
they would go on binding the clients of those.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace

from psycopg import sql

from pgduet.operations.constraints import Check
from pgduet.operations.names import fit
from pgduet.operations.statement import Lock, Statement, identifiers, locking, on_table, role, trusted
from pgduet.operations.whole_tables import CreatedTable, DroppedTable, MadeColumn
from pgduet.sql import block

ARCHIVE = "pgduet_archive"
_MAKING = frozenset({"create", "comment", "grant"})
MARK = "pgduet "
"""How the comment of an archived table begins that says by which form it was created."""
_CUT = re.compile(r"_[0-9a-f]{10}$")
"""How a name ends that was too long."""


def create(table: CreatedTable) -> list[Statement]:
    """Create a table with all but its foreign keys."""
    parts = [_column(column) for column in table.columns]
    if table.key:
        names = identifiers(table.key)
        parts.append(sql.SQL("PRIMARY KEY ({})").format(names))
    parts += [
        sql.SQL("CONSTRAINT {} UNIQUE ({})").format(sql.Identifier(name), sql.Identifier(column))
        for column, name in table.unique
    ]
    parts += [_check(check) for check in table.checks]
    parts += [sql.SQL("CONSTRAINT {} {}").format(sql.Identifier(name), trusted(text)) for name, text in table.whole]
    made = [_on(table, "create", f"create {table.label}", parts=sql.SQL(", ").join(parts))]
    return [*made, *_described(table)]


def _described(table: CreatedTable) -> list[Statement]:
    made = []
    if table.comment:
        made.append(_on(table, "comment", "its comment", text=sql.Literal(table.comment)))
    for column in table.columns:
        if column.comment:
            name, text = sql.Identifier(column.name), sql.Literal(column.comment)
            made.append(on_table(table, "columns", "comment", "its comment", Lock.NONE, column=name, text=text))
    for grantee, rights in table.grants:
        listed = sql.SQL(", ").join(trusted(right) for right in rights)
        made.append(_on(table, "grant", "its grants", rights=listed, role=role(grantee)))
    return made


def drop(table: CreatedTable) -> list[Statement]:
    """Drop a table that nobody has written to."""
    made = _on(table, "drop", f"drop {table.label}")
    return [replace(made, taking=made.sql)]


def archive(
    table: CreatedTable | DroppedTable, name: str, foreign_keys: Mapping[str, sql.Identifier], clashes: dict[str, str]
) -> list[Statement]:
    """Move a table to the archive under a name of its own; `clashes` renames what the archive has already.

    `foreign_keys` maps the names of its keys to the tables that they refer to.
    """
    made = [locking(target, Lock.ACCESS_EXCLUSIVE) for target in foreign_keys.values()]
    made += [
        _on(table, "drop_constraint", f"leave {key} behind", constraint=sql.Identifier(key)) for key in foreign_keys
    ]
    made += [_renamed(table.schema_name, index, free) for index, free in clashes.items()]
    made.append(_on(table, "rename", f"becomes {name}", name=sql.Identifier(name)))
    moved = sql.Identifier(table.schema_name, name)
    query = block("tables", "move").format(relation=moved, schema=sql.Identifier(ARCHIVE))
    made.append(Statement(query, f"to {ARCHIVE}", Lock.ACCESS_EXCLUSIVE))
    if isinstance(table, CreatedTable):
        made.append(_said(sql.Identifier(ARCHIVE, name), mark(table)))
    return made


def mark(table: CreatedTable) -> str:
    """Tell one form of a created table from another: in the archive it is the table's comment."""
    text = table.model_dump_json(exclude={"position"}, exclude_defaults=True)
    return MARK + hashlib.sha256(text.encode()).hexdigest()


def set_table_aside(name: str, aside: str, parts: dict[str, str]) -> list[Statement]:
    """Rename an archived table that does not come back, and its indexes and sequences, so that the next one has their names."""
    relation = sql.Identifier(ARCHIVE, name)
    query = block("tables", "rename").format(relation=relation, name=sql.Identifier(aside))
    made = [Statement(query, f"becomes {aside}", Lock.ACCESS_EXCLUSIVE, relation.as_string(None))]
    return [*made, *(_renamed(ARCHIVE, part, free) for part, free in parts.items())]


def _said(relation: sql.Identifier, text: str | None) -> Statement:
    return Statement(block("tables", "comment").format(relation=relation, text=sql.Literal(text)), "its comment")


def set_aside(archived: str, name: str) -> str:
    """Name an index or a sequence in the archive, where it has one of its own name already."""
    return fit(f"{archived}/{name}")


def own_name(table: CreatedTable, archived: str, name: str) -> str | None:
    """Tell what an index or a sequence was called before it was set aside; nothing where it was not, or where nobody knows."""
    keys = (f"{table.table}_pkey", *(f"{table.table}_{column.name}_seq" for column in table.columns))
    known = (*keys, *(name for _, name in table.unique), *(name for name, _ in table.whole))
    if own := next((each for each in known if set_aside(archived, each) == name), None):
        return own
    own = name.removeprefix(f"{archived}/")
    return own if own != name and not _CUT.search(name) else None


def bring_back(table: CreatedTable, name: str, own_names: dict[str, str]) -> list[Statement]:
    """Move an archived table back; `own_names` renames what was set aside."""
    archived = sql.Identifier(ARCHIVE, name)
    label = archived.as_string(None)
    moved = sql.Identifier(table.schema_name, name)
    move = block("tables", "move").format(relation=archived, schema=sql.Identifier(table.schema_name))
    rename = block("tables", "rename").format(relation=moved, name=sql.Identifier(table.table))
    return [
        Statement(move, f"back from {ARCHIVE}", Lock.ACCESS_EXCLUSIVE, label),
        Statement(rename, f"becomes {table.table}"),
        _said(table.relation, table.comment),
        *(_renamed(table.schema_name, aside, own) for aside, own in own_names.items()),
    ]


def _renamed(schema: str, index: str, name: str) -> Statement:
    """Rename an index, a constraint with it, or a sequence."""
    query = block("declare", "rename_index").format(index=sql.Identifier(schema, index), name=sql.Identifier(name))
    return Statement(query, f"rename {index}")


def _column(column: MadeColumn) -> sql.Composable:
    parts: list[sql.Composable] = [sql.Identifier(column.name), trusted(column.type)]
    if column.identity:
        parts.append(trusted(f"GENERATED {column.identity.upper()} AS IDENTITY"))
    if column.generated is not None:
        parts.append(sql.SQL("GENERATED ALWAYS AS ({}) STORED").format(trusted(column.generated)))
    if column.default is not None:
        parts += [sql.SQL("DEFAULT"), trusted(column.default)]
    if not column.nullable:
        parts.append(sql.SQL("NOT NULL"))
    return sql.SQL(" ").join(parts)


def _check(check: Check) -> sql.Composable:
    return sql.SQL("CONSTRAINT {} {}").format(sql.Identifier(check.name), check.definition())


def _on(table: CreatedTable | DroppedTable, template: str, summary: str, **parts: sql.Composable) -> Statement:
    # A table that is being made cannot be locked before it is there.
    lock = Lock.NONE if template in _MAKING else Lock.ACCESS_EXCLUSIVE
    return on_table(table, "tables", template, summary, lock, **parts)
