"""The census on a real server: whom it sees, whatever sessions and routers say of themselves."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support.routes import NAME, Admin, add_route, set_up

from pgduet.sql import block

LEASES = ("Infinity", "NaN", "1e300", "1e12", "-1e300")
COUNTS = {"reads_old": 10, "reads_new": 10, "errors_old": 0, "errors_new": 1, "seconds_old": 1.0, "seconds_new": 1.0}


@pytest.fixture
def admin(dsn: str) -> Iterator[Admin]:
    """The worker's own connection, to a database with metadata and one route."""
    with set_up(dsn) as conn:
        add_route(conn)
        yield conn


def reports(dsn: str, client_id: str, *, lease_s: str = "3", **counts: object) -> None:
    """Report as a router does, and leave."""
    told = {**COUNTS, **counts}
    names = ", ".join(f"p_{name} => %({name})s" for name in told)
    call = f"SELECT pgduet.report_client(%(id)s, %(of)s, 'web', 'new', '2', 1, %(lease_s)s::float8, {names})"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(call.encode(), {"id": client_id, "of": NAME, "lease_s": lease_s, **told})


def asks(conn: Admin, name: str) -> list[dict[str, Any]]:
    """Ask what the census asks."""
    return conn.execute(block("census", name), {"migration": NAME, "idle_s": 10.0, "instead": "1"}).fetchall()


@pytest.mark.parametrize("lease_s", LEASES)
def test_a_lease_that_is_none_keeps_no_census_from_being_taken(admin: Admin, dsn: str, lease_s: str) -> None:
    reports(dsn, "web/1", lease_s=lease_s)
    reports(dsn, "web/2")
    assert asks(admin, "traffic")[0]["routers"] == 2
    assert {row["who"] for row in asks(admin, "clients")} == {"web"}
    asks(admin, "astray")


def test_what_can_be_no_count_is_left_out_of_the_traffic(admin: Admin, dsn: str) -> None:
    reports(dsn, "web/1")
    for number, (reads, errors, seconds) in enumerate(((2**63 - 1, 0, "NaN"), (2**63 - 1, -100, "Infinity"))):
        reports(dsn, f"liar/{number}", reads_new=reads, errors_new=errors, seconds_new=seconds)
    (told,) = asks(admin, "traffic")
    assert (told["reads_new"], told["errors_new"], told["seconds_new"]) == (10, 1, 1.0)


def test_routers_of_a_service_are_one_client_however_many_have_come_and_gone(admin: Admin) -> None:
    admin.execute(
        "INSERT INTO pgduet.client (client_id, migration, kind, who, side, version, via, epoch, lease_s)"
        " SELECT format('web/%%s', i), %s, 'router', 'web', 'old', '1', 'router', i %% 2, 3 FROM generate_series(1, 30000) AS i",
        [NAME],
    )
    assert len(asks(admin, "clients")) == 2, "those who have heard of the last change, and those who have not"
