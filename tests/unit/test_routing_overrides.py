"""Wishes that go before the route: which one counts, when it is granted, and what the database is told."""

import asyncio
import threading
from typing import Any

import pytest

from pgduet.routing import Overrides, Route, RouteUnavailable
from pgduet.routing.core import RouterCore

NAME = "users-email"
LEASE_S = 10.0


class Clock:
    """Stands until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def route(**values: Any) -> Route:
    facts = {
        "migration": NAME,
        "old_version": "1",
        "new_version": "2",
        "schemas": ["public"],
        "published": True,
        "authority": "old",
        "read_percent": 0,
        "epoch": 3,
    }
    return Route(**{**facts, **values})


def told(*routes: Route, **settings: Any) -> RouterCore:
    core = RouterCore(service="billing", lease_s=LEASE_S, clock=settings.pop("clock", Clock()), **settings)
    core.hear(routes, core._clock())
    return core


def version(core: RouterCore, key: object = 1) -> str | None:
    return core.path(NAME, key).version


OVERRIDES = Overrides(service={NAME: "2"}, clients={"ios/*": {NAME: "2"}, "ios/4.*": {NAME: "1"}})


def test_the_request_goes_before_the_client_and_the_client_before_the_service() -> None:
    core = told(route(), overrides=OVERRIDES)
    assert version(core) == "2"
    with core.serving("ios/4.2"):
        assert version(core) == "1"
        with core.using(NAME, version="2"):
            assert version(core) == "2"
            with core.serving("ios/4.3"):
                assert version(core) == "2", "the request's wish is the stronger one, whichever came first"
            with core.using(NAME, version="1"):
                assert version(core) == "1"
            assert version(core) == "2"
        assert version(core) == "1"
    with core.serving("ios/5.0"):
        assert version(core) == "2"
    with core.serving("android/4.2"):
        assert version(core) == "2"


def test_nothing_goes_before_the_only_version_that_a_service_has() -> None:
    core = told(route(read_percent=50), version="1", overrides=OVERRIDES)
    with core.using(NAME, version="2"):
        assert version(core) == "1"
    core = told(route(published=False), version="2")
    with core.using(NAME, version="1"), pytest.raises(RouteUnavailable):
        core.path(NAME, 1)


@pytest.mark.parametrize(
    ("heard", "wish", "given"),
    [
        (route(published=False), "2", "1"),
        (route(published=False), "1", "1"),
        (route(read_percent=100), "1", "1"),
        (route(read_percent=100, authority="new"), "1", "1"),
        (route(read_percent=100, authority="new", old_version="2"), "1", "2"),
        (route(), "7", "1"),
    ],
    ids=["not published", "old before", "old while live", "old until contract", "old has gone", "unheard of"],
)
def test_a_wish_is_granted_while_the_version_can_be_had_and_is_no_error_otherwise(
    heard: Route, wish: str, given: str
) -> None:
    core = told(heard)
    with core.using(NAME, version=wish):
        assert version(core) == given
    with core.using("never-heard-of", version=wish):
        assert version(core) in {"1", "2"}
        assert core.path("never-heard-of", 1).version is None


def test_past_the_lease_the_last_known_authority_answers_whatever_is_wished_for() -> None:
    clock = Clock()
    core = told(route(read_percent=100, authority="new"), clock=clock, overrides=Overrides(service={NAME: "1"}))
    assert version(core) == "1"
    clock.now += LEASE_S
    with core.using(NAME, version="1"):
        assert version(core) == "2"


def test_a_wish_is_one_router_s_and_one_migration_s() -> None:
    core, other = told(route(), route(migration="other")), told(route())
    with core.using(NAME, version="2"):
        assert (version(core), version(other), core.path("other", 1).version) == ("2", "1", "1")


async def test_tasks_have_wishes_of_their_own_and_hand_them_on() -> None:
    core = told(route())
    both_are_in = asyncio.Barrier(2)

    async def ask(wish: str) -> list[str | None]:
        with core.using(NAME, version=wish):
            await both_are_in.wait()
            inner = asyncio.create_task(asyncio.to_thread(version, core))
            return [version(core), await inner]

    assert await asyncio.gather(ask("1"), ask("2")) == [["1", "1"], ["2", "2"]]
    assert version(core) == "1"


def test_threads_have_wishes_of_their_own() -> None:
    core = told(route())
    found: list[str | None] = []
    with core.using(NAME, version="2"):
        thread = threading.Thread(target=lambda: found.append(version(core)))
        thread.start()
        thread.join()
    assert found == ["1"]


def sides(core: RouterCore) -> tuple[str, str]:
    (report,) = core.reports()
    return report["side"], report["version"]


def test_the_database_is_told_who_goes_another_way_than_the_route() -> None:
    core = told(route())
    assert sides(core) == ("old", "1")
    with core.using(NAME, version="2"):
        assert sides(core) == ("old", "1"), "a wish alone reads nothing"
        core.path(NAME, 1)
    assert sides(core) == ("new", "2"), "a rollback has to wait for it"
    assert sides(core) == ("old", "1"), "until the next report without"
    core.hear([route(read_percent=100, authority="new")], core._clock())
    with core.using(NAME, version="1"):
        core.path(NAME, 1)
    assert sides(core) == ("old", "1"), "contract has to wait for it"
    with core.using(NAME, version="1"):
        core.path(NAME, 1)
    core.hear([route(read_percent=100, authority="new", old_version="2")], core._clock())
    assert sides(core) == ("new", "2"), "it cannot be had any more"


def test_a_service_s_wish_is_told_before_the_first_read() -> None:
    core = told(route(read_percent=100, authority="new"), overrides=Overrides(service={NAME: "1"}))
    assert sides(core) == ("old", "1")
    core = told(route(published=False), overrides=Overrides(service={NAME: "2"}))
    assert sides(core) == ("old", "1")
