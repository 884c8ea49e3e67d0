"""Operations on indexes, and on the columns by which logical replication names a table's rows.

An index is said in the new version's names. What PostgreSQL must decide (whether an access method, an operator class or a collation
is there, whether an expression is immutable) is asked at check.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)

from pgduet.plan.column_operations import OnTable, either
from pgduet.plan.names import Identifier, NameText, NewName, TableName, TableText, Text, parse_name, parse_table
from pgduet.plan.policy import Part
from pgduet.plan.problems import Problem, refuse


def _setting(value: object) -> object:
    if not isinstance(value, str | bool | int | float):
        refuse(Problem("expected a text, a number, true or false", hint="Write `fillfactor: 70`."))
    return str(value).lower() if isinstance(value, bool) else str(value)


Setting = Annotated[str, BeforeValidator(_setting), WithJsonSchema({"type": ["string", "number", "boolean"]})]
"""The value of a parameter; PostgreSQL says whether it is one."""


class OperatorClass(Part):
    """How a column is compared or searched, where it is not the type's own way."""

    name: NameText
    parameters: dict[Identifier, Setting] = Field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        """The name, with its schema where it is given."""
        return parse_name(self.name)


def _opclass(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class IndexColumn(Part):
    """A column of an index, or an expression over the row."""

    column: Identifier | None = None
    expression: Text | None = None
    collation: NameText | None = None
    opclass: Annotated[OperatorClass | None, BeforeValidator(_opclass)] = None
    order: Literal["asc", "desc"] | None = None
    nulls: Literal["first", "last"] | None = None

    @property
    def collation_parts(self) -> tuple[str, ...]:
        """The collation's name, with its schema where it is given."""
        return parse_name(self.collation) if self.collation else ()

    @model_validator(mode="before")
    @classmethod
    def _said_otherwise(cls, value: Any) -> Any:
        return either(either(value, "order", "sort"), "collation", "collate")

    @model_validator(mode="after")
    def _is_one(self) -> "IndexColumn":
        if (self.column is None) == (self.expression is None):
            got = "both" if self.column is not None else "neither"
            hint = "Name a column, or give `expression`: SQL over the row."
            refuse(Problem(f"expected `column` or `expression`, got {got}", hint=hint))
        return self


def _column(value: object) -> object:
    return {"column": value} if isinstance(value, str) else value


class CreateIndex(OnTable):
    """An index that the new version brings."""

    kind: Literal["create_index"] = "create_index"
    name: NewName
    columns: Annotated[tuple[Annotated[IndexColumn, BeforeValidator(_column)], ...], Field(min_length=1)]
    method: Identifier = "btree"
    unique: Annotated[bool, Field(strict=True)] = False
    nulls_not_distinct: Annotated[bool, Field(strict=True)] = False
    where: Text | None = None
    include: tuple[Identifier, ...] = ()
    storage_parameters: dict[Identifier, Setting] = Field(default_factory=dict)

    @property
    def index(self) -> TableName:
        """The index's schema, which is the table's, and its name."""
        return TableName(self.relation.schema, self.name)

    @model_validator(mode="after")
    def _fits_together(self) -> "CreateIndex":
        problems = list(self._problems())
        if problems:
            refuse(*problems)
        return self

    def _problems(self) -> Iterator[Problem]:
        if self.nulls_not_distinct and not self.unique:
            hint = "Add `unique: true`, or delete the key."
            yield Problem(
                "`nulls_not_distinct` is about unique indexes", at=("nulls_not_distinct",), hint=hint, on_key=True
            )
        for number, name in enumerate(self.include):
            if name in self.include[:number]:
                yield Problem(f"`{name}` stands twice", at=("include", number), hint="Delete one of them.")


class DropIndex(Part):
    """An index that the new version does without."""

    kind: Literal["drop_index"] = "drop_index"
    name: TableText
    table: TableText | None = None

    @property
    def relation(self) -> TableName | None:
        """The table, where the plan says it."""
        return parse_table(self.table) if self.table else None

    @property
    def index(self) -> TableName:
        """The index's schema and name; without a schema of its own, it is in the table's."""
        named = parse_table(self.name)
        plain = len(parse_name(self.name)) == 1
        return TableName(self.relation.schema, named.name) if self.relation and plain else named

    @model_serializer(mode="wrap")
    def _under_its_name(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = dump(self)
        return {fields.pop("kind"): fields}

    @model_validator(mode="after")
    def _in_one_schema(self) -> "DropIndex":
        if self.relation and self.relation.schema != self.index.schema:
            message = f"an index is in its table's schema, {self.relation.schema}; got {self.index.schema}"
            refuse(Problem(message, at=("name",), hint="Leave the schema out of `name`."))
        return self


class SetReplicaIdentity(OnTable):
    """What logical replication tells of a row that was changed or deleted: its key, all of it, nothing, or an index's columns."""

    kind: Literal["set_replica_identity"] = "set_replica_identity"
    identity: Literal["default", "full", "nothing", "index"]
    index: Identifier | None = None

    @field_validator("identity", mode="before")
    @classmethod
    def _written(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_its_index(self) -> "SetReplicaIdentity":
        if self.identity == "index" and self.index is None:
            hint = "Add `index: <name>`: a unique index over columns that are never empty."
            refuse(Problem("`index` is missing", at=("index",), hint=hint))
        if self.identity != "index" and self.index is not None:
            hint = "Write `identity: index`, or delete the key."
            message = f"`{self.identity}` goes by no index"
            refuse(Problem(message, at=("index",), hint=hint, on_key=True))
        return self
