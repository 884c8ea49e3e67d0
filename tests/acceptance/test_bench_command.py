"""A benchmark runs as it is called, on servers of its own, and writes what it found."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.common.options import ROOT

KEYS = {"metric", "subject", "value", "unit", "ratio_to", "ratio", "goal", "met"}


def test_the_backfill_is_measured_at_a_tiny_size(tmp_path: Path) -> None:
    command = ["backfill", "--rows", "2000", "--repeats", "1", "--without", "pgroll,reshape", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "pgroll is left out" in done.stderr
    result = json.loads((tmp_path / "backfill.json").read_text())
    assert result["name"] == "backfill"
    assert result["versions"]["PostgreSQL 18"].startswith("18")
    assert all(set(figure) == KEYS for figure in result["figures"])
    beside = {figure["ratio_to"]: figure for figure in result["figures"] if figure["ratio_to"]}
    assert beside["plain UPDATE"]["value"] > 0
    assert beside["plain UPDATE"]["ratio"] > 0
    # Nobody can say that a goal was met against a peer that is not there.
    assert (beside["pgroll"]["ratio"], beside["pgroll"]["met"]) == (None, None)
    assert "| plain UPDATE |" in done.stdout
