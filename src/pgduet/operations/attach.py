"""A parent is put above a table, and taken away again; at contract the table becomes its first partition (ADR 31).

Until contract the table keeps its name, key and rows. The new version's view shows the parent, which has the table as its default
partition and no other: so both versions write the same rows, and to go back is to detach. Nothing here reads or copies rows but
the index, which is built concurrently, and the check at contract, which is validated while everybody writes.
"""

from typing import LiteralString

from psycopg import sql

from pgduet.operations.attach_design import AttachDesign
from pgduet.operations.expressions import Frozen
from pgduet.operations.names import fit
from pgduet.operations.shadow_final import HungConstraint
from pgduet.operations.statement import Lock, Role, Statement, identifiers, locking, role, trusted
from pgduet.sql import block

_HOW = {"a": "ALWAYS", "d": "BY DEFAULT"}


class Grant(Frozen):
    """A right on a table, or on one of its columns; the empty grantee stands for everybody."""

    column: str | None
    grantee: str
    right: str
    passes_on: bool = False


class Sequence(Frozen):
    """What numbers a column; `identity` is PostgreSQL's letter, empty for a sequence with a default."""

    column: str
    identity: str
    schema_name: str
    name: str
    type: str
    options: str
    grants: tuple[Grant, ...] = ()

    def called(self, name: str) -> sql.Identifier:
        """Quote a name in the sequence's schema."""
        return sql.Identifier(self.schema_name, name)

    @property
    def sequence(self) -> sql.Identifier:
        """Its own quoted name."""
        return self.called(self.name)


class StatisticsObject(Frozen):
    """Extended statistics, in PostgreSQL's words."""

    schema_name: str
    name: str
    columns: str
    kinds: str | None = None


class Changed(Frozen):
    """What a column of the table has by now that the parent's was not given."""

    column: str
    filled: bool
    default: str | None
    other_default: bool
    target: int | None
    comment: str | None = None
    other_comment: bool = False


class Carried(Frozen):
    """What the table has, which the parent is given; in PostgreSQL's words, by which they name the table."""

    owner: str
    key: str
    """The name of its primary key."""
    comment: str | None = None
    foreign: tuple[HungConstraint, ...] = ()
    targets: tuple[tuple[str, str], ...] = ()
    """Schema and name of the tables to which these refer."""
    triggers: tuple[tuple[str, str, str], ...] = ()
    """Name, definition, and when it fires, by PostgreSQL's letter."""
    indexes: tuple[tuple[str, str], ...] = ()
    """Name and definition."""
    numbering: tuple[Sequence, ...] = ()
    replicates: str = "d"
    grants: tuple[Grant, ...] = ()
    tablespace: str | None = None
    options: str | None = None
    statistics: tuple[StatisticsObject, ...] = ()
    parent_grants: tuple[Grant, ...] = ()
    """What the parent has of them already."""
    changed: tuple[Changed, ...] = ()
    checks: tuple[tuple[str, str], ...] = ()
    """Checks that came after the parent."""


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


def create_parent(design: AttachDesign, carried: Carried) -> list[Statement]:
    """Create the parent, with owner and grants of the table; nobody sees it yet."""
    parent, index = design.parent, sql.Identifier(design.parent_index)
    by = sql.SQL("RANGE ({})").format(sql.Identifier(design.spread))
    make = Maker(parent)
    made = [
        make("create_parent", f"create a parent for {design.label}", parent=parent, of=design.relation, by=by),
        make("parent_key", "its key", parent=parent, index=index, columns=identifiers(design.key)),
    ]
    if carried.tablespace:
        made.append(make("tablespace", "where its partitions lie", name=sql.Identifier(carried.tablespace)))
    made += [granting(parent, grant) for grant in carried.grants]
    return [*made, make("owner", "its owner", role=Role(carried.owner))]


def granting(relation: sql.Identifier, grant: Grant) -> Statement:
    """Give a right."""
    return _right("grant", relation, grant, option=_option(grant))


def revoking(relation: sql.Identifier, grant: Grant) -> Statement:
    """Take a right away."""
    return _right("revoke", relation, grant)


def _right(name: LiteralString, relation: sql.Identifier, grant: Grant, /, **parts: sql.Composable) -> Statement:
    if grant.column is not None:
        name, parts = f"{name}_column", {**parts, "column": sql.Identifier(grant.column)}
    query = block("attach", name).format(
        right=trusted(grant.right), relation=relation, role=role(grant.grantee), **parts
    )
    return Statement(query, "its grants")


