"""SQLAlchemy 2 on psycopg and on asyncpg: transactions of engines and of sessions read one version each."""

from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from support.two_versions import DEFAULT, NEW, OLD, READ, STARS, TO_AND_FRO, change

from pgduet.routing import BASE_TABLES, NotRoutable, Path
from pgduet.routing.adapters.sqlalchemy import follow, follow_sessions, transact, transact_async
from pgduet.routing.adapters.statements import is_stale

HERE: ContextVar[Path] = ContextVar("here", default=BASE_TABLES)
READ_STARS = text(READ)
both_drivers = pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])


def url(dsn: str, driver: str = "psycopg", **query: str) -> Any:
    return make_url(dsn).set(drivername=f"postgresql+{driver}", query=query)


@pytest.fixture
def engine(shop: str) -> Iterator[Engine]:
    """One connection, which prepares at once."""
    made = create_engine(url(shop), pool_size=1, max_overflow=0, connect_args={"prepare_threshold": 0})
    yield made
    made.dispose()


@pytest.fixture
async def async_engine(shop: str, driver: str) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(url(shop, driver), pool_size=1, max_overflow=0)
    yield made
    await made.dispose()


def stars(session: Session) -> Any:
    return session.scalar(READ_STARS)


def test_without_the_adapter_a_prepared_statement_fails_on_the_other_version(engine: Engine) -> None:
    """What the adapter is there for: see to it that this test sees the error."""
    with engine.connect() as conn:
        for path in (OLD, NEW):
            conn.execute(text(f"SET search_path TO {path.search_path}"))
            conn.commit()
            if path is OLD:
                assert conn.scalar(READ_STARS) == STARS["1"]
                conn.commit()
        with pytest.raises(DBAPIError) as caught:
            conn.scalar(READ_STARS)
        assert is_stale(caught.value)


def test_each_transaction_of_an_engine_reads_the_version_of_its_context(engine: Engine) -> None:
    follow(engine, HERE.get)
    for path in [*TO_AND_FRO, BASE_TABLES]:
        token = HERE.set(path)
        with engine.begin() as conn:
            assert conn.scalar(READ_STARS) == STARS.get(path.version, 4)
            with conn.begin_nested() as savepoint:
                assert conn.scalar(READ_STARS) == STARS.get(path.version, 4)
                savepoint.rollback()
            assert conn.scalar(READ_STARS) == STARS.get(path.version, 4)
        HERE.reset(token)
    with engine.connect() as conn:
        assert conn.scalar(text("SHOW search_path")) == DEFAULT


def test_autocommit_is_refused_where_a_version_is_followed(engine: Engine) -> None:
    follow(engine, lambda: NEW)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn, pytest.raises(NotRoutable):
        conn.scalar(READ_STARS)


def test_a_transaction_in_two_phases_is_a_session_s(engine: Engine) -> None:
    sessions = sessionmaker(engine, twophase=True)
    follow_sessions(sessions, lambda session: session.info["path"])
    for path in (OLD, NEW):
        with sessions(info={"path": path}) as session:
            assert stars(session) == STARS[path.version]
    follow(engine, HERE.get)
    token = HERE.set(NEW)
    with engine.connect() as conn, pytest.raises(NotRoutable, match="two phases"):
        conn.begin_twophase()
    HERE.reset(token)
    with engine.connect() as conn, conn.begin_twophase() as both:
        assert conn.scalar(READ_STARS) == 4
        both.rollback()


def test_each_session_has_a_version_of_its_own(engine: Engine) -> None:
    sessions = sessionmaker(engine)
    follow_sessions(sessions, lambda session: session.info["path"])
    for path in TO_AND_FRO:
        with sessions(info={"path": path}) as session:
            assert stars(session) == STARS[path.version]
            session.rollback()
            assert stars(session) == STARS[path.version], "the next transaction of the session reads it, too"
            with session.begin_nested():
                assert stars(session) == STARS[path.version]
    with engine.connect() as conn:
        assert conn.scalar(text("SHOW search_path")) == DEFAULT


