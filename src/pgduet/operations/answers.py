"""What PostgreSQL answered about a plan: types, expressions and carried indexes by their place in the plan."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgduet.errors import PgduetError, Place
from pgduet.operations.expressions import Expression

KeyPath = tuple[str | int, ...]

ADD_UP = (
    "Give `up` as well: an expression over the row that comes out the same each time, for rows that exist and for those that old"
    " clients insert. The default is then for new clients alone, and may give what it likes."
)
"""What to do where a default is to map rows, and cannot."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What PostgreSQL says of an index: its definition from `USING` on, the columns that it reads, its keys and its condition."""

    definition: str
    columns: tuple[str, ...]
    keys: tuple[str, ...]
    predicate: str | None
    nulls_distinct: bool = True


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers by path; `indexes` maps a table and one of its indexes to what it is over the new columns."""

    types: Mapping[KeyPath, str] = field(default_factory=dict)
    expressions: Mapping[KeyPath, Expression] = field(default_factory=dict)
    indexes: Mapping[tuple[str, str], Accepted] = field(default_factory=dict)
    targets: Mapping[KeyPath, tuple[str, ...]] = field(default_factory=dict)
    """The columns that a foreign key points to."""


def place(path: KeyPath) -> Place:
    """Name a place in a plan by path; who has the file adds line and column."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return Place(text)


class located:  # noqa: N801  (used as a context manager, like a function)
    """Gives errors that have no place the one of the value under survey."""

    def __init__(self, path: KeyPath) -> None:
        self.path = path

    def __enter__(self) -> None:
        """Begin; nothing is needed for it."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Give an error its place."""
        if isinstance(error, PgduetError) and error.place is None:
            error.place = place(self.path)
            error.args = (error.render(),)
