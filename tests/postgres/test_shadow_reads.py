"""Shadow reads and paired writes against a real server: what is reported, what a retry or a race writes, and what a caller sees."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from pgduet.postgres import shadow_reads, store
from pgduet.postgres.session import Connection
from pgduet.routing import (
    AsyncRouter,
    IdempotencyUnavailable,
    Limits,
    Migrator,
    Path,
    Router,
    Rules,
    Written,
    hashed_key,
    link,
)
from pgduet.sql import block

NAME = "review-stars"
PATIENCE_S = 30.0
BY_NOTIFICATION_S = 600.0
EACH = Limits(sample=1.0, calibrate=0.0, waiting=100_000)

Admin = psycopg.Connection[dict[str, Any]]

TABLES = """
CREATE TABLE public.review (id int PRIMARY KEY, stars text NOT NULL);
CREATE TABLE public.review_next (id int PRIMARY KEY, stars int NOT NULL);
CREATE SCHEMA public_v1; CREATE VIEW public_v1.review AS TABLE public.review;
CREATE SCHEMA public_v2; CREATE VIEW public_v2.review AS TABLE public.review_next;
INSERT INTO public.review SELECT n, (n % 5)::text FROM generate_series(1, 2000) n;
INSERT INTO public.review_next SELECT id, CASE WHEN id % 200 = 0 THEN 9 ELSE stars::int END FROM public.review;
"""
"""The new version is wrong in one row of 200."""

BEFORE = """
ALTER TABLE pgduet.route DROP COLUMN comparing;
DROP TABLE pgduet.shadow_mismatch, pgduet.paired_write;
ALTER TABLE pgduet.client DROP COLUMN compared, DROP COLUMN latency;
DROP FUNCTION pgduet.write_once, pgduet.forget_paired_writes, pgduet.report_client(text, text, text, text, text, bigint,
    double precision, bigint, bigint, bigint, bigint, double precision, double precision, jsonb);
"""
"""What makes a database one that an earlier release has set up."""


@pytest.fixture
def admin(dsn: str) -> Iterator[Admin]:
    """The engine's side: a database with metadata, one published route, and a table in two versions."""
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as conn:
        conn.execute(block("metadata", "create_metadata"))
        conn.execute(TABLES.encode())
        conn.execute(
            "INSERT INTO pgduet.route (migration, database, old_version, new_version, schemas, published) "
            "VALUES (%s, 'shop', '1', '2', '{public}', true)",
            [NAME],
        )
        yield conn


@pytest.fixture
def router(admin: Admin, dsn: str) -> Iterator[Router]:
    with Router.open(dsn, service="billing", lease_s=BY_NOTIFICATION_S) as opened:
        yield opened


def change(conn: Admin, router: Router, **values: object) -> None:
    """Change the route as the engine does, and wait until the router follows."""
    sets = sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in values.items())
    with conn.transaction():
        row = conn.execute(
            sql.SQL("UPDATE pgduet.route SET epoch = epoch + 1, {} RETURNING epoch").format(sets)
        ).fetchone()
        conn.execute("NOTIFY pgduet_route")
    assert row is not None
    assert router.wait_for(NAME, row["epoch"], PATIENCE_S)


@contextmanager
def stars(dsn: str) -> Iterator[Callable[[Path, int], dict[str, Any] | None]]:
    """Read a review by either version, on a connection of each thread's own."""
    own, opened = threading.local(), ExitStack()

    def read(path: Path, key: int) -> dict[str, Any] | None:
        if not hasattr(own, "conn"):
            own.conn = opened.enter_context(psycopg.connect(dsn, autocommit=True, row_factory=dict_row))
        schema = sql.Identifier(f"public_v{path.version}")
        found: psycopg.Cursor[dict[str, Any]] = own.conn.execute(
            sql.SQL("SELECT id, stars::int FROM {}.review WHERE id = %s").format(schema), [key]
        )
        return found.fetchone()

    with opened:
        yield read


def rows(conn: Admin, query: str) -> list[dict[str, Any]]:
    return conn.execute(query.encode()).fetchall()


def one(conn: Admin, query: str) -> Any:
    (row,) = rows(conn, query)
    (value,) = row.values()
    return value


