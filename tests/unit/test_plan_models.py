"""What a plan may say: the models on their own, from Python data as a workflow's start delivers it."""

import copy
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pgduet.errors import DownIncomplete, NotSupported, PlanInvalid
from pgduet.phases import GATED, Phase
from pgduet.plan.load import PlanErrors, load_plan, parse_plan
from pgduet.plan.models import (
    IMPLEMENTED,
    KNOWN_OPERATIONS,
    AddColumn,
    CreateIndex,
    Plan,
    ReplaceColumns,
    TableName,
    parse_table,
)
from pgduet.plan.policy import Policy
from pgduet.plan.schema import json_schema

EXAMPLE = Path(__file__).parents[2] / "examples" / "flights" / "plan.yaml"

ADD: dict[str, Any] = {"add_column": {"table": "t", "column": {"name": "note", "type": "text"}}}
REPLACE: dict[str, Any] = {
    "replace_columns": {
        "table": "public.t",
        "columns": [{"name": "full_name", "type": "text", "nullable": False, "up": "first || ' ' || last"}],
        "replaces": ["first", "last"],
        "down": {"first": "split_part(full_name, ' ', 1)", "last": "split_part(full_name, ' ', 2)"},
    }
}

WINDOW = {"from": "22:00", "to": "05:00", "timezone": "Europe/Berlin"}
TOTAL: dict[str, Any] = {"name": "total", "table": "t", "measure": "sum", "old": "a", "new": "b"}
PROBE = {"name": "queue", "sql": "SELECT 1", "max": 5}


def data(*operations: dict[str, Any], **changes: Any) -> dict[str, Any]:
    plan = {"name": "p", "database": "d", "version": {"from": "1", "to": "2"}, "operations": list(operations or [ADD])}
    return copy.deepcopy({**plan, **changes})


def added(table: str = "t", **column: Any) -> dict[str, Any]:
    return {"add_column": {"table": table, "column": {"name": "note", "type": "text", **column}}}


def replaced(**changes: Any) -> dict[str, Any]:
    return {"replace_columns": {**REPLACE["replace_columns"], **changes}}


def refusal(plan: object) -> PlanInvalid:
    with pytest.raises(PlanInvalid) as caught:
        parse_plan(plan)
    return caught.value


def aggregates(*declared: dict[str, Any]) -> dict[str, Any]:
    return {"verify": {"aggregates": list(declared)}}


def where(error: PlanInvalid) -> str:
    assert error.place is not None
    return error.place.path


def test_the_smallest_plan_gets_every_default() -> None:
    plan = parse_plan(data())
    assert plan.policy == Policy()
    assert (plan.description, plan.owners, plan.risks, plan.milestones) == ("", {}, (), ())
    assert (plan.version.from_, plan.version.to) == ("1", "2")
    [operation] = plan.operations
    assert isinstance(operation, AddColumn)
    assert operation.column.nullable
    assert operation.columns == (operation.column,)


def test_the_defaults_of_the_policy_are_the_published_ones() -> None:
    assert Policy().model_dump(mode="json") == {
        "lock_timeout_ms": 50,
        "lock_deadline_s": 3600.0,
        "unmappable": "refuse",
        "user_triggers": "suppress",
        "backfill": {
            "batch_target_ms": 25,
            "pause_ms": 2,
            "parallelism": 2,
            "max_replica_lag_s": 5.0,
            "max_wal_retained_mb": 4096,
            "max_client_slowdown": 1.25,
            "max_vacuum_wait_s": 60.0,
            "max_hold_s": 3600.0,
            "window": None,
            "probes": [],
        },
        "verify": {"max_drift_rows": 0, "fresh_for_s": 86400.0, "reconcile_every_s": 3600.0, "aggregates": []},
        "shadow": {"mode": "engine", "sample_percent": 10.0, "min_samples": 1000, "max_mismatch_ratio": 0.0},
        "shift": {
            "steps": [1, 10, 50, 100],
            "bake_s": 600.0,
            "max_error_ratio": 0.001,
            "max_latency_ratio": 1.25,
            "max_latency_ms": None,
            "max_mismatch_ratio": 0.0,
            "min_samples": 100,
            "on_breach": "stop",
        },
        "cutover": {"mode": "route"},
        "soak": {"window_s": 1209600.0, "legacy_idle_s": 604800.0, "census_every_s": 300.0},
        "gates": {"cutover": "manual", "contract": "manual"},
        "approvals": {"cutover": 1, "contract": 2},
        "rollback": {"automatic_on": ["drift", "error_ratio", "latency"]},
        "slo": [],
    }


