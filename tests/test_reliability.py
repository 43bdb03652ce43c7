"""The programs of `tests/reliability`, in small."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.deployment import NGINX, ROOT

# One after the other: each loads the machine.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("reliability")]

needs_nginx = pytest.mark.skipif(not NGINX, reason="nginx is not installed")
needs_wrk = pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")

PROGRAMS = [
    pytest.param("outage", ["--kills", "4", "--messages", "5000"], marks=needs_nginx),
    pytest.param("slow", ["--seconds", "4"]),
    pytest.param("cancel", ["--rounds", "3", "--messages", "6000"], marks=needs_nginx),
    pytest.param("transaction", ["--kills", "4"], marks=needs_nginx),
    pytest.param("receipts", ["--receipts", "20000", "--seconds", "4"], marks=needs_wrk),
    pytest.param("silent", ["--messages", "2000"], marks=needs_nginx),
    pytest.param(
        "load", ["--seconds", "10", "--slow", "200", "--restarts", "3"], marks=[needs_nginx, needs_wrk]
    ),
    pytest.param("million", ["--rows", "60000", "--rounds", "0"]),
    pytest.param("fuzz", ["--seconds", "5", "--seed", "1"]),
    pytest.param("timing", ["--rounds", "2000"]),
    pytest.param("upgrade", ["--rows", "5000", "--seconds", "1"], marks=needs_nginx),
]


@pytest.mark.parametrize(("program", "arguments"), PROGRAMS)
def test_every_guarantee_passes(program: str, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.reliability.{program}", *arguments],
        cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS" in done.stdout
    assert "FAIL" not in done.stdout