async def test_a_new_path_wrong_in_one_of_200_rows_is_seen_with_that_ratio(
    admin: Admin, router: Router, conn: Connection, dsn: str
) -> None:
    with stars(dsn) as read:
        limits = Limits(sample=1.0, calibrate=0.1, waiting=100_000)
        reviews = router.migrator(NAME, read_old=read, read_new=read, limits=limits, label="by id")
        for key in range(1, 2001):
            assert reviews.read(key) == {"id": key, "stars": key % 5}, "the old answer is the one that counts"
        assert reviews.settle(PATIENCE_S)
    router.close()
    conn.row_factory = dict_row  # type: ignore[assignment]
    routers, found = await shadow_reads.found(conn, NAME)
    assert (routers, found.compared + found.calibrated, found.noise) == (1, 2000, 0)
    assert found.net_ratio == pytest.approx(0.005, abs=0.0025)
    assert (found.failed_old, found.failed_new, found.timeouts, found.dropped, found.broken) == (0, 0, 0, 0, 0)
    latency = {side: sketch.total for side, sketch in found.latency.items()}
    assert latency == {
        "answered_old": 2000,
        "answered_new": 0,
        "shadow_old": found.calibrated,
        "shadow_new": found.compared,
    }
    ratio = (found.latency["shadow_new"].quantile(0.5) or 0) / (found.latency["shadow_old"].quantile(0.5) or 1)
    assert 0.1 < ratio < 10
    assert 0 < found.seconds_new < 60
    seen = await shadow_reads.mismatches(conn, NAME)
    assert {(row["who"], row["read"], row["place"], row["kind"], row["shown"], row["answered"]) for row in seen} == {
        ("billing", "by id", "stars", "value", None, "old")
    }
    assert {row["key"] for row in seen} <= {hashed_key(key) for key in range(200, 2001, 200)}
    assert len(seen) == found.mismatches


def test_a_report_brings_each_mismatch_once_and_keeps_the_newest_of_a_migration(admin: Admin, router: Router) -> None:
    reviews = router.migrator(NAME, read_old=lambda *_: 1, read_new=lambda *_: 2, limits=EACH, redact=str)
    for round_ in range(6):
        for key in range(50):
            reviews.read(50 * round_ + key)
        assert reviews.settle(PATIENCE_S)
        change(admin, router, published=True)
        change(admin, router, published=True)
    kept = [row["key"] for row in rows(admin, "SELECT key FROM pgduet.shadow_mismatch ORDER BY id")]
    assert kept == [str(key) for key in range(100, 300)]
    assert one(admin, "SELECT mismatches FROM pgduet.client") == 300


def test_shadow_reads_begin_and_end_with_the_route(admin: Admin, router: Router) -> None:
    repeated: list[Path] = []

    def new(path: Path, _: int) -> None:
        repeated.append(path)

    reviews = router.migrator(NAME, read_old=lambda *_: None, read_new=new, limits=EACH)
    for values, expected in (({"published": True}, 1), ({"comparing": False}, 1), ({"comparing": True}, 2)):
        change(admin, router, **values)
        reviews.read(7)
        assert reviews.settle(PATIENCE_S)
        assert len(repeated) == expected, values
    assert {path.search_path for path in repeated} == {"public_v2, public"}


async def test_the_engine_stops_shadow_reads_of_a_version_that_is_about_to_go(
    admin: Admin, router: Router, conn: Connection
) -> None:
    conn.row_factory = dict_row  # type: ignore[assignment]
    router.migrator(NAME, read_old=lambda *_: None, read_new=lambda *_: None)
    before = router.route(NAME).epoch
    for _ in range(2):
        await store.set_comparing(conn, NAME, comparing=False)
    assert router.wait_for(NAME, before + 1, PATIENCE_S)
    assert (router.route(NAME).comparing, router.both(NAME)) == (False, None)
    assert one(admin, "SELECT epoch FROM pgduet.route") == before + 1, "the second time nothing changes"