@pytest.mark.parametrize(
    "plan",
    [
        data(),
        data(REPLACE, added(name="other")),
        data(version={"from": 1, "to": 2}),
        data(policy={"gates": {"shift": "manual"}, "approvals": {"shift": 3}, "shift": {"bake_s": 0.5}}),
        data(policy={"gates": {"cutover": "auto", "contract": "auto"}, "shift": {"steps": [100]}}),
        data(milestones=[{"name": "m", "due": "2026-12-01"}], risks=[{"risk": "r", "mitigation": "m", "owner": "o"}]),
        data(added(name="Größe »x«", up="1", comment="")),
        data(
            {"create_index": {"table": "t", "name": "i", "columns": ["a", {"expression": "lower(b)", "sort": "desc"}]}}
        ),
        data(
            {"drop_index": {"name": 's."odd ""name"""'}},
            {"set_replica_identity": {"table": "t", "identity": "index", "index": "i"}},
        ),
    ],
)
def test_a_plan_survives_the_way_through_json(plan: dict[str, Any]) -> None:
    parsed = parse_plan(plan)
    dumped = parsed.model_dump(mode="json", by_alias=True)
    assert Plan.model_validate(json.loads(json.dumps(dumped))) == parsed
    assert Plan.model_validate_json(parsed.model_dump_json(by_alias=True)) == parsed
    assert parsed.model_copy(deep=True) == parsed


def test_a_dumped_plan_has_the_shape_of_the_file() -> None:
    dumped = parse_plan(data(ADD, REPLACE)).model_dump(mode="json", by_alias=True)
    assert dumped["version"] == {"from": "1", "to": "2"}
    assert [list(operation) for operation in dumped["operations"]] == [["add_column"], ["replace_columns"]]
    assert dumped["operations"][1]["replace_columns"]["down"] == REPLACE["replace_columns"]["down"]


def test_a_plan_can_be_built_from_models() -> None:
    parsed = parse_plan(data(ADD, REPLACE))
    again = Plan(
        name="p", database="d", version=parsed.version, operations=(parsed.operations[0], parsed.operations[1])
    )
    assert again == parsed


def test_a_plan_never_changes() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(parse_plan(data()), "name", "other")  # noqa: B010 a type checker would refuse the plain form


def test_the_example_is_the_flights_plan() -> None:
    plan = load_plan(EXAMPLE).plan
    assert (plan.name, plan.database) == ("flights-departure-time", "flights")
    assert plan.tables() == (TableName("public", "flights"),)
    replace, add = plan.operations
    assert isinstance(replace, ReplaceColumns)
    assert tuple(replace.down) == replace.replaces == ("year", "month", "day", "sched_dep_time")
    assert isinstance(add, AddColumn)
    assert add.column.name == "gate_note"
    assert plan.policy.approvals_needed(Phase.CONTRACT) == 1
    assert plan.policy.approvals_needed(Phase.CUTOVER) == 0
    assert plan.milestones[0].due == date(2026, 12, 1)


@pytest.mark.parametrize(
    ("text", "schema", "name"),
    [
        ("flights", "public", "flights"),
        ("Public.FLIGHTS", "public", "flights"),
        ('"public"."Order Items"', "public", "Order Items"),
        ('public."a.b"', "public", "a.b"),
        ('"say ""hi"""', "public", 'say "hi"'),
        ("ÉTÉ", "public", "ÉtÉ"),
        ("_a$1.b", "_a$1", "b"),
    ],
)
def test_a_table_name_is_read_as_sql_reads_it(text: str, schema: str, name: str) -> None:
    table = parse_table(text)
    assert (table.schema, table.name) == (schema, name)
    assert parse_table(str(table)) == table
    [operation] = parse_plan(data(added(table=text))).operations
    assert (operation.table, operation.relation) == (text, table)


