"""The tamper-evident log of every act and decision: a hash chain beside the data that it speaks of."""

from pgduet.audit.canonical import ZERO_HASH
from pgduet.audit.chain import append, exists, export, head, page, verify
from pgduet.audit.records import Anchor, Entry, Problem, Receipt, Verification

__all__ = [
    "ZERO_HASH",
    "Anchor",
    "Entry",
    "Problem",
    "Receipt",
    "Verification",
    "append",
    "exists",
    "export",
    "head",
    "page",
    "verify",
]
