"""A parent is put above a table, and taken away again; at contract the table becomes its first partition (ADR 31).

Until contract the table keeps its name, key and rows. The new version's view shows the parent, which has the table as its default
partition and no other: so both versions write the same rows, and to go back is to detach. Nothing here reads or copies rows but
the index, which is built concurrently, and the check at contract, which is validated while everybody writes.
"""

from psycopg import sql

from pgduet.operations.attach_design import AttachDesign
from pgduet.operations.expressions import Frozen
from pgduet.operations.names import fit
from pgduet.operations.shadow_final import HungConstraint
from pgduet.operations.statement import Lock, Role, Statement, identifiers, locking, role, trusted
from pgduet.operations.views import Relation
from pgduet.sql import block

_FIRES = {"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}
_HOW = {"a": "ALWAYS", "d": "BY DEFAULT"}
_REPLICATES = {"f": "FULL", "n": "NOTHING"}


class Sequence(Frozen):
    """What numbers a column; `identity` is PostgreSQL's letter, empty for a sequence with a default."""

    column: str
    identity: str
    schema_name: str
    name: str
    type: str
    options: str

    def called(self, name: str) -> sql.Identifier:
        """Quote a name in the sequence's schema."""
        return sql.Identifier(self.schema_name, name)

    @property
    def sequence(self) -> sql.Identifier:
        """Its own quoted name."""
        return self.called(self.name)


class Carried(Frozen):
    """What the table has, which the parent is given; in PostgreSQL's words, by which they name the table."""

    owner: str
    key: str
    """The name of its primary key."""
    comment: str | None = None
    foreign: tuple[HungConstraint, ...] = ()
    triggers: tuple[tuple[str, str, str], ...] = ()
    """Name, definition, and when it fires, by PostgreSQL's letter."""
    indexes: tuple[tuple[str, str], ...] = ()
    """Name and definition."""
    numbering: tuple[Sequence, ...] = ()
    replicates: str = "d"


def build_key(design: AttachDesign) -> Statement:
    """Build the index by which new clients name a row, and which becomes the key."""
    query = block("attach", "build_key").format(
        index=sql.Identifier(design.key_index), relation=design.relation, columns=identifiers(design.key)
    )
    return Statement(query, f"build {design.key_index}", Lock.SHARE_UPDATE_EXCLUSIVE, design.label)


def drop_key(design: AttachDesign) -> Statement:
    """Drop it."""
    query = block("attach", "drop_key").format(index=design.named(design.key_index))
    return Statement(query, f"drop {design.key_index}", Lock.SHARE_UPDATE_EXCLUSIVE, design.label)


def create_parent(design: AttachDesign, carried: Carried, relation: Relation) -> list[Statement]:
    """Create the parent, with owner and grants of the table; nobody sees it yet."""
    parent, index = design.parent, sql.Identifier(design.parent_index)
    by = sql.SQL("RANGE ({})").format(sql.Identifier(design.spread))
    make = _Maker(parent)
    made = [
        make("create_parent", f"create a parent for {design.label}", parent=parent, of=design.relation, by=by),
        make("parent_key", "its key", parent=parent, index=index, columns=identifiers(design.key)),
    ]
    for grantee, rights in sorted(relation.grants.items()):
        if rights:
            listed = sql.SQL(", ").join(trusted(right) for right in rights)
            query = block("tables", "grant").format(rights=listed, relation=parent, role=role(grantee))
            made.append(Statement(query, "its grants"))
    return [*made, make("owner", "its owner", role=Role(carried.owner))]


def drop_parent(design: AttachDesign) -> Statement:
    """Drop a parent that has no partitions."""
    return Statement(block("attach", "drop_parent").format(parent=design.parent), "drop the parent")


def publish(design: AttachDesign, carried: Carried, relation: Relation) -> list[Statement]:
    """Put the parent above the table, in one transaction: from here on what is written to it is in the table."""
    made = [locking(design.relation, Lock.ACCESS_EXCLUSIVE)]
    for each in carried.numbering:
        if each.identity:
            made += _by_default(design, each, carried.owner, relation)
    return [*made, _parent(design)("attach_all", "all rows are its own", parent=design.parent, of=design.relation)]


def withdraw(design: AttachDesign, carried: Carried) -> list[Statement]:
    """Take the parent away, in one transaction; `carried` is what `publish` was given. The view must be gone."""
    make = _Maker(design.relation)
    made = [
        locking(design.relation, Lock.ACCESS_EXCLUSIVE),
        make("detach", "a table of its own", parent=design.parent),
        drop_parent(design),
    ]
    for each in carried.numbering:
        if each.identity:
            made += [
                make("drop_default", f"{each.column} numbers itself", column=sql.Identifier(each.column)),
                *_by_identity(design.relation, each),
            ]
    return made


def bind(design: AttachDesign, condition: str) -> Statement:
    """Let the table hold what its partition may, from here on: contract's first step, and its last one that can fail for a row."""
    make = _Maker(design.relation)
    name = sql.Identifier(design.bound_check)
    query = make("add_check", f"rows of {design.first.name}", name=name, condition=trusted(condition)).sql
    return Statement(query, f"new rows belong in {design.first.name}", Lock.ACCESS_EXCLUSIVE, design.label)


def validate(design: AttachDesign) -> Statement:
    """See that all rows do, while everybody reads and writes."""
    query = block("attach", "validate").format(relation=design.relation, name=sql.Identifier(design.bound_check))
    return Statement(query, f"all rows belong in {design.first.name}", Lock.SHARE_UPDATE_EXCLUSIVE, design.label)


def unbind(design: AttachDesign) -> Statement:
    """Lift the bound again: rows lie beyond it."""
    return Statement(
        _drop(design.relation, design.bound_check, "IF EXISTS"), "no bound", Lock.ACCESS_EXCLUSIVE, design.label
    )


def finish(design: AttachDesign, carried: Carried) -> list[Statement]:
    """Make the table the first partition and give the parent its name, in one transaction: no way back."""
    old = design.named(design.first.name)
    below, above = _Maker(old), _Maker(design.relation)
    made = [
        locking(design.parent, Lock.ACCESS_EXCLUSIVE),
        _Maker(design.relation)("detach", "from the parent that has no bounds", parent=design.parent),
        Statement(
            block("attach", "drop_index").format(index=design.named(design.parent_index)), "a key takes its place"
        ),
        *(above("drop_trigger", f"{name} goes up", trigger=sql.Identifier(name)) for name, _, _ in carried.triggers),
        Statement(_drop(design.relation, carried.key), "its key goes"),
        above("rename", f"becomes {design.first.name}", name=sql.Identifier(design.first.name)),
        _parent(design)("rename", f"becomes {design.table}", name=sql.Identifier(design.table)),
        below(
            "primary_using",
            "the new key",
            name=sql.Identifier(fit(f"{design.first.name}_pkey")),
            index=sql.Identifier(design.key_index),
        ),
        above("primary", "the new key", name=sql.Identifier(carried.key), columns=identifiers(design.key)),
    ]
    for name, definition in carried.indexes:
        theirs = sql.Identifier(fit(f"{design.first.name}_{name}"))
        query = block("attach", "rename_index").format(index=design.named(name), name=theirs)
        made += [Statement(query, f"{name} of the first partition"), Statement(trusted(definition), name)]
    made += [
        above("foreign_key", each.name, name=sql.Identifier(each.name), definition=trusted(each.definition))
        for each in carried.foreign
    ]
    for each in carried.numbering:
        made += _numbered(design, each)
    made.append(above("attach", design.first.name, parent=design.relation, of=old, bound=trusted(design.first.bound)))
    made.append(Statement(_drop(old, design.bound_check), "the bound says so"))
    return [*made, *_later(design, carried), *_described(design, carried)]


def _later(design: AttachDesign, carried: Carried) -> list[Statement]:
    made = []
    for each in design.later:
        relation = design.named(each.name)
        make = _Maker(relation)
        made.append(make("partition", each.name, partition=relation, parent=design.relation, bound=trusted(each.bound)))
        made.append(make("owner", "its owner", role=Role(carried.owner)))
        if carried.replicates in _REPLICATES:
            how = trusted(_REPLICATES[carried.replicates])
            made.append(make("replica_identity", "named alike for replication", identity=how))
    return made


def _described(design: AttachDesign, carried: Carried) -> list[Statement]:
    above = _Maker(design.relation)
    made = []
    for name, definition, fires in carried.triggers:
        made.append(Statement(trusted(definition), f"trigger {name}"))
        if fires in _FIRES:
            how = trusted(_FIRES[fires])
            made.append(above("enable_trigger", f"when {name} fires", how=how, trigger=sql.Identifier(name)))
    if carried.comment is not None:
        made.append(above("comment", "its comment", text=sql.Literal(carried.comment)))
    return made


def _by_default(design: AttachDesign, each: Sequence, owner: str, relation: Relation) -> list[Statement]:
    """Number by a sequence of the same name and place: a partition has no identity of its own."""
    working = fit(f"_pgduet_{each.name}")
    gone = each.called(working)
    column, label = sql.Identifier(each.column), sql.Literal(each.sequence.as_string(None))
    parts = {"sequence": each.sequence}
    below, above = _Maker(design.relation), _parent(design)
    made = [
        below("rename_sequence", "out of the way", **parts, name=sql.Identifier(working)),
        below("create_sequence", each.name, **parts, type=trusted(each.type), options=trusted(each.options)),
        below("go_on", "from where it is", new=label, sequence=gone),
        below("sequence_owner", "its owner", **parts, role=Role(owner)),
        below("drop_identity", f"{each.column} gets a default", column=column),
        below("own_sequence", "whose it is", **parts, column=column),
        below("number_by", "by its sequence", column=column, sequence=label),
        above("number_by", "by the same", column=column, sequence=label),
    ]
    writers = sorted(grantee for grantee, rights in relation.grants.items() if "INSERT" in rights)
    made += [below("grant_sequence", "as an identity would", **parts, role=role(each)) for each in writers]
    return made


def _by_identity(relation: sql.Identifier, each: Sequence) -> list[Statement]:
    """Number by an identity of the same name and place; no default may stand on the sequence any more."""
    working = fit(f"_pgduet_{each.name}")
    make = _Maker(relation)
    new = sql.Literal(each.sequence.as_string(None))
    return [
        make("rename_sequence", "out of the way", sequence=each.sequence, name=sql.Identifier(working)),
        make(
            "add_identity",
            f"{each.column} numbers itself",
            column=sql.Identifier(each.column),
            how=trusted(_HOW[each.identity]),
            sequence=each.sequence,
            options=trusted(each.options),
        ),
        make("go_on", "from where it is", new=new, sequence=each.called(working)),
        make("drop_sequence", "the one before", sequence=each.called(working)),
    ]


def _numbered(design: AttachDesign, each: Sequence) -> list[Statement]:
    above, below = _Maker(design.relation), _Maker(design.named(design.first.name))
    column = sql.Identifier(each.column)
    if not each.identity:
        return [above("own_sequence", f"{each.name} numbers it", sequence=each.sequence, column=column)]
    return [
        below("drop_default", "numbered by the parent", column=column),
        above("drop_default", "numbers itself", column=column),
        *_by_identity(design.relation, each),
    ]


class _Maker:
    """Renders blocks for one relation; `of` is the one that a parent is above."""

    def __init__(self, relation: sql.Identifier) -> None:
        self.relation = relation

    def __call__(self, name: str, summary: str, /, **parts: sql.Composable) -> Statement:
        relation = parts.pop("of", self.relation)
        return Statement(block("attach", name).format(relation=relation, **parts), summary)


def _parent(design: AttachDesign) -> _Maker:
    return _Maker(design.parent)


def _drop(relation: sql.Identifier, name: str, how: str = "") -> sql.Composed:
    return block("attach", "drop_constraint").format(relation=relation, drop=trusted(how), name=sql.Identifier(name))
