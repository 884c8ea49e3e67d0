"""A worker that is waited for longer when it is killed: what comes meanwhile is in its successor's hands before the tasks are."""

from pgduet import runtime

if __name__ == "__main__":
    runtime.STICKY_S = 8.0
    runtime.main()
