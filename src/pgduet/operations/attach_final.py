"""The table becomes the first partition, and the parent takes its name; then further partitions are made (ADR 31).

What has come to the table since the parent was made is made up for here: rights, defaults, NOT NULL, checks, comments of columns.
Each partition takes a moment under the table's lock, so that only the first few are made with it, and the others in transactions of
their own.
Limits: comments on indexes and constraints stay with the first partition.
"""

from collections.abc import Iterable

from psycopg import sql

from pgduet.operations import attach
from pgduet.operations.attach import Carried, Maker, StatisticsObject, dropping, granting, revoking
from pgduet.operations.attach_design import AttachDesign
from pgduet.operations.names import fit
from pgduet.operations.shadow_design import Partition
from pgduet.operations.statement import Lock, Role, Statement, identifiers, locking, trusted
from pgduet.sql import block

AT_ONCE = 8
"""So many partitions are made under one lock: some 5 ms each, with their indexes."""
_FIRES = {"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}
_REPLICATES = {"f": "FULL", "n": "NOTHING"}


def finish(design: AttachDesign, carried: Carried) -> list[Statement]:
    """Make the table the first partition and give the parent its name, in one transaction: no way back."""
    old = design.named(design.first.name)
    below, above = Maker(old), Maker(design.relation)
    made = [
        locking(design.parent, Lock.ACCESS_EXCLUSIVE),  # and with it the table, in the order in which clients take them
        # What a partition's foreign key has of its own there is dropped when it is found to be the parent's.
        *_referred(carried, Lock.ACCESS_EXCLUSIVE),
        above("detach", "from the parent that has no bounds", parent=design.parent),
        _without(design.named(design.parent_index)),
        *(above("drop_trigger", f"{name} goes up", trigger=sql.Identifier(name)) for name, _, _ in carried.triggers),
        Statement(dropping(design.relation, carried.key), "its key goes"),
        above("rename", f"becomes {design.first.name}", name=sql.Identifier(design.first.name)),
        Maker(design.parent)("rename", f"becomes {design.table}", name=sql.Identifier(design.table)),
        below("primary_using", "the new key", name=_of(design.first, "pkey"), index=sql.Identifier(design.key_index)),
        above("primary", "the new key", name=sql.Identifier(carried.key), columns=identifiers(design.key)),
        *_indexes(design, carried),
        *_made_up(design, carried),
    ]
    made += [
        above("foreign_key", each.name, name=sql.Identifier(each.name), definition=trusted(each.definition))
        for each in carried.foreign
    ]
    made += [statement for each in carried.numbering for statement in _numbered(design, each)]
    made.append(above("attach", design.first.name, parent=design.relation, of=old, bound=trusted(design.first.bound)))
    made.append(Statement(dropping(old, design.bound_check), "the bound says so"))
    made += _partitions(design, carried, chunks(design)[0])
    return [*made, *_described(design, carried)]


def chunks(design: AttachDesign) -> list[tuple[Partition, ...]]:
    """Give the later partitions as they are made: with the first one, and then by and by; the default one is the last.

    Once there is a default partition, each other that is made looks for its rows in it.
    """
    later = sorted(design.later, key=lambda each: each.bound.strip().upper() == "DEFAULT")
    cut = [tuple(later[start : start + AT_ONCE]) for start in range(0, len(later), AT_ONCE)]
    return cut or [()]


def further(design: AttachDesign, carried: Carried, chunk: Iterable[Partition]) -> list[Statement]:
    """Make more partitions: in a transaction of their own, once the table is partitioned."""
    return [
        locking(design.relation, Lock.ACCESS_EXCLUSIVE),
        *_referred(carried, Lock.SHARE_ROW_EXCLUSIVE),
        *_partitions(design, carried, chunk),
    ]


def _referred(carried: Carried, lock: Lock) -> list[Statement]:
    return [locking(sql.Identifier(*name), lock) for name in carried.targets]


def _partitions(design: AttachDesign, carried: Carried, chunk: Iterable[Partition]) -> list[Statement]:
    made = []
    for each in chunk:
        relation = design.named(each.name)
        make = Maker(relation)
        made.append(make("partition", each.name, partition=relation, parent=design.relation, bound=trusted(each.bound)))
        made.append(make("owner", "its owner", role=Role(carried.owner)))
        if carried.options:
            made.append(make("options", "stored alike", options=trusted(carried.options)))
        if carried.replicates in _REPLICATES:
            how = trusted(_REPLICATES[carried.replicates])
            made.append(make("replica_identity", "named alike for replication", identity=how))
        made += [_statistics(relation, one, fit(f"{each.name}_{one.name}")) for one in carried.statistics]
        made += _targets(relation, carried)
    return made


def _indexes(design: AttachDesign, carried: Carried) -> list[Statement]:
    """Have the parent's indexes and statistics under the names that the table's had."""
    made = []
    for name, definition in carried.indexes:
        query = block("attach", "rename_index").format(index=design.named(name), name=_of(design.first, name))
        made += [Statement(query, f"{name} of the first partition"), Statement(trusted(definition), name)]
    for each in carried.statistics:
        theirs = sql.Identifier(each.schema_name, each.name)
        query = block("attach", "rename_statistics").format(statistics=theirs, name=_of(design.first, each.name))
        made += [
            Statement(query, f"{each.name} of the first partition"),
            _statistics(design.relation, each, each.name),
        ]
    return made


def _made_up(design: AttachDesign, carried: Carried) -> list[Statement]:
    """Give the parent what the table has got since: clients who name the table find what they left."""
    above = Maker(design.relation)
    made = [
        above("check", name, name=sql.Identifier(name), definition=trusted(definition))
        for name, definition in carried.checks
    ]
    for each in carried.changed:
        column = sql.Identifier(each.column)
        if each.filled:
            made.append(above("not_null", f"{each.column} is filled", column=column))
        if each.other_default and each.default is None:
            made.append(above("drop_default", f"{each.column} has no default", column=column))
        elif each.other_default and each.default is not None:
            made.append(above("default", f"default of {each.column}", column=column, value=trusted(each.default)))
        if each.other_comment:
            parts = {"relation": design.relation, "column": column, "text": sql.Literal(each.comment)}
            query = block("shadow_carry", "comment_column").format(**parts)
            made.append(Statement(query, f"comment of {each.column}"))
    made += [revoking(design.relation, one) for one in carried.parent_grants if one not in carried.grants]
    made += [granting(design.relation, one) for one in carried.grants if one not in carried.parent_grants]
    return made


def _described(design: AttachDesign, carried: Carried) -> list[Statement]:
    above = Maker(design.relation)
    made = [*_targets(design.relation, carried), above("owner", "its owner", role=Role(carried.owner))]
    for name, definition, fires in carried.triggers:
        made.append(Statement(trusted(definition), f"trigger {name}"))
        if fires in _FIRES:
            how = trusted(_FIRES[fires])
            made.append(above("enable_trigger", f"when {name} fires", how=how, trigger=sql.Identifier(name)))
    if carried.comment is not None:
        made.append(above("comment", "its comment", text=sql.Literal(carried.comment)))
    return made


def _numbered(design: AttachDesign, each: attach.Sequence) -> list[Statement]:
    above, below = Maker(design.relation), Maker(design.named(design.first.name))
    column = sql.Identifier(each.column)
    if not each.identity:
        return [above("own_sequence", f"{each.name} numbers it", sequence=each.sequence, column=column)]
    return [
        below("drop_default", "numbered by the parent", column=column),
        above("drop_default", "numbers itself", column=column),
        *attach.by_identity(design.relation, each),
    ]


def _targets(relation: sql.Identifier, carried: Carried) -> list[Statement]:
    return [
        Maker(relation)(
            "target",
            f"how closely {each.column} is sampled",
            column=sql.Identifier(each.column),
            target=sql.Literal(each.target),
        )
        for each in carried.changed
        if each.target is not None
    ]


def _statistics(relation: sql.Identifier, each: StatisticsObject, name: str) -> Statement:
    query = block("attach", "statistics").format(
        statistics=sql.Identifier(each.schema_name, name),
        kinds=trusted(each.kinds or ""),
        columns=trusted(each.columns),
        relation=relation,
    )
    return Statement(query, f"statistics {name}")


def _without(index: sql.Identifier) -> Statement:
    return Statement(block("attach", "drop_index").format(index=index), "a key takes its place")


def _of(partition: Partition, name: str) -> sql.Identifier:
    """Name what a partition has: a relation's name is one in the whole schema."""
    return sql.Identifier(fit(f"{partition.name}_{name}"))
