"""`flask` commands of a host, in a separate process: a host's env.py configures logging."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.deployment import ROOT

# Several commands in one process: most of a command's time is the imports.
RUNNER = """
import json, sys
from click.testing import CliRunner
from flask.cli import cli
results = [CliRunner().invoke(cli, arguments) for arguments in json.loads(sys.argv[1])]
print(json.dumps([[each.exit_code, each.output, repr(each.exception)] for each in results]))
"""


class Shell:
    """A folder with `host.py`, and `flask --app host` in it."""

    def __init__(self, folder: Path, program: str, **environment: str):
        (folder / "host.py").write_text(program)
        self.folder = folder
        self.environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment}

    def run(self, *commands: str) -> list[tuple[int, str]]:
        """Run commands one after the other, and return their exit statuses and outputs."""
        arguments = json.dumps([["--app", "host", *command.split()] for command in commands])
        done = self.python("-c", RUNNER, arguments)
        assert done.returncode == 0, done.stderr
        results = json.loads(done.stdout.splitlines()[-1])
        for _, _, exception in results:
            assert exception == "None" or exception.startswith("SystemExit"), exception
        return [(status, output) for status, output, _ in results]

    def succeed(self, *commands: str) -> str:
        """Run commands that must succeed, and return their outputs together."""
        results = self.run(*commands)
        for command, (status, output) in zip(commands, results, strict=True):
            assert status == 0, f"{command}: {output}"
        return "".join(output for _, output in results)

    def python(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run Python in the folder."""
        return subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env=self.environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
