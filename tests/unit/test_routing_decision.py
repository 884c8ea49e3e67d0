"""Decisions of the routing library, without a database and with a clock that stands until it is moved."""

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from pgduet.operations.names import version_schema
from pgduet.routing import BASE_TABLES, Path, Route, RouteUnavailable, Stage, bucket, seed, stage_of
from pgduet.routing.core import RouterCore
from pgduet.routing.decision import search_path

KEYS = [f"user-{number}" for number in range(20_000)]
ROUTE = Route(
    migration="users-email",
    old_version="1",
    new_version="2",
    schemas=["public"],
    published=True,
    authority="old",
    read_percent=0,
    epoch=3,
)


class Clock:
    """Monotonic seconds under the test's hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def core(clock: Clock) -> RouterCore:
    return RouterCore(service="billing", lease_s=10.0, clock=clock)


def route(**changes: Any) -> Route:
    return dataclasses.replace(ROUTE, **changes)


def told(*routes: Route, version: str | None = None, clock: Clock | None = None) -> RouterCore:
    clock = clock or Clock()
    core = RouterCore(service="billing", version=version, clock=clock)
    hear(core, routes, clock())
    return core


def hear(core: RouterCore, routes: Sequence[Route], asked_at: float) -> None:
    """Have a router hear routes and tell the database, as its background does."""
    core.hear(routes, asked_at)
    core.acknowledged(core.reports())


def on_new(core: RouterCore, keys: list[str] = KEYS) -> set[str]:
    return {key for key in keys if core.path("users-email", key).is_new}


def test_a_key_keeps_its_path_in_every_router_and_at_every_asking() -> None:
    one, other = told(route(read_percent=37)), told(route(read_percent=37, epoch=9))
    assert on_new(one) == on_new(one) == on_new(other)


def test_raising_the_percentage_only_moves_keys_from_old_to_new() -> None:
    before: set[str] = set()
    for percent in range(0, 101, 5):
        after = on_new(told(route(read_percent=percent)))
        assert before <= after
        before = after
    assert before == set(KEYS)


@pytest.mark.parametrize("percent", [1, 10, 50, 90])
@pytest.mark.parametrize("shape", ["{}", "user-{}", "{:012d}", "{}000"])
def test_the_share_of_keys_on_new_is_the_percentage(percent: int, shape: str) -> None:
    share = len(on_new(told(route(read_percent=percent)), [shape.format(number) for number in range(20_000)])) / 200
    assert share == pytest.approx(percent, abs=0.75)


def test_every_bucket_lies_within_bounds() -> None:
    buckets = {bucket(key, seed("users-email")) for key in KEYS}
    assert min(buckets) >= 0
    assert max(buckets) <= 9_999
    assert len(buckets) > 8_000


def test_buckets_are_a_promise_across_releases() -> None:
    """Another release, or another language, beside this one must send a key the same way."""
    assert [bucket(key, seed("users-email")) for key in ("user-1", "user-2", "é", "")] == [2293, 6319, 2436, 3204]


def test_migrations_spread_the_same_keys_independently() -> None:
    first = [key for key in KEYS if bucket(key, seed("users-email")) < 1000]
    both = [key for key in first if bucket(key, seed("users-phone")) < 1000]
    assert len(both) / len(first) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("key", [7, "7", b"7", bytearray(b"7"), memoryview(b"7")])
def test_a_key_counts_by_its_text_whatever_its_type(key: object) -> None:
    assert bucket(key, 1) == bucket("7", 1)


@pytest.mark.parametrize("key", [None, 1.5, ("a", 1), "\ud800", ""])
def test_any_key_has_a_path(key: object) -> None:
    assert isinstance(told(route(read_percent=50)).path("users-email", key), Path)


def test_nothing_goes_to_a_version_that_is_not_published() -> None:
    assert not on_new(told(route(published=False, read_percent=100)))
    assert not on_new(told(route(published=False, read_percent=100, authority="new")))


def test_a_path_names_the_version_its_schemas_and_the_epoch() -> None:
    core = told(route(read_percent=100, schemas=["public", "Billing"]))
    assert core.path("users-email", 1) == Path("2", 'public_v2, "Billing_v2", public, "Billing"', is_new=True, epoch=3)
    core = told(route())
    assert core.path("users-email", 1) == Path("1", "public_v1, public", is_new=False, epoch=3)


@pytest.mark.parametrize(
    ("schema", "version", "expected"),
    [
        ("public", "2", "public_v2, public"),
        ("public", "2024.1", '"public_v2024.1", public'),
        ('we"ird', "1", '"we""ird_v1", "we""ird"'),
        ("a, b", "1", '"a, b_v1", "a, b"'),
        ("order", "1", 'order_v1, "order"'),
    ],
)
def test_schema_names_are_quoted_where_they_must_be(schema: str, version: str, expected: str) -> None:
    assert search_path([schema], version) == expected


def test_an_unknown_migration_means_base_tables() -> None:
    assert told().path("never-heard-of", 1) is BASE_TABLES
    assert told(version="2").path("never-heard-of", 1) is BASE_TABLES


class TestLease:
    def test_within_the_lease_the_last_decision_stands(self, core: RouterCore, clock: Clock) -> None:
        hear(core, [route(read_percent=50)], clock())
        before = on_new(core)
        clock.now += 9.9
        assert core.fresh
        assert on_new(core) == before

    def test_past_it_the_old_authority_answers_old(self, core: RouterCore, clock: Clock) -> None:
        hear(core, [route(read_percent=100)], clock())
        clock.now += 10.0
        assert not core.fresh
        assert not on_new(core)

    def test_past_it_the_new_authority_answers_new(self, core: RouterCore, clock: Clock) -> None:
        hear(core, [route(read_percent=50, authority="new")], clock())
        clock.now += 10.0
        assert on_new(core) == set(KEYS)

    def test_past_it_nothing_goes_to_a_version_that_is_not_published(self, core: RouterCore, clock: Clock) -> None:
        hear(core, [route(published=False, authority="new")], clock())
        clock.now += 10.0
        assert not on_new(core)

    def test_hearing_again_ends_it(self, core: RouterCore, clock: Clock) -> None:
        hear(core, [route(read_percent=100)], clock())
        clock.now += 60.0
        hear(core, [route(read_percent=100)], clock())
        assert on_new(core) == set(KEYS)

    def test_it_counts_from_the_question_not_from_the_answer(self, core: RouterCore, clock: Clock) -> None:
        asked_at = clock()
        clock.now += 10.0
        hear(core, [route(read_percent=100)], asked_at)
        assert not on_new(core)

    def test_what_the_database_has_not_been_told_prolongs_nothing(self, core: RouterCore, clock: Clock) -> None:
        hear(core, [route(read_percent=100)], clock())
        clock.now += 9.0
        core.hear([route(read_percent=50, epoch=4)], clock())
        assert core.path("users-email", 1).epoch == 4, "it is followed at once"
        clock.now += 1.0
        assert not core.fresh
        core.acknowledged(core.reports())
        clock.now += 8.9
        assert core.fresh
        clock.now += 0.1
        assert not core.fresh

    def test_it_runs_while_the_machine_sleeps(self) -> None:
        """In a namespace whose boot lies an hour further back, as after an hour of sleep, where one may be made."""
        script = (
            "from pgduet.routing.core import RouterCore; clock = RouterCore(service='billing')._clock; "
            "print(clock() - float(open('/proc/uptime').read().split()[0]))"
        )
        slept = ["unshare", "--user", "--map-root-user", "--time", "--boottime", "3600", "--fork"]
        for before in (slept, []):
            ran = subprocess.run([*before, sys.executable, "-c", script], capture_output=True, text=True, check=False)
            if ran.returncode == 0:
                break
        assert abs(float(ran.stdout)) < 60

    def test_it_does_not_move_a_service_that_knows_one_version(self, clock: Clock) -> None:
        old = told(route(read_percent=100, authority="new"), version="1", clock=clock)
        new = told(route(), version="2", clock=clock)
        clock.now += 60.0
        assert not on_new(old)
        assert on_new(new) == set(KEYS)

    @pytest.mark.parametrize("lease_s", [0, -1.0, 0.01, 1e9, float("inf"), float("nan")])
    def test_one_that_nobody_means_is_refused(self, lease_s: float) -> None:
        with pytest.raises(ValueError, match="lease_s"):
            RouterCore(service="billing", lease_s=lease_s)


class TestVersionPin:
    def test_a_service_that_knows_the_old_version_stays_there(self) -> None:
        core = told(route(read_percent=100, authority="new"), version="1")
        assert core.path("users-email", 1) == Path("1", "public_v1, public", is_new=False, epoch=3)

    def test_a_service_that_knows_the_new_version_is_there_while_it_is_published(self) -> None:
        core = told(route(read_percent=0), version="2")
        assert core.path("users-email", 1) == Path("2", "public_v2, public", is_new=True, epoch=3)

    def test_and_is_refused_while_it_is_not(self) -> None:
        with pytest.raises(RouteUnavailable, match="only version 2, which is not published") as caught:
            told(route(published=False), version="2").path("users-email", 1)
        assert caught.value.hint

    def test_in_a_chain_of_versions_a_service_is_sent_to_its_own(self) -> None:
        chain = [route(), route(migration="users-phone", old_version="2", new_version="3")]
        third, first = told(*chain, version="3"), told(*chain, version="1")
        assert third.path("users-email", 1) == Path("3", "public_v3, public", is_new=True, epoch=3)
        assert first.path("users-phone", 1) == Path("1", "public_v1, public", is_new=False, epoch=3)

    @pytest.mark.parametrize("order", [1, -1])
    def test_an_earlier_migration_s_end_does_not_make_a_later_version_an_old_one(self, order: int) -> None:
        chain = [route(old_version="2"), route(migration="users-phone", old_version="2", new_version="3")]
        assert told(*chain[::order], version="3").path("users-email", 1).is_new, "rows come in any order"

    def test_a_version_that_is_not_published_is_refused_by_earlier_migrations_too(self) -> None:
        """The tables themselves would answer, in the oldest version's shape."""
        later = route(migration="users-phone", old_version="2", new_version="3", published=False)
        core = told(route(), later, version="3")
        for name in ("users-email", "users-phone"):
            with pytest.raises(RouteUnavailable, match="only version 3, which is not published"):
                core.path(name, 1)

    @pytest.mark.parametrize(
        ("routes", "asked"),
        [
            ([route(old_version="2")], "users-email"),
            ([route(old_version="2"), route(migration="users-phone", old_version="2", new_version="3")], "users-phone"),
            # The later one was contracted first: version 1 is there, but no longer for that migration's tables.
            ([route(new_version="3"), route(migration="users-phone", old_version="3", new_version="3")], "users-phone"),
        ],
        ids=["contracted", "contracted before another began", "the later one contracted first"],
    )
    def test_a_service_that_comes_back_with_a_version_that_has_gone_is_refused(
        self, routes: list[Route], asked: str
    ) -> None:
        with pytest.raises(RouteUnavailable, match="only version 1, which is not there"):
            told(*routes, version="1").path(asked, 1)

    def test_of_a_chain_that_is_contracted_from_its_end_the_oldest_version_stays(self) -> None:
        chain = [route(new_version="3"), route(migration="users-phone", old_version="3", new_version="3")]
        assert told(*chain, version="1").path("users-email", 1).version == "1"


