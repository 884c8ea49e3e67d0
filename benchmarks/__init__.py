"""Benchmarks: one script for each figure, peers and pgduet alternating in one run on one PostgreSQL. See README.md."""