def drop_parent(design: AttachDesign) -> Statement:
    """Drop a parent that has no partitions."""
    return Statement(block("attach", "drop_parent").format(parent=design.parent), "drop the parent")


def publish(design: AttachDesign, carried: Carried) -> list[Statement]:
    """Put the parent above the table, in one transaction: from here on what is written to it is in the table."""
    made = [locking(design.relation, Lock.ACCESS_EXCLUSIVE), locking(design.parent, Lock.ACCESS_EXCLUSIVE)]
    for each in carried.numbering:
        if each.identity:
            made += _by_default(design, each, carried)
    return [*made, Maker(design.parent)("attach_all", "all rows are its own", parent=design.parent, of=design.relation)]


def withdraw(design: AttachDesign, numbering: tuple[Sequence, ...]) -> list[Statement]:
    """Take the parent away, in one transaction; `numbering` is what `publish` was given. The view must be gone."""
    make = Maker(design.relation)
    made = [
        locking(design.parent, Lock.ACCESS_EXCLUSIVE),  # and with it the table
        make("detach", "a table of its own", parent=design.parent),
        drop_parent(design),
        Statement(dropping(design.relation, design.bound_check, "IF EXISTS"), "no bound"),
    ]
    for each in numbering:
        if each.identity:
            made += [
                make("drop_default", f"{each.column} numbers itself", column=sql.Identifier(each.column)),
                *by_identity(design.relation, each),
            ]
    return made


def bind(design: AttachDesign, condition: str) -> Statement:
    """Let the table hold what its partition may, from here on: contract's first step, and its last one that can fail for a row."""
    make = Maker(design.relation)
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
        dropping(design.relation, design.bound_check, "IF EXISTS"), "no bound", Lock.ACCESS_EXCLUSIVE, design.label
    )


def _by_default(design: AttachDesign, each: Sequence, carried: Carried) -> list[Statement]:
    """Number by a sequence of the same name and place: a partition has no identity of its own."""
    working = fit(f"_pgduet_{each.name}")
    gone = each.called(working)
    column, label = sql.Identifier(each.column), sql.Literal(each.sequence.as_string(None))
    parts = {"sequence": each.sequence}
    below, above = Maker(design.relation), Maker(design.parent)
    made = [
        below("rename_sequence", "out of the way", **parts, name=sql.Identifier(working)),
        below("create_sequence", each.name, **parts, type=trusted(each.type), options=trusted(each.options)),
        below("go_on", "from where it is", new=label, sequence=gone),
        below("sequence_owner", "its owner", **parts, role=Role(carried.owner)),
        below("drop_identity", f"{each.column} gets a default", column=column),
        below("own_sequence", "whose it is", **parts, column=column),
        below("number_by", "by its sequence", column=column, sequence=label),
        above("number_by", "by the same", column=column, sequence=label),
    ]
    # A right to insert some columns numbers the row as well.
    writers = sorted({grant.grantee for grant in carried.grants if grant.right == "INSERT"})
    made += [below("grant_sequence", "as an identity would", **parts, role=role(name)) for name in writers]
    return [*made, *_on_sequence(each)]


def _on_sequence(each: Sequence) -> list[Statement]:
    return [_right("grant_on_sequence", each.sequence, grant, option=_option(grant)) for grant in each.grants]


def _option(grant: Grant) -> sql.SQL:
    return sql.SQL("WITH GRANT OPTION" if grant.passes_on else "")


def by_identity(relation: sql.Identifier, each: Sequence) -> list[Statement]:
    """Number by an identity of the same name and place; no default may stand on the sequence any more."""
    working = fit(f"_pgduet_{each.name}")
    make = Maker(relation)
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
        *_on_sequence(each),
    ]


class Maker:
    """Renders blocks for one relation; `of` is the one that a parent is above."""

    def __init__(self, relation: sql.Identifier) -> None:
        self.relation = relation

    def __call__(self, name: str, summary: str, /, **parts: sql.Composable) -> Statement:
        """Render a block."""
        relation = parts.pop("of", self.relation)
        return Statement(block("attach", name).format(relation=relation, **parts), summary)


def dropping(relation: sql.Identifier, name: str, how: str = "") -> sql.Composed:
    """Render that a constraint goes."""
    return block("attach", "drop_constraint").format(relation=relation, drop=trusted(how), name=sql.Identifier(name))
