"""A primary key whose columns get a wider type in place: int to bigint, with all that refers to it.

The old key stays the primary key until contract: old clients and foreign keys rely on it. The new column has a unique index from
before publication on, so that new clients name rows by it, in `ON CONFLICT` too. Both hold the same numbers: what one refuses, the
other would. Foreign keys to the successor stand beside the old ones from cutover on. A number comes from the same sequence
whoever inserts: the table's own default gives it to the old column, and the sync trigger to the new one.
Limits: the value stays the same, so only a wider whole number can take a key's place; what the old column cannot hold is
refused while the old version lives, whatever the plan's policy says.
"""

from collections.abc import Mapping, Sequence

from psycopg import sql

from pgduet.errors import NotSupported
from pgduet.operations.answers import KeyPath, place
from pgduet.operations.column_design import ColumnMapping
from pgduet.operations.constraints import ForeignKey
from pgduet.operations.design import TableDesign
from pgduet.operations.facts import InboundFacts, NumberingFacts, TableFacts
from pgduet.operations.names import working_name
from pgduet.operations.referring import Inbound, Referring, Rekey
from pgduet.operations.statement import Lock, Statement, Table, identifiers, on_table, trusted
from pgduet.plan.models import AlterColumn, TableName
from pgduet.sql import block

_WIDER = {"smallint": ("integer", "bigint"), "integer": ("bigint",)}
_GIVEN = ("up", "down", "nullable", "default", "check", "unique", "references")
_LEAVE = "Leave the column out of the plan."


def concerns(table: TableDesign, mapping: ColumnMapping) -> bool:
    """Tell whether a mapping is about a column of the primary key."""
    return table.rekey is not None and any(old.name in table.key for old in mapping.replaces)


def refuse(table: TableFacts, top: KeyPath, operation: AlterColumn) -> None:
    """Refuse what cannot be done with a column of the primary key.

    Raises:
        NotSupported: with the path in the plan.
    """
    column, key = table.column(operation.column), table.primary
    if column is None or not column.in_key or key is None:
        return
    path = (*top, "column")
    what = f'"{column.name}" is of the primary key of {table.schema_name}.{table.table}'
    for given in _GIVEN:
        if getattr(operation, given) is not None:
            raise NotSupported(
                f"{what}, which changes its type, name and comment only",
                place=place((*top, given)),
                hint=f"Leave `{given}` out: a key keeps its values.",
            )
    reasons = {
        "and its index only carries it along": column.name not in table.key,
        "and the table is partitioned": table.kind == "p",
        "and the key is deferrable": key.index.deferrable,
        f"on which depends {'; '.join(key.others)}": bool(key.others),
        "by whose index replication names rows": table.identity_index == key.index.name,
    }
    for each in key.inbound:
        if column.name in each.target_columns:
            name = f"to which refers {each.name} of {each.schema_name}.{each.table}"
            reasons[f"{name}, which is partitioned"] = each.kind != "r"
            reasons[f"{name}, which is not validated"] = not each.valid
            reasons[f"{name}, which the worker's role does not own"] = not each.owned
    for reason, true in reasons.items():
        if true:
            raise NotSupported(f"{what}, {reason}", place=place(path), hint=_LEAVE)


def with_keys(plan: str, tables: Sequence[TableDesign], facts: Mapping[str, TableFacts]) -> tuple[TableDesign, ...]:
    """Add to designs what keys that change take along, and have foreign keys refer to their successors.

    Raises:
        NotSupported: a key's column gets another type than a wider one.
    """
    after = {table.label: found for table in tables if (found := _successors(table))}
    if not after:
        return tuple(tables)
    turned = [_turned(table, after, _facts(facts, table)) for table in tables]
    gone = {(t.schema_name, t.table, name) for t in tables for name in t.dropped_constraints}
    return tuple(
        _rekeyed(plan, table, after[table.label], _facts(facts, table), turned, gone) if table.label in after else table
        for table in turned
    )


def refuse_unknown(design: TableDesign, table: TableFacts) -> None:
    """Refuse, while there is a way back, what has come to stand on the old key since preflight, and has no successor.

    Raises:
        NotSupported: naming the foreign key.
    """
    if design.rekey is None:
        return
    if table.primary and table.primary.others:
        raise NotSupported(
            f"on the key of {design.label}, which goes, depends {'; '.join(table.primary.others)}",
            hint="Drop it, then advance; after contract it can be made again.",
        )
    for each in standing(design, table):
        if not design.rekey.knows(each.schema_name, each.table, each.name):
            raise NotSupported(
                f"{each.name} of {each.schema_name}.{each.table} refers to the key of {design.label}, and was made since preflight",
                hint="Drop it, then advance; after contract it can be made again.",
            )