@pytest.mark.parametrize("text", ["a b", "a.", ".a", "a..b", '"a', 'a"b"', '""', "1a", "a.b ", "a-b", "a\n", 'a."b"c'])
def test_what_is_no_table_name_is_refused_with_the_syntax(text: str) -> None:
    error = refusal(data(added(table=text)))
    assert where(error) == "operations[0].add_column.table"
    assert error.message == f"`{text}` is not a table's name"
    assert error.hint == 'Write `table`, `schema.table`, or quote odd names: `public."Order Items"`.'


@pytest.mark.parametrize("schema", ["pg_catalog", "information_schema", "pgduet", "pgduet_archive", "PG_TOAST"])
def test_tables_of_postgresql_and_of_pgduet_are_refused(schema: str) -> None:
    assert "belongs to PostgreSQL or pgduet" in refusal(data(added(table=f"{schema}.x"))).message


@pytest.mark.parametrize("name", ["Straße", "select", "Two Words", 'a"b', "x" * 63, "é" * 31, "a.b"])
def test_column_names_are_taken_literally(name: str) -> None:
    [operation] = parse_plan(data(added(name=name))).operations
    assert operation.columns[0].name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 64, f"a name has at most 63 bytes; `{'x' * 64}` has 64"),
        ("é" * 32, f"a name has at most 63 bytes; `{'é' * 32}` has 64"),
        ("a\x00b", "PostgreSQL has no NUL character in a text"),
        ("", "expected text, got an empty one"),
        ("  ", "expected text, got an empty one"),
        ("ctid", "`ctid` is a system column of every table"),
        ("_pgduet_x", "names that begin with `_pgduet_` belong to pgduet"),
        ("\ud800", "the text is not valid Unicode"),
    ],
)
def test_names_that_postgresql_would_not_keep_are_refused(name: str, message: str) -> None:
    error = refusal(data(added(name=name)))
    assert (where(error), error.message) == ("operations[0].add_column.column.name", message)


@pytest.mark.parametrize("version", [1, "1", "2024_01", "v1.2"])
def test_a_version_may_be_a_whole_number_or_text(version: object) -> None:
    assert parse_plan(data(version={"from": version, "to": "next"})).version.from_ == str(version)


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"version": {"from": "1", "to": "1"}}, "version.to", "expected a version other than `from`, got `1` for both"),
        ({"version": {"from": 1, "to": "1"}}, "version.to", "expected a version other than `from`, got `1` for both"),
        ({"version": {"from": 1.0, "to": "2"}}, "version.from", "expected text, got the number `1.0`"),
        ({"version": {"from": True, "to": "2"}}, "version.from", "expected text, got `true`, which is read as true"),
        ({"version": {"from": "1"}}, "version.to", "missing key `to`"),
        ({"version": {"from": "1-a", "to": "2"}}, "version.from", "`1-a` is not a version: expected 1 to 50 letters,"),
        ({"version": {"from": "", "to": "2"}}, "version.from", "`` is not a version"),
        ({"version": "2"}, "version", "expected a mapping of keys, got `2`"),
        ({"name": "a b"}, "name", "`a b` is not a plan's name: expected 1 to 200 letters, digits, `.`, `_` or `-`"),
        ({"name": "a\n"}, "name", "`a\n` is not a plan's name"),
        ({"name": "-a"}, "name", "`-a` is not a plan's name"),
        ({"name": "x" * 201}, "name", f"`{'x' * 201}` is not a plan's name"),
        ({"database": "a/b"}, "database", "`a/b` is not a database's name"),
        ({"database": None}, "database", "expected text, got nothing"),
        ({"operations": []}, "operations", "expected at least 1 entry, got none"),
        ({"operations": {}}, "operations", "expected a list, got a mapping"),
        ({"operations": ["add_column"]}, "operations[0]", "expected a mapping of keys, got `add_column`"),
        ({"operations": [{}]}, "operations[0]", "expected an operation with exactly one key, its name; got none"),
        ({"operations": [{**ADD, "x": 1}]}, "operations[0]", "got 2 keys: `add_column`, `x`"),
        ({"operations": [{"kind": "add_column", "table": "t"}]}, "operations[0]", "got 2 keys: `kind`, `table`"),
        ({"operations": [{"add_column": None}]}, "operations[0].add_column", "expected the keys of `add_column`"),
        ({"operations": [added(kind="x")]}, "operations[0].add_column.column.kind", "unknown key `kind`"),
        ({"descripton": ""}, "descripton", "unknown key `descripton`. Did you mean `description`?"),
        ({"owners": ["a"]}, "owners", "expected a mapping of keys, got a list"),
        ({"owners": {"data": 5}}, "owners.data", "expected text, got the number `5`"),
        ({"milestones": [{"name": "m", "due": 5}]}, "milestones[0].due", "expected a date such as 2026-12-01, got `5`"),
        ({"risks": [{"risk": "r", "mitigation": "m"}]}, "risks[0].owner", "missing key `owner`"),
    ],
)
def test_a_bad_plan_is_refused_where_it_is_bad(changes: dict[str, Any], path: str, message: str) -> None:
    error = refusal(data(**changes))
    assert where(error) == path
    assert message in error.message
    assert error.place is not None
    assert error.place.line is None


