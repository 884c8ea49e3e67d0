"""psycopg and its pool: a transaction, or a connection for life, that reads one version."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.errors import FeatureNotSupported
from psycopg_pool import PoolClosed
from support.two_versions import CHANGED, DEFAULT, NEW, OLD, READ, STARS, TO_AND_FRO, change

from pgduet.routing import BASE_TABLES, NotRoutable, Path, RouteUnavailable
from pgduet.routing.adapters.psycopg import routed, routed_async, transact, transact_async
from pgduet.routing.adapters.psycopg_pool import AsyncVersionPools, VersionPools
from pgduet.routing.adapters.statements import is_stale

Connection = psycopg.Connection[Any]


def one(conn: Connection, query: str = READ) -> Any:
    row = conn.execute(query).fetchone()
    assert row is not None
    return row[0]


def test_without_the_adapter_a_prepared_statement_fails_on_the_other_version_and_fails_again(shop: str) -> None:
    """What the adapter is there for: see to it that this test sees the error."""
    with psycopg.connect(shop, autocommit=True, prepare_threshold=0) as conn:
        conn.execute("SET search_path TO public_v1, public")
        assert one(conn) == 4
        conn.execute("SET search_path TO public_v2, public")
        for _ in range(2):
            with pytest.raises(FeatureNotSupported) as caught:
                one(conn)
            assert is_stale(caught.value)


def test_a_connection_may_change_its_version_with_each_transaction(shop: str) -> None:
    with psycopg.connect(shop, autocommit=True, prepare_threshold=0) as conn:
        for path in TO_AND_FRO:
            with routed(conn, path):
                assert one(conn) == STARS[path.version]
            assert one(conn, "SHOW search_path") == DEFAULT
        assert conn.prepare_threshold == 0


def test_what_a_connection_had_prepared_is_not_used_within(shop: str) -> None:
    with psycopg.connect(shop, autocommit=True, prepare_threshold=0) as conn:
        query = "SELECT * FROM reviews WHERE id = 7"
        assert len(conn.execute(query).description or ()) == 3
        for path in TO_AND_FRO:
            with routed(conn, path):
                row = conn.execute(query, prepare=True).fetchone()
                assert row == (7, STARS[path.version])
        with routed(conn, BASE_TABLES):
            assert len(conn.execute(query).description or ()) == 3


def test_a_transaction_that_has_begun_keeps_its_version(shop: str) -> None:
    with psycopg.connect(shop) as conn:
        with routed(conn, OLD), pytest.raises(NotRoutable, match="in a transaction already"), routed(conn, NEW):
            pass
        assert one(conn, "SHOW search_path") == DEFAULT
        with pytest.raises(NotRoutable), routed(conn, NEW):
            pass


def test_a_connection_that_is_lost_is_said_to_be(shop: str) -> None:
    """Whoever tries again on another connection goes by the driver's own error."""
    with psycopg.connect(shop) as conn:
        conn.close()
        with pytest.raises(psycopg.OperationalError, match="closed"), routed(conn, NEW):
            pass


def test_an_error_within_gives_the_connection_back_as_it_was(shop: str) -> None:
    with psycopg.connect(shop, autocommit=True, prepare_threshold=3) as conn:
        with pytest.raises(psycopg.errors.DivisionByZero), routed(conn, NEW):
            conn.execute("SELECT 1/0")
        assert conn.prepare_threshold == 3
        assert one(conn, "SHOW search_path") == DEFAULT


def test_the_isolation_level_can_still_be_chosen_within(shop: str) -> None:
    with psycopg.connect(shop, autocommit=True) as conn, routed(conn, NEW):
        conn.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        assert one(conn) == STARS["2"]


def test_a_stale_plan_of_a_pinned_connection_is_run_once_more(shop: str) -> None:
    with (
        VersionPools(shop, max_size=1, kwargs={"prepare_threshold": 0, "autocommit": True}) as pools,
        pools.connection(OLD) as conn,
    ):
        assert one(conn) == 4
        change(shop)
        seen: list[Connection] = []

        def work(conn: Connection) -> Any:
            seen.append(conn)
            return one(conn)

        assert transact(conn, work) == 4
        assert seen == [conn, conn], "the test has seen no stale plan"


