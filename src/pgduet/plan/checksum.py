"""A plan's checksum: SHA-256 over the canonical JSON (RFC 8785) of its versions and operations.

With the name it is a plan's identity. Policy, owners, description, risks and milestones are not in it, so they may
differ per environment; defaults are, so that leaving a key out and writing its default are the same plan.
"""

import hashlib

import rfc8785

from pgduet.plan.models import Plan


def checksum(plan: Plan) -> str:
    """Give the checksum in 64 lower-case hexadecimal digits."""
    said = plan.model_dump(mode="json", by_alias=True, include={"version", "operations"})
    return hashlib.sha256(rfc8785.dumps(said)).hexdigest()