@pytest.mark.parametrize("plan", [None, [], "plan", 5])
def test_what_is_no_mapping_is_no_plan(plan: object) -> None:
    error = refusal(plan)
    assert where(error) == "plan"
    assert error.message.startswith("expected a mapping of keys, got ")


@pytest.mark.parametrize("name", [name for name in KNOWN_OPERATIONS if name not in IMPLEMENTED])
def test_an_operation_of_a_later_version_is_recognised_and_refused(name: str) -> None:
    error = refusal(data({name: {"table": "t"}}))
    assert isinstance(error, NotSupported)
    assert (where(error), error.message) == (f"operations[0].{name}", f"operation `{name}` is not in this version")
    assert error.hint is not None
    assert error.hint.startswith("This version has `create_table`, `drop_table`, ")
    assert all(f"`{known}`" in error.hint for known in IMPLEMENTED)


def test_an_unknown_operation_is_refused_with_the_known_ones() -> None:
    error = refusal(data({"add_colum": {}}))
    assert error.message == "unknown operation `add_colum`. Did you mean `add_column`?"
    assert error.hint is not None
    assert all((f"`{name}`" in error.hint) is (name in IMPLEMENTED) for name in KNOWN_OPERATIONS)
    assert refusal(data({"zzz": {}})).message == "unknown operation `zzz`"


@pytest.mark.parametrize("filled", [{"up": "1"}, {"default": "0"}, {"up": "1", "default": "0"}])
def test_a_required_added_column_needs_a_value_for_the_rows_that_exist(filled: dict[str, str]) -> None:
    error = refusal(data(added(nullable=False)))
    assert where(error) == "operations[0].add_column.column"
    assert error.message == "`note` must not be empty, but the rows that exist would have no value for it"
    assert error.hint == "Give it `up` or `default`, or let it be empty: `nullable: true`."
    assert parse_plan(data(added(nullable=False, **filled))).operations[0].columns[0].nullable is False


@pytest.mark.parametrize("value", ["yes", 1, 0, "true"])
def test_nullable_is_true_or_false_and_nothing_like_it(value: object) -> None:
    assert refusal(data(added(nullable=value))).message == f"expected true or false, got `{value}`"


@pytest.mark.parametrize("key", ["type", "up", "default"])
@pytest.mark.parametrize("text", ["", " \n", "a\x00"])
def test_an_expression_or_type_without_text_is_refused(key: str, text: str) -> None:
    assert where(refusal(data(added(**{key: text})))) == f"operations[0].add_column.column.{key}"


