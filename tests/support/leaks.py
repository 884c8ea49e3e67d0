"""Finding a secret wherever it may have gone: as it is, and in the forms that something on the way may have given it."""

import base64
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from google.protobuf.message import Message


def marked(marks: tuple[str, str, str], between: tuple[str, str]) -> str:
    """Write a password: marks that no quoting changes, and between them characters that every quoting changes."""
    return f"{marks[0]}{between[0]}{marks[1]}{between[1]}{marks[2]}"


def forms(password: str, *marks: str) -> set[bytes]:
    """Give what to look for: the marks, which every way of quoting leaves alone, and the ways of hiding them."""
    written = {password, quote(password, safe=""), *marks}
    hidden = {form for text in written for form in _hidden(text.encode())}
    return {text.encode() for text in written} | hidden


def _hidden(raw: bytes) -> Iterator[bytes]:
    """Encode as base64 at each alignment, without the ends that depend on the neighbours; and as hexadecimal digits."""
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            whole = encode(bytes(before) + raw).rstrip(b"=")
            yield whole[(before * 8 + 5) // 6 : len(whole) - 1]
    yield raw.hex().encode()
    yield raw.hex().upper().encode()


def found(looked_for: set[bytes], places: dict[str, bytes]) -> dict[str, set[bytes]]:
    """Search places; gives where something was found, and what."""
    hits = {name: {form for form in looked_for if form in text} for name, text in places.items()}
    return {name: hit for name, hit in hits.items() if hit}


def laid_open(message: Message, as_json: str) -> bytes:
    """Give a message of Temporal's in every form: serialized, as JSON, and its payloads decoded."""
    return b"\n".join([message.SerializeToString(), as_json.encode(), *_payloads(json.loads(as_json))])


def _payloads(tree: Any) -> Iterator[bytes]:
    if isinstance(tree, dict):
        if isinstance(tree.get("data"), str):
            yield base64.b64decode(tree["data"])
        for each in tree.values():
            yield from _payloads(each)
    elif isinstance(tree, list):
        for each in tree:
            yield from _payloads(each)
