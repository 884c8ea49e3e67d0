"""A server that is gone without a word is noticed; what the DSN says of that itself stands."""

import pytest
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from pgduet.postgres.session import HANGING, hurried, schema_change, told


def test_a_dsn_that_says_nothing_of_it_waits_half_a_minute_for_a_silent_server() -> None:
    said = conninfo_to_dict(hurried("postgresql://ann:secret@db.example:5433/shop?sslmode=require"))
    assert {key: said[key] for key in HANGING} == HANGING
    assert (said["host"], said["port"], said["dbname"], said["sslmode"]) == ("db.example", "5433", "shop", "require")


def test_what_a_dsn_says_stands() -> None:
    said = conninfo_to_dict(hurried("host=db.example connect_timeout=3 keepalives_idle=60"))
    assert (said["connect_timeout"], said["keepalives_idle"], said["keepalives_count"]) == ("3", "60", "3")


def test_what_a_users_function_raises_is_told_by_its_condition() -> None:
    assert told(errors.RaiseException("the letter of Okapi-8832")) == "raise exception (P0001)"
    assert told(errors.AssertFailure("the letter of Okapi-8832")) == "assert failure (P0004)"
    with pytest.raises(errors.RaiseException) as caught, schema_change():
        raise errors.RaiseException
    assert told(caught.value) == "None (SQLSTATE P0001)", "an event trigger says why it refuses a change of the schema"
    assert told(errors.InsufficientPrivilege("x")) == "None (SQLSTATE 42501)", "PostgreSQL's own message is told"
