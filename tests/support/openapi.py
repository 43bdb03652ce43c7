"""Does every route do what `/openapi.json` says? Asked by schemathesis, all its checks and phases."""

import os
import subprocess
from pathlib import Path

from tests.support.deployment import PROGRAMS, ROOT, Deployment

CONFIGURATION = """
[auth.openapi.session]
api_key = "{cookie}"
[auth.openapi.token]
bearer = "token"
[checks]
# A body of over 16 KiB is refused before anybody looks whether it is right.
positive_data_acceptance.expected-statuses = ["2xx", 404, 413]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 413, 415, 422]
[[operations]]
include-name = "POST /push/messages"
# That `to` has either member and not both is said, and not heeded by the coverage phase.
checks.positive_data_acceptance.expected-statuses = ["2xx", 413, 422]
"""


def described_site(database_url: str, folder: Path, push_service: str) -> Deployment:
    """Return a site whose messages this module may send, to subscriptions at a push service's origin."""
    return Deployment(
        database_url,
        folder,
        FLASK_PUSH_API_TOKENS='["token"]',
        FLASK_PUSH_TRUSTED_PUSH_SERVICES=f'["{push_service}"]',
    )


def ask(site: Deployment, push_service: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run schemathesis against a site that runs; its exit status is 0 when all is as described."""
    configuration = site.folder / "schemathesis.toml"
    configuration.write_text(CONFIGURATION.format(cookie=site.cookie("anybody").partition("=")[2]))
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks",
        "PUSH_SERVICE": push_service,
    }
    return subprocess.run(
        [PROGRAMS / "schemathesis", "--config-file", configuration, "run", f"{site.url}/openapi.json",
         "--checks", "all", "--phases", "examples,coverage,fuzzing,stateful", "-n", "25", "--no-color", *options],
        cwd=site.folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
