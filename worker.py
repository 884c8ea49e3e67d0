"""Runs a pgduet worker in the foreground: `python worker.py`, the same as `pgduet worker`."""

from pgduet.errors import PgduetError
from pgduet.leaving import leave
from pgduet.runtime import main

if __name__ == "__main__":
    try:
        main()
    except PgduetError as error:
        raise SystemExit(error.render()) from None
    leave(0)
