"""The whole demo, as a user runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.alone
@pytest.mark.timeout(400)
def test_the_demo_migrates_rolls_back_once_and_loses_nothing() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TEMPORAL_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "pgduet.cli.main", "demo"],
        check=False,
        capture_output=True,
        text=True,
        timeout=380,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"client errors +0 +0$", done.stdout, re.MULTILINE)
    assert re.search(r"acknowledged writes found +all [\d,]+ +all [\d,]+$", done.stdout, re.MULTILINE)
    rolled_back = re.search(r"rolled back once from soak: 0 rows lost, ([\d,]+) new-only values archived", done.stdout)
    assert rolled_back
    assert rolled_back[1] != "0"
    assert re.search(
        r"336,776 flights migrated · parity exact · audit log verifies \(\d+ entries\)$", done.stdout, re.MULTILINE
    )
    kept = re.search(r"the whole report: (\S+\.html)", done.stdout)
    assert kept
    page = Path(kept[1]).read_text(encoding="utf-8")
    assert "The first attempt was rolled back from soak by demo (to show it)." in page
    assert f"{rolled_back[1]} values that earlier attempts had archived came back." in page
