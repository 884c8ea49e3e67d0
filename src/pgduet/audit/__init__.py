"""The tamper-evident log of every act and decision: a hash chain beside the data that it speaks of."""

from pgduet.audit.canonical import ZERO_HASH
from pgduet.audit.chain import append, export, head, verify
from pgduet.audit.records import Entry, Problem, Receipt, Verification

__all__ = ["ZERO_HASH", "Entry", "Problem", "Receipt", "Verification", "append", "export", "head", "verify"]