def test_every_replaced_column_needs_its_down() -> None:
    error = refusal(data(replaced(down={"first": "full_name"})))
    assert isinstance(error, DownIncomplete)
    assert where(error) == "operations[0].replace_columns.down"
    assert error.message == "`down` has no expression for `last`"
    assert error.hint == "Add `last: <SQL expression>` over `full_name`."


def test_a_plan_without_any_down_hears_of_every_column_at_once() -> None:
    operation = replaced()
    del operation["replace_columns"]["down"]
    error = refusal(data(operation))
    assert isinstance(error, DownIncomplete)
    assert error.message == "`down` has no expression for `first`, `last`"


def test_a_down_for_a_column_that_stays_is_refused() -> None:
    error = refusal(data(replaced(down={**REPLACE["replace_columns"]["down"], "frist": "1"})))
    assert (type(error), where(error)) == (PlanInvalid, "operations[0].replace_columns.down.frist")
    assert error.message == "`frist` is not a replaced column. Did you mean `first`?"


def test_a_replacing_column_needs_up_and_has_no_default() -> None:
    error = refusal(data(replaced(columns=[{"name": "n", "type": "int", "default": "0"}])))
    assert isinstance(error, PlanErrors)
    assert {where(one): type(one) for one in error.errors} == {
        "operations[0].replace_columns.columns[0].up": PlanInvalid,
        "operations[0].replace_columns.columns[0].default": NotSupported,
    }


@pytest.mark.parametrize(
    ("operations", "path", "message"),
    [
        (
            [ADD, added(table="PUBLIC.T")],
            "operations[1].add_column.column.name",
            "`note` is added to public.t twice; the first is at operations[0].add_column.column.name",
        ),
        (
            [REPLACE, added(name="full_name")],
            "operations[1].add_column.column.name",
            "`full_name` is added to public.t twice; the first is at operations[0].replace_columns.columns[0].name",
        ),
        (
            [replaced(columns=[{"name": "n", "type": "int", "up": "1"}] * 2)],
            "operations[0].replace_columns.columns[1].name",
            "`n` is added to public.t twice; the first is at operations[0].replace_columns.columns[0].name",
        ),
        (
            [replaced(replaces=["first", "last", "first"])],
            "operations[0].replace_columns.replaces[2]",
            "`first` is changed in public.t twice; the first is at operations[0].replace_columns.replaces[0]",
        ),
        (
            [
                REPLACE,
                replaced(columns=[{"name": "n", "type": "int", "up": "1"}], replaces=["last"], down={"last": "n"}),
            ],
            "operations[1].replace_columns.replaces[0]",
            "`last` is changed in public.t twice; the first is at operations[0].replace_columns.replaces[1]",
        ),
    ],
)
def test_a_column_is_changed_once_and_both_places_are_named(
    operations: list[dict[str, Any]], path: str, message: str
) -> None:
    error = refusal(data(*operations))
    assert (where(error), error.message) == (path, message)


def test_the_same_column_name_in_two_tables_is_no_clash() -> None:
    plan = parse_plan(data(ADD, added(table="other"), added(table='"T"'), added(table="t", name="second")))
    assert plan.tables() == (TableName("public", "t"), TableName("public", "other"), TableName("public", "T"))


def test_a_new_column_may_take_the_name_of_one_that_it_replaces() -> None:
    columns = [{"name": "n", "type": "bigint", "up": "n"}]
    assert parse_plan(data(replaced(columns=columns, replaces=["n"], down={"n": "n::int"}))).operations


def test_gates_and_approvals_lie_over_the_defaults() -> None:
    policy = parse_plan(
        data(policy={"gates": {"cutover": "auto", "shift": "manual"}, "approvals": {"shift": 3}})
    ).policy
    assert {phase for phase in GATED if policy.gate(phase) == "manual"} == {Phase.SHIFT, Phase.CONTRACT}
    needed = {phase: policy.approvals_needed(phase) for phase in GATED if policy.approvals_needed(phase)}
    assert needed == {Phase.SHIFT: 3, Phase.CONTRACT: 2}