async def test_a_database_of_an_earlier_release_is_told_nothing_and_upgraded_by_setup(
    admin: Admin, conn: Connection, dsn: str
) -> None:
    conn.row_factory = dict_row  # type: ignore[assignment]
    admin.execute(BEFORE.encode())
    await store.set_comparing(conn, NAME, comparing=False)
    with Router.open(dsn, service="billing", lease_s=BY_NOTIFICATION_S) as router:
        reviews = router.migrator(NAME, read_old=lambda *_: 1, read_new=lambda *_: 2, limits=EACH)
        assert reviews.read(7) == 1
        assert reviews.settle(PATIENCE_S)
        assert router.both(NAME) is None
        with psycopg.connect(dsn) as own, pytest.raises(IdempotencyUnavailable):
            reviews.write(7, nothing, nothing, connection=own, idempotency_key="k")
        with psycopg.connect(dsn) as own:
            assert reviews.write(7, nothing, nothing, connection=own) == Written(None)
        assert [await store.set_up(conn), await store.set_up(conn)] == [True, False]
        change(admin, router, published=True)
        assert reviews.read(7) == 1
        assert reviews.settle(PATIENCE_S)
    assert rows(admin, "SELECT compared, mismatches FROM pgduet.client") == [{"compared": 1, "mismatches": 1}]


async def test_a_setup_waits_for_no_paired_write_that_is_under_way(
    admin: Admin, router: Router, conn: Connection, dsn: str
) -> None:
    conn.row_factory = dict_row  # type: ignore[assignment]
    await store.set_up(conn)
    reviews = router.migrator(NAME, read_old=nothing, read_new=nothing)
    with psycopg.connect(dsn) as own, own.transaction():
        reviews.write(7, nothing, nothing, connection=own, idempotency_key="k")
        await conn.execute("DROP TABLE pgduet.emptied")
        await conn.execute("SET lock_timeout = '3s'")
        assert [await store.set_up(conn), await store.set_up(conn)] == [True, False]


def test_a_router_of_an_earlier_release_reports_as_before(admin: Admin, router: Router) -> None:
    (report,) = router.reports()
    admin.execute(link.REPORT, report | {"client_id": "billing/earlier"})
    assert rows(admin, "SELECT compared FROM pgduet.client") == [{"compared": None}] * 2


def test_a_role_with_no_privileges_but_public_s_is_enough(admin: Admin, dsn: str) -> None:
    name = f"{admin.info.dbname}_service"
    role = sql.Identifier(name)
    admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    try:
        conninfo = psycopg.conninfo.make_conninfo(dsn, user=name)
        with Router.open(conninfo, service="billing", lease_s=BY_NOTIFICATION_S) as router:
            reviews = router.migrator(NAME, read_old=lambda *_: 1, read_new=lambda *_: 2, limits=EACH)
            reviews.read(7)
            assert reviews.settle(PATIENCE_S)
            with psycopg.connect(conninfo) as own:
                for repeated in (False, True):
                    written = reviews.write(7, nothing, nothing, connection=own, idempotency_key="k")
                    assert written.repeated is repeated
        assert one(admin, "SELECT mismatches FROM pgduet.client") == 1
        for table in ("paired_write", "shadow_mismatch"):
            with psycopg.connect(conninfo) as own, pytest.raises(psycopg.errors.InsufficientPrivilege):
                own.execute(sql.SQL("SELECT FROM pgduet.{}").format(sql.Identifier(table)))
    finally:
        admin.execute(sql.SQL("DROP ROLE {}").format(role))


def nothing(*_: Any) -> None:
    """Write nothing."""


def add(table: str, by: int = 1, *, fails: bool = False) -> Callable[[Path, psycopg.Connection[Any]], str]:
    """Add to a review's stars, so that writing twice shows."""

    def write(_: Path, conn: psycopg.Connection[Any]) -> str:
        conn.execute(
            sql.SQL("UPDATE {} SET stars = stars::int + {} WHERE id = 7").format(sql.Identifier(table), sql.Literal(by))
        )
        if fails:
            raise RuntimeError(table)
        return table

    return write


