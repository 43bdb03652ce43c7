"""What the time that a bearer token's refusal takes says of the token: nothing.

python -m tests.reliability.timing [--rounds 20000]
"""

import argparse
import secrets
import statistics
import tempfile
import time

from pushapp import create_app

from .common import Verdict

FAMILIARITY = 1.05  # the ratio of two medians of the same guess is nearer to 1 than this


def main() -> None:
    """Guess a token that is wrong from the first character on, and one that is right but for the last."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.timing")
    parser.add_argument("--rounds", type=int, default=20_000)
    rounds = parser.parse_args().rounds
    verdict = Verdict()
    token = secrets.token_urlsafe(48)
    guesses = {"far": "\0" * len(token), "near": token[:-1] + "\0"}
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(
            {"PUSH_API_TOKENS": [token], "SQLALCHEMY_DATABASE_URI": "sqlite://"}, instance_path=folder
        )
        client = app.test_client()
        seconds: dict[str, list[float]] = {name: [] for name in guesses}
        for turn in range(rounds):
            for name in guesses if turn % 2 else reversed(guesses):
                headers = {"Authorization": f"Bearer {guesses[name].replace(chr(0), '-')}"}
                began = time.perf_counter()
                client.get("/push/messages/1", headers=headers)
                seconds[name].append(time.perf_counter() - began)
    ratio = statistics.median(seconds["near"]) / statistics.median(seconds["far"])
    kept = 1 / FAMILIARITY < ratio < FAMILIARITY
    verdict.promise(
        f"refusing a near guess takes as long as a far one, {rounds:,} each", f"{ratio:.3f}", kept
    )
    verdict.end()


if __name__ == "__main__":
    main()
