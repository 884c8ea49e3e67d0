"""A shadow and what belongs to it, made and taken away: table, journal, keys, the view of the new version (ADR 28).

The shadow is empty and unused when it is made, so it may have its NOT NULL from the start. Its key is built once the rows are
copied, which is faster and needs no conflict to be thought of; all other indexes once it is in step, beside the writers'
triggers (`shadow_carry`). Every statement can be undone by its neighbour here, and nothing touches the anchor.
"""

from dataclasses import dataclass

from psycopg import sql

from pgduet.operations.names import fit, usual_name
from pgduet.operations.shadow_design import Partition, ShadowColumn, ShadowDesign
from pgduet.operations.statement import Lock, Role, Statement, identifiers, role, trusted
from pgduet.operations.views import Relation
from pgduet.sql import block

VIEW_OWNER = "pgduet_views"
"""Who owns the new version's views of shadows where the worker's own role is bound by no policy."""
_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")


def create(design: ShadowDesign) -> list[Statement]:
    """Create the shadow, its partitions, and the journal."""
    keys = [
        sql.SQL("{} {} NOT NULL").format(sql.Identifier(key.anchor), trusted(key.anchor_type)) for key in design.key
    ]
    journal = block("shadow", "create_journal").format(journal=design.journal, columns=sql.SQL(", ").join(keys))
    return [*create_table(design), Statement(journal, "create its journal")]


def create_table(design: ShadowDesign) -> list[Statement]:
    """Create the shadow and its partitions."""
    columns = sql.SQL(", ").join(_column(design, column) for column in design.columns)
    partitioned = trusted(f" PARTITION BY {design.partition_by}" if design.partition_by else "")
    made = [
        Statement(
            block("shadow", "create").format(shadow=design.shadow, parts=columns, partitioned=partitioned),
            f"create {design.shadow_label}",
        )
    ]
    made += [
        Statement(
            block("shadow", "create_partition").format(
                partition=partition_name(design, partition), shadow=design.shadow, bound=trusted(partition.bound)
            ),
            f"create partition {partition.name}",
        )
        for partition in design.partitions
    ]
    return made


def drop(design: ShadowDesign) -> list[Statement]:
    """Drop what `create` created."""
    return [
        Statement(
            block("shadow", "drop_table").format(relation=relation),
            f"drop {relation.as_string(None)}",
            Lock.ACCESS_EXCLUSIVE,
            relation.as_string(None),
        )
        for relation in (design.shadow, design.journal)
    ]


@dataclass(frozen=True, slots=True)
class Journal:
    """The journal as what builds indexes beside clients knows it, and an index by which a key's note is found."""

    design: ShadowDesign

    @property
    def relation(self) -> sql.Identifier:
        """The journal's quoted name."""
        return self.design.journal

    @property
    def label(self) -> str:
        """The same as text."""
        return self.relation.as_string(None)

    @property
    def index(self) -> str:
        """The index's name."""
        return fit(f"journal_key_{self.design.schema_name}.{self.design.physical}")

    def build(self) -> Statement:
        """Build it; outside a transaction."""
        query = block("shadow", "index_journal").format(
            name=sql.Identifier(self.index),
            journal=self.relation,
            columns=identifiers(column.anchor for column in self.design.key),
        )
        return Statement(query, f"find notes in {self.label}", Lock.SHARE_UPDATE_EXCLUSIVE, self.label)

    def drop(self) -> Statement:
        """Drop what a build that was cut short left behind."""
        query = block("declare", "drop_index").format(index=sql.Identifier("pgduet", self.index))
        return Statement(query, f"drop {self.index}", Lock.SHARE_UPDATE_EXCLUSIVE, self.label)


def drop_journal(design: ShadowDesign) -> Statement:
    """Drop the journal, once no function names it."""
    query = block("shadow", "drop_table").format(relation=design.journal)
    return Statement(query, "drop its journal", Lock.ACCESS_EXCLUSIVE, design.journal.as_string(None))


def partition_name(design: ShadowDesign, partition: Partition) -> sql.Identifier:
    """Name a partition of the shadow, which has its own name from the start."""
    return sql.Identifier(design.schema_name, partition.name)


