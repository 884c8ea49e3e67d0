"""Django: requests, atomic blocks and aliases that read one version each."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction, sync_to_async
from django.db import DataError, NotSupportedError, ProgrammingError, connections, models, transaction
from django.http import HttpRequest, HttpResponse
from django.test.utils import override_settings
from support.djangos import DJANGO_S, OURS, database, databases, forget
from support.two_versions import DEFAULT, NEW, OLD, READ, STARS, TO_AND_FRO

from pgduet.routing import BASE_TABLES, NotRoutable, Path
from pgduet.routing.adapters.django import RoutedRequests, VersionAliases, current, following, routed
from pgduet.routing.adapters.statements import is_stale, set_local


class Review(models.Model):  # noqa: DJ008  (nobody prints one)
    """Its column has the type of the version that is read."""

    stars = models.TextField()

    class Meta:
        app_label = "shop"
        db_table = "reviews"


@pytest.fixture
def alias(shop: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """One database, by a backend; prepared statements are on, which by default they are not."""
    engine = getattr(request, "param", OURS)
    found = database(shop, engine, prepare_threshold=0, server_side_binding=True)
    with databases({"default": found}):
        yield "default"


def one(query: str = READ, alias: str = "default") -> Any:
    with connections[alias].cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def stars() -> Any:
    """Read by the ORM, as the version's type comes: a text field hands out what the driver gives."""
    return Review.objects.values_list("stars", flat=True).get(pk=7)


both_backends = pytest.mark.parametrize("alias", [OURS, DJANGO_S], indirect=True)


@both_backends
def test_an_atomic_block_reads_the_version_of_a_path(alias: str) -> None:
    for path in TO_AND_FRO:
        with routed(path):
            assert (one(), stars()) == (STARS[path.version], STARS[path.version])
            with transaction.atomic():
                assert one() == STARS[path.version]
        assert one("SHOW search_path") == DEFAULT


@both_backends
def test_a_block_within_another_keeps_the_version(alias: str) -> None:
    with routed(OLD), pytest.raises(NotRoutable, match="in a transaction already"), routed(NEW):
        pass
    assert current() is BASE_TABLES


@pytest.mark.usefixtures("alias")
def test_what_runs_outside_of_a_block_follows_the_context_and_leaves_nothing_behind() -> None:
    for path in TO_AND_FRO:
        with following(path):
            assert (one(), stars()) == (STARS[path.version], STARS[path.version])
            assert [review.pk for review in Review.objects.order_by("id").iterator(chunk_size=3)] == [*range(1, 11)]
        assert one("SHOW search_path") == DEFAULT


@pytest.mark.usefixtures("alias")
def test_a_savepoint_that_is_rolled_back_takes_no_version_with_it() -> None:
    with following(NEW), transaction.atomic():
        with pytest.raises(DataError), transaction.atomic():
            one("SELECT 1/0")
        assert one() == STARS["2"]


@pytest.mark.usefixtures("alias")
def test_a_block_keeps_the_version_that_it_began_with() -> None:
    with following(OLD), transaction.atomic():
        with following(NEW):
            assert one() == STARS["1"]
        assert one() == STARS["1"]


def test_hooks_on_commit_run_and_a_failed_start_leaves_the_connection_usable(alias: str) -> None:
    ran: list[str] = []
    with following(OLD), transaction.atomic():
        transaction.on_commit(lambda: ran.append(one()))
        assert ran == []
    assert ran == [STARS["1"]]
    broken = Path("3", "'", is_new=True)
    with following(broken), pytest.raises(ProgrammingError), transaction.atomic():
        pass
    assert connections[alias].get_autocommit()
    assert one("SHOW search_path") == DEFAULT


@pytest.mark.usefixtures("alias")
def test_each_transaction_that_is_ended_by_hand_is_followed_by_one_with_a_version() -> None:
    transaction.set_autocommit(False)
    try:
        for path in (OLD, NEW, OLD):
            with following(path):
                for end in (transaction.commit, transaction.rollback):
                    assert one() == STARS[path.version]
                    with following(NEW):
                        assert one() == STARS[path.version], "it keeps the version that it began with"
                    end()
                with transaction.atomic():
                    assert one() == STARS[path.version]
                transaction.commit()
        assert one("SHOW search_path") == DEFAULT
        transaction.commit()
    finally:
        transaction.set_autocommit(True)


