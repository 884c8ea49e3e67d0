"""Some of what root does on Linux can only be seen there."""

import os
import sys

collect_ignore = [] if sys.platform.startswith("linux") and os.geteuid() == 0 else ["test_postgres_as_root.py"]
