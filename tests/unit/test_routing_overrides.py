"""Wishes that go before the route: which one counts, when it is granted, and what the database is told."""

import asyncio
import dataclasses
import threading
from typing import Any

import pytest

from pgduet.routing import Overrides, Route, RouteUnavailable
from pgduet.routing.core import RouterCore
from pgduet.routing.overrides import WISH_HELD_S

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
    core.acknowledged(core.reports())
    return core


def version(core: RouterCore, key: object = 1) -> str | None:
    return core.path(NAME, key).version


OVERRIDES = Overrides(service={NAME: "2"}, clients={"ios/*": {NAME: "2"}, "ios/4.*": {NAME: "1"}})


def test_the_request_goes_before_the_client_and_the_client_before_the_service() -> None:
    core = told(route(read_percent=50), overrides=OVERRIDES)
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
        (route(read_percent=1), "1", "1"),
        (route(read_percent=99), "2", "2"),
        (route(read_percent=100, authority="new", old_version="2"), "1", "2"),
        (route(), "7", "1"),
    ],
    ids=["not published", "old before", "old while live", "new while live", "old has gone", "unheard of"],
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
    split = route(read_percent=1)
    core, other = told(split, dataclasses.replace(split, migration="other")), told(split)
    with core.using(NAME, version="2"):
        assert (version(core), version(other), core.path("other", 1).version) == ("2", "1", "1")


async def test_tasks_have_wishes_of_their_own_and_hand_them_on() -> None:
    core = told(route(read_percent=1))
    both_are_in = asyncio.Barrier(2)

    async def ask(wish: str) -> list[str | None]:
        with core.using(NAME, version=wish):
            await both_are_in.wait()
            inner = asyncio.create_task(asyncio.to_thread(version, core))
            return [version(core), await inner]

    assert await asyncio.gather(ask("1"), ask("2")) == [["1", "1"], ["2", "2"]]
    assert version(core) == "1"


def test_threads_have_wishes_of_their_own() -> None:
    core = told(route(read_percent=1))
    found: list[str | None] = []
    with core.using(NAME, version="2"):
        thread = threading.Thread(target=lambda: found.append(version(core)))
        thread.start()
        thread.join()
    assert found == ["1"]


def sides(core: RouterCore) -> tuple[str, str]:
    """Report, as the router's background does, and have it acknowledged."""
    reports = core.reports()
    core.acknowledged(reports)
    (report,) = reports
    return report["side"], report["version"]


@pytest.mark.parametrize(
    ("heard", "wish", "told_as", "route_s"),
    [
        (route(), "2", ("new", "2"), ("old", "1")),
        (route(read_percent=100, authority="new"), "1", ("old", "1"), ("new", "2")),
    ],
    ids=["the end of a rollback has to wait for it", "contract has to wait for it"],
)
def test_what_goes_against_the_route_is_granted_when_the_database_knows(
    heard: Route, wish: str, told_as: tuple[str, str], route_s: tuple[str, str]
) -> None:
    clock = Clock()
    core = told(heard, clock=clock)
    assert sides(core) == route_s
    with core.using(NAME, version=wish):
        assert sides(core) == route_s, "a wish alone reads nothing"
        assert version(core) == route_s[1], "the database does not know yet"
        assert sides(core) == told_as
        assert version(core) == wish
        clock.now += WISH_HELD_S - 1
        core.hear([heard], clock.now)
        assert sides(core) == told_as, "it is counted there for a while"
        assert version(core) == wish
        clock.now += WISH_HELD_S - 1
        core.hear([heard], clock.now)
        assert sides(core) == told_as
        clock.now += 1
        (report,) = core.reports()
        assert (report["side"], report["version"]) == route_s
        assert version(core) == route_s[1], "not even while the report is on its way"
        core.acknowledged([report])
        assert sides(core) == told_as, "but it was asked for again"


def test_a_wish_that_comes_while_its_version_is_given_up_keeps_it() -> None:
    core = told(route())
    with core.using(NAME, version="2"):
        core.path(NAME, 1)
        assert sides(core) == ("new", "2")
        long_ago = core._clock() - 2 * WISH_HELD_S
        core._wanted[NAME] = ("2", long_ago)
        core._told = AsksOnce(core, core._told)
        assert sides(core) == ("new", "2")
        assert version(core) == "2"


class AsksOnce(dict[str, str]):
    """Has another thread's request come in just when the version is given up."""

    def __init__(self, core: RouterCore, told: dict[str, str]) -> None:
        super().__init__(told)
        self._core = core

    def pop(self, *arguments: Any) -> Any:
        self._core._wanted[NAME] = ("2", self._core._clock())
        return super().pop(*arguments)


def test_where_the_version_has_gone_nothing_is_held() -> None:
    core = told(route(read_percent=100, authority="new"), overrides=Overrides(service={NAME: "1"}))
    assert sides(core) == ("old", "1"), "before the first read"
    assert version(core) == "1"
    core.hear([route(read_percent=100, authority="new", old_version="2", epoch=4)], core._clock())
    assert version(core) == "2"
    assert sides(core) == ("new", "2")


def test_a_service_s_wish_holds_through_every_step_of_the_route() -> None:
    core = told(route(published=False), overrides=Overrides(service={NAME: "1"}))
    assert sides(core) == ("old", "1")
    for percent in (0, 1, 50, 99, 100, 50, 0):
        core.hear([route(read_percent=percent)], core._clock())
        assert {version(core, key) for key in range(50)} == {"1"}
        assert sides(core) == ("old", "1")
