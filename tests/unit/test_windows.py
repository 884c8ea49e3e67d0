"""Windows: when they open, over midnight, on some days, and where the clocks are changed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from pgduet.windows import Window


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def opens(window: str, now: str) -> datetime | None:
    return Window.read(window).opens_at(at(now))


@pytest.mark.parametrize(
    ("window", "now", "opening"),
    [
        ("22:00-05:00 UTC", "2026-11-26T21:59:59", "2026-11-26T22:00"),
        ("22:00-05:00 UTC", "2026-11-26T22:00", None),
        ("22:00-05:00 UTC", "2026-11-27T04:59:59", None),
        ("22:00-05:00 UTC", "2026-11-27T05:00", "2026-11-27T22:00"),
        ("01:00-02:00 UTC", "2026-11-26T03:00", "2026-11-27T01:00"),
        # Berlin is one hour ahead in winter, two in summer.
        ("22:00-05:00 Europe/Berlin", "2026-11-26T12:00", "2026-11-26T21:00"),
        ("22:00-05:00 Europe/Berlin", "2026-07-01T12:00", "2026-07-01T20:00"),
        ("22:00-05:00 Europe/Berlin", "2026-07-01T20:30", None),
        # Saturday's window reaches into Sunday; none begins on Sunday.
        ("22:00-05:00 UTC fri,sat", "2026-11-29T04:00", None),
        ("22:00-05:00 UTC fri,sat", "2026-11-29T22:30", "2026-12-04T22:00"),
        ("09:00-10:00 UTC mon", "2026-11-23T10:00", "2026-11-30T09:00"),
        ("09:00-10:00 Pacific/Auckland mon", "2026-11-22T19:30", "2026-11-22T20:00"),
    ],
)
def test_it_opens_when_its_clocks_say_so(window: str, now: str, opening: str | None) -> None:
    assert opens(window, now) == (at(opening) if opening else None)


def open_minutes(window: str, day: str) -> list[str]:
    """Give the hours and minutes (UTC) of a day at which it is open."""
    first, known = at(day), Window.read(window)
    return [
        f"{moment:%H:%M}"
        for moment in (first + timedelta(minutes=number) for number in range(24 * 60))
        if known.opens_at(moment) is None
    ]


@pytest.mark.parametrize(
    ("window", "day", "first", "last", "minutes"),
    [
        # In spring 02:00 to 03:00 is skipped at 01:00 UTC: what falls into it is that moment.
        ("02:30-03:30 Europe/Berlin", "2026-03-29", "01:00", "01:29", 30),
        ("01:30-02:30 Europe/Berlin", "2026-03-29", "00:30", "00:59", 30),
        ("02:10-02:50 Europe/Berlin", "2026-03-29", None, None, 0),
        # In autumn it comes twice, at 00:00 and 01:00 UTC: from the first time to the last.
        ("02:30-03:30 Europe/Berlin", "2026-10-25", "00:30", "02:29", 120),
        ("01:30-02:30 Europe/Berlin", "2026-10-25", "23:30", "01:29", 120),
    ],
)
def test_where_the_clocks_are_changed(window: str, day: str, first: str | None, last: str | None, minutes: int) -> None:
    found = [
        minute for minute in open_minutes(window, day) if minute < "12:00"
    ]  # the evening belongs to the next day's
    if first == "23:30":
        found = [*open_minutes(window, "2026-10-24")[-30:], *found]
    assert len(found) == minutes
    assert (found[:1], found[-1:]) == ([first] * bool(first), [last] * bool(last))


def test_a_window_that_is_skipped_on_one_day_opens_on_the_next() -> None:
    assert opens("02:10-02:50 Europe/Berlin", "2026-03-29T00:30") == at("2026-03-30T00:10")


@pytest.mark.parametrize("day", range(22, 32))
def test_a_window_that_is_skipped_in_one_week_opens_in_the_next(day: int) -> None:
    assert opens("02:10-02:50 Europe/Berlin sun", f"2026-03-{day}T12:00") == at("2026-04-05T00:10")


@pytest.mark.parametrize(
    ("given", "days"),
    [("mon-fri", "mon,tue,wed,thu,fri"), ("sat-mon", "mon,sat,sun"), ("sun,tue", "tue,sun"), ("mon-sun", "")],
)
def test_days_are_read_and_written(given: str, days: str) -> None:
    window = Window.read(f"22:00-05:00 Europe/Berlin {given}")
    assert str(window) == f"22:00-05:00 Europe/Berlin {days}".strip()
    assert Window.read(str(window)).opens_at(at("2026-11-26T12:00")) == window.opens_at(at("2026-11-26T12:00"))
    assert Window.model_validate(window.model_dump()) == window
    assert Window.model_validate_json(window.model_dump_json()) == window


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected a window such as"),
        ("22:00 Europe/Berlin", "expected a window such as"),
        ("9:00-10:00 UTC", "expected a time of day"),
        ("09:00-24:00 UTC", "expected a time of day"),
        ("09:00-10:00 Berlin", "no time zone 'Berlin'"),
        ("09:00-10:00 ../../etc/passwd", "no time zone"),
        ("09:00-10:00 Europe", "no time zone"),
        ("09:00-10:00 localtime", "no time zone 'localtime'"),
        ("09:00-09:00 UTC", "are the same"),
        ("09:00-10:00 UTC noday", "'mon', 'tue'"),
        ("09:00-10:00 UTC mon,mon", "named twice"),
    ],
)
def test_what_is_no_window_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        Window.read(text)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"from": "09:00", "to": "10:00"},
        {"from": 900, "to": "10:00", "timezone": "UTC"},
        {"from": "09:00", "to": "10:00", "timezone": "UTC", "days": []},
        {"from": "09:00", "to": "10:00", "timezone": "UTC", "until": "11:00"},
        "09:00-10:00 UTC",
    ],
)
def test_in_a_plan_it_is_a_mapping_of_its_keys(given: Any) -> None:
    with pytest.raises(ValidationError):
        Window.model_validate(given)
