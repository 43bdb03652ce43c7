"""The time of a bearer token's rejection depends on the token in no way: no timing side channel.

python -m tests.reliability.timing [--rounds 20000]
"""

import argparse
import secrets
import statistics
import tempfile
import time

from pushapp import create_app
from tests.reliability.common import Report

NOISE = 1.05  # the ratio of two measurements of the same guess is closer to 1 than this


def main() -> None:
    """Guess a token with no character right, and a token with all but the last right."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.timing")
    parser.add_argument("--rounds", type=int, default=20_000)
    rounds = parser.parse_args().rounds
    report = Report()
    token = secrets.token_urlsafe(48)
    guesses = {"far": "~" * len(token), "near": token[:-1] + "~"}  # which is no character of a token
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(
            {"PUSH_API_TOKENS": [token], "SQLALCHEMY_DATABASE_URI": "sqlite://"}, instance_path=folder
        )
        client = app.test_client()
        seconds: dict[str, list[float]] = {name: [] for name in guesses}
        for number in range(rounds):
            for name in guesses if number % 2 else reversed(guesses):
                headers = {"Authorization": f"Bearer {guesses[name]}"}
                started_at = time.perf_counter()
                response = client.get("/push/messages/1", headers=headers)
                seconds[name].append(time.perf_counter() - started_at)
                assert response.status_code == 401
    # The fastest tenths: medians would include the time of other processes on a busy machine.
    near, far = (statistics.quantiles(seconds[name], n=10)[0] for name in ("near", "far"))
    ratio = near / far
    report.guarantee(
        f"time to reject a near guess, ratio to a far one, {rounds:,} each (noise: up to {NOISE})",
        f"{ratio:.3f}", 1 / NOISE < ratio < NOISE,
    )  # fmt: skip
    report.finish()


if __name__ == "__main__":
    main()
