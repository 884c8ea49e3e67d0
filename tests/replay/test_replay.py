"""Stored histories are replayed by today's workflows, as a worker would; a careless change is seen in every one of them."""

import base64
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.changed import CHANGED
from support.fingerprint import AGAIN, _folded, fingerprint
from support.histories import FOLDER, PASSWORD, database_for, load, record, recorder
from support.stories import STORIES, Story
from temporalio.client import WorkflowHistory
from temporalio.workflow import NondeterminismError

from pgduet import runtime
from pgduet.local import EmbeddedPostgres, LocalTemporal

HISTORIES = sorted((FOLDER / "histories").glob("*.json"))
STEADY = ("done", "rolled-back")
"""Stories in which no wait goes round, so that their words are the same however fast a machine is."""
KEPT_BYTES = 1_750_000

OLDER = sorted((FOLDER / "older").glob("*.json"))
"""From before changes that stand behind `workflow.patched`."""


def each_of(*paths: Path) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=[path.stem for path in paths])


def words(path: Path) -> str:
    return (FOLDER / "commands" / f"{path.stem}.txt").read_text(encoding="utf-8")


def texts(part: Any) -> Iterator[str]:
    """Give every text in a history, payloads decoded."""
    if isinstance(part, dict):
        for name, value in part.items():
            yield name
            yield from texts(value)
    elif isinstance(part, list):
        for value in part:
            yield from texts(value)
    elif isinstance(part, str):
        yield part
        with suppress(ValueError):
            yield base64.b64decode(part, validate=True).decode(errors="replace")


@each_of(*HISTORIES, *OLDER)
async def test_a_stored_history_is_replayed(path: Path) -> None:
    await runtime.replayer().replay_workflow(load(path))


@each_of(*HISTORIES, *OLDER)
async def test_an_inserted_activity_is_seen(path: Path) -> None:
    with pytest.raises(NondeterminismError):
        await runtime.replayer(workflows=list(CHANGED)).replay_workflow(load(path))


@each_of(*HISTORIES, *OLDER)
async def test_a_history_is_replayed_to_its_last_activity(path: Path) -> None:
    history = load(path)
    scheduled = [event for event in history.events if event.HasField("activity_task_scheduled_event_attributes")]
    if path.stem == "refused":
        assert not scheduled, "what is refused has touched nothing"
        return
    scheduled[-1].activity_task_scheduled_event_attributes.activity_type.name = "another"
    with pytest.raises(NondeterminismError, match="another"):
        await runtime.replayer().replay_workflow(history)


@each_of(*HISTORIES)
def test_the_words_beside_a_history_are_its_own(path: Path) -> None:
    assert fingerprint(load(path)) == words(path)


@each_of(*HISTORIES, *OLDER)
def test_no_history_has_a_secret_an_address_or_a_path(path: Path) -> None:
    found = "\n".join(texts(load(path).to_json_dict()))
    assert '"plan"' in found or '"database"' in found, "payloads are decoded"
    for word in (PASSWORD, "postgresql://", "127.0.0.1", "password", "/tmp/", "/home/", "site-packages"):  # noqa: S108
        assert word not in found


def test_the_worker_that_recorded_had_a_password(postgres: EmbeddedPostgres) -> None:
    assert PASSWORD in database_for("somebody", postgres)


def test_every_story_is_there_and_nothing_else() -> None:
    names = {story.name for story in STORIES}
    found = {path.stem for path in HISTORIES}
    assert {name for name in found if not name.startswith(tuple(names))} == set()
    assert {name for name in names if not any(stem.startswith(name) for stem in found)} == set()
    assert {"continued-1", "continued-2", "continued-3", "done-backfill-1"} <= found
    assert {path.stem for path in (FOLDER / "commands").iterdir()} == found


def test_histories_stay_small() -> None:
    assert sum(path.stat().st_size for path in (*HISTORIES, *OLDER)) < KEPT_BYTES


@pytest.mark.parametrize("story", [story for story in STORIES if story.name in STEADY], ids=lambda story: story.name)
async def test_a_migration_of_today_does_what_the_words_say(
    story: Story,
    temporal: LocalTemporal,
    dsn: str,
    conn: psycopg.AsyncConnection[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = await recorder(temporal.address, dsn, tmp_path)
    monkeypatch.setenv(stage.variable, dsn)
    found: dict[str, WorkflowHistory] = await record(story, stage, conn)
    for name, history in found.items():
        assert fingerprint(history) == words(FOLDER / f"{name}.json"), "if this is meant: make histories"


def test_a_loop_is_written_once_and_a_pair_twice() -> None:
    assert _folded(["a", "a", "b"]) == ["a", "a", "b"]
    assert _folded(["a", *["b", "c"] * 3, "d"]) == ["a", "b", "c", AGAIN, "d"]
    assert _folded(["a", *["b", "c"] * 9, "b", "d"]) == ["a", "b", "c", AGAIN, "b", "d"]
