"""A harness around a migration for each test."""

from support.stage import forgetful, short_memory, stage

__all__ = ["forgetful", "short_memory", "stage"]
