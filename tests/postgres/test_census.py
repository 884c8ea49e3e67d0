"""The census on a real server: whom it sees, whatever sessions and routers say of themselves."""

import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from support.routes import NAME, Admin, add_route, set_up

from pgduet.local import EmbeddedPostgres
from pgduet.messages import CensusResult, Client
from pgduet.postgres.census import bounded
from pgduet.sql import block

LEASES = ("Infinity", "NaN", "1e300", "1e12", "-1e300")
COUNTS = {"reads_old": 10, "reads_new": 10, "errors_old": 0, "errors_new": 1, "seconds_old": 1.0, "seconds_new": 1.0}


@pytest.fixture
def admin(dsn: str) -> Iterator[Admin]:
    """The worker's own connection, to a database with metadata and one route."""
    with set_up(dsn) as conn:
        add_route(conn)
        yield conn


def reports(dsn: str, client_id: str, **counts: object) -> None:
    """Report as a router does, and leave."""
    told = {**COUNTS, **counts}
    names = ", ".join(f"p_{name} => %({name})s" for name in told)
    call = f"SELECT pgduet.report_client(%(id)s, %(of)s, 'web', 'new', '2', 1, 3, {names})"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(call.encode(), {"id": client_id, "of": NAME, **told})


SAMPLED: dict[str, object] = {
    "base": "1",
    "schemas": ["public_v1", "public_v2"],
    "versions": ["1", "2"],
    "sides": ["old", "new"],
    "patterns": [r"\mpublic_v1\M", r"\mpublic_v2\M"],
    "relations": ["public.users"],
    "table_sides": ["old"],
    "table_versions": ["1"],
    "old_tables": [r"\musers\M"],
    "old_names": [r"\mname\M"],
}
VERSIONS = """
CREATE TABLE users (id int, first text);
CREATE SCHEMA public_v1; CREATE VIEW public_v1.users AS SELECT id, first AS name FROM public.users;
CREATE SCHEMA public_v2; CREATE VIEW public_v2.users AS SELECT id, first FROM public.users;
"""


@pytest.fixture
def versions(admin: Admin) -> Admin:
    """Both versions of a table, whose `name` is `first` in the new one."""
    admin.execute(VERSIONS.encode())
    return admin


@pytest.fixture
def role(versions: Admin) -> Iterator[str]:
    """A service's role."""
    name = sql.Identifier(f"Web-{versions.info.dbname}")
    versions.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
    rights = "GRANT USAGE ON SCHEMA public_v1, public_v2 TO PUBLIC; GRANT SELECT ON public_v1.users, public_v2.users TO PUBLIC"
    versions.execute(rights.encode())
    yield f"Web-{versions.info.dbname}"
    versions.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(name, name))


def looks(conn: Admin) -> dict[str, set[str]]:
    """Take a look at sessions; gives who uses which side, those included that are merely still there."""
    conn.execute(block("census", "forget_ended"), {"migration": NAME})
    conn.execute(block("census", "sample_sessions"), {"migration": NAME, **SAMPLED})
    found = {row["side"]: set[str]() for row in asks(conn, "clients")} | {"old": set(), "new": set()}
    for row in conn.execute(block("census", "clients"), {"migration": NAME, "idle_s": 0.05}).fetchall():
        found[row["side"]].add(row["who"])
    for row in conn.execute(block("census", "lingering"), {"migration": NAME}).fetchall():
        found[row["side"]].add(row["who"])
    return found


def asks(conn: Admin, name: str) -> list[dict[str, Any]]:
    """Ask what the census asks."""
    return conn.execute(block("census", name), {"migration": NAME, "idle_s": 10.0, "instead": "1"}).fetchall()


@pytest.mark.parametrize("lease_s", LEASES)
def test_a_lease_that_is_none_keeps_no_census_from_being_taken(admin: Admin, dsn: str, lease_s: str) -> None:
    reports(dsn, "web/1")
    reports(dsn, "web/2")
    of_an_earlier_release = "UPDATE pgduet.client SET lease_s = %s::float8 WHERE client_id = 'web/1'"
    admin.execute(of_an_earlier_release.encode(), [lease_s])
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


def test_a_census_names_no_more_than_a_history_can_hold_and_counts_the_others() -> None:
    seen: dict[str, Any] = {"version": "1", "via": "role", "last_seen": datetime(2026, 1, 1, tzinfo=UTC)}
    names = [f"worker-{number} (role jobs)" for number in range(50_000)]
    clients = [Client(who=name, **seen | {"side": side}) for side in ("old", "new") for name in names]
    told = bounded(CensusResult(clients=clients, old_left=names, lingering=names, set_to=names))
    assert (told.old_count, told.old_left[-1], told.new_left) == (50_000, "49,800 more", [])
    assert {each.side for each in told.clients} == {"old", "new"}
    assert len(told.model_dump_json()) < 100_000