class TestReport:
    @pytest.mark.parametrize(
        ("changes", "version", "side", "told_version"),
        [
            ({"read_percent": 0}, None, "old", "1"),
            ({"read_percent": 1}, None, "new", "2"),
            ({"read_percent": 100, "published": False}, None, "old", "1"),
            ({"read_percent": 100}, "1", "old", "1"),
            ({"read_percent": 0}, "2", "new", "2"),
            ({"published": False}, "2", "old", "2"),
        ],
    )
    def test_the_side_is_new_as_soon_as_any_read_can_go_there(
        self, changes: dict[str, Any], version: str | None, side: str, told_version: str
    ) -> None:
        (report,) = told(route(**changes), version=version).reports()
        assert (report["side"], report["version"], report["epoch"]) == (side, told_version, 3)

    def test_what_was_recorded_goes_out_as_totals(self) -> None:
        core = told(route(read_percent=50))
        old, new = Path("1", "public_v1, public", is_new=False), Path("2", "public_v2, public", is_new=True)
        for seconds in (0.25, 0.5):
            core.record("users-email", new, seconds)
        core.record("users-email", old, 1.0, error=True)
        for _ in range(2):
            (report,) = core.reports()
            assert (report["reads_old"], report["errors_old"], report["seconds_old"]) == (1, 1, 1.0)
            assert (report["reads_new"], report["errors_new"], report["seconds_new"]) == (2, 0, 0.75)
            latency = report["compared"].obj["latency"]
            assert report["compared"].obj.keys() == {"latency"}, "it compares nothing"
            assert (sum(latency["answered_new"].values()), latency["answered_old"]) == (2, {}), "failures have none"

    @pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -3.0])
    def test_a_time_that_no_read_takes_harms_neither_its_caller_nor_the_sum(self, seconds: float) -> None:
        core = told(route())
        core.record("users-email", Path("1", "public_v1, public", is_new=False), seconds)
        (report,) = core.reports()
        assert (report["reads_old"], report["seconds_old"]) == (1, 0.0)


@pytest.mark.parametrize(
    ("heard", "stage"),
    [
        (None, Stage.OFF),
        (route(published=False), Stage.DUALWRITE),
        (route(), Stage.SHADOW),
        (route(read_percent=1), Stage.LIVE),
        (route(read_percent=100), Stage.LIVE),
        (route(read_percent=100, authority="new"), Stage.RAMPDOWN),
        (route(read_percent=100, authority="new", old_version="2"), Stage.COMPLETE),
    ],
)
def test_a_route_stands_for_one_of_the_six_stages(heard: Route | None, stage: Stage) -> None:
    assert stage_of(heard) is stage
    assert told(*([heard] if heard else [])).stage("users-email") is stage


def test_a_schema_name_that_is_too_long_is_cut_as_the_engine_cuts_it() -> None:
    schema = "a" * 63
    assert search_path([schema], "2").split(", ")[0].strip('"') == version_schema(schema, "2")
    assert len(version_schema(schema, "2").encode()) <= 63
