"""Routers against a real server: they hear, acknowledge, outlive lost connections, and never ask while answering."""

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from support.routes import NAME, Admin, add_route, set_up
from support.routes import change_route as change

from pgduet.local import EmbeddedPostgres
from pgduet.routing import (
    BASE_TABLES,
    AsyncRouter,
    Limits,
    Migrator,
    Overrides,
    Path,
    Router,
    RouteUnavailable,
    Stage,
    link,
)
from pgduet.routing.core import RouterCore
from pgduet.sql import block

PATIENCE_S = 30.0
BY_NOTIFICATION_S = 600.0
"""A lease so long that nothing in a test can have been heard by the poll."""

OLD = Path("1", "public_v1, public", is_new=False, epoch=1)


@pytest.fixture
def admin(dsn: str) -> Iterator[Admin]:
    """The engine's side: a database with metadata and one published route."""
    with set_up(dsn) as conn:
        add_route(conn)
        yield conn


def clients(conn: Admin) -> list[dict[str, Any]]:
    return conn.execute("SELECT * FROM pgduet.client ORDER BY migration").fetchall()


def client(conn: Admin) -> dict[str, Any]:
    (row,) = clients(conn)
    return row


def lose(conn: Admin) -> None:
    """End the router's session and wait until it has gone."""
    row = conn.execute("SELECT pg_terminate_backend(%s, 10000) AS gone", [client(conn)["backend_pid"]]).fetchone()
    assert row == {"gone": True}


def test_a_router_is_known_to_the_database_before_it_answers(admin: Admin, dsn: str) -> None:
    with Router.open(dsn, service="billing", lease_s=7.0) as router:
        seen = client(admin)
        assert seen["client_id"] == router.client_id
        assert (seen["kind"], seen["who"], seen["side"], seen["version"]) == ("router", "billing", "old", "1")
        assert (seen["epoch"], seen["lease_s"]) == (1, 7.0)
        session = admin.execute(
            "SELECT application_name FROM pg_stat_activity WHERE pid = %s AND backend_start = %s",
            [seen["backend_pid"], seen["backend_start"]],
        ).fetchone()
        assert session == {"application_name": "pgduet-router/billing"}
        assert router.path(NAME, 1) == OLD
        assert router.stage(NAME) is Stage.SHADOW


def test_a_notification_changes_the_path_and_is_acknowledged(admin: Admin, dsn: str) -> None:
    with Router.open(dsn, service="billing", lease_s=BY_NOTIFICATION_S) as router:
        epoch = change(admin, read_percent=100)
        assert router.wait_for(NAME, epoch, PATIENCE_S)
        assert router.path(NAME, 1) == Path("2", "public_v2, public", is_new=True, epoch=epoch)
        seen = client(admin)
        assert (seen["side"], seen["version"], seen["epoch"]) == ("new", "2", epoch)
        epoch = change(admin, read_percent=0)
        assert router.wait_for(NAME, epoch, PATIENCE_S)
        assert not router.path(NAME, 1).is_new
        seen = client(admin)
        assert (seen["side"], seen["version"], seen["epoch"]) == ("old", "1", epoch)


def test_a_change_is_followed_at_once_and_acknowledged_a_little_later_or_when_it_closes(
    admin: Admin, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "ACKNOWLEDGED_WITHIN_S", BY_NOTIFICATION_S)
    with Router.open(dsn, service="billing", lease_s=50 * BY_NOTIFICATION_S) as router:
        for percent in (50, 100):  # the second one comes while the first one waits to be acknowledged
            epoch = change(admin, read_percent=percent)
            follows(router, epoch)
            assert client(admin)["epoch"] == 1
    assert client(admin)["epoch"] == epoch


