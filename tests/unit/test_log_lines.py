"""How a worker writes its log: which migration, which phase, which trace; never an error's text."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from temporalio.exceptions import ApplicationError

from pgduet.errors import UnmappableRows
from pgduet.telemetry import subject
from pgduet.telemetry.logs import Json, NamesMigration, Text

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def in_an_activity() -> Iterator[None]:
    about = subject.Subject("flights", "departure-time", "backfill", TRACE, "b7ad6b7169203331")
    token = subject._CURRENT.set(about)
    yield
    subject._CURRENT.reset(token)


def line(formatter: logging.Formatter, *, error: BaseException | None = None, **extra: object) -> str:
    told = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("pgduet", logging.WARNING, "x.py", 1, "%d rows", (3,), told)
    record.__dict__ |= extra
    assert NamesMigration().filter(record)
    return formatter.format(record)


def raised(error: Exception) -> Exception:
    try:
        try:
            int("Zebra-7431")
        except ValueError as cause:
            raise error from cause
    except type(error) as caught:
        return caught


def test_a_text_line_names_migration_phase_and_trace(in_an_activity: None) -> None:
    told = line(Text())
    assert told.endswith(f"WARNING [flights/departure-time backfill] 3 rows  trace={TRACE}")


def test_a_json_line_has_the_same_as_fields(in_an_activity: None) -> None:
    told = json.loads(line(Json()))
    assert told.pop("time").endswith("+00:00")
    assert told == {
        "level": "WARNING",
        "logger": "pgduet",
        "message": "3 rows",
        "database": "flights",
        "migration": "departure-time",
        "phase": "backfill",
        "trace_id": TRACE,
        "span_id": "b7ad6b7169203331",
    }


def test_outside_of_a_migration_a_line_names_none() -> None:
    assert line(Text()).endswith("WARNING 3 rows")
    assert set(json.loads(line(Json()))) == {"time", "level", "logger", "message"}


@pytest.mark.parametrize("key", ["temporal_workflow", "temporal_activity"])
def test_a_line_of_temporal_s_own_is_named_by_its_workflow(key: str) -> None:
    extra = {key: {"workflow_id": "migration/flights/departure-time/backfill/3"}}
    assert "[flights/departure-time]" in line(Text(), **extra)


@pytest.mark.parametrize(
    "error",
    [
        UnmappableRows("Zebra-7431 cannot be mapped"),
        ApplicationError("Zebra-7431", {"code": "PD-2002", "message": "Zebra-7431"}, type="UnmappableRows"),
    ],
)
def test_an_error_is_told_by_type_code_and_place_never_by_its_text(error: Exception) -> None:
    for told in (line(Text(), error=raised(error)), json.loads(line(Json(), error=raised(error)))["exception"]):
        assert told.endswith("UnmappableRows PD-2002")
        assert "test_log_lines.py" in told
        assert "\nValueError\n" in told, "the cause first"
        assert "Zebra" not in told.replace('int("Zebra-7431")', "")


def written(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)


def test_a_worker_s_log_has_no_lines_of_psycopg_which_name_host_and_user() -> None:
    script = (
        "import logging; from pgduet.telemetry.logs import write_logs; write_logs();"
        "logging.getLogger('psycopg').error('host=db user=dba'); logging.getLogger('psycopg.pool').error('host=db');"
        "logging.getLogger('temporalio.worker').debug('payload'); logging.getLogger('other').debug('seen')"
    )
    done = written(script, PGDUET_LOG="debug", PGDUET_LOG_FORMAT="JSON")
    assert [json.loads(told)["message"] for told in done.stderr.splitlines()] == ["seen"]


@pytest.mark.parametrize("wrong", [{"PGDUET_LOG": "LOUD"}, {"PGDUET_LOG_FORMAT": "xml"}])
def test_an_unknown_level_or_format_is_refused(wrong: dict[str, str]) -> None:
    script = "from pgduet.telemetry.logs import write_logs; write_logs()"
    (name,) = wrong
    assert f"{name}: there is no" in written(script, **wrong).stderr
