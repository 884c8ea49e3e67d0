"""Where a plan's errors are: exact lines and columns, for YAML, JSON, a policy file, and inside an expression."""

import json
import os
from pathlib import Path

import pytest

from pgduet.errors import Place, PlanInvalid, PlanUnreadable
from pgduet.plan.caret import place_of, snippet
from pgduet.plan.load import Located, PlanErrors, load_plan, parse_plan
from pgduet.plan.locate import Places, read

PLAN = """\
name: people
database: shop
version: {from: "1", to: "2"}
operations:
  - add_column:
      table: public.people
      column:
        name: note
        type: text
"""
UP = ("operations", 0, "add_column", "column", "up")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str | bytes, policy: str | None = None, file: str = "plan.yaml") -> Located:
    Path(file).write_bytes(text if isinstance(text, bytes) else text.encode())
    if policy is None:
        return load_plan(Path(file))
    Path("policy.yaml").write_text(policy, encoding="utf-8")
    return load_plan(Path(file), Path("policy.yaml"))


def refusal(text: str | bytes, policy: str | None = None, file: str = "plan.yaml") -> PlanInvalid:
    with pytest.raises(PlanInvalid) as caught:
        load(text, policy, file)
    return caught.value


@pytest.mark.parametrize(
    ("old", "new", "place", "message"),
    [
        ("type: text", "typ: text", None, None),
        ("type: text", "type: text\n        nulable: no", "10:9  operations[0].add_column.column.nulable",
         "unknown key `nulable`. Did you mean `nullable`?"),
        ("        type: text\n", "", "8:9  operations[0].add_column.column.type", "missing key `type`"),
        ("type: text", "type: no", "9:15  operations[0].add_column.column.type",
         "expected text, got `no`, which is read as false"),
        ("type: text", "type: text\n        default: 0", "10:18  operations[0].add_column.column.default",
         "expected text, got the number `0`"),
        ("type: text", "type: text\n        default: 2026-01-01", "10:18  operations[0].add_column.column.default",
         "expected text, got the date `2026-01-01`"),
        ('"1"', "1.10", "3:17  version.from", "expected text, got the number `1.10`"),
        ('"1"', "off", "3:17  version.from", "expected text, got `off`, which is read as false"),
        ('"1"', "2", "3:24  version.to", "expected a version other than `from`, got `2` for both"),
        ("add_column", "add_colum", "5:5  operations[0].add_colum",
         "unknown operation `add_colum`. Did you mean `add_column`?"),
        ("add_column", "move_table", "5:5  operations[0].move_table", "operation `move_table` is not in this version"),
        ("add_column:", "add_column:\n      kind: x", "6:7  operations[0].add_column.kind", "unknown key `kind`"),
        ("public.people", "a b", "6:14  operations[0].add_column.table", "`a b` is not a table's name"),
        ("name: people", "# a comment\n\nname: p/q", "3:7  name", "`p/q` is not a plan's name"),
        ("version:", "policy: {backfill: {parallelism: 0}}\nversion:", "3:34  policy.backfill.parallelism",
         "expected a whole number of at least 1, got 0"),
        ("version:", "policy:\nversion:", "3:8  policy", "expected a mapping of keys, got nothing"),
        ("version:", "policy: {gates: {cutver: auto}}\nversion:", "3:18  policy.gates.cutver", "`cutver` has no gate"),
        ("version:", "milestones:\n  - {name: a, due: 2026-13-01}\nversion:", "4:20  milestones[0].due",
         "expected a date such as 2026-12-01, got `2026-13-01`"),
    ],
)  # fmt: skip
def test_an_error_names_file_line_and_column(old: str, new: str, place: str | None, message: str | None) -> None:
    error = refusal(PLAN.replace(old, new, 1))
    if place is None or message is None:
        assert isinstance(error, PlanErrors)
        assert [str(one.place) for one in error.errors] == [
            "plan.yaml:8:9  operations[0].add_column.column.type",
            "plan.yaml:9:9  operations[0].add_column.column.typ",
        ]
        return
    assert str(error.place) == f"plan.yaml:{place}"
    assert error.message.startswith(message)


@pytest.mark.parametrize("value", ["no", "1.0", "2026-01-01"])
def test_a_value_that_yaml_takes_for_something_else_has_the_cure_to_quote_it(value: str) -> None:
    assert refusal(PLAN.replace('"1"', value)).hint == f'Write it in quotes: "{value}".'
    quoted = load(PLAN.replace("type: text", f'type: text\n        default: "{value}"')).plan
    assert quoted.operations[0].columns[0].default == value


