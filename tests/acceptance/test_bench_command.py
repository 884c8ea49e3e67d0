"""A benchmark runs as it is called, on servers of its own, and writes what it found."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.common.options import ROOT

KEYS = {"metric", "subject", "value", "unit", "ratio_to", "ratio", "goal", "met"}


def benchmarks(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_backfill_is_measured_at_a_tiny_size(tmp_path: Path) -> None:
    done = benchmarks(
        *("backfill", "--rows", "2000", "--repeats", "1", "--without", "pgroll,reshape", "--out", str(tmp_path))
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


def test_a_ledger_of_shapes_is_kept_at_a_tiny_size(tmp_path: Path) -> None:
    others = "column_in_place,key_in_place,partitioned_shadow,extract_table,attach"
    done = benchmarks("ledger", "--quick", "--without", others, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "ledger.json").read_text())["figures"]
    writes = {each["subject"]: each["value"] for each in figures if each["metric"].startswith("acknowledged writes,")}
    assert set(writes) == {"shadow table", "merge rows"}
    assert min(writes.values()) > 0
    judged = [each for each in figures if each["goal"]]
    assert len(judged) == 8
    assert all(each["met"] for each in judged)
    assert {each["ratio_to"] for each in figures if each["ratio"]} == {"no migration"}


def test_a_shadow_is_copied_at_a_tiny_size(tmp_path: Path) -> None:
    done = benchmarks("shadow_copy", "--quick", "--rows", "2000", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr  # of so few rows a workflow is no match, and nobody is judged
    figures = json.loads((tmp_path / "shadow_copy.json").read_text())["figures"]
    subjects = {each["subject"] for each in figures if each["ratio"]}
    assert subjects == {"pgduet, one session", "pgduet, two sessions", "one INSERT … SELECT, its key afterwards"}
    assert all(each["value"] > 0 for each in figures)
