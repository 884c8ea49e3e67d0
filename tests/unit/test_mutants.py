"""Mutants: what they take out is out while they are applied, back afterwards, and missed loudly where it is no longer there."""

import asyncio

import psycopg
import pytest
from support.mutants import Attribute, Clause, Code, Mutant, NoSuchClause, must_fail

from pgduet.postgres import batches
from pgduet.sql import block, load, text

ALWAYS = Clause("ENABLE ALWAYS", "sync", "enable_trigger", "ENABLE ALWAYS TRIGGER", "ENABLE TRIGGER")
PAGES = Attribute("small batches", batches, "FIRST_PAGES", 1)


class Counter:
    """Something to mutate."""

    start = 1

    @staticmethod
    def twice(number: int) -> int:
        return number * 2

    async def later(self, *, by: int = 1) -> int:
        await asyncio.sleep(0)
        return self.start + by


LATER = Code("the sum", Counter.later, "self.start + by", "self.start - by")
TWICE = Code("twice", Counter.twice, "* 2", "* 3")


async def fails(how: BaseException | None = None) -> None:
    if how:
        raise how


def test_a_clause_is_out_of_its_block_for_all_who_read_it_until_the_end() -> None:
    before = dict(load("sync"))
    with ALWAYS.applied():
        assert "ALWAYS TRIGGER" not in text("sync", "enable_trigger")
        assert block("sync", "enable_trigger").as_string() == text("sync", "enable_trigger")
    assert load("sync") == before


async def test_a_function_is_changed_for_all_who_hold_it() -> None:
    held = Counter().later
    with LATER.applied(), TWICE.applied():
        assert await held(by=5) == -4
        assert Counter.twice(2) == 6
    assert await held(by=5) == 6
    assert Counter.twice(2) == 4


def test_an_attribute_has_another_value() -> None:
    before = batches.FIRST_PAGES
    with PAGES.applied():
        assert batches.FIRST_PAGES == 1
    assert before == batches.FIRST_PAGES != 1


@pytest.mark.parametrize(
    "mutant",
    [
        Clause("gone", "sync", "fill", "no such clause"),
        Clause("twice there", "sync", "update_mapping", "IS NOT DISTINCT FROM OLD.{marker}"),
        Clause("no block", "sync", "no_such_block", "x"),
        Clause("itself", "sync", "fill", "RETURN NEW;", "RETURN NEW;"),
        Code("gone", Counter.later, "no such piece", ""),
        Attribute("gone", batches, "NO_SUCH_PAGES", 1),
        Attribute("the same", batches, "FIRST_PAGES", batches.FIRST_PAGES),
    ],
    ids=lambda mutant: f"{type(mutant).__name__}: {mutant.name}",
)
async def test_a_mutant_of_what_is_no_longer_there_fails_loudly(mutant: Mutant) -> None:
    with pytest.raises(NoSuchClause):
        await must_fail(fails(AssertionError("rows are lost")), mutant, says="rows are lost")


@pytest.mark.parametrize(
    "how",
    [
        AssertionError("rows are lost\nassert {1} == set()"),
        psycopg.errors.CheckViolation("rows are lost"),
        ExceptionGroup("clients", [ValueError("another"), AssertionError("3 rows are lost")]),
    ],
)
async def test_a_scenario_that_fails_by_its_own_word_has_seen_the_fault(how: Exception) -> None:
    await must_fail(fails(how), ALWAYS, says="rows are lost")
    assert "ALWAYS" in text("sync", "enable_trigger")


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (None, "does not see"),
        (TimeoutError(), "by accident: TimeoutError"),
        (KeyError("rows are lost"), "by accident: KeyError"),
        (AssertionError("soak not reached:\nrows are lost"), "by accident: AssertionError: soak not reached"),
    ],
    ids=["passes", "times out", "breaks", "is not reached"],
)
async def test_a_scenario_that_passes_or_fails_by_accident_has_not(how: Exception | None, told: str) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception), match=told):
        await must_fail(fails(how), ALWAYS, says="rows are lost")
