"""Errors: one base class with fields, not prose; each class has a stable code and says what to do next.

The docstring of a class is its default message. `code` is what documentation and scripts refer to. A class that is worth
trying again says so by `retryable`; Temporal sees the class name as the failure's type.
"""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a plan file something stands: 1-based line and column, and the dotted path of the key."""

    path: str
    file: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        """Render as `file:line:column  path`, leaving out what is not known."""
        spot = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        return f"{spot}  {self.path}" if spot else self.path


class PgduetError(Exception):
    """pgduet could not do what was asked."""

    code: ClassVar[str] = "PD-1000"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str | None = None,
        *,
        place: Place | None = None,
        snippet: str | None = None,
        hint: str | None = None,
    ) -> None:
        """Take what is wrong, where it is, the text with a caret under the spot, and what to do about it."""
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.place = place
        self.snippet = snippet
        self.hint = hint
        super().__init__(self.render())

    def render(self) -> str:
        """Give the whole error as people read it, the place first and the cure last."""
        head = f"{self.code}  {self.place}" if self.place else self.code
        parts = [head, *(f"  {line}" for line in (self.snippet or "").splitlines()), f"  {self.message}"]
        if self.hint:
            parts.append(f"  {self.hint}")
        return "\n".join(parts)

    def facts(self) -> dict[str, object]:
        """Give the error as fields, for `--json` and for the failure details in Temporal."""
        place = self.place
        return {
            "code": self.code,
            "message": self.message,
            "path": place.path if place else None,
            "file": place.file if place else None,
            "line": place.line if place else None,
            "column": place.column if place else None,
            "snippet": self.snippet,
            "hint": self.hint,
        }


class PlanInvalid(PgduetError):
    """The plan is not valid."""

    code = "PD-1001"


class PlanUnreadable(PlanInvalid):
    """The plan file cannot be read as YAML or JSON."""

    code = "PD-1002"


class UnknownTable(PlanInvalid):
    """The table does not exist."""

    code = "PD-1040"


class UnknownIndex(PlanInvalid):
    """The index does not exist."""

    code = "PD-1041"


class UnknownColumn(PlanInvalid):
    """The column does not exist."""

    code = "PD-1042"


class ExpressionInvalid(PlanInvalid):
    """PostgreSQL does not accept the expression."""

    code = "PD-1043"


class ExpressionVolatile(PlanInvalid):
    """The expression gives another value each time it is asked."""

    code = "PD-1044"


class DownIncomplete(PlanInvalid):
    """`down` cannot restore a column that must not be empty."""

    code = "PD-1045"


class NotSupported(PlanInvalid):
    """The plan asks for something that this version does not do."""

    code = "PD-1046"


class NameTaken(PlanInvalid):
    """A new column has the name of one that stays."""

    code = "PD-1047"


class UnknownConstraint(PlanInvalid):
    """The constraint does not exist."""

    code = "PD-1048"


class IndexInvalid(PlanInvalid):
    """PostgreSQL does not accept the index."""

    code = "PD-1049"


class PlanConflict(PlanInvalid):
    """Another live migration already changes this."""

    code = "PD-1050"


class PlanChanged(PlanInvalid):
    """A migration of this name is live or done with other versions or operations."""

    code = "PD-1051"


class MissingRights(PgduetError):
    """The worker's role lacks a privilege it needs."""

    code = "PD-1060"


class UnknownDatabase(PgduetError):
    """The worker knows no database of this name."""

    code = "PD-1061"


class UnknownMigration(PgduetError):
    """There is no migration of this name."""

    code = "PD-1062"


class LockDeadline(PgduetError):
    """A lock could not be had before the plan's deadline."""

    code = "PD-2001"


class UnmappableRows(PgduetError):
    """Some rows cannot be mapped by `up`."""

    code = "PD-2002"


class GateRefused(PgduetError):
    """What the gate measured is not good enough."""

    code = "PD-2003"


class ActRefused(PgduetError):
    """The act is not possible where the migration stands."""

    code = "PD-2004"


class BuiltUpon(ActRefused):
    """A later migration builds on the version that would go."""

    code = "PD-2005"


class OutOfBounds(GateRefused):
    """Rows lie beyond the bound of the partition that their table becomes."""

    code = "PD-2009"


class ColumnsChanged(GateRefused):
    """Somebody has changed columns of a table since preflight, and contract would lose that."""

    code = "PD-2010"


class AuditBroken(PgduetError):
    """The audit log does not verify."""

    code = "PD-3001"


class AuditDiverged(AuditBroken):
    """The audit log is not the one whose heads were kept outside the database."""

    code = "PD-3002"


class AuditMissing(PgduetError):
    """The database has no audit log."""

    code = "PD-3003"


class ServerMissing(PgduetError):
    """A server that pgduet needs cannot be found or started."""

    code = "PD-4001"
