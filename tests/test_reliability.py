"""The programs of `tests/reliability`, in small: the README has what they say in full."""

import os
import subprocess
import sys

import pytest

from tests.support.deployment import ROOT

SMALL = [
    ["outage", "--kills", "4", "--messages", "5000"],
    ["slow", "--seconds", "4", "--messages", "1000"],
    ["load", "--seconds", "10", "--slow", "200", "--restarts", "3"],
    ["million", "--rows", "60000", "--rounds", "0"],
    ["fuzz", "--seconds", "5", "--seed", "1"],
    ["timing", "--rounds", "2000"],
]
if not subprocess.run(
    ["git", "rev-parse", "--verify", "-q", "eb17cf3^{commit}"], cwd=ROOT, capture_output=True
).returncode:
    SMALL.append(["upgrade", "--rows", "5000", "--seconds", "1"])  # which takes older code from the history


@pytest.mark.parametrize("command", SMALL, ids=lambda command: str(command[0]))
def test_every_promise_is_kept(command: list[str]) -> None:
    program, *arguments = command
    done = subprocess.run(
        [sys.executable, "-m", f"tests.reliability.{program}", *arguments],
        cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kept" in done.stdout
    assert "BROKEN" not in done.stdout
