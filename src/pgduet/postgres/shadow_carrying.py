"""Puts together what a shadow carries over from its anchor (ADR 28); `shadow_reading` reads it.

Limits: security labels, rules, deferrable keys and keys over periods of time are not carried, which is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from pgduet.operations.names import working_name
from pgduet.operations.shadow_carried import (
    Carried,
    CarriedColumn,
    CarriedPolicy,
    CarriedPublication,
    CarriedStatistics,
    IndexPart,
    KeyIndex,
    Right,
    ShadowIndex,
)
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.postgres.expressions import Rollback
from pgduet.postgres.session import Connection
from pgduet.postgres.shadow_reading import Reading, open_reading
from pgduet.postgres.shadow_trial import Row


async def carried(conn: Connection, design: ShadowDesign, plan: str) -> Carried:
    """Read all that is to be carried over, and what cannot be."""
    reading = await open_reading(conn, design)
    try:
        async with conn.transaction():
            await reading.read()
            raise Rollback
    except Rollback:
        return _Result(reading, plan).put_together()


@dataclass
class _Result:
    """Puts together what a reading has found."""

    reading: Reading
    plan: str

    def put_together(self) -> Carried:
        """Give all that is carried over."""
        reading, table = self.reading, self.reading.table
        rows, said, whole = reading.rows, reading.trial.said, reading.whole
        if whole:
            self._lose_plainly()
        identity, clustered = self._marks()
        return Carried(
            persistence=table["persistence"],
            tablespace=table["tablespace"],
            options=(*table["options"], *(f"toast.{each}" for each in table["toast_options"])),
            identity=table["identity"] if table["identity"] != "i" or identity else "d",
            identity_index=identity,
            clustered=clustered,
            secured=table["secured"],
            forced=table["forced"],
            owner=table["owner"],
            columns=tuple(self._columns()),
            key=self._key() if whole else None,
            indexes=tuple(self._index(row, words) for row, words in said("index")),
            statistics=tuple(self._statistics(row, words) for row, words in said("statistics")),
            policies=tuple(self._policy(row, words) for row, words in said("policy")),
            publications=tuple(
                CarriedPublication(
                    name=row["name"],
                    columns=tuple(reading.names(row["listed"]) or ()),
                    condition=words["condition"],
                )
                for row, words in said("publication")
            ),
            unasked=tuple((row["name"], row["everything"]) for row in rows["published_unasked"]),
            rights=tuple(each for row in rows["grants"] if (each := self._right(row)) is not None),
            sequences=tuple(reading.identities) if whole else (),
            constraint_comments=tuple(self._comments()),
            trigger_comments=tuple((row["name"], row["comment"]) for row, _ in said("trigger") if row["comment"]),
            lost=tuple(reading.lost),
        )

    def _lose_plainly(self) -> None:
        """Name what nothing carries."""
        reading = self.reading
        for row in reading.rows["labels"]:
            reading.lose("security label", row["name"], "what it means is its provider's", grave=True)
        for row in reading.rows["rules"]:
            reading.lose("rule", row["name"], "rules write past the shadow's triggers", grave=True)
        for row in reading.rows["indexes"]:
            if row["deferrable"]:
                why = "a deferrable key is none for ON CONFLICT, by which new clients' rows reach the old table"
                reading.lose("constraint", row["name"], why, grave=True)
        for row in reading.rows["constraints"]:
            if (
                row["own"]
                and row["kind"] in {"p", "u", "f"}
                and ("PERIOD " in row["definition"] or " OVERLAPS" in row["definition"])
            ):
                reading.lose("constraint", row["name"], "keys over periods of time are not carried", grave=True)
        if reading.table["method"] is not None:
            reading.lose("access method", reading.table["method"], "the shadow would be a heap", grave=True)

    def _marks(self) -> tuple[str | None, str | None]:
        """Give the index by which logical replication names rows, and the one of CLUSTER, if they are carried."""
        reading, rows = self.reading, self.reading.rows["indexes"]
        there = {row["name"] for row, _ in reading.trial.said("index")} | {
            row["name"] for row in rows if row["primary"]
        }
        identity = next((row["name"] for row in rows if row["identity"]), None)
        clustered = next((row["name"] for row in rows if row["clustered"]), None)
        if reading.whole and reading.table["identity"] == "i":
            if reading.design.partition_by:
                reading.lose("replica identity", str(identity), "partitions name their rows by the key")
                identity = None
            elif identity not in there:
                reading.lose("replica identity", str(identity), "its index is not carried", grave=True)
        return identity, clustered if clustered in there else None

    def _comments(self) -> Iterator[tuple[str, str]]:
        """Give the comments of the constraints that there will be."""
        reading = self.reading
        kept = {row["name"] for kind in ("check", "index") for row, _ in reading.trial.said(kind)}
        for row in reading.rows["constraints"]:
            parted = row["kind"] == "u" and reading.design.partition_by
            there = (
                row["kind"] == "p"
                or row["name"] in kept
                or (row["kind"] in {"f", "n"} and reading.names(row["columns"]))
            )
            if row["own"] and row["comment"] and there and not parted:
                yield row["name"], row["comment"]

    def _right(self, row: Row) -> Right | None:
        if row["column"] is None:
            return Right(**row) if self.reading.whole else None
        column = self.reading.after.get(row["column"])
        return Right(**{**row, "column": column.name}) if column is not None else None

    def _columns(self) -> Iterator[CarriedColumn]:
        design = self.reading.design
        before = {row["name"]: row for row in self.reading.rows["columns"]}
        keys = {column.anchor for column in design.key}
        types = {anchor.name: anchor.type for anchor in design.anchors}
        for name, column in self.reading.after.items():
            row = before.get(name)
            if row is None or (not self.reading.whole and name in keys):
                continue
            same = column.type == types[name]
            yield CarriedColumn(
                name=column.name,
                storage=row["storage"] if same else None,
                compression=row["compression"] if same else None,
                statistics=row["statistics"],
                options=tuple(row["options"]),
                comment=column.comment or row["comment"],
                not_null=row["not_null"] if not column.nullable else None,
            )

    def _key(self) -> KeyIndex | None:
        for row in self.reading.rows["indexes"]:
            if row["primary"]:
                return KeyIndex(
                    name=row["name"],
                    options=tuple(row["options"]) if not self.reading.design.partition_by else (),
                    tablespace=row["tablespace"],
                    comment=row["comment"],
                )
        return None

    def _index(self, row: Row, words: Row) -> ShadowIndex:
        unique = row["unique"] and not self.reading.spans(row)
        return ShadowIndex(
            name=row["name"],
            working=working_name(self.plan, row["name"]),
            definition=_placed(words["definition"], words["predicate"], row["tablespace"]),
            unique=unique,
            constraint=unique and row["constraint"] == "u",
            equal=unique and all(self.reading.kept(name) for name in row["columns"]),
            keys=tuple(words["keys"]),
            parts=tuple(IndexPart(**part) for part in words["parts"]) if unique else (),
            predicate=words["predicate"],
            nulls_distinct=row["nulls_distinct"],
            comment=row["comment"],
            targets=tuple((place, target) for place, target in row["targets"]),
        )

    def _statistics(self, row: Row, words: Row) -> CarriedStatistics:
        target = row["target"]
        return CarriedStatistics(
            schema_name=row["schema"],
            name=row["name"],
            working=working_name(self.plan, row["name"]),
            definition=words["definition"],
            owner=row["owner"],
            target=target if target is not None and target >= 0 else None,
            comment=row["comment"],
        )

    def _policy(self, row: Row, words: Row) -> CarriedPolicy:
        return CarriedPolicy(
            name=row["name"],
            permissive=row["permissive"],
            command=row["command"],
            roles=tuple(row["roles"]),
            role_ids=tuple(row["role_ids"]),
            columns=tuple(self.reading.names(row["columns"]) or ()),
            using=words["using"],
            check=words["check"],
            comment=row["comment"],
            asks=bool(row["asks"]),
        )


def _placed(definition: str, predicate: str | None, tablespace: str | None) -> str:
    """Put the tablespace where it belongs: PostgreSQL leaves it out of a definition."""
    if tablespace is None:
        return definition
    place = f" TABLESPACE {sql.Identifier(tablespace).as_string(None)}"
    if predicate is None:
        return definition + place
    wanted = "".join(predicate.split())
    at = len(definition)
    while (at := definition.rfind(" WHERE ", 0, at)) >= 0:
        if "".join(definition[at + len(" WHERE ") :].split()) == wanted:
            return definition[:at] + place + definition[at:]
    return definition