def connect(dsn: str, role: str, **options: Any) -> psycopg.Connection[Any]:
    """Connect as a role, as a service that calls itself web."""
    return psycopg.connect(make_conninfo(dsn, user=role, application_name="web"), autocommit=True, **options)


def test_a_new_client_is_not_taken_for_an_old_one_by_the_words_of_its_statement(versions: Admin, dsn: str) -> None:
    with psycopg.connect(dsn, application_name="web") as client:
        client.execute("SET LOCAL search_path = public_v2")
        client.execute("SELECT first AS name FROM users")
        assert looks(versions) == {"old": set(), "new": {"web (role postgres)"}}


def test_a_backup_is_no_client_of_the_old_version(versions: Admin, dsn: str, postgres: EmbeddedPostgres) -> None:
    versions.execute("CREATE TABLE waited_for ()")
    holds = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'users'::regclass AND granted) AS it"
    with psycopg.connect(dsn) as slow:
        slow.execute("LOCK TABLE waited_for IN ACCESS EXCLUSIVE MODE")
        with subprocess.Popen([postgres.bin_dir / "pg_dump", dsn], stdout=subprocess.DEVNULL) as dump:
            ends = time.monotonic() + 30
            while not (versions.execute(holds.encode()).fetchone() or {})["it"]:
                assert time.monotonic() < ends
                time.sleep(0.02)
            found = looks(versions)
            slow.rollback()
    assert dump.returncode == 0
    assert found == {"old": set(), "new": set()}, "every night, for as long as a client is remembered"


def test_a_role_is_of_the_version_that_its_sessions_begin_with(versions: Admin, dsn: str, role: str) -> None:
    name, here = sql.Identifier(role), sql.Identifier(versions.info.dbname)
    who = f"web (role {role})"
    versions.execute(sql.SQL("ALTER DATABASE {} SET search_path = public_v1").format(here))
    with connect(dsn, role):
        assert who in looks(versions)["old"]
    versions.execute(sql.SQL("ALTER ROLE {} SET search_path = public_v1").format(name))
    versions.execute(sql.SQL("ALTER ROLE {} IN DATABASE {} SET search_path = public_v2").format(name, here))
    versions.execute("DELETE FROM pgduet.client; DELETE FROM pgduet.seen_session")
    with connect(dsn, role):
        found = looks(versions)
        assert (who in found["old"], who in found["new"]) == (False, True)


@pytest.mark.parametrize(
    ("began", "side", "then"), [("1", "old", "2"), ("2", "new", "1")], ids=["contract", "rollback"]
)
def test_a_session_keeps_the_version_with_which_it_began_when_its_role_is_set_to_another(
    versions: Admin, dsn: str, role: str, began: str, side: str, then: str
) -> None:
    name, who = sql.Identifier(role), f"web (role {role})"
    to = sql.SQL("ALTER ROLE {} SET search_path = {}")
    versions.execute(to.format(name, sql.Identifier(f"public_v{began}")))
    with connect(dsn, role) as client:
        assert looks(versions)[side] == {who}
        versions.execute(to.format(name, sql.Identifier(f"public_v{then}")))
        for _ in range(2):
            versions.execute("DELETE FROM pgduet.client")  # as when it is no longer remembered
            assert looks(versions)[side] == {who}
        assert client.execute("SHOW search_path").fetchone() == (f"public_v{began}",)
    with connect(dsn, role):
        assert who not in looks(versions)[side]


def test_who_is_given_the_right_to_see_more_forgets_no_session(versions: Admin, dsn: str, role: str) -> None:
    worker = sql.Identifier(f"worker-{versions.info.dbname}")
    versions.execute(
        sql.SQL("CREATE ROLE {} LOGIN; GRANT USAGE ON SCHEMA public_v1, public_v2 TO {}").format(worker, worker)
    )
    versions.execute(sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA pgduet TO {}").format(worker))
    try:
        with connect(dsn, role) as client, set_up_as(dsn, f"worker-{versions.info.dbname}") as seeing:
            client.execute("BEGIN; SELECT FROM public_v1.users")
            assert looks(seeing)["old"] == {f"web (role {role})"}
            client.execute("COMMIT")
            versions.execute(sql.SQL("GRANT pg_monitor TO {}").format(worker))
            time.sleep(0.1)
            assert looks(seeing)["old"] == {f"web (role {role})"}, "what it prepared is still with it"
    finally:
        versions.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(worker, worker))


def set_up_as(dsn: str, role: str) -> Admin:
    """Connect as a worker's role that owns nothing."""
    return psycopg.connect(make_conninfo(dsn, user=role), autocommit=True, row_factory=dict_row)
