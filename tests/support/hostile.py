"""What no migration understands: payloads of every kind that anybody on the namespace can send."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from temporalio.api.common.v1 import Payload

from support.raw import payload

DEEP = 1_000
HUGE = 1_500_000

EMPTY: dict[str, list[Payload]] = {
    "no argument": [],
    "null": [payload(b"null")],
    "binary/null": [payload(b"", b"binary/null")],
    "an empty object": [payload(b"{}")],
}

MALFORMED: dict[str, list[Payload]] = {
    "a number": [payload(b"5")],
    "true": [payload(b"true")],
    "a text": [payload(b'"advance"')],
    "an empty list": [payload(b"[]")],
    "a list": [payload(b'[{"actor": "x"}]')],
    "NaN": [payload(b"NaN")],
    "infinity inside": [payload(b'{"actor": Infinity, "pause_ms": Infinity, "max_replica_lag_s": Infinity}')],
    "NaN inside": [payload(b'{"batch_target_ms": NaN, "pause_ms": NaN, "max_replica_lag_s": NaN, "actor": NaN}')],
    "a number of 400 digits": [
        payload(
            b'{"relation": "\\"public\\".\\"reviews\\"", "part": 0, "blocks": 1, "blocks_done": 1, "batches": 1,'
            b' "rows": 1%s, "read_percent": 1%s}' % (b"0" * 400, b"0" * 400)
        )
    ],
    "a number of 5,000 digits": [payload(b'{"read_percent": 1%s}' % (b"0" * 5_000))],
    "deep lists": [payload(b"[" * DEEP + b"]" * DEEP)],
    "deep objects": [payload(b'{"actor":' * DEEP + b"1" + b"}" * DEEP)],
    "somewhat deep": [payload(b'{"actor":' * 150 + b"1" + b"}" * 150)],
    "wrong types": [payload(b'{"actor": {"a": 1}, "reason": [1], "gate": {}, "read_percent": "x", "force": "maybe"}')],
    "unknown fields": [payload(b'{"actor": "x", "surprise": 1, "__class__": "x"}')],
    "10,000 unknown fields": [payload(json.dumps({f"field {n}": n for n in range(10_000)}).encode())],
    "a key of 100 kB": [payload(json.dumps({"k" * 100_000: 1}).encode())],
    "an actor of 100 kB": [payload(json.dumps({"actor": "x" * 100_000}).encode())],
    "no actor at all": [payload(b'{"actor": "  "}')],
    "an actor of two lines": [payload(b'{"actor": "a\\nrolled_back by somebody else"}')],
    "an actor for terminals": [payload(b'{"actor": "\\u001b[2J\\u001b]0;x\\u0007"}')],
    "an actor with NUL": [payload(b'{"actor": "a\\u0000b"}')],
    "an actor written backwards": [payload('{"actor": "\u202etoor"}'.encode())],
    "half of a surrogate pair": [payload(b'{"actor": "\\ud800"}')],
    "a reason with NUL": [payload(b'{"reason": "a\\u0000b", "actor": "x"}')],
    "a reason for terminals": [payload(b'{"reason": "\\u001b[2J", "actor": "x"}')],
    "no UTF-8": [payload(b'{"actor": "\xff\xfe"}')],
    "UTF-16": [payload('{"actor": "x"}'.encode("utf-16"))],
    "cut off": [payload(b'{"actor": "x')],
    "no data": [payload(b"")],
    "two documents": [payload(b"{} {}")],
    "bytes": [payload(b"{}", b"binary/plain")],
    "no encoding": [payload(b"{}", None)],
    "an unknown encoding": [payload(b"{}", b"application/x-unknown")],
    "an encoding that is no text": [payload(b"{}", b"\xff\xfe\x00")],
    "an encoding of 10 kB": [payload(b"{}", b"e" * 10_000)],
    "encrypted": [payload(b"\x00\x01\x02", b"binary/encrypted", **{"encryption-key-id": b"elsewhere"})],
    "a protobuf of no known type": [payload(b"\x08\x01", b"binary/protobuf", messageType=b"acme.Thing")],
    "a protobuf in JSON": [payload(b'{"a": 1}', b"json/protobuf", messageType=b"google.protobuf.Struct")],
    "two arguments": [payload(b"{}"), payload(b"{}")],
    "two that cannot be read": [payload(b"{", b"json/plain"), payload(b"x", b"what")],
    "a hundred arguments": [payload(b"null")] * 100,
}

ROTTEN: dict[str, Payload] = {
    "_tracer-data": payload(b"\xff", b"json/plain"),
    "_pgduet-link": payload(b'["00-zz"]'),
    "": payload(b"x", None),
}
"""Headers that say nothing that anybody could read."""


async def gathered(calls: list[Callable[[], Awaitable[Any]]], at_once: int = 50) -> None:
    limit = asyncio.Semaphore(at_once)

    async def one(call: Callable[[], Awaitable[Any]]) -> None:
        async with limit:
            await call()

    await asyncio.gather(*(one(call) for call in calls))