@pytest.mark.parametrize(("written", "read_as"), [("010", "010"), ("1", "1"), ("1_0", "1_0"), ("12", "12")])
def test_a_version_is_what_the_file_shows(written: str, read_as: str) -> None:
    assert load(PLAN.replace('"1"', written)).plan.version.from_ == read_as


@pytest.mark.parametrize("name", ["on", "no", "1", "~", "2026-01-01"])
def test_a_key_is_always_text(name: str) -> None:
    assert load(f"{PLAN}owners: {{{name}: me}}\n").plan.owners == {name: "me"}


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        ("", "plan.yaml", "the file is empty", None),
        ("# nothing yet\n", "plan.yaml", "the file is empty", None),
        ("- a\n", "plan.yaml:1:1", "expected a mapping of keys at the top of the file, got a list", None),
        ("plan\n", "plan.yaml:1:1", "expected a mapping of keys at the top of the file, got a single value", None),
        ("[1]", "plan.yaml:1:1", "expected a mapping of keys at the top of the file, got a list", None),
        ("a: b: c\n", "plan.yaml:1:5", "cannot be read as YAML: mapping values are not allowed here",
         'An expression that holds ": " stands in quotes.'),
        ("a:\n\tb: 1\n", "plan.yaml:2:1", "cannot be read as YAML: found character '\\t' that cannot start any token",
         "YAML indents by spaces; a value that begins with a special character stands in quotes."),
        ("a: 1\nb: 'open\nc: 2\n", "plan.yaml:2:4", "cannot be read as YAML: found unexpected end of stream",
         "A quote or a bracket is not closed."),
        ("a: [1, 2\nb: 1\n", "plan.yaml:2:2", "cannot be read as YAML: expected ',' or ']', but got ':'",
         "Check the commas, and that each bracket and quote is closed."),
        ("a: 1\n---\nb: 2\n", "plan.yaml:2:1", "cannot be read as YAML: expected a single document in the file",
         "A file holds one plan: delete the `---` and what follows."),
        ("a: \x01\n", "plan.yaml:1:4", "the file holds a control character", None),
        ("b: 1\na: \x01\n", "plan.yaml:2:4", "the file holds a control character", None),
        ("[" * 3000, "plan.yaml", "the file is nested too deeply", None),
    ],
)  # fmt: skip
def test_a_file_that_is_no_plan_is_unreadable(text: str, place: str, message: str, hint: str | None) -> None:
    error = refusal(text)
    assert isinstance(error, PlanUnreadable)
    assert str(error.place) == f"{place}  plan"
    assert (error.message, error.hint) == (message, hint)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("name: a\nx: 1\nname: b\n", "3:1  name", "key `name` stands twice, at line 1 and at line 3"),
        ("a:\n  - {b: 1, b: 2}\n", "2:12  a[0].b", "key `b` stands twice, at line 2 and at line 2"),
        ("a: {1: x, '1': y}\n", "1:11  a.1", "key `1` stands twice, at line 1 and at line 1"),
        ('{"a": 1,\n "a": 2}', "2:2  a", "key `a` stands twice, at line 1 and at line 2"),
        ("a: &x {}\nb: {<<: *x}\n", "2:5  b", "expected a plain key"),
        ("[a]: 1\n", "1:1  plan", "expected a plain key"),
        ("a: &x [*x]\n", "1:4  a[0]", "aliases make the file endless or far too large"),
        ("a: !!python/name:os.system x\n", "1:4  a", "tag `tag:yaml.org,2002:python/name:os.system` has no meaning"),
        ("a: !!binary aGk=\n", "1:4  a", "tag `tag:yaml.org,2002:binary` has no meaning in a plan"),
    ],
)
def test_yaml_that_would_be_misread_is_refused(text: str, place: str, message: str) -> None:
    error = refusal(text)
    assert isinstance(error, PlanUnreadable)
    assert str(error.place) == f"plan.yaml:{place}"
    assert error.message.startswith(message)


def test_a_flood_of_aliases_is_refused_before_it_fills_the_memory() -> None:
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 12))
    error = refusal(f"l0: &l0 [x, x, x]\n{levels}")
    assert error.message == "aliases make the file endless or far too large"


def test_an_alias_stands_for_what_it_names() -> None:
    text = PLAN.replace("name: people", "name: &n people").replace("name: note", "name: *n")
    assert load(text).plan.operations[0].columns[0].name == "people"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.yaml", "cannot open the file: no such file or directory"),
        (".", "cannot open the file: is a directory"),
    ],
)
def test_a_file_that_cannot_be_opened_is_unreadable(path: str, message: str) -> None:
    with pytest.raises(PlanUnreadable) as caught:
        load_plan(Path(path))
    assert (str(caught.value.place), caught.value.message) == (f"{path}  plan", message)


