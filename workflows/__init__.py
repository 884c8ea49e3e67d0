"""Workflows: durable, deterministic, and readable as the runbook of a migration."""

from pgduet.workflows.auditing import AuditExport, AuditHead, AuditVerify
from pgduet.workflows.backfill import Backfill
from pgduet.workflows.drain import Drain
from pgduet.workflows.errands import Check, Report, Setup
from pgduet.workflows.migration import Migration

WORKFLOWS = (Migration, Backfill, Drain, Setup, Check, AuditHead, AuditVerify, AuditExport, Report)
