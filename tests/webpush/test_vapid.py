"""VAPID tokens (RFC 8292)."""

import time

import pytest

from pushapp.webpush.vapid import TOKEN_LIFETIME, Signer, Signers, generate_key_pair
from tests.support.push_server import verify

KEY_PAIR = generate_key_pair()
SUBJECT = "mailto:webmaster@site.org"


def test_each_origin_has_one_token() -> None:
    signer = Signer(KEY_PAIR, SUBJECT)
    first, repeated, other = (signer.authorization(f"https://{name}.net") for name in ("a", "a", "b"))
    assert first == repeated
    assert verify(first)["aud"] == "https://a.net"
    assert verify(other)["aud"] == "https://b.net"


def test_the_number_of_cached_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushapp.webpush.vapid.MAX_TOKENS", 2)
    signer = Signer(KEY_PAIR, SUBJECT)
    first, second = (signer.authorization(f"https://{name}.net") for name in ("a", "b"))
    assert (signer.authorization("https://a.net"), signer.authorization("https://b.net")) == (
        first,
        second,
    )
    signer.authorization("https://c.net")
    assert signer.authorization("https://a.net") != first


def test_a_token_is_replaced_before_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer(KEY_PAIR, SUBJECT)
    first = signer.authorization("https://a.net")
    now = time.time()
    monkeypatch.setattr("pushapp.webpush.vapid.time.time", lambda: now + TOKEN_LIFETIME - 60)
    assert signer.authorization("https://a.net") != first
    assert verify(signer.authorization("https://a.net"))["exp"] > now + TOKEN_LIFETIME


def test_each_key_signs_for_the_subscriptions_made_with_it() -> None:
    older, oldest = generate_key_pair(), generate_key_pair()
    signers = Signers([KEY_PAIR, older, oldest], SUBJECT)
    assert signers.public_key == KEY_PAIR.public
    for pair in (KEY_PAIR, older, oldest):
        header = signers.authorization("https://a.net", pair.public)
        assert verify(header)["k"] == pair.public
        assert signers.authorization("https://a.net", pair.public) == header
    assert verify(signers.authorization("https://a.net", None))["k"] == oldest.public
    with pytest.raises(ValueError, match="flask push keys"):
        signers.authorization("https://a.net", generate_key_pair().public)


@pytest.mark.parametrize("seconds", [2 * 24 * 60 * 60, -2 * 24 * 60 * 60])
def test_a_token_that_was_signed_while_the_clock_was_wrong_is_not_used_when_it_is_right(
    monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    signer = Signer(KEY_PAIR, SUBJECT)
    now = time.time()
    monkeypatch.setattr("pushapp.webpush.vapid.time.time", lambda: now + seconds)
    signer.authorization("https://a.net")
    monkeypatch.setattr("pushapp.webpush.vapid.time.time", lambda: now)
    expires_at = verify(signer.authorization("https://a.net"))["exp"]
    assert now < expires_at <= now + TOKEN_LIFETIME
