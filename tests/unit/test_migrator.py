"""Shadow reads and writes apart, without a database: what a caller gets, what is repeated, and that nothing else happens to it."""

import asyncio
import contextvars
import dataclasses
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pgduet.compared import Compared
from pgduet.routing import Limits, Path, Route, RouteUnavailable, Rules, Stage, hashed_key
from pgduet.routing.aio_migrator import AsyncMigrator
from pgduet.routing.core import RouterCore
from pgduet.routing.migrating import Settings, Showing
from pgduet.routing.migrator import Migrator

NAME = "review-stars"
PATIENCE_S = 30.0
SHADOW = Route(NAME, "1", "2", ["public"], published=True, authority="old", read_percent=0, epoch=3, comparing=True)
STAGES: dict[Stage, Route | None] = {
    Stage.OFF: None,
    Stage.DUALWRITE: dataclasses.replace(SHADOW, published=False),
    Stage.SHADOW: SHADOW,
    Stage.LIVE: dataclasses.replace(SHADOW, read_percent=100),
    Stage.RAMPDOWN: dataclasses.replace(SHADOW, read_percent=100, authority="new"),
    Stage.COMPLETE: dataclasses.replace(SHADOW, read_percent=100, authority="new", old_version="2"),
}
ALWAYS = Limits(sample=1.0, calibrate=0.0)

every_stage = pytest.mark.parametrize("stage", list(Stage))


