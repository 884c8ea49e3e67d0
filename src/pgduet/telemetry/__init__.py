"""Traces, metrics and logs, by OpenTelemetry and by its standard environment variables only.

Mechanism: the code of the engine says what happens (`spans`, `metrics`, `logs`) through OpenTelemetry's API, which does
nothing until a process asks for an exporter (`providers`). What ties one trace together from a command to a statement
travels in Temporal's headers (`carrier`, `client`, `worker`, `workflow`).
Limits: nothing here knows a DSN, a password, a row's values or a plan's contents, and no exception's text but what is in the
workflow's history already.
"""