class TestPairedWrites:
    """Both sides in one transaction, on the caller's connection."""

    @pytest.fixture
    def reviews(self, router: Router) -> Migrator[None]:
        return router.migrator(NAME, read_old=nothing, read_new=nothing)

    @staticmethod
    def both(conn: Admin) -> tuple[int, int]:
        """Give how much has been added on each side."""
        (row,) = rows(
            conn,
            "SELECT o.stars::int - 2 AS a, n.stars - 2 AS b FROM review o JOIN review_next n USING (id) WHERE id = 7",
        )
        return row["a"], row["b"]

    @pytest.mark.parametrize(
        ("route", "added", "answer"),
        [
            (None, (1, 0), "review"),
            ({"published": False}, (1, 1), "review"),
            ({}, (1, 1), "review"),
            ({"read_percent": 100}, (1, 1), "review_next"),
            ({"read_percent": 100, "authority": "new"}, (1, 1), "review_next"),
            ({"authority": "new", "old_version": "2"}, (0, 1), "review_next"),
        ],
    )
    def test_go_where_the_stage_says(
        self,
        admin: Admin,
        router: Router,
        reviews: Migrator[None],
        dsn: str,
        route: dict[str, object] | None,
        added: tuple[int, int],
        answer: str,
    ) -> None:
        if route is None:
            admin.execute("DELETE FROM pgduet.route")
        elif route:
            change(admin, router, **route)
        with psycopg.connect(dsn) as own:
            written = reviews.write(7, add("review"), add("review_next"), connection=own)
        assert (self.both(admin), written) == (added, Written(answer))

    def test_a_router_that_missed_a_step_writes_by_the_route_of_the_transaction(
        self, admin: Admin, router: Router, reviews: Migrator[None], dsn: str
    ) -> None:
        admin.execute("UPDATE pgduet.route SET old_version = '2', authority = 'new', epoch = epoch + 1")
        assert router.stage(NAME) == "shadow", "nobody has told it"
        with psycopg.connect(dsn) as own:
            reviews.write(7, add("review"), add("review_next"), connection=own)
        assert self.both(admin) == (0, 1)

    @pytest.mark.parametrize("failing", ["review", "review_next"])
    def test_are_both_or_none_and_a_retry_after_a_failure_writes(
        self, admin: Admin, reviews: Migrator[None], dsn: str, failing: str
    ) -> None:
        writers = [add(table, fails=table == failing) for table in ("review", "review_next")]
        with psycopg.connect(dsn, autocommit=True) as own:
            with pytest.raises(RuntimeError, match=failing):
                reviews.write(7, *writers, connection=own, idempotency_key="k")
            assert self.both(admin) == (0, 0)
            assert not reviews.write(7, add("review"), add("review_next"), connection=own, idempotency_key="k").repeated
        assert self.both(admin) == (1, 1)

    def test_are_made_once_by_a_retry_and_anew_for_another_key_of_either_kind(
        self, admin: Admin, reviews: Migrator[None], dsn: str
    ) -> None:
        with psycopg.connect(dsn, autocommit=True) as own:
            for key, idempotency_key, repeated in (
                (7, "a", False), (7, "a", True), (7, "b", False), (8, "a", False), (7, "b", True), (7, None, False),
            ):  # fmt: skip
                written = reviews.write(
                    key, add("review"), add("review_next"), connection=own, idempotency_key=idempotency_key
                )
                assert written.repeated is repeated
        assert self.both(admin) == (4, 4)

    def test_are_forgotten_with_the_transaction_that_the_caller_takes_back(
        self, admin: Admin, reviews: Migrator[None], dsn: str
    ) -> None:
        with psycopg.connect(dsn) as own:
            reviews.write(7, add("review"), add("review_next"), connection=own, idempotency_key="k")
            own.rollback()
            assert not reviews.write(7, add("review"), add("review_next"), connection=own, idempotency_key="k").repeated
        assert self.both(admin) == (1, 1)

    def test_are_made_once_by_many_that_race(self, admin: Admin, reviews: Migrator[None], dsn: str) -> None:
        start = threading.Barrier(8)

        def race(_: int) -> int:
            firsts = 0
            with psycopg.connect(dsn, autocommit=True) as own:
                for number in range(20):
                    start.wait(PATIENCE_S)
                    written = reviews.write(
                        7, add("review"), add("review_next"), connection=own, idempotency_key=str(number)
                    )
                    firsts += not written.repeated
            return firsts

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(race, range(8))) == 20
        assert self.both(admin) == (20, 20)

    def test_of_two_steps_take_their_locks_in_one_order(
        self, admin: Admin, router: Router, reviews: Migrator[None], dsn: str
    ) -> None:
        """A writer of each step, of one row: in the stages' own orders they would wait for each other."""
        for authority, percent in (("old", 0), ("new", 100)):
            order: list[str] = []

            def note(side: str, order: list[str] = order) -> Callable[..., None]:
                return lambda *_: order.append(side)

            change(admin, router, authority=authority, read_percent=percent)
            with psycopg.connect(dsn) as own:
                reviews.write(7, note("old"), note("new"), connection=own)
            assert order == ["old", "new"]

    def test_are_remembered_for_as_long_as_is_said_and_forgotten_off_the_callers_path(
        self, admin: Admin, router: Router, reviews: Migrator[None], dsn: str
    ) -> None:
        with psycopg.connect(dsn, autocommit=True) as own:
            reviews.write(1, nothing, nothing, connection=own, idempotency_key="long")
            for key in range(20):
                reviews.write(key, nothing, nothing, connection=own, idempotency_key="short", keep_s=0)
        assert one(admin, "SELECT count(*) FROM pgduet.paired_write") == 21
        change(admin, router, published=True)
        assert one(admin, "SELECT count(*) FROM pgduet.paired_write") == 1
        assert one(admin, "SELECT max(keep_until) - now() BETWEEN '23 hours' AND '1 day' FROM pgduet.paired_write")