def test_a_savepoint_takes_no_other_version_than_its_transaction(engine: Engine) -> None:
    sessions = sessionmaker(engine)
    follow_sessions(sessions, lambda session: session.info["path"])
    with sessions(info={"path": OLD}) as session:
        assert stars(session) == STARS["1"]
        session.info["path"] = NEW
        with session.begin_nested():
            assert stars(session) == STARS["1"]
        session.commit()
        assert stars(session) == STARS["2"]


def test_a_name_with_a_percent_sign_is_taken_as_it_is(engine: Engine) -> None:
    path = Path("2", '"100%_v2", "%s", public', is_new=True)
    follow(engine, lambda: path)
    with engine.connect() as conn:
        assert conn.scalar(text("SHOW search_path")) == path.search_path


def test_a_stale_plan_of_a_pinned_engine_is_run_once_more(shop: str) -> None:
    settings = {"prepare_threshold": 0, "options": "-csearch_path=public_v1,public"}
    engine = create_engine(url(shop), pool_size=1, max_overflow=0, connect_args=settings)
    tries = 0

    def work(session: Session) -> Any:
        nonlocal tries
        tries += 1
        return stars(session)

    assert transact(sessionmaker(engine), work) == 4
    change(shop)
    assert transact(sessionmaker(engine), work) == 4
    assert tries == 3, "the test has seen no stale plan"
    engine.dispose()


def test_another_error_is_the_caller_s(engine: Engine) -> None:
    tries = 0

    def work(session: Session) -> Any:
        nonlocal tries
        tries += 1
        return session.scalar(text("SELECT FROM reviews FULL JOIN generate_series(1, 2) n ON id < n"))

    with pytest.raises(DBAPIError):
        transact(sessionmaker(engine), work)
    assert tries == 1


class TestAsync:
    @both_drivers
    async def test_each_transaction_reads_the_version_of_its_context(self, async_engine: AsyncEngine) -> None:
        follow(async_engine, HERE.get)
        for path in TO_AND_FRO:
            HERE.set(path)
            async with AsyncSession(async_engine) as session:
                assert await session.scalar(READ_STARS) == STARS[path.version]
        HERE.set(BASE_TABLES)
        async with async_engine.connect() as conn:
            assert await conn.scalar(text("SHOW search_path")) == DEFAULT

    @pytest.mark.parametrize("driver", ["asyncpg"])
    async def test_sessions_on_an_engine_that_keeps_statements_are_refused(self, async_engine: AsyncEngine) -> None:
        class Routed(Session):
            pass

        follow_sessions(Routed, lambda _: NEW)
        sessions = async_sessionmaker(async_engine, sync_session_class=Routed)
        async with sessions() as session:
            with pytest.raises(NotRoutable, match="keeps prepared statements"):
                await session.scalar(READ_STARS)

    async def test_sessions_on_one_that_does_not_read_their_version(self, shop: str) -> None:
        class Routed(Session):
            pass

        follow_sessions(Routed, lambda session: session.info["path"])
        engine = create_async_engine(url(shop, "asyncpg", prepared_statement_cache_size="0"), pool_size=1)
        sessions = async_sessionmaker(engine, sync_session_class=Routed)
        for path in TO_AND_FRO:
            async with sessions(info={"path": path}) as session:
                assert await session.scalar(READ_STARS) == STARS[path.version]
        await engine.dispose()

    @both_drivers
    async def test_a_stale_plan_of_a_pinned_engine_is_run_once_more(self, shop: str, driver: str) -> None:
        pinned: dict[str, Any] = {
            "psycopg": {"prepare_threshold": 0, "options": "-csearch_path=public_v1,public"},
            "asyncpg": {"server_settings": {"search_path": "public_v1,public"}},
        }
        engine = create_async_engine(url(shop, driver), pool_size=1, connect_args=pinned[driver])
        tries = 0

        async def work(session: AsyncSession) -> Any:
            nonlocal tries
            tries += 1
            return await session.scalar(READ_STARS)

        assert await transact_async(async_sessionmaker(engine), work) == 4
        change(shop)
        assert await transact_async(async_sessionmaker(engine), work) == 4
        assert tries == 3, "the test has seen no stale plan"
        await engine.dispose()
