"""A harness around a migration for each test."""

from support.stage import stage

__all__ = ["stage"]
