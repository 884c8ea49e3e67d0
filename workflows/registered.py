"""The workflows that a worker runs, all of them.

Apart from the package itself: Temporal's sandbox imports a workflow's module and its package anew for every run, and would define
all ten again each time, of which it needs one. Measured: 18 to 39 ms of a processor for each start and each replay, now 1 to 7.
"""

from pgduet.workflows.auditing import AuditExport, AuditHead, AuditVerify
from pgduet.workflows.backfill import Backfill
from pgduet.workflows.drain import Drain
from pgduet.workflows.errands import Check, Report, Setup
from pgduet.workflows.migration import Migration
from pgduet.workflows.reconcile import Reconcile

WORKFLOWS = (Migration, Backfill, Drain, Reconcile, Setup, Check, AuditHead, AuditVerify, AuditExport, Report)
