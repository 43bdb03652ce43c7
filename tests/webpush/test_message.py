"""Push messages: payload, padding, TTL and validation; no network."""

import json
from typing import Any

import pytest

from pushapp.webpush.message import MAX_TTL, Message, MessageError, Urgency


def decoded(message: Message) -> Any:
    return json.loads(message.payload())


def test_a_payload_is_a_declarative_push_message() -> None:
    message = Message(title="Hello", body="Grüße 🎉", navigate="/inbox", data={"id": 7})
    assert decoded(message) == {
        "web_push": 8030,
        "notification": {"title": "Hello", "body": "Grüße 🎉", "navigate": "/inbox", "data": {"id": 7}},
    }


@pytest.mark.parametrize(
    ("length", "padded"), [(1, 256), (200, 256), (256, 512), (900, 1024), (1_500, 2_048), (3_900, 3_993)]
)
def test_a_payload_is_padded(length: int, padded: int) -> None:
    assert len(Message(title="x" * length).payload()) == padded


def test_a_payload_has_at_most_the_length_of_a_push_message() -> None:
    overhead = len(json.dumps({"web_push": 8030, "notification": {"title": ""}}, separators=(",", ":")))
    assert len(Message(title="x" * (3_993 - overhead)).payload()) == 3_993
    with pytest.raises(MessageError, match="3993 bytes") as rejection:
        Message(title="x" * (3_993 - overhead + 1))
    assert rejection.value.field == "notification"


def test_a_ttl_is_capped_at_28_days() -> None:
    assert Message(title="x", ttl=10**9).ttl == MAX_TTL == 28 * 24 * 60 * 60
    assert Message(title="x", ttl=0).ttl == 0


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("title", {"title": ""}),
        ("ttl", {"ttl": -1}),
        ("urgency", {"urgency": "urgent"}),
        ("urgency", {"urgency": None}),
        ("topic", {"topic": ""}),
        ("topic", {"topic": "x" * 33}),
        ("topic", {"topic": "a b"}),
        ("topic", {"topic": "é"}),
        ("topic", {"topic": "a\n"}),
        ("navigate", {"navigate": "javascript:alert(1)"}),
        ("navigate", {"navigate": "https:"}),
        ("navigate", {"navigate": "http://[x"}),
        ("icon", {"icon": "data:image/png;base64,x"}),
        ("actions", {"actions": [{"action": "a"}]}),
        ("actions", {"actions": [{"action": "a", "title": "A", "navigate": "file:///x"}]}),
        ("notification", {"body": "\ud800"}),
        ("notification", {"data": object()}),
        ("notification", {"data": float("nan")}),
    ],
)
def test_an_invalid_field_is_reported(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(MessageError) as rejection:
        Message(**{"title": "x"} | fields)
    assert rejection.value.field == field


def test_a_message_is_restored_from_json() -> None:
    message = Message(
        title="x", actions=[{"action": "a", "title": "A"}], urgency=Urgency.HIGH, topic="t", ttl=5, data=[1]
    )
    assert Message.from_dict(json.loads(json.dumps(message.to_dict()))) == message
