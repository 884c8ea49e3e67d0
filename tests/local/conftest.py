"""A directory for servers to keep; and what root does on Linux can only be seen there."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

collect_ignore = [] if sys.platform.startswith("linux") and os.geteuid() == 0 else ["test_postgres_as_root.py"]


@pytest.fixture
def kept_dir() -> Iterator[Path]:
    """Give a directory that the server's account can reach, unlike pytest's private ones."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
