"""OpenFeature: a migration as a flag, answered by a router that follows a database."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import Reason
from support.routes import NAME, add_route, change_route, set_up

from pgduet.routing import Router
from pgduet.routing.adapters.openfeature import RouterProvider

PATIENCE_S = 30.0

Admin = psycopg.Connection[dict[str, Any]]


@pytest.fixture
def admin(dsn: str) -> Iterator[Admin]:
    with set_up(dsn) as conn:
        add_route(conn)
        yield conn


@pytest.fixture
def router(admin: Admin, dsn: str) -> Iterator[Router]:
    with Router.open(dsn, service="billing", lease_s=600.0) as opened:
        yield opened


@pytest.fixture
def flags(router: Router) -> Iterator[OpenFeatureClient]:
    api.set_provider_and_wait(RouterProvider(router), domain="shop")
    yield api.get_client("shop")
    api.clear_providers()


def follow(router: Router, admin: Admin, **values: object) -> int:
    epoch = change_route(admin, **values)
    assert router.wait_for(NAME, epoch, PATIENCE_S)
    return epoch


def key(of: object) -> EvaluationContext:
    return EvaluationContext(targeting_key=str(of))


def test_a_flag_is_what_the_router_says(flags: OpenFeatureClient, router: Router, admin: Admin) -> None:
    epoch = follow(router, admin, read_percent=50)
    sides = set()
    for each in range(50):
        path = router.path(NAME, each)
        found = flags.get_string_details(NAME, "none", key(each))
        assert (found.value, found.variant) == (path.version, "new" if path.is_new else "old")
        assert (found.reason, found.flag_metadata) == (Reason.SPLIT, {"epoch": epoch, "stage": "live"})
        assert flags.get_boolean_value(NAME, not path.is_new, key(each)) is path.is_new
        facts = {"version": path.version, "search_path": path.search_path, "is_new": path.is_new, "epoch": epoch}
        assert flags.get_object_value(NAME, {}, key(each)) == facts
        sides.add(path.is_new)
    assert sides == {True, False}


async def test_it_is_the_same_for_asyncio(flags: OpenFeatureClient, router: Router, admin: Admin) -> None:
    follow(router, admin, read_percent=100)
    assert await flags.get_string_value_async(NAME, "none", key(1)) == "2"


def test_a_key_is_asked_for_only_where_it_decides(flags: OpenFeatureClient, router: Router, admin: Admin) -> None:
    first = flags.get_string_details(NAME, "none")
    assert (first.value, first.reason) == ("1", Reason.STATIC)
    follow(router, admin, read_percent=50)
    found = flags.get_string_details(NAME, "1")
    assert (found.value, found.error_code) == ("1", ErrorCode.TARGETING_KEY_MISSING)
    follow(router, admin, read_percent=100)
    assert flags.get_string_value(NAME, "none") == "2"


def test_what_cannot_be_answered_is_the_caller_s_default(flags: OpenFeatureClient) -> None:
    found = flags.get_string_details("never-heard-of", "base", key(1))
    assert (found.value, found.error_code) == ("base", ErrorCode.FLAG_NOT_FOUND)
    for number in (flags.get_integer_details(NAME, 7, key(1)), flags.get_float_details(NAME, 7.5, key(1))):
        assert number.error_code is ErrorCode.TYPE_MISMATCH


def test_a_version_that_is_not_published_is_an_error_with_its_reason(admin: Admin, dsn: str) -> None:
    change_route(admin, published=False)
    with Router.open(dsn, service="billing", version="2") as router:
        api.set_provider_and_wait(RouterProvider(router), domain="shop")
        found = api.get_client("shop").get_string_details(NAME, "none", key(1))
        assert (found.value, found.error_code) == ("none", ErrorCode.GENERAL)
        assert "not published" in str(found.error_message)
        api.clear_providers()


def test_past_the_lease_the_reason_says_so(flags: OpenFeatureClient, router: Router) -> None:
    router._clock = lambda: router._heard.holds_until + 1
    assert flags.get_string_details(NAME, "none", key(1)).reason == Reason.STALE


def test_no_key_is_asked_for_where_the_authority_answers_or_nothing_is_published(
    flags: OpenFeatureClient, router: Router, admin: Admin
) -> None:
    follow(router, admin, read_percent=50, published=False)
    assert flags.get_string_details(NAME, "none").value == "1"
    follow(router, admin, read_percent=50, published=True, authority="new")
    router._clock = lambda: router._heard.holds_until + 1
    assert flags.get_string_details(NAME, "none").value == "2"
