"""Values for the formats in `/openapi.json` that no pattern can describe, for schemathesis."""

import os
import secrets

import schemathesis
from hypothesis import strategies as st

from tests.support.subscriptions import base64url, public_point

POINTS = [base64url(public_point()) for _ in range(20)]

schemathesis.openapi.format("p256dh", st.sampled_from(POINTS))
schemathesis.openapi.format("auth", st.just(base64url(secrets.token_bytes(16))))
schemathesis.openapi.format(
    "uri", st.integers(0, 10**9).map(lambda number: f"{os.environ['PUSH_SERVICE']}/{number}")
)
