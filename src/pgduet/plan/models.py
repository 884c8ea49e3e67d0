"""The models of a plan file: closed, frozen, and dumped in the shape of the file.

An operation is written as a mapping with one key, its name; in Python that key is the model's `kind`. The models
check what can be known without a database; a problem says where it is by path, and `explain` finds the line. Limits:
texts of SQL are not parsed, and names of tables and columns are not looked up.
"""

from collections.abc import Iterator
from datetime import date
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from pgduet.errors import UnknownTable
from pgduet.plan import rewrites
from pgduet.plan.column_operations import AddColumn, AlterColumn, DropColumn, RenameColumn, ReplaceColumns
from pgduet.plan.columns import NewColumn, TableColumn
from pgduet.plan.constraint_operations import ConstraintOperation, CreateConstraint, DropConstraint, RenameConstraint
from pgduet.plan.index_operations import CreateIndex, DropIndex, SetReplicaIdentity
from pgduet.plan.merge_operations import MergeRows
from pgduet.plan.names import Database, Label, TableName, Text, Version, later, parse_table
from pgduet.plan.policy import Part, Policy
from pgduet.plan.problems import KeyPath, Problem, did_you_mean, listed, refuse
from pgduet.plan.shadow_operations import ExtractTable, ShadowTable
from pgduet.plan.table_operations import CreateTable, DropTable, RenameTable, Sql
from pgduet.texts import shown

__all__ = [
    "AddColumn",
    "AlterColumn",
    "ColumnOperation",
    "ConstraintOperation",
    "CreateConstraint",
    "CreateIndex",
    "CreateTable",
    "DropColumn",
    "DropConstraint",
    "DropIndex",
    "DropTable",
    "ExtractTable",
    "MergeRows",
    "Milestone",
    "NewColumn",
    "Operation",
    "Plan",
    "Policy",
    "RenameColumn",
    "RenameConstraint",
    "RenameTable",
    "ReplaceColumns",
    "Risk",
    "SetReplicaIdentity",
    "ShadowTable",
    "ShapeOperation",
    "Sql",
    "TableChange",
    "TableColumn",
    "TableName",
    "VersionChange",
    "parse_table",
]

IMPLEMENTED = (
    "create_table",
    "drop_table",
    "rename_table",
    "add_column",
    "drop_column",
    "rename_column",
    "alter_column",
    "replace_columns",
    "create_index",
    "drop_index",
    "create_constraint",
    "rename_constraint",
    "drop_constraint",
    "set_replica_identity",
    "shadow_table",
    "extract_table",
    "sql",
    "merge_rows",
)
KNOWN_OPERATIONS = (
    *IMPLEMENTED,
    "move_table",
)

OPERATIONS = 500
"""So many operations are checked, and explained where they are wrong, well within a workflow task."""


class VersionChange(Part):
    """The version that clients leave and the one they move to."""

    from_: Version = Field(alias="from")
    to: Version

    @model_validator(mode="after")
    def _differs(self) -> "VersionChange":
        if self.from_ == self.to:
            refuse(Problem(f"expected a version other than `from`, got `{self.to}` for both", at=("to",)))
        return self


def _named(value: object) -> object:
    """Turn `{add_column: {…}}` into the model's fields, or say why it is no operation of this version."""
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        keys = f"{len(value)} keys: {listed([str(key) for key in value])}" if value else "none"
        refuse(
            Problem(
                f"expected an operation with exactly one key, its name; got {keys}",
                hint="Indent the operation's own keys below its name, and begin each operation with `- `.",
            )
        )
    [(name, fields)] = value.items()
    if name not in KNOWN_OPERATIONS:
        known = f"This version has {listed(list(IMPLEMENTED))}."
        near = did_you_mean(str(name), list(KNOWN_OPERATIONS))
        refuse(Problem(f"unknown operation `{shown(str(name), 60)}`{near}", at=(name,), hint=known, on_key=True))
    if name not in IMPLEMENTED:
        instead = f"This version has {listed(list(IMPLEMENTED))}."
        refuse(later(f"operation `{name}`", at=(name,), on_key=True, instead=instead))
    if not isinstance(fields, dict):
        refuse(Problem(f"expected the keys of `{name}` as a mapping", at=(name,), hint="Indent them below its name."))
    if "kind" in fields:
        refuse(Problem("unknown key `kind`", at=(name, "kind"), on_key=True))
    return {**fields, "kind": name}


ColumnOperation = AddColumn | AlterColumn | DropColumn | RenameColumn | ReplaceColumns | ConstraintOperation
"""An operation on columns of a table that both versions have, or on what binds them."""
TableChange = ColumnOperation | RenameTable | CreateIndex | SetReplicaIdentity
"""An operation on a table that both versions have."""
ShapeOperation = ShadowTable | ExtractTable | MergeRows
"""An operation that gives a whole table another shape, by a second table or by one above it."""
TableOperation = TableChange | CreateTable | DropTable | ShapeOperation
"""An operation that names one table."""

