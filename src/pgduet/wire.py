"""What comes over the wire, read so that nothing a stranger sends can wedge a workflow.

Mechanism: the SDK decodes a message's payloads before a handler runs. What it cannot decode it drops unseen (a signal) or fails
the workflow task for, again and again (a start); and a handler of one argument that is given two fails the task as well. So
where a payload may be of any kind (`object`), this converter gives an `Unreadable` in its place, which says why, and one for
several payloads: the handler then refuses it by the same rules as any other message that makes no sense.
Limits: what activities and children return has a type, and is decoded strictly. A payload codec (encryption) runs before
this; where it cannot decrypt, the workflow task is tried again until it can, and nothing is lost.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import DataConverter

from pgduet.texts import shown

FIELDS_AT_MOST = 50
"""No message has so many; each one that is unknown costs time, and a workflow task has two seconds for all its messages."""
PROBLEMS_TOLD, PROBLEMS_COMPARED = 5, 100
_PLAIN = {b"json/plain", b"binary/null", b"binary/plain"}
"""Encodings of plain values; a protobuf message, say, is an object that validation could trip over."""
_ANYTHING: tuple[object, ...] = (None, object)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a message that cannot be read."""

    reason: str


class TolerantConverter(PydanticPayloadConverter):
    """As the SDK's pydantic converter, but where anything may come, what cannot be decoded becomes an `Unreadable`."""

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """Decode payloads; without types to match, several are one message that has too many arguments."""
        if type_hints is None and len(payloads) > 1:
            return [Unreadable(f"{len(payloads)} arguments, where one JSON object is expected")]
        hints: Sequence[type | None] = type_hints or [None] * len(payloads)
        return [self._decoded(payload, hint) for payload, hint in zip(payloads, hints, strict=True)]

    def from_payloads_wrapper(self, payloads: Payloads | None) -> list[Any]:
        """Decode a failure's details, of which there may be several."""
        return [self._decoded(payload, None) for payload in (payloads.payloads if payloads else [])]

    def _decoded(self, payload: Payload, hint: type | None) -> Any:
        if hint not in _ANYTHING:
            return super().from_payloads([payload], [hint] if hint else None)[0]
        if payload.metadata.get("encoding") not in _PLAIN:
            return Unreadable(_why(payload))
        try:
            found = super().from_payloads([payload])[0]
        except Exception as error:  # noqa: BLE001  (whatever a stranger has sent)
            return Unreadable(_why(payload, error))
        if isinstance(found, dict) and len(found) > FIELDS_AT_MOST:
            return Unreadable(f"an object with {len(found):,} fields")
        return found


def tolerant(converter: DataConverter) -> DataConverter:
    """Give a client's data converter for its worker: codec and failures as they are, payloads read as above."""
    return replace(converter, payload_converter_class=TolerantConverter)


def problems(error: ValidationError, whole: str) -> str:
    """Say what is wrong with a message; a name in it can be of any length."""
    every = error.errors(include_input=False, include_url=False, include_context=False)
    found = [(_place(e["loc"]), e) for e in every[:PROBLEMS_COMPARED]]
    places = [place for place, _ in found]
    # What is one of several kinds is wrong as each of them: the deepest says most. So does a part of what is a whole.
    kept = [(place, e) for place, e in found if not any(_within(other, place) for other in places)]
    told = [
        f"{shown('.'.join(place), 60) or whole}: {shown(e['msg'].removeprefix('Value error, '), 120)}"
        for place, e in kept[:PROBLEMS_TOLD]
    ]
    more = len(kept) - len(told) + len(every) - len(found)
    return "; ".join(told).removeprefix(": ") + (f"; and {more} more" if more else "")


def _place(loc: Sequence[int | str]) -> tuple[str, ...]:
    """Give a place as the message's keys, without pydantic's names for the kinds that a value may have."""
    return tuple(str(part) for part in loc if not re.search(r"\[", str(part)))


def _within(place: tuple[str, ...], outer: tuple[str, ...]) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer


def _why(payload: Payload, error: Exception | None = None) -> str:
    """Say why a payload cannot be read, without a word of what is in it."""
    if "encoding" not in payload.metadata:
        return "a payload without an encoding"
    encoding = shown(payload.metadata["encoding"].decode(errors="replace"), 40)
    if error is None:
        return f"a payload in an encoding that is not known here: {encoding}"
    if isinstance(error, ValidationError):
        return shown(f"{encoding}: {error.errors(include_input=False, include_url=False)[0]['msg']}")
    return f"a payload that is not {encoding}"
