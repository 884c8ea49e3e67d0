"""Workflows: durable, deterministic, and readable as the runbook of a migration."""

from pgduet.workflows.auditing import AuditExport, AuditHead, AuditVerify
from pgduet.workflows.backfill import Backfill
from pgduet.workflows.drain import Drain
from pgduet.workflows.errands import Check, Report, Setup
from pgduet.workflows.migration import Migration
from pgduet.workflows.reconcile import Reconcile

WORKFLOWS = (Migration, Backfill, Drain, Reconcile, Setup, Check, AuditHead, AuditVerify, AuditExport, Report)