def test_a_file_in_another_encoding_is_unreadable() -> None:
    assert refusal("name: é".encode("latin-1")).message == "the file is not UTF-8 text"


def test_a_byte_order_mark_moves_no_column() -> None:
    assert load(b"\xef\xbb\xbf" + PLAN.encode()).plan.name == "people"
    assert str(refusal(b"\xef\xbb\xbf" + PLAN.replace("people", "a b", 1).encode()).place) == "plan.yaml:1:7  name"


def test_windows_line_ends_move_no_line() -> None:
    text = PLAN.replace("type: text", "type: no").replace("\n", "\r\n")
    assert str(refusal(text).place) == "plan.yaml:9:15  operations[0].add_column.column.type"


def test_a_plan_may_be_json() -> None:
    dumped = load(PLAN).plan.model_dump(mode="json", by_alias=True)
    for indent in (None, 2, "\t"):
        assert load(json.dumps(dumped, indent=indent), file="plan.json").plan == load(PLAN).plan


def test_json_keeps_its_own_numbers_and_escapes() -> None:
    text = json.dumps(load(PLAN).plan.model_dump(mode="json", by_alias=True) | {"description": "😀 \t / é"})
    plan = load(text.replace("/", "\\/").replace('"bake_s": 600.0', '"bake_s": 6E2'), file="plan.json").plan
    assert plan.description == "😀 \t / é"
    assert plan.policy.shift.bake_s == 600


def test_errors_in_json_have_places_too_behind_tabs() -> None:
    text = '{\n\t"name": "a b",\n\t"database": "d",\n\t"version": {"from": 1, "to": 1},\n\t"operations": []\n}'
    error = refusal(text, file="plan.json")
    assert isinstance(error, PlanErrors)
    assert [str(one.place) for one in error.errors] == [
        "plan.json:2:10  name",
        "plan.json:4:31  version.to",
        "plan.json:5:16  operations",
    ]


def test_two_operations_on_one_column_are_both_named_by_line() -> None:
    again = PLAN.partition("operations:\n")[2]
    error = refusal(PLAN + again)
    assert str(error.place) == "plan.yaml:13:15  operations[1].add_column.column.name"
    first = "plan.yaml:8:15  operations[0].add_column.column.name"
    assert error.message == f"`note` is added to public.people twice; the first is at {first}"


def test_errors_come_in_the_order_of_the_file() -> None:
    text = PLAN.replace("people", "a b", 1).replace("shop", "a/b").replace("type: text", "type: 5")
    error = refusal(f"policy: {{slo: [1]}}\n{text}")
    assert isinstance(error, PlanErrors)
    assert [one.place.line for one in error.errors if one.place] == [1, 2, 3, 10]


def test_an_error_reads_from_place_to_cure() -> None:
    assert str(refusal(PLAN.replace("type: text", "type: text\n        nulable: no"))).splitlines() == [
        "PD-1001  plan.yaml:10:9  operations[0].add_column.column.nulable",
        "  unknown key `nulable`. Did you mean `nullable`?",
        "  Known here: `name`, `type`, `check`, `unique`, `references`, `nullable`, `default`, `up`, `comment`.",
    ]


def test_input_without_a_file_has_paths_only() -> None:
    with pytest.raises(PlanInvalid) as caught:
        parse_plan({"name": "a b", "database": "d"})
    assert isinstance(caught.value, PlanErrors)
    assert {str(one.place) for one in caught.value.errors} == {"name", "version", "operations"}
    with pytest.raises(PlanInvalid) as caught:
        parse_plan(read(PLAN)[0] | {"name": 5}, file="started.json")
    assert caught.value.place == Place("name", "started.json")


POLICY = "policy:\n  lock_timeout_ms: 40\n  backfill: {parallelism: 8, pause_ms: 7}\n"


@pytest.mark.parametrize("over", ["backfill: {pause_ms: 0}\n", "policy:\n  backfill:\n    pause_ms: 0\n"])
def test_a_policy_file_lies_over_the_plans_policy(over: str) -> None:
    policy = load(PLAN + POLICY, over).plan.policy
    assert (policy.lock_timeout_ms, policy.backfill.parallelism, policy.backfill.pause_ms) == (40, 8, 0)
    assert load(PLAN, over).plan.policy.backfill.pause_ms == 0


