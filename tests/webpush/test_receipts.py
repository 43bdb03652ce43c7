"""Tokens of receipts, and payloads with them."""

import json

import pytest

from pushapp.webpush.message import MAX_PLAINTEXT, PADDED_LENGTHS, Message, MessageError
from pushapp.webpush.receipts import Tokens, add_receipt

LARGEST = 2**63 - 1


@pytest.mark.parametrize("ids", [(1, 1), (7, 123_456_789), (LARGEST, LARGEST)])
def test_a_token_names_its_message_and_subscription(ids: tuple[int, int]) -> None:
    token = Tokens(["secret"]).create(*ids)
    assert len(token) == 43
    assert Tokens(["secret"]).verify(token) == ids


def test_a_token_of_an_older_secret_is_accepted() -> None:
    token = Tokens(["old"]).create(1, 2)
    assert Tokens([b"new", "older", b"old"]).verify(token) == (1, 2)
    with pytest.raises(ValueError, match="token"):
        Tokens(["new"]).verify(token)


def test_every_change_of_a_token_is_rejected() -> None:
    tokens = Tokens(["secret"])
    token = tokens.create(1, 2)
    for position, character in enumerate(token):
        for other in (
            "Ag8-"
            if position < len(token) - 1
            else "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        ):
            if other != character:
                with pytest.raises(ValueError, match=r"token|padding|decode"):
                    tokens.verify(token[:position] + other + token[position + 1 :])


@pytest.mark.parametrize(
    "token", ["", "x", "=", "é" * 43, "A" * 43, "A" * 42, "A" * 44, "A" * 100, "!" * 43, "AAA="]
)
def test_what_is_no_token_is_rejected(token: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # of base64, too
        Tokens(["secret"]).verify(token)


def test_a_payload_has_the_receipt_as_a_top_level_member_and_a_padded_length() -> None:
    token = Tokens(["secret"]).create(1, 2)
    message = Message(title="Hello", data={"a": "}"})
    payload = add_receipt(message.payload(), token)
    assert json.loads(payload) == json.loads(message.payload()) | {"receipt": token}
    assert len(payload) in PADDED_LENGTHS


def test_a_payload_without_space_has_no_receipt() -> None:
    token = Tokens(["secret"]).create(1, 2)
    longest = 0
    for length in range(3800, MAX_PLAINTEXT):
        try:
            payload = Message(title="x" * length).payload()
        except MessageError:
            break
        longest = length
        with_receipt = add_receipt(payload, token)
        assert len(with_receipt) == MAX_PLAINTEXT
        assert json.loads(with_receipt)["notification"] == {"title": "x" * length}
    assert "receipt" not in json.loads(add_receipt(Message(title="x" * longest).payload(), token))
    assert "receipt" in json.loads(add_receipt(Message(title="x" * (longest - 56)).payload(), token))