def standing(design: TableDesign, table: TableFacts) -> list[InboundFacts]:
    """Give the foreign keys that refer to the old key now."""
    going = {old.name for mapping in design.mappings if concerns(design, mapping) for old in mapping.replaces}
    return [each for each in (table.primary.inbound if table.primary else ()) if going & set(each.target_columns)]


def before(design: TableDesign, table: TableFacts) -> list[Statement]:
    """Take off the old column what must not go with it: foreign keys, and the numbers of its sequence."""
    if design.rekey is None or table.primary is None:
        return []
    made = []
    for each in standing(design, table):
        refers = Referring(schema_name=each.schema_name, table=each.table)
        name = sql.Identifier(each.name)
        made.append(_on(refers, "columns", "drop_constraint", f"no {each.name}", constraint=name))
    for numbering in _numbered(design, table):
        made += _numbers_move(design, numbering)
    return made


def after(design: TableDesign, table: TableFacts) -> list[Statement]:
    """Make the successor the primary key, with its default, its sequence and the names of what refers to it."""
    if design.rekey is None or table.primary is None:
        return []
    index = next(index for index in design.indexes if index.key)
    name = sql.Identifier(index.name)
    made = [_on(design, "declare", "primary_using", f"{index.name} is the key", constraint=name, timing=sql.SQL(""))]
    for column, default in design.rekey.defaults:
        parts = {"column": sql.Identifier(column), "value": trusted(default)}
        made.append(_on(design, "columns", "set_default", "its default", **parts))
    for numbering in _numbered(design, table):
        made += _numbers_stay(design, numbering)
    there = {(each.schema_name, each.table, each.name) for each in table.primary.inbound}
    for each in design.rekey.inbound:
        working, name = sql.Identifier(each.key.working), sql.Identifier(each.key.name)
        if (each.schema_name, each.table, each.key.working) not in there:
            continue
        if (each.schema_name, each.table, each.key.name) in there:
            parts = {"constraint": working, "name": name}
            made.append(_on(each, "columns", "rename_constraint", f"{each.key.name} gets its name", **parts))
        else:
            # Who has dropped it since does not want it back.
            made.append(_on(each, "columns", "drop_constraint", f"no {each.key.name}", constraint=working))
    return made


def _successors(table: TableDesign) -> dict[str, str]:
    pairs = [pair for mapping in table.mappings if mapping.kind == "alter_column" for pair in mapping.pairs]
    if not any(old.name in table.key for old, _ in pairs):
        return {}
    return {old.name: new.physical for old, new in pairs}


def _facts(facts: Mapping[str, TableFacts], table: TableDesign) -> TableFacts:
    return facts[str(TableName(table.schema_name, table.table))]


def _turned(table: TableDesign, successors: Mapping[str, dict[str, str]], facts: TableFacts) -> TableDesign:
    """Have the carried foreign keys of a table refer to the successors."""
    tails = {each.name: each.tail for each in facts.foreign}
    keys = []
    for key in table.foreign_keys:
        names = successors.get(key.target_relation.as_string(None), {})
        if key.carried and set(names) & set(key.target_columns):
            targets = tuple(names.get(name, name) for name in key.target_columns)
            # Rows are looked up by the old columns: they hold the same, and have an index from the beginning.
            keys.append(key.model_copy(update={"rest": _rest(key.target_relation, targets, tails[key.shown])}))
        else:
            keys.append(key)
    return table.model_copy(update={"foreign_keys": tuple(keys)})