def test_a_policy_file_replaces_lists_whole_and_opens_one_gate_only() -> None:
    over = "shift: {steps: [50, 100]}\ngates: {cutover: auto}\n"
    policy = load(PLAN + "policy: {shift: {steps: [1, 2, 3, 100], bake_s: 1}}\n", over).plan.policy
    assert (policy.shift.steps, policy.shift.bake_s) == ((50, 100), 1)
    assert {phase.value: gate for phase, gate in policy.gates.items()} == {"cutover": "auto", "contract": "manual"}


@pytest.mark.parametrize(
    ("base", "over", "place", "message"),
    [
        (
            POLICY,
            "backfill: {pause_ms: -1}\n",
            "policy.yaml:1:22  policy.backfill.pause_ms",
            "expected a whole number of",
        ),
        (POLICY, "policy:\n  bakfill: {}\n", "policy.yaml:2:3  policy.bakfill", "unknown key `bakfill`. Did you mean"),
        (POLICY, "policy: {}\nname: x\n", "policy.yaml:2:1  name", "a policy file holds the policy only, not `name`"),
        (POLICY, "policy: 5\n", "policy.yaml:1:9  policy", "expected a mapping of keys"),
        (POLICY, "backfill:\n", "policy.yaml:1:10  policy.backfill", "expected a mapping of keys, got nothing"),
        (POLICY, "", "policy.yaml  plan", "the file is empty"),
        ("policy: {pause: 1}\n", "shift: {bake_s: 1}\n", "plan.yaml:10:10  policy.pause", "unknown key `pause`"),
        ("policy: []\n", "shift: {bake_s: 1}\n", "plan.yaml:10:9  policy", "expected a mapping of keys, got a list"),
        (
            "nam: x\n",
            "policy: {shift: {bake_s: 1}}\n",
            "plan.yaml:10:1  nam",
            "unknown key `nam`. Did you mean `name`?",
        ),
    ],
)
def test_an_error_points_into_the_file_that_has_it(base: str, over: str, place: str, message: str) -> None:
    error = refusal(PLAN + base, over)
    assert str(error.place) == place
    assert error.message.startswith(message)


@pytest.mark.parametrize(
    ("written", "offset", "line", "column"),
    [
        ("lower(nme)", 6, 10, 19),
        ("'lower(nme)'", 6, 10, 20),
        ('"lower(nme)"', 6, 10, 20),
        ("'''a'' || nme'", 7, 10, 23),
        (r'"\"a\" || nme"', 7, 10, 23),
        (r'"\x41\u00e9 || nme"', 6, 10, 28),
        ("|\n          lower(nme)", 6, 10, 13),
        (">-\n          lower(nme)", 6, 10, 13),
        ("'lower(\n          nme)'", 7, 10, 13),
    ],
)
def test_a_spot_in_an_expression_is_found_in_the_file(written: str, offset: int, line: int, column: int) -> None:
    located = load(PLAN + f"        up: {written}\n")
    place, lines = place_of(located, UP, offset)
    assert place == Place("operations[0].add_column.column.up", "plan.yaml", line, column)
    expression, caret = lines.splitlines()
    assert expression[caret.index("^") :].startswith("nme")
    assert caret.strip() == "^^^"


@pytest.mark.parametrize(
    ("text", "offset", "shown"),
    [
        ("a + bee", 4, "a + bee\n    ^^^"),
        ("a\n + bee\n + c", 5, " + bee\n   ^^^"),
        ("a ++ b", 2, "a ++ b\n  ^"),
        ('"Odd name" + 1', 0, '"Odd name" + 1\n^^^^^^^^^^'),
        ("\ta + b", 5, "\ta + b\n\t    ^"),
        ("a +", 3, "a +\n   ^"),
        ("a", 99, "a\n ^"),
        ("a", -1, "a\n^"),
    ],
)
def test_carets_stand_below_the_word(text: str, offset: int, shown: str) -> None:
    assert snippet(text, offset) == shown


def test_a_spot_in_what_the_file_leaves_out_is_where_it_would_stand() -> None:
    place, lines = place_of(load(PLAN), UP)
    assert (place, lines) == (Place("operations[0].add_column.column.up", "plan.yaml", 8, 9), "")


def test_a_plan_without_a_file_still_has_snippets() -> None:
    plan = load(PLAN + "        up: a + b\n").plan
    assert place_of(Located(plan, Places()), UP, 4) == (Place("operations[0].add_column.column.up"), "a + b\n    ^")


def test_the_file_is_named_as_it_was_given(folder: Path) -> None:
    (folder / "sub").mkdir()
    error = refusal(PLAN.replace("people", "a b", 1), file=os.path.join("sub", "plan.yaml"))  # noqa: PTH118 as typed
    assert str(error.place) == f"{Path('sub', 'plan.yaml')}:1:7  name"
