"""Operations: what a plan's changes mean for PostgreSQL, as pure functions from plan and catalogue to statements.

Nothing here opens a connection. `design` resolves a plan against facts read from the catalogue; the other modules turn
that design into statements for one phase each. `pgduet.postgres` executes them.
"""