Operation = Annotated[
    Annotated[TableOperation | DropIndex | Sql, Field(discriminator="kind")],
    BeforeValidator(_named),
]


class Risk(Part):
    """Something that could go wrong, what is done about it, and by whom."""

    risk: Text
    mitigation: Text
    owner: Text


def _day(value: object) -> object:
    # pydantic would take a number for seconds since 1970.
    return str(value) if isinstance(value, int | float) else value


class Milestone(Part):
    """A date in the migration's calendar."""

    name: Text
    due: Annotated[date, BeforeValidator(_day)]


class Plan(Part):
    """One migration, as its file declares it."""

    name: Label
    database: Database
    version: VersionChange
    description: str = ""
    owners: dict[str, Text] = Field(default_factory=dict)
    operations: Annotated[tuple[Operation, ...], Field(min_length=1, max_length=OPERATIONS)]
    policy: Policy = Policy()
    risks: tuple[Risk, ...] = ()
    milestones: tuple[Milestone, ...] = ()

    @model_validator(mode="after")
    def _each_thing_once(self) -> "Plan":
        problems = [
            *_repeated(self._brought(), "is added to"),
            *_repeated(self._taken(), "is changed in"),
            *_repeated(self._constraints_brought(), "is made in"),
            *_repeated(self._constraints_taken(), "is dropped or renamed in"),
            *self._whole_tables(),
            *self._shapes(),
            *self._indexes(),
            *self._aggregates(),
            *self._swaps(),
        ]
        if problems:
            refuse(*problems)
        return self

    def shaped(self) -> tuple[TableName, ...]:
        """The tables that get another shape, in the plan's order."""
        return tuple(o.relation for o in self.operations if isinstance(o, ShapeOperation))

    def tables(self) -> tuple[TableName, ...]:
        """The tables that the plan changes and both versions have, each once, in the plan's order."""
        found = (o.relation for o in self.operations if isinstance(o, TableChange))
        return tuple(dict.fromkeys(found))

    def _aggregates(self) -> Iterator[Problem]:
        """Find declared aggregates over tables that do not have both versions' rows."""
        shapes = [each for each in self.operations if isinstance(each, ShapeOperation)]
        shown = (each.relation if isinstance(each, ShadowTable) else each.target for each in shapes)
        known = [str(table) for table in dict.fromkeys((*self.tables(), *shown))]
        for number, aggregate in enumerate(self.policy.verify.aggregates):
            if (table := str(aggregate.relation)) not in known:
                yield Problem(
                    f"{table} is not changed by the plan, or not in both versions{did_you_mean(table, known)}",
                    at=("policy", "verify", "aggregates", number, "table"),
                    error=UnknownTable,
                    hint=f"Name a table that the plan changes: {listed(known)}." if known else "Delete the aggregate.",
                )

    def _swaps(self) -> Iterator[Problem]:
        """Refuse a swap where no table has a second one that could take its name."""
        if self.policy.cutover.mode == "swap" and not any(isinstance(each, ShadowTable) for each in self.operations):
            yield Problem(
                "there is nothing to swap: tables that change in place keep their name, and show their old columns until contract",
                at=("policy", "cutover", "mode"),
                hint="Set `mode: route`. Clients move by version schemas, a role's search_path or the routing library.",
            )

    def _brought(self) -> Iterator[tuple[TableName, str, KeyPath]]:
        """Walk the names of columns that the new version brings."""
        for index, operation in enumerate(self.operations):
            top: KeyPath = ("operations", index, operation.kind)
            match operation:
                case AddColumn():
                    yield operation.relation, operation.column.name, (*top, "column", "name")
                case ReplaceColumns():
                    for position, column in enumerate(operation.columns):
                        yield operation.relation, column.name, (*top, "columns", position, "name")
                case AlterColumn():
                    yield operation.relation, operation.new_name, (*top, "name" if operation.name else "column")
                case RenameColumn():
                    yield operation.relation, operation.to, (*top, "to")
                case CreateConstraint() | DropConstraint():
                    yield from _copied(operation, top)

    def _taken(self) -> Iterator[tuple[TableName, str, KeyPath]]:
        """Walk the old columns that operations change, rename or drop."""
        for index, operation in enumerate(self.operations):
            top: KeyPath = ("operations", index, operation.kind)
            if isinstance(operation, ReplaceColumns):
                for position, name in enumerate(operation.replaces):
                    yield operation.relation, name, (*top, "replaces", position)
            elif isinstance(operation, AlterColumn | RenameColumn | DropColumn):
                yield operation.relation, operation.column, (*top, "column")
            elif isinstance(operation, CreateConstraint | DropConstraint):
                yield from _copied(operation, top)

    def _constraints_brought(self) -> Iterator[tuple[TableName, str, KeyPath]]:
        """Walk the names that the new version's constraints bring."""
        for index, operation in enumerate(self.operations):
            if isinstance(operation, CreateConstraint):
                yield operation.relation, operation.name, ("operations", index, operation.kind, "name")
            elif isinstance(operation, RenameConstraint):
                yield operation.relation, operation.to, ("operations", index, operation.kind, "to")

    def _constraints_taken(self) -> Iterator[tuple[TableName, str, KeyPath]]:
        """Walk the constraints that are dropped or renamed."""
        for index, operation in enumerate(self.operations):
            if isinstance(operation, DropConstraint | RenameConstraint):
                yield operation.relation, operation.name, ("operations", index, operation.kind, "name")

    def _whole_tables(self) -> Iterator[Problem]:
        """Find tables that one operation drops, creates, renames or shapes anew and another one changes too."""
        first: dict[tuple[str, TableName], KeyPath] = {}
        shaped = {o.relation for o in self.operations if isinstance(o, ColumnOperation)}
        indexed = CreateIndex | DropIndex | SetReplicaIdentity
        changed = shaped | {o.relation for o in self.operations if isinstance(o, indexed)}
        for index, operation in enumerate(self.operations):
            if not isinstance(operation, CreateTable | DropTable | RenameTable):
                continue
            path: KeyPath = ("operations", index, operation.kind, "table")
            table = operation.relation
            kind = "goes" if isinstance(operation, DropTable | RenameTable) else "comes"
            seen = first.setdefault((kind, table), path)
            if seen != path:
                yield Problem(f"{table} {kind} twice", at=path, hint="Delete one of the operations.", elsewhere=seen)
            elif table in changed and not isinstance(operation, RenameTable):
                verb = "dropped" if isinstance(operation, DropTable) else "created"
                hint = "Delete one of the operations."
                if verb == "created":
                    later = "Make the change in a plan of its own, after this one."
                    hint = "Put the change into `create_table`." if table in shaped else later
                yield Problem(f"{table} is {verb}, and another operation changes it too", at=path, hint=hint)

    def _shapes(self) -> Iterator[Problem]:
        """Find tables that get another shape and are changed by another operation too; two of them once, at the second."""
        told = set[tuple[KeyPath, ...]]()
        for index, operation in enumerate(self.operations):
            if not isinstance(operation, ShapeOperation):
                continue
            for number, other in enumerate(self.operations):
                if number == index or isinstance(other, Sql) or other.relation != operation.relation:
                    continue
                pair = tuple(sorted([_table_of(index, operation), _table_of(number, other)]))
                if pair not in told:
                    told.add(pair)
                    yield Problem(
                        f"{operation.relation} gets another shape, and another operation changes it too",
                        at=pair[1],
                        hint=rewrites.beside(operation.kind, other.kind, other),
                        elsewhere=pair[0],
                    )
                break

    def _indexes(self) -> Iterator[Problem]:
        """Find names of indexes that come or go twice, and tables whose replica identity is set twice."""
        first: dict[tuple[str, TableName], KeyPath] = {}
        for index, operation in enumerate(self.operations):
            top: KeyPath = ("operations", index, operation.kind)
            match operation:
                case CreateIndex() | DropIndex():
                    what, path = operation.index, (*top, "name")
                case SetReplicaIdentity():
                    what, path = operation.relation, (*top, "table")
                case _:
                    continue
            seen = first.setdefault((operation.kind, what), path)
            if seen != path:
                doing = {"create_index": "is created", "drop_index": "is dropped"}.get(
                    operation.kind, "gets an identity"
                )
                yield Problem(f"{what} {doing} twice", at=path, hint="Delete one of them.", elsewhere=seen)


def _table_of(index: int, operation: TableOperation | DropIndex) -> KeyPath:
    top: KeyPath = ("operations", index, operation.kind)
    return (*top, "table") if isinstance(operation, ShapeOperation) else top


def _copied(operation: CreateConstraint | DropConstraint, top: KeyPath) -> Iterator[tuple[TableName, str, KeyPath]]:
    """Walk the columns that get a second form for the sake of a constraint."""
    for name in operation.copied:
        yield operation.relation, name, (*top, "up" if name in operation.up else "down", name)


def _repeated(columns: Iterator[tuple[TableName, str, KeyPath]], what: str) -> Iterator[Problem]:
    first: dict[tuple[TableName, str], KeyPath] = {}
    for table, name, path in columns:
        seen = first.setdefault((table, name), path)
        if seen != path:
            yield Problem(f"`{name}` {what} {table} twice", at=path, hint="Delete one of them.", elsewhere=seen)