def key(design: ShadowDesign) -> list[Statement]:
    """Build the shadow's key: nobody reads or writes it yet but us."""
    name = sql.Identifier(fit(f"{design.physical}_pkey"))
    query = block("shadow", "add_key").format(shadow=design.shadow, name=name, columns=identifiers(design.primary_key))
    made = [Statement(query, f"key of {design.shadow_label}", Lock.ACCESS_EXCLUSIVE, design.shadow_label)]
    if design.primary_key[: len(design.key)] != design.key_names:
        # The triggers find a row by the anchor's key, whatever the shadow's own begins with.
        name = sql.Identifier(fit(f"{design.physical}_anchor"))
        query = block("shadow", "add_index").format(
            shadow=design.shadow, name=name, columns=identifiers(design.key_names)
        )
        made.append(Statement(query, f"index of {design.shadow_label}", Lock.SHARE_ROW_EXCLUSIVE, design.shadow_label))
    return made


def uniqueness(design: ShadowDesign) -> list[Statement]:
    """Build the other unique indexes of a shadow that nobody uses."""
    return [
        Statement(
            block("shadow", "add_unique_alone").format(
                name=sql.Identifier(each.working), shadow=design.shadow, columns=identifiers(each.shadow)
            ),
            f"unique index {each.working}",
            Lock.SHARE_ROW_EXCLUSIVE,
            design.shadow_label,
        )
        for each in design.unique
    ]


def view(design: ShadowDesign, name: sql.Identifier, relation: Relation, owner: str) -> list[Statement]:
    """Create the new version's view: it reads the shadow with the rights of `owner`, whom the policies bind.

    Whoever reads or writes the view is bound by them so, a superuser and the tables' owner included.
    """
    listed = identifiers(column.name for column in design.columns)
    made = [
        Statement(
            block("shadow", "grant_view_owner").format(shadow=design.shadow, role=Role(owner)), "the view's owner may"
        ),
        Statement(
            block("shadow", "view").format(view=name, columns=listed, shadow=design.shadow),
            f"view {name.as_string(None)}",
        ),
    ]
    defaults: list[tuple[str, sql.Composable]] = [(c.name, trusted(c.default)) for c in design.columns if c.default]
    if design.numbered_ahead:
        defaults.append((design.numbered_column, sql.SQL("{}()").format(design.routine("number"))))
    made += [
        Statement(
            block("views", "default").format(view=name, column=sql.Identifier(column), value=value),
            f"default of {column}",
        )
        for column, value in defaults
    ]
    for grantee, privileges in sorted(relation.grants.items()):
        rights = [trusted(right) for right in _RIGHTS if right in privileges]
        if rights:
            query = block("views", "grant").format(privileges=sql.SQL(", ").join(rights), view=name, role=role(grantee))
            made.append(Statement(query, "its grants"))
    made.append(Statement(block("views", "owner").format(view=name, role=Role(owner)), "its owner"))
    return made


def may_own(owner: str, schema: str) -> tuple[list[Statement], list[Statement]]:
    """Let a role that is not ours become the owner of a view in a schema, and no more afterwards."""
    if owner != VIEW_OWNER:
        return [], []
    parts = {"schema": sql.Identifier(schema), "role": Role(owner)}
    may = Statement(block("shadow_phases", "may_own").format(**parts), "the view's owner may own it")
    no_more = Statement(block("shadow_phases", "may_own_no_more").format(**parts), "and make no others")
    return [may], [no_more]


def _column(design: ShadowDesign, column: ShadowColumn) -> sql.Composable:
    parts: list[sql.Composable] = [sql.Identifier(column.name), trusted(column.type)]
    if column.collation:
        parts += [sql.SQL("COLLATE"), trusted(column.collation)]
    if column.generated is not None:
        parts.append(sql.SQL("GENERATED ALWAYS AS ({}) STORED").format(trusted(column.generated)))
    if not column.nullable:
        # From PostgreSQL 18 on it has a name, before it is let be.
        name = sql.Identifier(usual_name(design.shown_as, column.name, "not_null"))
        parts.append(sql.SQL("CONSTRAINT {} NOT NULL").format(name))
    return sql.SQL(" ").join(parts)