class TestAsync:
    async def test_reads_are_compared_and_writes_paired(self, admin: Admin, dsn: str) -> None:
        async with await AsyncRouter.open(dsn, service="billing", lease_s=BY_NOTIFICATION_S) as router:

            async def read(path: Path, key: int) -> Any:
                async with await psycopg.AsyncConnection.connect(dsn) as own:
                    schema = sql.Identifier(f"public_v{path.version}")
                    query = sql.SQL("SELECT stars::int FROM {}.review WHERE id = %s").format(schema)
                    return await (await own.execute(query, [key])).fetchone()

            async def write(path: Path, own: psycopg.AsyncConnection[Any]) -> str | None:
                table = sql.Identifier(f"public_v{path.version}", "review")
                await own.execute(sql.SQL("INSERT INTO {} VALUES (9001, 1)").format(table))
                return path.version

            reviews = router.migrator(NAME, read_old=read, read_new=read, compare=Rules(), limits=EACH)
            for key in (199, 200):
                assert await reviews.read(key) == (key % 5,)
            assert await reviews.settle(PATIENCE_S)
            async with await psycopg.AsyncConnection.connect(dsn) as own:
                for written in (Written("1"), Written(None, repeated=True)):
                    assert await reviews.write(9001, write, write, connection=own, idempotency_key="k") == written
        assert rows(admin, "SELECT compared, mismatches FROM pgduet.client") == [{"compared": 2, "mismatches": 1}]
        assert one(admin, "SELECT count(*) FROM review JOIN review_next USING (id) WHERE id = 9001") == 1


async def test_what_reads_took_adds_up_over_routers_and_rubbish_is_left_out(
    admin: Admin, router: Router, conn: Connection
) -> None:
    old, new = Path("1", "public_v1, public", is_new=False), Path("2", "public_v2, public", is_new=True)
    for _ in range(30):
        router.record(NAME, old, 0.010)
    router.record(NAME, new, 0.020)
    router.record(NAME, new, 9.0, error=True)
    (report,) = router.reports()
    router.close()
    admin.execute(link.REPORT_COMPARED, report | {"client_id": "billing/other"})
    for number, rubbish in enumerate((7, "x", {"answered_old": 7}, {"answered_old": {"116": -1, "70": "x", "x": 1}})):
        told = report | {"client_id": f"billing/{number}", "compared": Jsonb({"latency": rubbish})}
        admin.execute(link.REPORT_COMPARED, told)
    conn.row_factory = dict_row  # type: ignore[assignment]
    found = await shadow_reads.answered(conn, NAME)
    assert {side: sketch.total for side, sketch in found.items()} == {"answered_old": 60, "answered_new": 2}
    assert found["answered_old"].quantile(0.5) == pytest.approx(0.010, rel=0.06)
    assert (await shadow_reads.found(conn, NAME))[0] == 0, "nobody compares"
