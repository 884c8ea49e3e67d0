"""pgduet: zero-downtime PostgreSQL migrations as durable Temporal workflows."""
