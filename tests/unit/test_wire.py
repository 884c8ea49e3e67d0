"""What comes over the wire becomes a value or an `Unreadable`; what has a type is decoded strictly; texts are made plain."""

import pytest
from pydantic import ValidationError
from support.hostile import EMPTY, MALFORMED
from support.raw import payload
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.contrib.pydantic import pydantic_data_converter

from pgduet.acts import Act, Approve, Throttle
from pgduet.messages import Outcome
from pgduet.texts import FACT_CHARS, bounded, shown
from pgduet.windows import Window
from pgduet.wire import FIELDS_AT_MOST, TolerantConverter, Unreadable, problems, tolerant

CONVERTER = TolerantConverter()


@pytest.mark.parametrize("what", [*EMPTY, *MALFORMED])
def test_whatever_is_sent_to_a_handler_of_anything_is_decoded_without_an_error(what: str) -> None:
    payloads = {**EMPTY, **MALFORMED}[what]
    hints = [object] if len(payloads) == 1 else None
    found = CONVERTER.from_payloads(payloads, hints)
    assert len(found) <= 1
    for each in found:
        assert isinstance(each, None | bool | int | float | str | bytes | list | dict | Unreadable)


@pytest.mark.parametrize(
    ("payloads", "reason"),
    [
        ([payload(b"{}"), payload(b"{}")], "2 arguments, where one JSON object is expected"),
        ([payload(b"{}", None)], "a payload without an encoding"),
        ([payload(b"{}", b"binary/encrypted")], "a payload in an encoding that is not known here: binary/encrypted"),
        ([payload(b"{}", b"\xff")], "a payload in an encoding that is not known here: \ufffd"),
        ([payload(b"secret")], "json/plain: Invalid JSON: expected value at line 1 column 1"),
        ([payload(b"[" * 1000)], "json/plain: Invalid JSON: recursion limit exceeded at line 1 column 202"),
        ([payload(str({}).encode() + b" x")], "json/plain: Invalid JSON: trailing characters at line 1 column 4"),
        ([payload(b"{%s}" % b",".join(b'"%d": 1' % n for n in range(FIELDS_AT_MOST + 1)))], "an object with 51 fields"),
    ],
)
def test_the_reason_says_what_is_wrong_and_not_what_was_in_it(payloads: list[Payload], reason: str) -> None:
    [found] = CONVERTER.from_payloads(payloads, [object] if len(payloads) == 1 else None)
    assert found == Unreadable(reason)


def test_what_has_a_type_is_decoded_strictly() -> None:
    with pytest.raises(ValidationError):
        CONVERTER.from_payloads([payload(b'{"nothing": 1}')], [Outcome])
    with pytest.raises(KeyError):
        CONVERTER.from_payloads([payload(b"{}", b"binary/encrypted")], [Outcome])
    [outcome] = CONVERTER.from_payloads([payload(b'{"summary": "done"}')], [Outcome])
    assert outcome == Outcome(summary="done")


def test_the_details_of_a_failure_may_be_several() -> None:
    details = Payloads(payloads=[payload(b"1"), payload(b"x", b"unknown"), payload(b'"three"')])
    one, two, three = CONVERTER.from_payloads_wrapper(details)
    assert (one, three) == (1, "three")
    assert isinstance(two, Unreadable)
    assert CONVERTER.from_payloads_wrapper(None) == []


def test_a_clients_codec_and_failures_stay_as_they_are() -> None:
    made = tolerant(pydantic_data_converter)
    assert made.payload_converter_class is TolerantConverter
    assert made.payload_codec is pydantic_data_converter.payload_codec
    assert made.failure_converter_class is pydantic_data_converter.failure_converter_class


@pytest.mark.parametrize("actor", ["", "  ", "a\nb", "a\x00", "\x1b[2J", "\u202eb", "a\u2028b", "x" * 201, "\ud800"])
def test_an_actor_is_one_plain_line(actor: str) -> None:
    with pytest.raises(ValidationError):
        Act(actor=actor)


def test_an_actor_may_be_anybody_and_a_reason_may_have_lines() -> None:
    act = Act(actor=" Zoë <zoe@example.com>\n", reason="first\n\tsecond: 100 %")
    assert act.actor == "Zoë <zoe@example.com>"
    assert act.reason == "first\n\tsecond: 100 %"


@pytest.mark.parametrize("reason", ["a\x00", "\x1b[31m", "a\rb", "\u202e", "x" * 2001])
def test_a_reason_has_no_control_characters(reason: str) -> None:
    with pytest.raises(ValidationError):
        Act(reason=reason)


@pytest.mark.parametrize("pace", ["pause_ms", "batch_target_ms", "max_replica_lag_s", "max_wal_retained_mb"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_pace_is_a_number(pace: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Throttle.model_validate({pace: value})


def test_problems_are_told_in_bounds_however_many_they_are_and_however_long_their_names() -> None:
    wild = {"k" * 10_000: 1, **{f"field {n}": n for n in range(100)}}
    with pytest.raises(ValidationError) as caught:
        Approve.model_validate(wild)
    told = problems(caught.value, "approve")
    assert len(told) < 600
    assert told.startswith("gate: Field required; kkk")
    assert told.endswith("; and 97 more")


def test_a_text_is_shown_on_one_line_and_cut() -> None:
    assert shown("plain") == "plain"
    assert shown("a\nb\x1b[2J\u202e") == "a b\ufffd[2J\ufffd"
    assert shown("x" * 1000, 10) == "xxxxxxxxx…"
    assert shown("\n" * 1000, 10) == " " * 9 + "…"


def test_facts_are_cut_at_every_depth() -> None:
    facts = bounded({"message": "x" * 10_000, "line": 5, "errors": [{"hint": "y" * 10_000}] * 100, "path": None})
    assert len(facts["message"]) == FACT_CHARS + 1
    assert facts["line"] == 5
    assert facts["path"] is None
    assert len(facts["errors"]) == 50
    assert len(facts["errors"][0]["hint"]) == FACT_CHARS + 1


def test_what_is_wrong_with_a_message_is_told_by_its_own_keys() -> None:
    window = {"from": "03:00", "to": "04:00", "timezone": "Berlin"}
    with pytest.raises(ValidationError) as caught:
        Throttle.model_validate({"window": window, "pause_ms": -1})
    told = problems(caught.value, "throttle")
    assert told.startswith("pause_ms: ")
    assert told.endswith(
        "; window.timezone: there is no time zone 'Berlin': expected a name such as Europe/Berlin or UTC"
    )


def test_a_signal_may_have_a_window_as_the_command_line_has_it() -> None:
    text = "22:00-05:00 Europe/Berlin fri"
    assert Throttle.model_validate({"window": text}).window == Window.read(text)
    assert Throttle.model_validate({"window": "none"}).window == "none"
    with pytest.raises(ValidationError, match="expected a window such as"):
        Throttle.model_validate({"window": "at night"})
