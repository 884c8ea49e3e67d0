"""Runs a pgduet worker in the foreground: `python worker.py`, the same as `pgduet worker`."""

from pgduet.runtime import main

if __name__ == "__main__":
    main()
