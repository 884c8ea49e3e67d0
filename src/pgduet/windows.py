"""Times of day in which a backfill may work: `{from: "22:00", to: "05:00", timezone: Europe/Berlin, days: [fri, sat]}`.

A window is open from the first moment at which the clocks of its zone show `from` to the last at which they show `to`; where `to`
is the earlier one, that is on the next day. `days` are those on which it opens. A time that the clocks skip in spring is the
moment of the skip. Pure: the moment comes from the caller, and the rules of the zones from the system, or where it has none, from
`tzdata`.
"""

import re
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Annotated, Any, Literal, Self, get_args
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_serializer, model_validator

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)
LOOKED_AHEAD = 16
"""Days: a window that opens once a week may lie in the hour that the clocks skip, and then opens a week later."""
FORM = "22:00-05:00 Europe/Berlin mon,tue-fri"
_NO_NAMES = {"localtime", "posixrules"}
"""Files among the zones which are another zone on each machine."""
_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
_TEXT = re.compile(r"(?P<from>\S+?)-(?P<to>\S+)\s+(?P<timezone>\S+)(?:\s+(?P<days>\S+))?")


def _clock(value: str) -> str:
    if not _TIME.fullmatch(value):
        message = f'expected a time of day from "00:00" to "23:59", got {value[:20]!r}'
        raise ValueError(message)
    return value


def _zone_name(value: str) -> str:
    try:
        if value in _NO_NAMES:
            raise ValueError(value)
        _zone(value)
    except (ValueError, OSError) as error:  # KeyError's kin ZoneInfoNotFoundError is caught below
        message = f"there is no time zone {value[:60]!r}: expected a name such as Europe/Berlin or UTC"
        raise ValueError(message) from error
    return value


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except KeyError as error:
        message = f"no zone {name}"
        raise ValueError(message) from error


ClockTime = Annotated[
    str,
    Field(strict=True),
    AfterValidator(_clock),
    WithJsonSchema({"type": "string", "pattern": f"^({_TIME.pattern})$"}),
]


class Window(BaseModel):
    """When a backfill may work."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    from_: ClockTime = Field(alias="from")
    to: ClockTime
    timezone: Annotated[str, Field(strict=True, min_length=1, max_length=60), AfterValidator(_zone_name)]
    days: Annotated[tuple[Day, ...], Field(min_length=1, max_length=7)] = DAYS

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.from_ == self.to:
            message = "`from` and `to` are the same: without a window it is open all day"
            raise ValueError(message)
        if len(set(self.days)) < len(self.days):
            message = "a day is named twice in `days`"
            raise ValueError(message)
        return self

    @model_serializer
    def _by_its_keys(self) -> dict[str, Any]:
        """Write `from`, which is no name in Python, wherever the window is written."""
        return {"from": self.from_, "to": self.to, "timezone": self.timezone, "days": list(self.days)}

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a window as the command line has it: `22:00-05:00 Europe/Berlin`, and days where it does not open on all.

        Raises:
            ValueError: with what is wrong.
        """
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            message = f"expected a window such as `{FORM}`, got {text[:60]!r}"
            raise ValueError(message)
        given: dict[str, Any] = {key: value for key, value in found.groupdict().items() if value and key != "days"}
        if found["days"]:
            given["days"] = _days(found["days"])
        return cls.model_validate(given)

    def __str__(self) -> str:
        """Write it as `read` takes it."""
        days = "" if set(self.days) == set(DAYS) else " " + ",".join(day for day in DAYS if day in self.days)
        return f"{self.from_}-{self.to} {self.timezone}{days}"

    def opens_at(self, now: datetime) -> datetime | None:
        """Tell when it opens next, in UTC; None while it is open."""
        today = now.astimezone(_zone(self.timezone)).date()
        spans = [self._span(today + timedelta(days=number)) for number in range(-1, LOOKED_AHEAD)]
        known = [span for span in spans if span and span[0] < span[1]]
        if any(begins <= now < ends for begins, ends in known):
            return None
        return min(begins for begins, _ in known if begins > now)

    def _span(self, day: date) -> tuple[datetime, datetime] | None:
        """Give the moments at which it opens on a day, and closes after that."""
        if DAYS[day.weekday()] not in self.days:
            return None
        overnight = timedelta(days=1 if self.to < self.from_ else 0)
        return self._moment(day, self.from_, fold=0), self._moment(day + overnight, self.to, fold=1)

    def _moment(self, day: date, clock: str, fold: Literal[0, 1]) -> datetime:
        zone = _zone(self.timezone)
        local = datetime.combine(day, time.fromisoformat(clock))
        moment = local.replace(tzinfo=zone, fold=fold).astimezone(UTC)
        if moment.astimezone(zone).replace(tzinfo=None) == local:
            return moment
        # The clocks skip this time: it is when they do.
        before, after = (local.replace(tzinfo=zone, fold=side).astimezone(UTC) for side in (1, 0))
        offset = before.astimezone(zone).utcoffset()
        while after - before > timedelta(seconds=1):
            middle = before + (after - before) / 2
            before, after = (middle, after) if middle.astimezone(zone).utcoffset() == offset else (before, middle)
        return after.replace(microsecond=0)


def read_window(text: str) -> Window | Literal["none"]:
    """Read a window, or `none`, as the command line has it.

    Raises:
        ValueError: with what is wrong.
    """
    return "none" if text == "none" else Window.read(text)


def _days(text: str) -> list[str]:
    """Read `mon`, `mon,wed`, `mon-fri`, `fri-mon` and what can be made of them; what is no day is left for the model to refuse."""
    found: list[str] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if dash and first in DAYS and last in DAYS:
            begin = DAYS.index(first)
            count = (DAYS.index(last) - begin) % len(DAYS) + 1
            found += [DAYS[(begin + number) % len(DAYS)] for number in range(count)]
        else:
            found.append(part)
    return found