def follows(router: RouterCore, epoch: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while router.path(NAME, 1).epoch < epoch:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_a_notification_the_poll_finds_the_change(admin: Admin, dsn: str) -> None:
    with Router.open(dsn, service="billing", lease_s=0.6) as router:
        epoch = change(admin, notify=False, read_percent=100)
        assert router.wait_for(NAME, epoch, PATIENCE_S)
        assert router.path(NAME, 1).is_new


def test_every_change_is_followed_in_a_burst(admin: Admin, dsn: str) -> None:
    with Router.open(dsn, service="billing", lease_s=BY_NOTIFICATION_S) as router:
        for percent in range(1, 101):
            epoch = change(admin, read_percent=percent)
        assert router.wait_for(NAME, epoch, PATIENCE_S)
        assert router.path(NAME, 1).is_new


def test_a_killed_connection_is_replaced_and_answers_go_on(admin: Admin, dsn: str) -> None:
    with Router.open(dsn, service="billing", lease_s=BY_NOTIFICATION_S) as router:
        first = client(admin)["backend_pid"]
        for percent in (10, 50, 100):
            lose(admin)
            assert router.path(NAME, 1).version in {"1", "2"}
            epoch = change(admin, read_percent=percent)
            assert router.wait_for(NAME, epoch, PATIENCE_S)
        assert router.path(NAME, 1).is_new
        seen = client(admin)
        assert seen["epoch"] == epoch
        assert seen["backend_pid"] != first


def test_no_lease_outlives_what_the_database_knows_of_the_router(admin: Admin, dsn: str) -> None:
    """It hears, and what it tells fails: the engine does not wait for a router that it takes for gone."""
    with Router.open(dsn, service="billing", lease_s=0.6) as router:
        admin.execute("ALTER TABLE pgduet.client RENAME TO out_of_reach")
        ends = time.monotonic() + 5
        while router.fresh:
            assert time.monotonic() < ends, "it is fresh where the census sees nobody"
            time.sleep(0.01)
        epoch = change(admin, read_percent=100)
        follows(router, epoch)
        assert not router.fresh
        admin.execute("ALTER TABLE pgduet.out_of_reach RENAME TO client")
        assert router.wait_for(NAME, epoch, PATIENCE_S)
        assert router.path(NAME, 1).is_new


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_that_closes_the_router_it_inherited_leaves_the_parents_alone(admin: Admin, dsn: str) -> None:
    with Router.open(dsn, service="billing", lease_s=BY_NOTIFICATION_S) as router:
        rounds = router._rounds
        child = os.fork()
        if child == 0:
            router.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        time.sleep(0.1)  # what must not happen has the time to
        assert router._rounds == rounds, "it asks the database over and over"
        assert router.wait_for(NAME, change(admin, read_percent=100), PATIENCE_S)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_that_asks_the_router_it_inherited_has_one_of_its_own(admin: Admin, dsn: str) -> None:
    """As a server that loads the service before it forks its workers."""
    with Router.open(dsn, service="billing", lease_s=BY_NOTIFICATION_S) as router:
        reviews = router.migrator(NAME, read_old=lambda *_: "old", read_new=lambda *_: "new", limits=Limits(sample=1))
        reviews.read(1)
        assert reviews.settle(PATIENCE_S)
        router.record(NAME, OLD, 1.0)
        answers, answer = os.pipe()
        with router._ledger._lock, router.tally(NAME)._lock, reviews._pool._changed:  # as if another thread were there
            child = os.fork()
            if child == 0:
                answer_in_child(router, reviews, answer)
        seen = [os.read(answers, 3)]
        assert seen == [b"old"]
        change(admin, read_percent=100)
        seen.append(os.read(answers, 3))
        assert seen == [b"old", b"new"], "it hears of changes"
        assert os.waitpid(child, 0)[1] == 0
        ours, its = sorted(clients(admin), key=lambda row: row["client_id"] != router.client_id)
        assert ours["client_id"] == router.client_id
        assert ours["client_id"] != its["client_id"]
        assert (its["who"], its["reads_old"] >= 1, its["reads_new"], its["compared"] >= 1) == ("billing", True, 1, True)
        assert router.wait_for(NAME, its["epoch"], PATIENCE_S)
        assert totals(admin, router)[0] == 2, "neither counts the other's reads"


def answer_in_child(router: Router, reviews: Migrator[str], answer: int) -> None:
    """Tell each answer that is another one than before, until the new one, and end without a trace of pytest."""
    try:
        last = ""
        while last != "new":
            if (found := reviews.read(1)) != last:
                os.write(answer, found.encode())
            last = found
            time.sleep(0.01)
        assert reviews.settle(PATIENCE_S)
        router.close()
    except BaseException:  # noqa: BLE001  the parent sees that it has failed
        os._exit(1)
    os._exit(0)


def test_the_path_needs_no_server() -> None:
    with EmbeddedPostgres() as server, psycopg.connect(server.dsn(), autocommit=True, row_factory=dict_row) as conn:
        conn.execute(block("metadata", "create_metadata"))
        add_route(conn)
        change(conn, read_percent=100)
        with Router.open(server.dsn(), service="billing", lease_s=BY_NOTIFICATION_S) as router:
            server.stop()
            assert router.fresh
            assert router.path(NAME, 1).is_new, "within the lease the last decision stands"
            clock = router._clock
            router._clock = lambda: clock() + 2 * BY_NOTIFICATION_S
            assert not router.fresh
            assert router.path(NAME, 1).version == "1", "past it, the authority it last knew"
            router._clock = clock
            server.start()
            with psycopg.connect(server.dsn(), autocommit=True, row_factory=dict_row) as again:
                epoch = change(again, authority="new")
                assert router.wait_for(NAME, epoch, PATIENCE_S)
                assert client(again)["epoch"] == epoch
            assert router.stage(NAME) is Stage.RAMPDOWN


def test_an_unknown_migration_means_base_tables_and_is_not_reported(admin: Admin, dsn: str) -> None:
    admin.execute("DELETE FROM pgduet.route")
    with Router.open(dsn, service="billing") as router:
        assert router.path("never-heard-of", 1) is BASE_TABLES
        assert router.stage("never-heard-of") is Stage.OFF
        assert clients(admin) == []


def test_a_route_may_come_and_go_while_the_router_runs(admin: Admin, dsn: str) -> None:
    with Router.open(dsn, service="billing", lease_s=0.6) as router:
        add_route(admin, "users-phone")
        admin.execute("NOTIFY pgduet_route")
        assert router.wait_for("users-phone", 1, PATIENCE_S)
        assert [row["migration"] for row in clients(admin)] == [NAME, "users-phone"]
        admin.execute("DELETE FROM pgduet.route WHERE migration = %s", [NAME])
        epochs = admin.execute("UPDATE pgduet.route SET epoch = epoch + 1 RETURNING epoch").fetchone()
        assert epochs is not None
        assert router.wait_for("users-phone", epochs["epoch"], PATIENCE_S)
        assert router.path(NAME, 1) is BASE_TABLES


def test_a_database_without_metadata_has_no_routes_until_it_is_set_up(dsn: str) -> None:
    with (
        Router.open(dsn, service="billing", lease_s=0.6) as router,
        psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as conn,
    ):
        assert router.path(NAME, 1) is BASE_TABLES
        conn.execute(block("metadata", "create_metadata"))
        add_route(conn)
        assert router.wait_for(NAME, 1, PATIENCE_S)
        assert router.path(NAME, 1) == OLD


def test_a_role_with_no_privileges_but_public_s_is_enough(admin: Admin, dsn: str) -> None:
    role = sql.Identifier(f"{admin.info.dbname}_service")
    admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    try:
        conninfo = psycopg.conninfo.make_conninfo(dsn, user=f"{admin.info.dbname}_service")
        with Router.open(conninfo, service="billing", lease_s=BY_NOTIFICATION_S) as router:
            epoch = change(admin, read_percent=100)
            assert router.wait_for(NAME, epoch, PATIENCE_S)
            assert client(admin)["epoch"] == epoch
        with psycopg.connect(conninfo) as own, pytest.raises(psycopg.errors.InsufficientPrivilege):
            own.execute("SELECT FROM pgduet.client")
    finally:
        admin.execute(sql.SQL("DROP ROLE {}").format(role))


def test_a_lease_that_no_router_has_holds_up_no_census(admin: Admin, dsn: str) -> None:
    """Any role may report: with one of 30,000 years the census would fail, and no version could ever go."""
    with Router.open(dsn, service="billing") as router:
        (report,) = router.reports()
    for number, lease_s in enumerate((1e12, float("inf"), float("nan"), -1e12)):
        admin.execute(link.REPORT, report | {"client_id": f"rubbish/{number}", "lease_s": lease_s})
    admin.execute("UPDATE pgduet.client SET backend_pid = NULL, last_seen = last_seen - interval '8 days'")
    assert admin.execute(block("census", "clients"), {"migration": NAME, "idle_s": 1.0}).fetchall() == []


def test_recorded_reads_arrive_as_totals_at_the_latest_on_close(admin: Admin, dsn: str) -> None:
    change(admin, read_percent=100)
    with Router.open(dsn, service="billing", lease_s=BY_NOTIFICATION_S) as router:
        path = router.path(NAME, 1)
        router.record(NAME, path, 0.25)
        router.record(NAME, path, 0.5, error=True)
        router.record(NAME, OLD, 1.0)
        epoch = change(admin, read_percent=90)
        assert router.wait_for(NAME, epoch, PATIENCE_S)
        assert totals(admin) == (1, 2, 0, 1, 1.0, 0.75)
        router.record(NAME, path, 0.25)
    assert totals(admin) == (1, 3, 0, 1, 1.0, 1.0)


def totals(conn: Admin, router: Router | None = None) -> tuple[float, ...]:
    (row,) = [row for row in clients(conn) if not router or row["client_id"] == router.client_id]
    names = ("reads_old", "reads_new", "errors_old", "errors_new", "seconds_old", "seconds_new")
    return tuple(row[name] for name in names)


def test_close_ends_the_thread_and_the_session_without_waiting_for_the_poll(admin: Admin, dsn: str) -> None:
    router = Router.open(dsn, service="billing", lease_s=BY_NOTIFICATION_S)
    router.close()
    router.close()
    assert router._thread is not None
    assert not router._thread.is_alive()
    assert router.path(NAME, 1) == OLD, "a closed router answers from its lease"


def test_services_that_know_one_version_are_counted_on_their_side(admin: Admin, dsn: str) -> None:
    change(admin, read_percent=50)
    with (
        Router.open(dsn, service="legacy", version="1") as legacy,
        Router.open(dsn, service="modern", version="2") as modern,
    ):
        assert [legacy.path(NAME, key).version for key in range(20)] == ["1"] * 20
        assert [modern.path(NAME, key).version for key in range(20)] == ["2"] * 20
        sides = {row["who"]: (row["side"], row["version"]) for row in clients(admin)}
        assert sides == {"legacy": ("old", "1"), "modern": ("new", "2")}


def test_a_wish_against_the_route_is_granted_when_the_database_knows_it(admin: Admin, dsn: str) -> None:
    with Router.open(dsn, service="billing", lease_s=0.6) as router, router.using(NAME, version="2"):
        assert not router.path(NAME, 1).is_new
        ends = time.monotonic() + PATIENCE_S
        while not router.path(NAME, 1).is_new:
            assert time.monotonic() < ends
            time.sleep(0.01)
        assert (client(admin)["side"], client(admin)["version"]) == ("new", "2")


def test_a_service_s_wish_is_known_before_the_router_answers(admin: Admin, dsn: str) -> None:
    change(admin, read_percent=100, authority="new")
    overrides = Overrides(service={NAME: "1"})
    with Router.open(dsn, service="billing", lease_s=BY_NOTIFICATION_S, overrides=overrides) as router:
        assert (client(admin)["side"], client(admin)["version"]) == ("old", "1")
        assert router.path(NAME, 1).version == "1"
        epoch = change(admin, old_version="2")
        assert router.wait_for(NAME, epoch, PATIENCE_S)
        assert router.path(NAME, 1).version == "2"


def test_the_search_path_is_fit_for_set_local(admin: Admin, dsn: str) -> None:
    change(admin, read_percent=100, schemas=["public", 'Od"d'])
    admin.execute('CREATE SCHEMA public_v2; CREATE SCHEMA "Od""d_v2"')
    with Router.open(dsn, service="billing") as router, admin.transaction():
        path = router.path(NAME, 1)
        assert path.search_path is not None
        admin.execute(sql.SQL("SET LOCAL search_path TO {}").format(sql.SQL(path.search_path)))
        assert admin.execute("SELECT current_schemas(false) AS found").fetchone() == {
            "found": ["public_v2", 'Od"d_v2', "public"]
        }
        admin.execute("SELECT set_config('search_path', %s, true)", [path.search_path])
        assert admin.execute("SELECT current_schemas(false) AS found").fetchone() == {
            "found": ["public_v2", 'Od"d_v2', "public"]
        }


def test_opening_without_a_server_says_so_and_shows_no_secret() -> None:
    with pytest.raises(RouteUnavailable, match="could not be read") as caught:
        Router.open("host=127.0.0.1 port=1 user=u password=hunter2", service="billing", open_timeout_s=0.3)
    assert "OperationalError" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("dsn", ["postgresql://u:hunter%zz2@h/d", "host=h user=u password=hunter 2"])
def test_an_address_that_cannot_be_read_is_said_without_showing_any_of_it(dsn: str) -> None:
    with pytest.raises(RouteUnavailable, match="cannot be read") as caught:
        Router.open(dsn, service="billing")
    seen = f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"
    assert "hunter" not in seen


def test_a_name_that_no_resolver_takes_is_a_reason_and_not_silence() -> None:
    with pytest.raises(RouteUnavailable, match="UnicodeError"):
        Router.open(f"host={'a' * 70}", service="billing", open_timeout_s=0.3)


def test_what_the_dsn_says_of_the_connection_wins() -> None:
    found = link.settings("postgresql://u@h/d?connect_timeout=77&application_name=x", "billing", 10.0)
    assert (found["connect_timeout"], found["keepalives_idle"], found["tcp_user_timeout"]) == ("77", 10, 10_000)
    assert found["application_name"] == "pgduet-router/billing"


def test_a_lease_of_a_day_connects(admin: Admin, dsn: str) -> None:
    with Router.open(dsn, service="billing", lease_s=86_400.0) as router:
        assert router.path(NAME, 1) == OLD


def test_pauses_between_tries_grow_up_to_a_bound() -> None:
    assert link.pause_s(0, 10.0) <= 0.05
    assert all(link.pause_s(failures, 9.0) <= 3.0 for failures in range(200))
    assert 2.5 <= link.pause_s(100, 60.0) <= 5.0


class TestAsync:
    async def test_a_notification_changes_the_path_and_is_acknowledged(self, admin: Admin, dsn: str) -> None:
        async with await AsyncRouter.open(dsn, service="billing", lease_s=BY_NOTIFICATION_S) as router:
            assert router.path(NAME, 1) == OLD
            epoch = change(admin, read_percent=100)
            assert await router.wait_for(NAME, epoch, PATIENCE_S)
            assert router.path(NAME, 1).is_new
            seen = client(admin)
            assert (seen["side"], seen["epoch"], seen["who"]) == ("new", epoch, "billing")

    async def test_a_killed_connection_is_replaced(self, admin: Admin, dsn: str) -> None:
        async with await AsyncRouter.open(dsn, service="billing", lease_s=BY_NOTIFICATION_S) as router:
            for percent in (10, 50, 100):
                lose(admin)
                epoch = change(admin, read_percent=percent)
                assert await router.wait_for(NAME, epoch, PATIENCE_S)
            assert router.path(NAME, 1).is_new

    async def test_without_a_notification_the_poll_finds_the_change(self, admin: Admin, dsn: str) -> None:
        async with await AsyncRouter.open(dsn, service="billing", lease_s=0.6) as router:
            epoch = change(admin, notify=False, read_percent=100)
            assert await router.wait_for(NAME, epoch, PATIENCE_S)

    async def test_a_change_is_followed_at_once_and_acknowledged_a_little_later_or_when_it_closes(
        self, admin: Admin, dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(link, "ACKNOWLEDGED_WITHIN_S", BY_NOTIFICATION_S)
        async with await AsyncRouter.open(dsn, service="billing", lease_s=50 * BY_NOTIFICATION_S) as router:
            for percent in (50, 100):
                epoch = change(admin, read_percent=percent)
                await asyncio.to_thread(follows, router, epoch)
                assert client(admin)["epoch"] == 1
        assert client(admin)["epoch"] == epoch

    async def test_close_sends_the_last_counts(self, admin: Admin, dsn: str) -> None:
        async with await AsyncRouter.open(dsn, service="billing", lease_s=BY_NOTIFICATION_S) as router:
            router.record(NAME, router.path(NAME, 1), 0.5)
        assert totals(admin) == (1, 0, 0, 0, 0.5, 0)
        assert router._task.done()

    async def test_opening_without_a_server_says_so(self) -> None:
        with pytest.raises(RouteUnavailable, match="could not be read"):
            await AsyncRouter.open("host=127.0.0.1 port=1", service="billing", open_timeout_s=0.3)
        assert [task for task in asyncio.all_tasks() if task.get_name().startswith("pgduet-router")] == []

    @pytest.mark.usefixtures("admin")
    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    async def test_a_child_of_fork_gets_no_answer_from_the_one_it_inherited(self, dsn: str) -> None:
        """It hears nothing, and nobody waits for it."""
        async with await AsyncRouter.open(dsn, service="billing", lease_s=BY_NOTIFICATION_S) as router:
            child = os.fork()
            if child == 0:
                try:
                    router.path(NAME, 1)
                except RouteUnavailable:
                    os._exit(7)
                os._exit(0)
            assert os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1]) == 7
            assert router.path(NAME, 1) == OLD

    async def test_a_name_that_no_resolver_takes_is_a_reason_and_not_silence(self) -> None:
        with pytest.raises(RouteUnavailable, match="UnicodeError"):
            await AsyncRouter.open(f"host={'a' * 70}", service="billing", open_timeout_s=0.3)

    @pytest.mark.usefixtures("admin")
    async def test_waiting_for_what_does_not_come_ends_in_time(self, dsn: str) -> None:
        async with await AsyncRouter.open(dsn, service="billing") as router:
            assert not await router.wait_for(NAME, 99, 0.05)
        with Router.open(dsn, service="billing") as sync:
            assert not sync.wait_for(NAME, 99, 0.05)
