"""The plan: what one migration file says, read, located, checked and summed up.

Nothing here talks to PostgreSQL or Temporal; the only I/O is reading the given files in `load`. What only the
catalogue can tell (does the table exist, does PostgreSQL accept the expression) is left to the modules that ask it.
"""