def test_by_default_a_person_opens_cutover_and_two_open_contract() -> None:
    policy = Policy()
    assert [policy.gate(phase) for phase in (Phase.BACKFILL, Phase.CUTOVER, Phase.CONTRACT)] == [
        "auto",
        "manual",
        "manual",
    ]
    assert [policy.approvals_needed(phase) for phase in (Phase.BACKFILL, Phase.CUTOVER, Phase.CONTRACT)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("policy", "path", "message"),
    [
        ({"lock_timeout_ms": 0}, "lock_timeout_ms", "expected a whole number of at least 1, got 0"),
        ({"lock_timeout_ms": True}, "lock_timeout_ms", "expected a whole number, got `true`"),
        ({"lock_timeout_ms": "50"}, "lock_timeout_ms", "expected a whole number, got `50`"),
        ({"lock_timeout_ms": 1.5}, "lock_timeout_ms", "expected a whole number, got `1.5`"),
        ({"lock_deadline_s": -1}, "lock_deadline_s", "expected a number of at least 0, got -1"),
        ({"backfill": {"parallelism": 65}}, "backfill.parallelism", "expected a whole number of at most 64, got 65"),
        (
            {"backfill": {"paralelism": 2}},
            "backfill.paralelism",
            "unknown key `paralelism`. Did you mean `parallelism`?",
        ),
        ({"backfill": None}, "backfill", "expected a mapping of keys, got nothing"),
        ({"shadow": {"min_samples": 0}}, "shadow.min_samples", "expected a whole number of at least 1, got 0"),
        ({"shadow": {"sample_percent": 0}}, "shadow.sample_percent", "expected a number above 0, got 0"),
        ({"shift": {"max_error_ratio": 1.5}}, "shift.max_error_ratio", "expected a number of at most 1, got 1.5"),
        ({"shift": {"steps": []}}, "shift.steps", "expected at least 1 entry, got none"),
        ({"shift": {"steps": [10, 10, 100]}}, "shift.steps", "expected steps that only rise, got [10, 10, 100]"),
        ({"shift": {"steps": [1, 50]}}, "shift.steps[1]", "expected a last step of 100, got 50"),
        ({"shift": {"steps": [0, 100]}}, "shift.steps[0]", "expected a whole number of at least 1, got 0"),
        ({"shift": {"steps": [100, 101]}}, "shift.steps[1]", "expected a whole number of at most 100, got 101"),
        ({"unmappable": "refuze"}, "unmappable", "expected one of `refuse`, `archive`; got `refuze`. Did you mean"),
        ({"soak": {"window_s": 1e9}}, "soak.window_s", "expected a number of at most 315360000, got 1000000000.0"),
        ({"soak": {"window_s": float("inf")}}, "soak.window_s", "expected a number, got `inf`"),
        ({"gates": {"done": "manual"}}, "gates.done", "`done` has no gate: expected one of `expand`,"),
        ({"gates": {"cutver": "auto"}}, "gates.cutver", ". Did you mean `cutover`?"),
        ({"gates": {"cutover": "open"}}, "gates.cutover", "expected one of `manual`, `auto`; got `open`"),
        ({"approvals": {"contract": -1}}, "approvals.contract", "expected a whole number of at least 0, got -1"),
        ({"approvals": {"shift": 1}}, "approvals.shift", "approvals before `shift` would never be asked for"),
        ({"rollback": {"automatic_on": ["drft"]}}, "rollback.automatic_on[0]", "got `drft`. Did you mean `drift`?"),
        ({"backfill": {"window": "02:00-04:00"}}, "backfill.window", "expected a mapping of keys"),
        ({"backfill": {"window": WINDOW | {"from": "2:00"}}}, "backfill.window.from", "expected a time of day"),
        ({"backfill": {"window": WINDOW | {"from": 1320}}}, "backfill.window.from", "expected text"),
        ({"backfill": {"window": WINDOW | {"timezone": "Mars"}}}, "backfill.window.timezone", "there is no time zone"),
        ({"backfill": {"window": WINDOW | {"days": ["fry"]}}}, "backfill.window.days[0]", "Did you mean `fri`?"),
        ({"backfill": {"window": WINDOW | {"to": "22:00"}}}, "backfill.window", "are the same"),
        ({"backfill": {"window": WINDOW | {"day": ["fri"]}}}, "backfill.window.day", "Did you mean `days`?"),
        ({"backfill": {"probes": [PROBE | {"max": "9"}]}}, "backfill.probes[0].max", "expected a number"),
        ({"backfill": {"probes": [PROBE | {"name": "a b"}]}}, "backfill.probes[0].name", "letters, digits"),
        ({"backfill": {"probes": [PROBE, PROBE]}}, "backfill.probes[1].name", "two probes are called `queue`"),
        ({"backfill": {"max_hold_s": -1}}, "backfill.max_hold_s", "at least 0"),
        (aggregates(TOTAL | {"measure": "avg"}), "verify.aggregates[0].measure", "`count`"),
        (aggregates(TOTAL | {"table": "tt"}), "verify.aggregates[0].table", "is not changed by the plan"),
        (aggregates(TOTAL, TOTAL), "verify.aggregates[1].name", "two aggregates are called `total`"),
        (aggregates({**TOTAL, "new": None}), "verify.aggregates[0].old", "`new` is not: nothing to compare it with"),
        (aggregates({**TOTAL, "old": None, "new": None}), "verify.aggregates[0].measure", "`sum` of what?"),
        (
            aggregates({"name": "n", "table": TOTAL["table"], "measure": "count"}),
            "verify.aggregates[0].measure",
            "compares nothing",
        ),
        (
            aggregates(TOTAL | {"group_by": [{"old": "year"}]}),
            "verify.aggregates[0].group_by[0].new",
            "missing",
        ),
    ],
)
def test_a_bad_policy_is_refused_where_it_is_bad(policy: dict[str, Any], path: str, message: str) -> None:
    error = refusal(data(policy=policy))
    assert where(error) == f"policy.{path}"
    assert message in error.message