def test_another_error_of_the_kind_is_the_caller_s(shop: str) -> None:
    def work(conn: Connection) -> Any:
        seen.append(conn)
        return conn.execute("SELECT FROM reviews FULL JOIN generate_series(1, 2) n ON id < n")

    seen: list[Connection] = []
    with psycopg.connect(shop, autocommit=True) as conn, pytest.raises(FeatureNotSupported):
        transact(conn, work, OLD)
    assert len(seen) == 1


def roles(dsn: str) -> dict[str | None, str]:
    """Give each version an address of its own; two databases stand for what roles do."""
    return {path.version: f"{dsn}?options=-csearch_path%3Dpublic_v{path.version}" for path in (OLD, NEW)}


@pytest.mark.parametrize("address", [str, roles], ids=["by options", "by role"])
def test_a_pool_of_each_version_keeps_its_prepared_statements(shop: str, address: Callable[[str], Any]) -> None:
    pools = VersionPools(address(shop), max_size=1, kwargs={"prepare_threshold": 0})
    with pools:
        backends: dict[str | None, set[int]] = {}
        for path in TO_AND_FRO:
            with pools.connection(path) as conn:
                assert one(conn) == STARS[path.version]
                backends.setdefault(path.version, set()).add(conn.info.backend_pid)
        assert sorted(len(pids) for pids in backends.values()) == [1, 1]
        with pools.connection(NEW) as conn:
            assert one(conn, "SELECT count(*) FROM pg_prepared_statements WHERE NOT from_sql") >= 1


def test_a_version_without_an_address_is_named(shop: str) -> None:
    with VersionPools(roles(shop)) as pools:
        with pytest.raises(NotRoutable, match="for the version 3"), pools.connection(Path("3", "x", is_new=True)):
            pass
        with pytest.raises(NotRoutable, match="of the base tables"), pools.connection(BASE_TABLES):
            pass


def test_closed_pools_give_no_more_connections(shop: str) -> None:
    with VersionPools(shop) as pools:
        pass
    with pytest.raises(PoolClosed), pools.connection(OLD):
        pass


def test_an_address_that_cannot_be_read_is_said_without_showing_any_of_it() -> None:
    for path in (OLD, BASE_TABLES):
        with (
            VersionPools("postgresql://u:hunter%zz2@h/d") as pools,
            pytest.raises(RouteUnavailable, match="cannot be read") as caught,
            pools.connection(path),
        ):
            pass
        assert "hunter" not in f"{caught.value} {caught.value.__context__}"


def test_an_awkward_name_comes_through_the_startup_parameter(shop: str) -> None:
    path = Path("2", '"Od""d \\_v2", public_v2, public', is_new=True)
    with VersionPools(f"{shop}?options=-cwork_mem%3D1MB") as pools, pools.connection(path) as conn:
        assert one(conn, "SHOW search_path") == path.search_path
        assert one(conn, "SHOW work_mem") == "1MB"


class TestAsync:
    async def test_a_connection_may_change_its_version_with_each_transaction(self, shop: str) -> None:
        async with await psycopg.AsyncConnection.connect(shop, autocommit=True, prepare_threshold=0) as conn:
            for path in TO_AND_FRO:
                async with routed_async(conn, path):
                    assert await (await conn.execute(READ)).fetchone() == (STARS[path.version],)
            assert await (await conn.execute("SHOW search_path")).fetchone() == (DEFAULT,)

    async def test_pools_and_one_try_more(self, shop: str) -> None:
        settings = {"prepare_threshold": 0, "autocommit": True}
        tries = 0

        async def work(conn: psycopg.AsyncConnection[Any]) -> Any:
            nonlocal tries
            tries += 1
            return await (await conn.execute(READ)).fetchone()

        async with AsyncVersionPools(shop) as pools:
            pass
        with pytest.raises(PoolClosed):
            async with pools.connection(OLD):
                pass
        async with AsyncVersionPools(shop, max_size=1, kwargs=settings) as pools:
            for path in TO_AND_FRO:
                async with pools.connection(path) as conn:
                    assert await work(conn) == (STARS[path.version],)
            async with await psycopg.AsyncConnection.connect(shop, autocommit=True) as other:
                await other.execute(CHANGED)
            async with pools.connection(OLD) as conn:
                tries = 0
                assert await transact_async(conn, work) == (4,)
            assert tries == 2