def _rekeyed(
    plan: str,
    table: TableDesign,
    successors: dict[str, str],
    facts: TableFacts,
    tables: Sequence[TableDesign],
    gone: set[tuple[str, str, str]],
) -> TableDesign:
    table = table.model_copy(update={"rekey": Rekey()})
    mappings, defaults = [], []
    for mapping in table.mappings:
        if not concerns(table, mapping):
            mappings.append(mapping)
            continue
        for old, new in mapping.pairs:
            if new.type not in _WIDER.get(old.type, ()):
                raise NotSupported(
                    f'"{old.name}" of {table.label} is of the primary key: {old.type} cannot become {new.type} there',
                    place=place(("operations", mapping.position, mapping.kind, "type")),
                    hint="A key's column can become a wider whole number: integer or bigint.",
                )
            if new.default is not None:
                defaults.append((new.name, new.default))
        # The table's own default gives the number, to the old column, and the trigger to this one.
        columns = tuple(column.model_copy(update={"default": None}) for column in mapping.columns)
        mappings.append(mapping.model_copy(update={"columns": columns}))
    carried = {(t.schema_name, t.table, key.shown) for t in tables for key in t.foreign_keys if key.carried}
    inbound = [
        Inbound(schema_name=each.schema_name, table=each.table, key=_key(plan, each, table, successors))
        for each in (facts.primary.inbound if facts.primary else ())
        if set(successors) & set(each.target_columns)
        and (each.schema_name, each.table, each.name) not in (carried | gone)
    ]
    known = tuple(sorted(carried | gone))
    rekey = Rekey(inbound=tuple(inbound), carried=known, defaults=tuple(defaults))
    if not any(index.key for index in table.indexes):
        raise NotSupported(f"the primary key of {table.label} cannot be made over the new column", hint=_LEAVE)
    return table.model_copy(update={"mappings": tuple(mappings), "rekey": rekey})


def _key(plan: str, facts: InboundFacts, table: TableDesign, successors: Mapping[str, str]) -> ForeignKey:
    targets = tuple(successors.get(name, name) for name in facts.target_columns)
    return ForeignKey(
        name=facts.name,
        working=working_name(plan, facts.name),
        columns=facts.columns,
        target_schema=table.schema_name,
        target=table.table,
        target_columns=facts.target_columns,
        rest=_rest(table.relation, targets, facts.tail),
        shown=facts.name,
        carried=True,
    )


def _rest(target: sql.Identifier, columns: tuple[str, ...], tail: str) -> str:
    return sql.SQL("REFERENCES {} ({}){}").format(target, identifiers(columns), trusted(tail)).as_string(None)


def _numbered(design: TableDesign, table: TableFacts) -> list[NumberingFacts]:
    """Give the sequences of columns that change."""
    going = {old.name for mapping in design.mappings if concerns(design, mapping) for old in mapping.replaces}
    return [each for each in (table.primary.numbering if table.primary else ()) if each.column in going]


def _numbers_move(design: TableDesign, numbering: NumberingFacts) -> list[Statement]:
    column = sql.Identifier(design.physical[_shown(design, numbering)])
    sequence = sql.Identifier(numbering.schema_name, numbering.name)
    if not numbering.identity:
        return [_on(design, "rekey", "own_sequence", f"{numbering.name} stays", sequence=sequence, column=column)]
    new = sql.Identifier(numbering.schema_name, working_name("", numbering.name))
    how = trusted("ALWAYS" if numbering.identity == "a" else "BY DEFAULT")
    parts = {"column": column, "how": how, "sequence": new, "options": trusted(_options(numbering))}
    go_on = block("rekey", "go_on").format(new=sql.Literal(new.as_string(None)), sequence=sequence)
    made = _on(design, "rekey", "add_identity", "numbers itself", **parts)
    return [made, Statement(go_on, f"goes on where {numbering.name} is")]


def _numbers_stay(design: TableDesign, numbering: NumberingFacts) -> list[Statement]:
    sequence = sql.Identifier(numbering.schema_name, numbering.name)
    if not numbering.identity:
        kind = next(c.type for c in design.new_columns if c.name == _shown(design, numbering))
        query = block("rekey", "widen_sequence").format(sequence=sequence, type=trusted(kind))
        return [Statement(query, f"{numbering.name} counts as far as {kind}")]
    made = sql.Identifier(numbering.schema_name, working_name("", numbering.name))
    query = block("rekey", "rename_sequence").format(sequence=made, name=sql.Identifier(numbering.name))
    return [Statement(query, f"{numbering.name} has its name")]


def _shown(design: TableDesign, numbering: NumberingFacts) -> str:
    """Name a numbered column as the new version does."""
    names = dict(zip(design.key, design.new_key, strict=True))
    return names[numbering.column]


def _options(numbering: NumberingFacts) -> str:
    made = [f"START {numbering.start} INCREMENT {numbering.increment} CACHE {numbering.cache}"]
    made += [f"MINVALUE {numbering.smallest}"] if numbering.smallest is not None else []
    made += [f"MAXVALUE {numbering.largest}"] if numbering.largest is not None else []
    return " ".join([*made, "CYCLE" if numbering.cycle else "NO CYCLE"])


def _on(table: Table, file: str, name: str, summary: str, /, **parts: sql.Composable) -> Statement:
    return on_table(table, file, name, summary, Lock.ACCESS_EXCLUSIVE, **parts)