class Clock:
    """Monotonic seconds under the test's hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Reads:
    """Both read functions, and the paths on which each was called."""

    def __init__(self, old: Any = "same", new: Any = "same") -> None:
        self.answers = {False: old, True: new}
        self.calls: list[tuple[bool, Path, Any]] = []

    def old(self, path: Path, key: Any, **named: Any) -> Any:
        return self._answer(False, path, key, named)

    def new(self, path: Path, key: Any, **named: Any) -> Any:
        return self._answer(True, path, key, named)

    def _answer(self, is_new: bool, path: Path, key: Any, named: dict[str, Any]) -> Any:  # noqa: FBT001
        self.calls.append((is_new, path, (key, named)))
        answer = self.answers[is_new]
        return answer(key) if callable(answer) else answer

    @property
    def sides(self) -> list[str]:
        return ["new" if is_new else "old" for is_new, _, _ in self.calls]


def core_of(*routes: Route | None, version: str | None = None, clock: Clock | None = None) -> RouterCore:
    clock = clock or Clock()
    core = RouterCore(service="billing", version=version, clock=clock)
    core.hear([route for route in routes if route], clock())
    core.acknowledged(core.reports())
    return core


@contextmanager
def migrator(core: RouterCore, reads: Reads, limits: Limits = ALWAYS, **settings: Any) -> Iterator[Migrator[Any]]:
    made = Migrator(core, Settings(NAME, reads.old, reads.new, limits=limits, **settings))
    yield made
    made.close()
    assert made.settle(PATIENCE_S)


def counts(core: RouterCore) -> dict[str, int]:
    """Give what was counted and is not 0, without times."""
    written = core.tally(NAME).totals().written()
    return {name: value for name, value in written.items() if value and name != "latency" and "seconds" not in name}


def sampled(core: RouterCore) -> list[dict[str, Any]]:
    return list(core.tally(NAME).report()[0]["samples"])


@every_stage
def test_the_stage_says_who_answers_and_whether_the_other_side_is_read(stage: Stage) -> None:
    reads, core = Reads("old", "new"), core_of(STAGES[stage])
    with migrator(core, reads) as made:
        answers_new = stage in {Stage.LIVE, Stage.RAMPDOWN, Stage.COMPLETE}
        assert made.read(7) == ("new" if answers_new else "old")
        assert made.settle(PATIENCE_S)
    compares = stage in {Stage.SHADOW, Stage.LIVE}
    assert reads.sides == ["new" if answers_new else "old"] + ["old" if answers_new else "new"] * compares
    assert counts(core) == ({"compared": 1, "mismatches": 1} if compares else {})


def test_a_key_goes_by_its_percentage_and_each_side_gets_its_own_path() -> None:
    core = core_of(dataclasses.replace(SHADOW, read_percent=50))
    reads = Reads("old", "new")
    with migrator(core, reads) as made:
        for key in range(50):
            assert made.read(key, extra=key) == ("new" if core.path(NAME, key).is_new else "old")
        assert made.settle(PATIENCE_S)
    assert {(is_new, path.version, path.search_path) for is_new, path, _ in reads.calls} == {
        (False, "1", "public_v1, public"),
        (True, "2", "public_v2, public"),
    }
    assert sorted(key for _, _, (key, named) in reads.calls if named == {"extra": key}) == sorted([*range(50)] * 2)


def boom(*_: Any) -> Any:
    raise RuntimeError("boom")


@pytest.mark.parametrize(
    ("reads", "settings", "expected"),
    [
        (Reads(new=boom), {}, {"failed_new": 1}),
        (Reads(), {"compare": boom}, {"broken": 1}),
        (Reads(new="other"), {"showing": Showing(redact=boom)}, {"broken": 1}),
        (Reads(new="other"), {"showing": Showing(show=boom)}, {"broken": 1}),
        (Reads(old=lambda _: nested(100)), {}, {"broken": 1}),
    ],
)
def test_nothing_that_fails_off_the_callers_path_reaches_it(
    reads: Reads, settings: dict[str, Any], expected: dict[str, int]
) -> None:
    core = core_of(SHADOW)
    with migrator(core, reads, **settings) as made:
        made.read(7)
        assert made.settle(PATIENCE_S)
    assert counts(core) == expected


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


def test_what_the_read_itself_raises_is_raised_and_counted_and_not_compared() -> None:
    reads, core = Reads(old=boom), core_of(SHADOW)
    with migrator(core, reads) as made, pytest.raises(RuntimeError, match="boom"):
        made.read(7)
    (report,) = core.reports()
    assert (report["reads_old"], report["errors_old"], counts(core), reads.sides) == (1, 1, {}, ["old"])


def test_a_full_queue_drops_and_counts_and_holds_nobody_up() -> None:
    gate, inside = threading.Event(), threading.Semaphore(0)

    def stuck(_: Any) -> str:
        inside.release()
        assert gate.wait(PATIENCE_S)
        return "same"

    core = core_of(SHADOW)
    before = threading.active_count()
    with migrator(core, Reads(new=stuck), Limits(sample=1, calibrate=0, workers=2, waiting=5)) as made:
        for key in range(2):
            made.read(key)
            assert inside.acquire(timeout=PATIENCE_S)
        for key in range(1000):
            assert made.read(key) == "same"
        assert threading.active_count() == before + 2
        assert counts(core) == {"dropped": 995}
        gate.set()
        assert made.settle(PATIENCE_S)
    assert counts(core) == {"dropped": 995, "compared": 7}


def test_what_takes_too_long_is_counted_while_it_does_and_its_answer_thrown_away() -> None:
    gate, inside, clock = threading.Event(), threading.Semaphore(0), Clock()

    def stuck(_: Any) -> str:
        inside.release()
        assert gate.wait(PATIENCE_S)
        return "other"

    core = core_of(SHADOW, clock=clock)
    limits = Limits(sample=1, calibrate=0, workers=1, timeout_s=2)
    with migrator(core, Reads(new=stuck), limits, clock=clock) as made:
        made.read(1)
        assert inside.acquire(timeout=PATIENCE_S)
        made.read(2)
        clock.now += 2.5
        made.sweep()
        made.sweep()
        assert counts(core) == {"timeouts": 1}
        gate.set()
        assert made.settle(PATIENCE_S)
    assert counts(core) == {"timeouts": 1, "dropped": 1}, "the second waited for too long"


@pytest.mark.parametrize(
    ("core", "why"),
    [
        (core_of(dataclasses.replace(SHADOW, comparing=False)), "a version is about to go"),
        (core_of(SHADOW, version="1"), "the service knows one version"),
        (core_of(SHADOW, version="2"), "the service knows the other one"),
    ],
)
def test_the_other_side_is_not_read_where_it_may_not_be(core: RouterCore, why: str) -> None:
    reads = Reads()
    with migrator(core, reads) as made:
        made.read(7)
    assert len(reads.calls) == 1, why


def test_past_the_lease_nobody_reads_a_version_that_may_have_gone() -> None:
    clock = Clock()
    reads, core = Reads(), core_of(SHADOW, clock=clock)
    clock.now += 11
    with migrator(core, reads, clock=clock) as made:
        made.read(7)
    assert reads.sides == ["old"]


def test_what_waits_is_not_read_any_more_when_the_stage_has_changed_meanwhile() -> None:
    gate, inside = threading.Event(), threading.Semaphore(0)

    def stuck(_: Any) -> str:
        inside.release()
        assert gate.wait(PATIENCE_S)
        return "same"

    reads, core = Reads(new=stuck), core_of(SHADOW)
    with migrator(core, reads, Limits(sample=1, calibrate=0, workers=1)) as made:
        made.read(1)
        assert inside.acquire(timeout=PATIENCE_S)
        made.read(2)
        core.hear([dataclasses.replace(SHADOW, comparing=False, epoch=4)], core._clock())
        gate.set()
        assert made.settle(PATIENCE_S)
    assert (reads.sides, counts(core)) == (["old", "new", "old"], {"compared": 1, "dropped": 1})


def test_a_caller_may_change_its_answer() -> None:
    gate, core = threading.Event(), core_of(SHADOW)
    reads = Reads(old=lambda _: {"tags": ["a"]}, new=lambda _: gate.wait(PATIENCE_S) and {"tags": ["a"]})
    with migrator(core, reads) as made:
        made.read(7)["tags"].append("b")
        gate.set()
        assert made.settle(PATIENCE_S)
    assert counts(core) == {"compared": 1}


def test_a_mismatch_tells_where_and_nothing_of_what_unless_it_is_asked_to() -> None:
    reads = Reads({"mail": "ann@example.org"}, {"mail": "bob@example.org"})
    core = core_of(SHADOW)
    with migrator(core, reads, label="by id") as made:
        made.read("ann")
        assert made.settle(PATIENCE_S)
    sample = {"read": "by id", "key": hashed_key("ann"), "place": "mail", "kind": "value", "shown": None}
    assert sampled(core) == [{**sample, "answered": "old"}]
    core = core_of(SHADOW)
    showing = Showing(redact=lambda key: key[0], show=lambda old, new: f"{old['mail'][:3]}\0{new['mail'][:3]}")
    with migrator(core, reads, showing=showing, label="by\ud800id") as made:
        made.read("ann")
        assert made.settle(PATIENCE_S)
    (shown,) = sampled(core)
    assert (shown["read"], shown["key"], shown["shown"]) == ("by?id", "a", "ann\ufffdbob")


def test_mismatches_wait_for_the_report_in_bounded_number_and_go_out_once() -> None:
    core = core_of(SHADOW)
    core.knows_pairs = True
    with migrator(core, Reads("old", "new"), Limits(sample=1, calibrate=0, waiting=500)) as made:
        for key in range(200):
            made.read(key)
        assert made.settle(PATIENCE_S)
        reports = core.reports()
        assert len(reports[0]["compared"].obj["samples"]) == 50
        made.read("later")
        assert made.settle(PATIENCE_S)
        core.delivered(reports)
    assert [sample["key"] for sample in sampled(core)] == [hashed_key("later")]


@pytest.mark.parametrize(("noise", "wrong"), [(0.0, 0.005), (0.2, 0.0), (0.2, 0.05)])
def test_the_ratio_is_what_is_wrong_and_not_what_old_differs_from_itself(noise: float, wrong: float) -> None:
    draw, core = random.Random(11), core_of(SHADOW)
    clock = iter(range(10**9))

    def old(key: int) -> tuple[int, int]:
        return key, next(clock) if draw.random() < 1 - (1 - noise) ** 0.5 else 0

    def new(key: int) -> tuple[int, int]:
        return -1 if key % 1000 < wrong * 1000 else key, old(key)[1]

    with migrator(core, Reads(old, new), Limits(sample=1, calibrate=0.5, waiting=50_000), draw=draw.random) as made:
        for key in range(20_000):
            made.read(key)
        assert made.settle(PATIENCE_S)
    found: Compared = core.tally(NAME).totals()
    assert found.compared + found.calibrated == 20_000
    assert found.noise_ratio == pytest.approx(noise, abs=0.015)
    assert found.net_ratio == pytest.approx(wrong, abs=0.003 + noise * 0.07)


def test_latencies_of_both_sides_are_counted_on_and_off_the_callers_path() -> None:
    core = core_of(dataclasses.replace(SHADOW, read_percent=50))
    with migrator(core, Reads(), Limits(sample=1, calibrate=0.5, waiting=1000)) as made:
        for key in range(300):
            made.read(key)
        assert made.settle(PATIENCE_S)
    latency = core.tally(NAME).totals().latency
    (report,) = core.reports()
    assert (latency["answered_old"].total, latency["answered_new"].total) == (report["reads_old"], report["reads_new"])
    assert latency["shadow_old"].total + latency["shadow_new"].total == 300


def test_only_the_sampled_share_is_repeated() -> None:
    reads, core = Reads(), core_of(SHADOW)
    with migrator(core, reads, Limits(sample=0.1, calibrate=0, waiting=5000), draw=random.Random(5).random) as made:
        for key in range(5000):
            made.read(key)
        assert made.settle(PATIENCE_S)
    assert reads.sides.count("new") == pytest.approx(500, abs=70)


@pytest.mark.parametrize(
    "wrong", [{"sample": 10}, {"calibrate": -0.1}, {"workers": 0}, {"waiting": 0}, {"timeout_s": 0}]
)
def test_limits_that_nobody_means_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"shares|at least 1"):
        Limits(**wrong)


def test_a_closed_migrator_answers_and_repeats_nothing() -> None:
    reads, core = Reads(), core_of(SHADOW)
    with migrator(core, reads) as made:
        made.close()
        assert made.read(7) == "same"
    assert (reads.sides, counts(core)) == (["old"], {"dropped": 1})


class TestWritesApart:
    @every_stage
    def test_go_in_the_stages_order_and_the_first_one_answers(self, stage: Stage) -> None:
        core, order = core_of(STAGES[stage]), []
        with migrator(core, Reads()) as made:
            written = made.write(7, writes(order, "old"), writes(order, "new"))
        expected = {
            Stage.OFF: ["old"],
            Stage.DUALWRITE: ["old", "new"],
            Stage.SHADOW: ["old", "new"],
            Stage.LIVE: ["new", "old"],
            Stage.RAMPDOWN: ["new", "old"],
            Stage.COMPLETE: ["new"],
        }[stage]
        assert (order, written.answer, written.repeated, written.missed) == (expected, expected[0], False, False)

    @every_stage
    def test_where_the_first_fails_the_second_is_not_tried(self, stage: Stage) -> None:
        order: list[str] = []
        with migrator(core_of(STAGES[stage]), Reads()) as made, pytest.raises(RuntimeError):
            made.write(7, writes(order, "old", fails=True), writes(order, "new", fails=True))
        assert len(order) == 1

    @pytest.mark.parametrize("stage", [Stage.DUALWRITE, Stage.SHADOW])
    def test_a_second_one_that_nobody_reads_yet_may_fail_and_is_counted(self, stage: Stage) -> None:
        core, order = core_of(STAGES[stage]), []
        with migrator(core, Reads()) as made:
            assert made.write(7, writes(order, "old"), writes(order, "new", fails=True)).missed
        assert (order, counts(core)) == (["old", "new"], {"unwritten": 1})

    @pytest.mark.parametrize("stage", [Stage.LIVE, Stage.RAMPDOWN])
    def test_a_second_one_that_is_read_or_is_the_way_back_may_not(self, stage: Stage) -> None:
        with migrator(core_of(STAGES[stage]), Reads()) as made, pytest.raises(RuntimeError):
            made.write(7, writes([], "old", fails=True), writes([], "new"))

    def test_need_a_connection_for_an_idempotency_key(self) -> None:
        with migrator(core_of(SHADOW), Reads()) as made, pytest.raises(ValueError, match="needs the connection"):
            made.write(7, boom, boom, idempotency_key="k")

    def test_a_service_that_knows_one_version_writes_there_only(self) -> None:
        order: list[str] = []
        for version in ("1", "2"):
            with migrator(core_of(SHADOW, version=version), Reads()) as made:
                made.write(7, writes(order, "old"), writes(order, "new"))
        assert order == ["old", "new"]
        unpublished = core_of(STAGES[Stage.DUALWRITE], version="2")
        with migrator(unpublished, Reads()) as made, pytest.raises(RouteUnavailable):
            made.write(7, boom, boom)


def writes(order: list[str], side: str, *, fails: bool = False) -> Callable[[Path], str]:
    def write(_: Path) -> str:
        order.append(side)
        if fails:
            raise RuntimeError(side)
        return side

    return write


class TestAsync:
    """The same core; what differs is that a read off the caller's path is a task."""

    def made(self, core: RouterCore, old: Any, new: Any, limits: Limits = ALWAYS) -> AsyncMigrator[Any]:
        return AsyncMigrator(core, Settings(NAME, old, new, compare=Rules(), limits=limits))

    async def test_reads_are_answered_and_compared(self) -> None:
        core = core_of(SHADOW)
        made = self.made(core, answers("old"), answers("new"))
        assert await made.read(7) == "old"
        assert await made.settle(PATIENCE_S)
        assert counts(core) == {"compared": 1, "mismatches": 1}
        await made.close()

    async def test_a_full_queue_drops_and_counts_and_holds_nobody_up(self) -> None:
        gate, core = asyncio.Event(), core_of(SHADOW)
        made = self.made(core, answers("same"), waits(gate), Limits(sample=1, calibrate=0, workers=2, waiting=5))
        for key in range(1002):
            assert await made.read(key) == "same"
        tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith("pgduet-shadow")]
        assert (len(tasks), counts(core)) == (2, {"dropped": 995})
        gate.set()
        assert await made.settle(PATIENCE_S)
        assert counts(core) == {"dropped": 995, "compared": 7}
        await made.close()

    async def test_what_takes_too_long_is_cancelled_and_counted(self) -> None:
        core = core_of(SHADOW)
        made = self.made(core, answers("same"), waits(asyncio.Event()), Limits(sample=1, calibrate=0, timeout_s=0.05))
        await made.read(7)
        assert await made.settle(PATIENCE_S)
        assert counts(core) == {"timeouts": 1}
        await made.close()

    async def test_what_fails_off_the_callers_path_does_not_reach_it(self) -> None:
        async def fails(*_: Any) -> str:
            raise TimeoutError

        core = core_of(SHADOW)
        made = self.made(core, answers("same"), fails)
        assert await made.read(7) == "same"
        assert await made.settle(PATIENCE_S)
        assert counts(core) == {"failed_new": 1}
        await made.close()

    async def test_the_callers_context_is_not_the_workers(self) -> None:
        connection: contextvars.ContextVar[str] = contextvars.ContextVar("connection", default="its own")
        connection.set("the caller's")

        async def read(*_: Any) -> str:
            return connection.get()

        core = core_of(SHADOW)
        made = self.made(core, read, read)
        assert await made.read(7) == "the caller's"
        assert await made.settle(PATIENCE_S)
        assert counts(core) == {"compared": 1, "mismatches": 1}
        await made.close()

    async def test_close_cancels_what_runs_and_drops_what_waits(self) -> None:
        core = core_of(SHADOW)
        made = self.made(core, answers("same"), waits(asyncio.Event()), Limits(sample=1, calibrate=0, workers=1))
        for key in range(3):
            await made.read(key)
        await made.close()
        assert counts(core) == {"dropped": 2}
        assert [task for task in asyncio.all_tasks() if task.get_name().startswith("pgduet-shadow")] == []

    async def test_writes_apart_go_in_the_stages_order(self) -> None:
        core, order = core_of(SHADOW), []

        async def old(_: Path) -> str:
            order.append("old")
            return "old"

        async def new(_: Path) -> str:
            order.append("new")
            raise RuntimeError

        made = self.made(core, answers("old"), answers("new"))
        written = await made.write(7, old, new)
        assert (order, written.answer, written.missed, counts(core)) == (["old", "new"], "old", True, {"unwritten": 1})
        core.hear([STAGES[Stage.LIVE] or SHADOW], core._clock())
        with pytest.raises(RuntimeError):
            await made.write(7, old, new)
        assert order == ["old", "new", "new"]
        await made.close()


def answers(answer: Any) -> Callable[..., Any]:
    async def read(*_: Any) -> Any:
        return answer

    return read


def waits(gate: asyncio.Event) -> Callable[..., Any]:
    async def read(*_: Any) -> str:
        await gate.wait()
        return "same"

    return read
