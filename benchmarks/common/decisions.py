"""Who can be asked which version a read goes to: pgduet's router, clients of feature flags, the database itself.

Each is asked as its library has it, one call for one key, in one process. The calls are timed one by one, by a clock whose own
cost stands beside them as a subject; it is taken off nobody's. What can be made once for a request is made beforehand: the peers'
contexts, and a connection. pgduet's router is given the key as a row has it, a number.

Flags are set up to do what a route does, a quarter of all keys new, but for the SDK's own provider, which has a constant: that is
what the SDK alone costs. LaunchDarkly reads its flag from a file, and sends no events.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.common.users import NAME
from pgduet.local.measures import Latency, summed
from pgduet.routing import Router

CLOCK, PATH = "the clock alone", "pgduet, path()"
PROVIDER, IN_MEMORY = "OpenFeature, pgduet's provider", "OpenFeature, a constant in memory"
LAUNCHDARKLY, QUERY = "LaunchDarkly, migration_variation", "a query per read"
NEW_PERCENT = 25
_BEARABLE = 5
"""Percentage points by which a subject's share of new may be off: thousands of keys are no more even than that."""
_ROUTE = """
SELECT old_version, new_version, schemas, published, authority, read_percent, epoch FROM pgduet.route WHERE migration = %s
"""


class Misrouted(Exception):
    """A subject's answers are not those that it was set up for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A subject: its call, what it takes beside each key, how often it is asked in a turn, and which answers mean new."""

    call: Callable[..., Any]
    arguments: Callable[[int], tuple[Any, ...]]
    times: int
    is_new: Callable[[Any], bool] | None = None

    def took(self, first: int) -> Latency:
        """Ask for so many keys from one on; gives the latencies in µs."""
        arguments = [self.arguments(key) for key in range(first, first + self.times)]
        return summed([nanoseconds / 1000 for nanoseconds in timed(self.call, arguments)])

    def checked(self, name: str) -> list[bool]:
        """Give which keys are new.

        Raises:
            Misrouted: they are not as many as they should be.
        """
        is_new = self.is_new
        found = [is_new(self.call(*self.arguments(key))) for key in range(self.times)] if is_new else []
        share = 100 * sum(found) / len(found) if found else NEW_PERCENT
        if abs(share - NEW_PERCENT) > _BEARABLE:
            message = f"{name} sends {share:.0f} % of the keys to the new version, not {NEW_PERCENT}"
            raise Misrouted(message)
        return found


def timed(call: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[int]:
    """Call it with each of these, and time each call, in nanoseconds."""
    clock = time.perf_counter_ns
    took: list[int] = []
    for each in arguments:
        began = clock()
        call(*each)
        took.append(clock() - began)
    return took


@contextmanager
def subjects(dsn: str, scratch: Path, *, openfeature: bool, launchdarkly: bool) -> Iterator[dict[str, Asked]]:
    """Set all up that are there, against a database in the middle of a shift, and see that they answer rightly."""
    with ExitStack() as stack:
        router = stack.enter_context(Router.open(dsn, service="benchmark"))
        found = {
            CLOCK: Asked(_nothing, lambda key: (NAME, key), 20_000),
            PATH: Asked(router.path, lambda key: (NAME, key), 20_000, lambda path: bool(path.is_new)),
            QUERY: Asked(*stack.enter_context(_query(dsn)), 1_000),
        }
        if openfeature:
            found |= stack.enter_context(_openfeature(router))
        if launchdarkly:
            found[LAUNCHDARKLY] = stack.enter_context(_launchdarkly(scratch))
        answers = {name: asked.checked(name) for name, asked in found.items()}
        alike = zip(answers[PATH], answers.get(PROVIDER, []), strict=False)
        if not all(ours == flag for ours, flag in alike):
            message = "our OpenFeature provider and path() do not say the same"
            raise Misrouted(message)
        yield found


def _nothing(migration: str, key: int) -> None:
    """Be called, and do nothing."""


@contextmanager
def _query(dsn: str) -> Iterator[tuple[Callable[..., Any], Callable[[int], tuple[Any, ...]]]]:
    with psycopg.connect(dsn, autocommit=True) as conn:

        def route(migration: str) -> object:
            return conn.execute(_ROUTE, (migration,)).fetchone()

        if route(NAME) is None:
            message = f"there is no route of {NAME}"
            raise Misrouted(message)
        yield route, lambda _: (NAME,)


@contextmanager
def _openfeature(router: Router) -> Iterator[dict[str, Asked]]:
    api = import_module("openfeature.api")
    context = import_module("openfeature.evaluation_context").EvaluationContext
    memory = import_module("openfeature.provider.in_memory_provider")
    constant = memory.InMemoryProvider({NAME: memory.InMemoryFlag("old", {"old": "1", "new": "2"})})
    api.set_provider_and_wait(import_module("pgduet.routing.adapters.openfeature").RouterProvider(router), "pgduet")
    api.set_provider_and_wait(constant, "memory")

    def arguments(key: int) -> tuple[Any, ...]:
        return (NAME, "1", context(targeting_key=str(key)))

    try:
        yield {
            PROVIDER: Asked(
                api.get_client("pgduet").get_string_value, arguments, 2_000, lambda version: bool(version == "2")
            ),
            IN_MEMORY: Asked(api.get_client("memory").get_string_value, arguments, 2_000),
        }
    finally:
        api.shutdown()


@contextmanager
def _launchdarkly(scratch: Path) -> Iterator[Asked]:
    sdk, stages = import_module("ldclient"), import_module("ldclient.migrations").Stage
    source = import_module("ldclient.integrations").Files.new_data_source(paths=[str(_flag(scratch))])
    config = import_module("ldclient.config").Config
    client = sdk.LDClient(
        config=config("none", update_processor_class=source, send_events=False, diagnostic_opt_out=True)
    )
    try:
        yield Asked(
            client.migration_variation,
            lambda key: (NAME, sdk.Context.create(str(key)), stages.OFF),
            2_000,
            lambda answer: bool(answer[0] is stages.LIVE),
        )
    finally:
        client.close()


def _flag(scratch: Path) -> Path:
    """Write LaunchDarkly's flag of a migration: a quarter of the keys is live."""
    weights = [{"variation": 0, "weight": 1000 * (100 - NEW_PERCENT)}, {"variation": 1, "weight": 1000 * NEW_PERCENT}]
    flag = {
        "key": NAME,
        "version": 1,
        "on": True,
        "variations": ["shadow", "live"],
        "offVariation": 0,
        "fallthrough": {"rollout": {"contextKind": "user", "variations": weights}},
        "salt": NAME,
        "migration": {},
    }
    path = scratch / "flag.json"
    path.write_text(json.dumps({"flags": {NAME: flag}}), encoding="utf-8")
    return path