@pytest.mark.parametrize(
    ("policy", "path"),
    [
        ({"slo": [{"name": "x"}]}, "slo"),
        ({"shadow": {"sample_percent": 20.0}}, "shadow.sample_percent"),
    ],
)
def test_what_this_version_does_not_do_is_refused_and_never_ignored(policy: dict[str, Any], path: str) -> None:
    error = refusal(data(policy=policy))
    assert isinstance(error, NotSupported)
    assert where(error) == f"policy.{path}"
    assert error.message.endswith("is not in this version")


def test_several_errors_come_together() -> None:
    error = refusal(data(name="a b", policy={"lock_timeout_ms": 0, "slo": [1]}))
    assert isinstance(error, PlanErrors)
    assert len(error.errors) == 3
    assert error.message == "3 errors in the plan"
    assert all(one.render() in str(error) for one in error.errors)
    facts = error.facts()["errors"]
    assert facts == [one.facts() for one in error.errors]


def test_an_error_beside_the_operations_is_not_joined_by_a_false_one_about_their_number() -> None:
    assert not isinstance(refusal(data(added(nullable="x"))), PlanErrors)


def test_the_schema_describes_the_file_and_not_the_models() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    options = schema["properties"]["operations"]["items"]["oneOf"]
    assert sorted(list(option["properties"]) for option in options) == [[name] for name in sorted(IMPLEMENTED)]
    assert all(option["additionalProperties"] is False for option in options)
    assert "kind" not in json.dumps(schema)
    assert schema["required"] == ["name", "database", "version", "operations"]
    assert set(schema["$defs"]["VersionChange"]["properties"]) == {"from", "to"}
    assert schema["$defs"]["ReplaceColumns"]["properties"]["columns"]["items"]["required"] == ["up"]


