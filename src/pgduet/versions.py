"""Names that the engine and the routing library must agree on: version schemas, cut to PostgreSQL's 63 bytes."""

import hashlib

MAX_BYTES = 63


def fit(name: str) -> str:
    """Cut `name` to 63 bytes; a cut name ends in a hash of the whole, so that two long names stay apart."""
    raw = name.encode()
    if len(raw) <= MAX_BYTES:
        return name
    digest = hashlib.sha256(raw).hexdigest()[:10]
    return raw[: MAX_BYTES - 11].decode(errors="ignore") + "_" + digest


def version_schema(schema: str, version: str) -> str:
    """Name the schema of views that clients of a version use, such as `public_v2`."""
    return fit(f"{schema}_v{version}")
