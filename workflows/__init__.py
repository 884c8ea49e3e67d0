"""Workflows: durable, deterministic, and readable as the runbook of a migration."""
