"""The pure parts of telemetry: what is traced of many, whose rates are told, who is meant, what is not loaded."""

import subprocess
import sys
import threading

import psycopg
import pytest
from opentelemetry.trace import INVALID_SPAN

from pgduet.errors import UnmappableRows
from pgduet.messages import BackfillInput, Part, Reference, SetupInput, workflow_id
from pgduet.telemetry import carrier, subject
from pgduet.telemetry.faults import told
from pgduet.telemetry.metrics import INSTRUMENTS, RATE_WINDOW_S, Rates
from pgduet.telemetry.spans import ALL_OF_FIRST, Budget, worth


def test_of_n_repetitions_log_n_are_traced() -> None:
    traced = [number for number in range(1, 1_000_001) if worth(number)]
    assert traced[:ALL_OF_FIRST] == [1, 2, 3, 4]
    assert traced[ALL_OF_FIRST:] == [2**power for power in range(3, 20)]


def test_a_budget_counts_on_when_it_is_spent() -> None:
    budget = Budget(left=2)
    assert [budget.spend() for _ in range(4)] == [True, True, False, False]
    assert budget.seen == 4


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def rates(of: Rates) -> dict[str, float]:
    return {str((each.attributes or {})["pgduet.migration"]): float(each.value) for each in of.observe()}


def test_a_rate_is_over_the_window_or_since_the_first_row_and_then_forgotten() -> None:
    clock = Clock()
    known = Rates(clock)
    one = subject.Subject("shop", "one")
    known.add(one, 1000)
    assert rates(known) == {"one": 1000}
    clock.now += 4
    known.add(one, 3000)
    assert rates(known) == {"one": 1000}
    clock.now += RATE_WINDOW_S - 1
    assert rates(known) == {"one": 3000 / (RATE_WINDOW_S - 1)}
    clock.now += 2
    assert rates(known) == {}
    assert not known.written, "what a worker has done must not be kept forever"


def test_rates_are_read_while_they_are_written() -> None:
    known, errors = Rates(), []

    def write() -> None:
        for number in range(3000):
            known.add(subject.Subject("shop", f"m{number % 50}"), 1)

    def read() -> None:
        try:
            for _ in range(300):
                list(known.observe())
        except RuntimeError as error:
            errors.append(error)

    threads = [threading.Thread(target=job) for job in (write, read, write, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


REFERENCE = Reference(database="shop", name="stars", migration_id=1, actor="a")


@pytest.mark.parametrize(
    ("argument", "workflow", "database", "migration"),
    [
        (REFERENCE, None, "shop", "stars"),
        (
            BackfillInput(reference=REFERENCE, part=Part(relation="r", part=0, block_from=0, block_to=1)),
            None,
            "shop",
            "stars",
        ),
        (SetupInput(database="shop"), "setup/shop", "shop", ""),
        (None, workflow_id("shop", "stars") + "/backfill/3", "shop", "stars"),
        (None, "somebody/else/s", "", ""),
        (None, None, "", ""),
    ],
)
def test_who_is_meant_is_read_from_the_input_or_the_workflow_s_id(
    argument: object, workflow: str | None, database: str, migration: str
) -> None:
    about = subject.of_argument(argument, workflow)
    assert (about.database, about.migration) == (database, migration)


def test_errors_are_named_by_class_and_code() -> None:
    assert told(UnmappableRows("secret")) == "UnmappableRows PD-2002"
    assert told(psycopg.errors.DivisionByZero("secret")) == "DivisionByZero 22012"
    assert told(RuntimeError("secret")) == "RuntimeError"


def test_nothing_traced_is_nothing_carried() -> None:
    headers = {"theirs": carrier.added({}, {"a": "b"})[carrier.PARENT]}
    assert carrier.carrier(INVALID_SPAN) == {}
    assert carrier.added(headers, {}) is headers
    assert carrier.read(headers) == {}


def test_each_instrument_is_named_once_and_says_its_unit() -> None:
    names = [each.name for each in INSTRUMENTS]
    assert len(set(names)) == len(names)
    assert all(each.name.startswith("pgduet.") and each.unit and each.text for each in INSTRUMENTS)
    assert {each.name for each in INSTRUMENTS if each.kind == "histogram"} == {e.name for e in INSTRUMENTS if e.buckets}


@pytest.mark.parametrize("module", ["pgduet.client", "pgduet.cli.main", "pgduet.postgres.batches"])
def test_who_asks_for_no_telemetry_loads_no_sdk_of_it(module: str) -> None:
    script = f"import sys, {module}; print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