def test_a_database_without_autocommit_has_the_version_from_its_first_statement(shop: str) -> None:
    with databases({"default": database(shop) | {"AUTOCOMMIT": False, "TIME_ZONE": "Asia/Tokyo"}}), following(NEW):
        assert one() == STARS["2"]
        transaction.rollback()
        assert one() == STARS["2"]
        transaction.rollback()


def test_a_path_may_be_of_one_database_alone(shop: str) -> None:
    """Another one has version schemas of the same names, and they are not of this migration."""
    with databases({"default": database(shop), "other": database(shop)}):
        with routed(NEW):
            assert [one(), one(alias="other")] == [STARS["2"], 4]
        with following(OLD), following(NEW, using="other"):
            assert [one(), one(alias="other")] == [STARS["1"], STARS["2"]]
            with transaction.atomic(), transaction.atomic(using="other"):
                assert [one(), one(alias="other")] == [STARS["1"], STARS["2"]]
            with following(NEW):
                assert [current(), current("other")] == [NEW, NEW]
        assert current("other") is BASE_TABLES


class ByHeader(RoutedRequests):
    def path(self, request: HttpRequest) -> Path:
        return NEW if request.META.get("HTTP_X_VERSION") == "2" else OLD


def asking(version: str) -> HttpRequest:
    request = HttpRequest()
    request.META["HTTP_X_VERSION"] = version
    return request


@pytest.mark.usefixtures("alias")
def test_a_request_has_one_version() -> None:
    answer = ByHeader(lambda _: HttpResponse(str(stars())))
    assert not iscoroutinefunction(answer)
    assert [answer(asking(version)).content for version in "1212"] == [b"4", b"****"] * 2
    assert current() is BASE_TABLES


@pytest.mark.usefixtures("alias")
async def test_requests_at_the_same_time_have_a_version_each() -> None:
    def read() -> str:
        try:
            return str(stars())
        finally:
            forget()

    async def view(_: HttpRequest) -> HttpResponse:
        found = [await sync_to_async(read)() for _ in range(3)]
        return HttpResponse(" ".join(found))

    answer = ByHeader(view)
    assert iscoroutinefunction(answer)
    assert iscoroutinefunction(ByHeader(sync_to_async(lambda _: read()))), "as handed on by a layer that is not async"
    answers = await asyncio.gather(*(answer(asking(version)) for version in "1212"))
    assert [each.content for each in answers] == [b"4 4 4", b"**** **** ****"] * 2


def test_aliases_lead_to_their_versions(shop: str) -> None:
    by_role = {f"v{path.version}": f"-csearch_path=public_v{path.version},public" for path in (OLD, NEW)}
    found = {name: database(shop, DJANGO_S, options=options, prepare_threshold=0) for name, options in by_role.items()}
    aliases = VersionAliases({"1": "v1", "2": "v2"})
    with databases({"default": database(shop, DJANGO_S), **found}), override_settings(DATABASE_ROUTERS=[aliases]):
        for path in TO_AND_FRO:
            with following(path):
                assert aliases.alias() == f"v{path.version}"
                assert stars() == STARS[path.version]
        assert aliases.alias() == "default"
        with following(Path("3", "public_v3, public", is_new=True)), pytest.raises(NotRoutable, match="version 3"):
            stars()
        assert stars() == 4
        assert aliases.allow_migrate("v2", "shop") is False
        assert aliases.allow_migrate("default", "shop") is None
        with following(OLD):
            older = Review.objects.get(pk=7)
        with following(NEW):
            newer = Review.objects.get(pk=8)
        assert (older._state.db, newer._state.db) == ("v1", "v2")
        assert aliases.allow_relation(older, newer) is True


@pytest.mark.parametrize("alias", [DJANGO_S], indirect=True)
def test_with_django_s_own_backend_and_prepared_statements_a_change_fails(alias: str) -> None:
    """What the adapter's backend is there for: see to it that these tests would see the error."""

    def read(path: Path) -> Any:
        with transaction.atomic():
            with connections[alias].cursor() as cursor:
                cursor.execute(set_local(path))
            return one()

    assert read(OLD) == STARS["1"]
    with pytest.raises(NotSupportedError) as caught:
        read(NEW)
    assert is_stale(caught.value)
