"""A shadow takes its anchor's place, in contract's one transaction: no way back (ADR 28).

What hung on the anchor hangs on its successor when clients see it next: foreign keys from and to it and checks (NOT VALID, which
scans nothing; they held until this moment, and are validated afterwards), the user's triggers, the sequence with its place,
owner, grants. Indexes that are not unique have been built before, under working names.
"""

from collections.abc import Sequence
from dataclasses import replace

from psycopg import sql

from pgduet.operations import shadow_reverse, shadow_swap, shadow_sync
from pgduet.operations.expressions import Frozen
from pgduet.operations.names import fit
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.statement import Lock, Role, Statement, locking, role, trusted
from pgduet.operations.views import Relation
from pgduet.sql import block

_FIRES = {"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}
_IDENTITY = {"a": "ALWAYS", "d": "BY DEFAULT"}
_POLICIES = ("pgduet_read", "pgduet_insert", "pgduet_update", "pgduet_delete")


class HungConstraint(Frozen):
    """A constraint of a table, in PostgreSQL's words."""

    schema_name: str
    table: str
    name: str
    definition: str
    valid: bool
    target: tuple[str, str] | None = None
    """Schema and name of the table to which a foreign key points."""
    refers_to: tuple[str, ...] = ()
    """The columns there."""

    @property
    def relation(self) -> sql.Identifier:
        """The quoted name of the table that has it."""
        return sql.Identifier(self.schema_name, self.table)


class Numbering(Frozen):
    """A sequence that numbers a column's rows; `identity` is PostgreSQL's letter, empty for a sequence with a default."""

    column: str
    identity: str
    schema_name: str
    name: str
    step: int
    cache: int
    start: int | None = None
    smallest: int | None = None
    """Only where it is not the type's own, as the largest."""
    largest: int | None = None
    cycle: bool = False
    by_default: bool = False
    """An identity that a partitioned table cannot have before PostgreSQL 17: there it becomes a sequence with a default."""


class Hung(Frozen):
    """What hangs on an anchor, as it is found at contract."""

    owner: str
    key: str
    comment: str | None = None
    inbound: tuple[HungConstraint, ...] = ()
    outbound: tuple[HungConstraint, ...] = ()
    """Foreign keys of the anchor, and its checks."""
    triggers: tuple[tuple[str, str, str], ...] = ()
    """Name, definition, and when it fires, by PostgreSQL's letter."""
    numbering: tuple[Numbering, ...] = ()


def finish(
    design: ShadowDesign,
    plan: str,
    hung: Hung,
    relation: Relation,
    views: Sequence[sql.Identifier],
    view_owner: str | None,
) -> list[Statement]:
    """Put the shadow in the anchor's place. Older versions' views must be gone, `views` are the new version's and later ones'.

    `view_owner` owns these views, unless they are the worker's own, as the shadow is.
    """
    make = _Final(design, hung)
    # After a swap it is the shadow that has the name, and so their owner among those who have rights.
    relation = replace(relation, grants={who: rights for who, rights in relation.grants.items() if who != view_owner})
    extracts = design.kind == "extract_table"
    targets = {each.target: None for each in hung.outbound if each.target}
    return [
        # New clients lock view, shadow, and then by its trigger the anchor. A foreign key is made at both its ends.
        *(locking(view, Lock.ACCESS_EXCLUSIVE) for view in views),
        *(locking(sql.Identifier(*target), Lock.ACCESS_EXCLUSIVE) for target in targets),
        *shadow_sync.drop_triggers(design, plan),
        *shadow_reverse.drop_reverse(design, plan),
        *shadow_swap.drop_guard(design, plan),
        *make.open_shadow(view_owner),
        *(statement for view in views for statement in make.by_the_table(view)),
        # While the tables that they name as types have their names.
        *shadow_sync.drop_functions(design),
        *(make.without_columns() if extracts else make.replaced()),
        *make.described(relation),
        *(each for view in views for each in make.own_view(view, may_give=relation.may_give)),
    ]


def to_validate(design: ShadowDesign, hung: Hung) -> list[HungConstraint]:
    """Name what was added without a look at the rows, and is to be validated."""
    if design.kind == "shadow_table":
        return [each for each in (*hung.outbound, *hung.inbound) if each.valid]
    key = _parent_key(design)
    return [HungConstraint(schema_name=design.schema_name, table=design.shown_as, name=key, definition="", valid=True)]


def validation(each: HungConstraint) -> Statement:
    """Validate a constraint: reads the whole table, lets everybody read and write meanwhile. Twice is no harm."""
    query = block("shadow_final", "validate").format(relation=each.relation, name=sql.Identifier(each.name))
    summary, label = f"every row keeps {each.name}", each.relation.as_string(None)
    return Statement(query, summary, Lock.SHARE_UPDATE_EXCLUSIVE, label)


def validate(design: ShadowDesign, hung: Hung) -> list[Statement]:
    """Validate all that was added."""
    return [validation(each) for each in to_validate(design, hung)]


def without_policies(design: ShadowDesign) -> list[Statement]:
    """Take the policies away: on the way home, once no new client is left."""
    parts = {"shadow": design.shadow, "relation": design.shadow}
    gone = [block("shadow_final", "drop_policy").format(**parts, policy=sql.Identifier(name)) for name in _POLICIES]
    gone.append(block("shadow_final", "no_security").format(**parts))
    return [Statement(query, "no policies", Lock.ACCESS_EXCLUSIVE, design.shadow_label) for query in gone]


class _Final:
    def __init__(self, design: ShadowDesign, hung: Hung) -> None:
        self.design = design
        self.hung = hung
        self.final = sql.Identifier(design.schema_name, design.shown_as)

    def open_shadow(self, view_owner: str | None) -> list[Statement]:
        """Take the policies away: from here on the shadow is a table like others."""
        made = without_policies(self.design)
        if view_owner is not None:
            made.append(self._on_shadow("revoke_view_owner", "the view's owner needs no rights", role=Role(view_owner)))
        return made

    def replaced(self) -> list[Statement]:
        """Let the anchor go, and give the shadow its name and what hung on it."""
        design, hung = self.design, self.hung
        made = [
            self._on(each.relation, "drop_constraint", f"{each.name} stands on the old table", constraint=_name(each))
            for each in hung.inbound
        ]
        # A sequence is owned by a column of a table of its own owner's.
        made.append(self._on_shadow("owner", "its owner", role=Role(hung.owner)))
        made += [statement for each in hung.numbering for statement in self._numbered(each)]
        made.append(self._on(design.relation, "drop_anchor", "drop the old table"))
        if design.swapped is None:
            made.append(self._on_shadow("rename", f"becomes {design.shown_as}", name=sql.Identifier(design.shown_as)))
        made += [
            self._after(
                "rename_sequence",
                f"{each.name} keeps its name",
                working=self._working(each),
                name=sql.Identifier(each.name),
            )
            for each in hung.numbering
            if each.identity
        ]
        if design.swapped is None:
            made += self._renamed()
        made += self._defaults()
        for constraint in (*hung.outbound, *hung.inbound):
            at = constraint.relation if constraint in hung.inbound else self.final
            made.append(self._bound(at, constraint.name, trusted(constraint.definition)))
        for name, definition, fires in hung.triggers:
            made.append(Statement(trusted(definition), f"trigger {name}"))
            if fires in _FIRES:
                how = trusted(_FIRES[fires])
                made.append(self._after("enable_trigger", f"when {name} fires", how=how, trigger=sql.Identifier(name)))
        return made

    def _renamed(self) -> list[Statement]:
        """Give the shadow the names of the anchor's key and constraints; a swap has done so."""
        key = sql.Identifier(fit(f"{self.design.physical}_pkey"))
        return [
            self._after("rename_constraint", "its key", constraint=key, name=sql.Identifier(self.hung.key)),
            *(shadow_swap.as_constraint(self.design, self.final, each) for each in self.design.unique),
        ]

    def without_columns(self) -> list[Statement]:
        """Drop the columns that have moved; the extracted table gets its name, and its foreign key to the parent."""
        design = self.design
        keys = {column.anchor for column in design.key}
        made = [self._on_shadow("rename", f"becomes {design.shown_as}", name=sql.Identifier(design.shown_as))]
        made += [
            self._on(design.relation, "drop_column", f"{column.name} has moved", column=sql.Identifier(column.name))
            for column in design.downs
            if column.name not in keys
        ]
        key = sql.Identifier(fit(f"{design.physical}_pkey"))
        name = sql.Identifier(fit(f"{design.shown_as}_pkey"))
        made.append(self._after("rename_constraint", "its key", constraint=key, name=name))
        names = sql.SQL(", ").join(sql.Identifier(column.shadow) for column in design.key)
        targets = sql.SQL(", ").join(sql.Identifier(column.anchor) for column in design.key)
        parent = sql.SQL("FOREIGN KEY ({}) REFERENCES {} ({}) ON DELETE CASCADE").format(
            names, design.relation, targets
        )
        return [*made, *self._defaults(), self._bound(self.final, _parent_key(design), parent)]

    def described(self, relation: Relation) -> list[Statement]:
        """Give the table owner, grants and comment of the one before."""
        made = shadow_swap.granted(self.design, self.final, relation)
        made += [
            self._may_number(each, grantee)
            for grantee, rights in sorted(relation.grants.items())
            for each in self.hung.numbering
            if each.by_default and "INSERT" in rights
        ]
        if self.hung.comment is not None:
            made.append(self._after("comment", "its comment", text=sql.Literal(self.hung.comment)))
        return [*made, self._after("owner", "its owner", role=Role(self.hung.owner))]

    def by_the_table(self, view: sql.Identifier) -> list[Statement]:
        """Have the table say what the view said: its numbers and defaults."""
        design = self.design
        names = [column.name for column in design.columns if column.default is not None or "default" in column.follows]
        names += [design.numbered_column] if design.numbered_ahead else []
        return [
            Statement(
                block("shadow_final", "drop_view_default").format(view=view, column=sql.Identifier(name)),
                f"{name} begins as the table says",
            )
            for name in names
        ]

    def own_view(self, view: sql.Identifier, *, may_give: bool) -> list[Statement]:
        """Let the view run with its caller's rights, as all others do; only a superuser can give it to anybody."""
        role = Role(self.hung.owner) if may_give else sql.SQL("CURRENT_USER")
        owner = block("views", "owner").format(view=view, role=role)
        return [
            Statement(block("shadow_final", "invoker").format(view=view), "with the caller's rights"),
            Statement(owner, "its owner"),
        ]

    def _numbered(self, each: Numbering) -> list[Statement]:
        """Carry a sequence over with its place: nobody writes the anchor now."""
        sequence, column = sql.Identifier(each.schema_name, each.name), sql.Identifier(self._shadow_column(each.column))
        if not each.identity:
            made = [self._on_shadow("own_sequence", f"{each.name} numbers it", sequence=sequence, column=column)]
            if any(c.name == self._shadow_column(each.column) and c.type == "bigint" for c in self.design.columns):
                made.append(self._on_shadow("widen_sequence", "as far as bigint", sequence=sequence))
            return made
        working = self._working(each)
        parts = {"column": column, "working": working, "options": _options(each)}
        if each.by_default:
            made = [
                self._on_shadow("create_sequence", f"{each.column} is numbered", **parts),
                self._on_shadow("sequence_owner", "the table's owner's", working=working, role=Role(self.hung.owner)),
                self._on_shadow("own_sequence", f"{each.name} numbers it", sequence=working, column=column),
            ]
        else:
            kind = trusted(_IDENTITY[each.identity])
            made = [self._on_shadow("identity", f"{each.column} numbers itself", kind=kind, **parts)]
        return [
            *made,
            self._on_shadow(
                "go_on", "from where it is", working=sql.Literal(working.as_string(None)), sequence=sequence
            ),
        ]

    def _may_number(self, each: Numbering, grantee: str) -> Statement:
        """Let whoever may insert rows number them; an identity asks for no right."""
        sequence = sql.Identifier(each.schema_name, each.name)
        query = block("shadow_final", "may_number").format(sequence=sequence, role=role(grantee))
        return Statement(query, "its numbers")

    def _defaults(self) -> list[Statement]:
        by_itself = [each for each in self.hung.numbering if each.identity and not each.by_default]
        identities = {self._shadow_column(each.column) for each in by_itself}
        # A swap has given it defaults; whoever changed them since, by the table's name, has changed them here.
        kept = (
            set() if self.design.swapped is None else {c.name for c in self.design.columns} - {*self.design.key_names}
        )
        found = [(c.name, c.default) for c in self.design.columns if c.default is not None and c.name not in kept]
        if self.design.numbering is not None and not identities:
            found.append((self.design.numbered_column, self.design.numbering))
        return [
            self._after("set_default", f"default of {name}", column=sql.Identifier(name), value=trusted(value))
            for name, value in found
            if name not in identities
        ]

    def _shadow_column(self, name: str) -> str:
        found = [column.name for column in self.design.columns if column.sources == (name,)]
        return found[0] if found else name

    def _working(self, each: Numbering) -> sql.Identifier:
        return sql.Identifier(each.schema_name, fit(f"_pgduet_{each.name}"))

    def _bound(self, relation: sql.Identifier, name: str, definition: sql.Composable) -> Statement:
        parts = {"relation": relation, "name": sql.Identifier(name), "definition": definition}
        return Statement(block("shadow_final", "add_constraint").format(**parts), f"{name}, to be validated")

    def _on(self, relation: sql.Identifier, template: str, summary: str, /, **parts: sql.Composable) -> Statement:
        query = block("shadow_final", template).format(relation=relation, **parts)
        return Statement(query, summary, Lock.ACCESS_EXCLUSIVE, relation.as_string(None))

    def _on_shadow(self, template: str, summary: str, /, **parts: sql.Composable) -> Statement:
        shadow = self.design.shadow
        query = block("shadow_final", template).format(shadow=shadow, relation=shadow, **parts)
        return Statement(query, summary, Lock.ACCESS_EXCLUSIVE, self.design.shadow_label)

    def _after(self, template: str, summary: str, /, **parts: sql.Composable) -> Statement:
        """Make a statement on the table under its final name: it is locked already."""
        return Statement(block("shadow_final", template).format(relation=self.final, **parts), summary)


def _options(each: Numbering) -> sql.Composable:
    bounds = [("START", each.start), ("MINVALUE", each.smallest), ("MAXVALUE", each.largest)]
    parts = [("INCREMENT BY", each.step), ("CACHE", each.cache), *bounds]
    made = [sql.SQL(" ").join([trusted(word), sql.Literal(value)]) for word, value in parts if value is not None]
    return sql.SQL(" ").join([*made, trusted("CYCLE" if each.cycle else "NO CYCLE")])


def _name(each: HungConstraint) -> sql.Identifier:
    return sql.Identifier(each.name)


def _parent_key(design: ShadowDesign) -> str:
    return fit(f"{design.shown_as}_{'_'.join(column.shadow for column in design.key)}_fkey")