def test_the_schema_knows_every_key_of_a_dumped_plan() -> None:
    schema = json_schema()

    def keys_known(value: object, node: dict[str, Any]) -> None:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        if isinstance(value, list):
            for item in value:
                keys_known(item, node["items"])
        if isinstance(value, dict) and "additionalProperties" not in node and "oneOf" in node:
            node = next(option for option in node["oneOf"] if list(option["properties"]) == list(value))
        if isinstance(value, dict) and node.get("additionalProperties") is False:
            for key, child in value.items():
                keys_known(child, node["properties"][key])

    keys_known(load_plan(EXAMPLE).plan.model_dump(mode="json", by_alias=True), schema)


def indexed(*columns: object, **more: Any) -> dict[str, Any]:
    return {"create_index": {"table": "t", "name": "i", "columns": list(columns), **more}}


def test_an_index_may_be_said_short_or_whole() -> None:
    whole = {
        "column": "b",
        "collation": "C",
        "order": "desc",
        "opclass": {"name": "x.ops", "parameters": {"siglen": 32}},
    }
    plan = parse_plan(data(indexed("a", whole, storage_parameters={"fillfactor": 70, "fastupdate": False})))
    [index] = plan.operations
    assert isinstance(index, CreateIndex)
    assert [each.column for each in index.columns] == ["a", "b"]
    assert index.columns[1].opclass is not None
    assert index.columns[1].opclass.parts == ("x", "ops")
    assert index.storage_parameters == {"fillfactor": "70", "fastupdate": "false"}
    assert (index.method, index.unique, index.nulls_not_distinct) == ("btree", False, False)
    same = {**whole, "opclass": {"name": "x.ops", "parameters": {"siglen": "32"}}, "sort": "desc", "collate": "C"}
    del same["order"], same["collation"]
    again = parse_plan(
        data(indexed({"column": "a"}, same, storage_parameters={"fillfactor": "70", "fastupdate": "false"}))
    )
    assert again.operations == plan.operations


@pytest.mark.parametrize(
    ("operations", "at", "says"),
    [
        ([indexed({"order": "asc"})], "create_index.columns[0]", "expected `column` or `expression`, got neither"),
        ([indexed({"column": "a", "expression": "a"})], "create_index.columns[0]", "got both"),
        ([indexed({"column": "a", "ordr": "asc"})], "create_index.columns[0].ordr", "Did you mean `order`?"),
        (
            [indexed({"column": "a", "opclass": {"name": "a", "params": 1}})],
            "create_index.columns[0].opclass.params",
            "",
        ),
        ([indexed("a", storage_parameters={"x": [1]})], "create_index.storage_parameters.x", "a text, a number"),
        ([indexed("a", nulls_not_distinct=True)], "create_index.nulls_not_distinct", "about unique indexes"),
        ([indexed("a", include=["b", "b"])], "create_index.include[1]", "stands twice"),
        ([indexed("a", name="_pgduet_i")], "create_index.name", "belong to pgduet"),
        ([indexed("a"), indexed("b")], "create_index.name", "public.i is created twice"),
        ([{"drop_index": {"name": "s.i", "table": "t"}}], "drop_index.name", "its table's schema, public; got s"),
        (
            [{"drop_index": {"name": "i"}}, {"drop_index": {"name": "i", "table": "t"}}],
            "drop_index.name",
            "public.i is dropped twice",
        ),
        ([{"set_replica_identity": {"table": "t", "identity": "index"}}], "set_replica_identity.index", "is missing"),
        (
            [{"set_replica_identity": {"table": "t", "identity": "full", "index": "i"}}],
            "set_replica_identity.index",
            "goes by no index",
        ),
        (
            [{"set_replica_identity": {"table": "t", "identity": kind}} for kind in ("full", "default")],
            "set_replica_identity.table",
            "gets an identity twice",
        ),
        ([{"drop_table": {"table": "t"}}, indexed("a")], "drop_table.table", "another operation changes it too"),
    ],
)
def test_what_is_wrong_with_an_index_is_told_at_its_place(operations: list[dict[str, Any]], at: str, says: str) -> None:
    error = refusal(data(*operations))
    assert where(error).partition(".")[2] == at
    assert says in error.message
    assert error.hint
