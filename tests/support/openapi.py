"""Run schemathesis, all its checks and phases, against the site's `/openapi.json`."""

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
# A body of over 16 KiB is rejected before it is validated.
positive_data_acceptance.expected-statuses = ["2xx", 404, 409, 413]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 409, 413, 415, 422]
[[operations]]
include-name = "POST /push/messages"
# The coverage phase ignores that `to` has exactly one of its fields.
checks.positive_data_acceptance.expected-statuses = ["2xx", 413, 422]
[[operations]]
include-name = "POST /push/subscribe"
# No pattern describes which characters of a label are printable.
checks.positive_data_acceptance.expected-statuses = ["2xx", 409, 413, 422]
[[operations]]
include-name = "PATCH /push/subscriptions/{{subscription_id}}"
# No pattern describes which characters of a label are printable.
checks.positive_data_acceptance.expected-statuses = ["2xx", 404, 413, 422]
"""


def openapi_site(database_url: str, folder: Path, push_service: str) -> Deployment:
    """Return a site with the API token of the configuration, that sends to a push service's origin."""
    return Deployment(
        database_url,
        folder,
        FLASK_PUSH_API_TOKENS='["token"]',
        FLASK_PUSH_CHANNELS='["news"]',
        FLASK_PUSH_TRUSTED_PUSH_SERVICES=f'["{push_service}"]',
    )


def run_schemathesis(
    site: Deployment, push_service: str, *options: str
) -> "subprocess.CompletedProcess[str]":
    """Run schemathesis against a running site; its exit status is 0 if all responses conform."""
    configuration = site.folder / "schemathesis.toml"
    configuration.write_text(CONFIGURATION.format(cookie=site.cookie("fuzzer").partition("=")[2]))
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks",
        "PUSH_SERVICE": push_service,
    }
    return subprocess.run(
        [PROGRAMS / "schemathesis", "--config-file", configuration, "run", f"{site.url}/openapi.json",
         "--checks", "all", "--phases", "examples,coverage,fuzzing,stateful", "-n", "25", "--no-color", *options],
        cwd=site.folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
