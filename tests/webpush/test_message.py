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


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


ACTION = {"action": "a", "title": "A"}


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("title", {"title": ""}),
        ("title", {"title": None}),
        ("title", {"title": 5}),
        ("body", {"body": ["x"]}),
        ("body", {"body": "\ud800"}),
        ("tag", {"tag": 1}),
        ("lang", {"lang": False}),
        ("ttl", {"ttl": -1}),
        ("ttl", {"ttl": None}),
        ("ttl", {"ttl": True}),
        ("ttl", {"ttl": 1.5}),
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
        ("navigate", {"navigate": 7}),
        ("icon", {"icon": "data:image/png;base64,x"}),
        ("image", {"image": "file:///x.png"}),
        ("badge", {"badge": "blob:x"}),
        ("actions", {"actions": [{"action": "a"}]}),
        ("actions", {"actions": [None]}),
        ("actions", {"actions": ACTION}),
        ("actions", {"actions": "ab"}),
        ("actions", {"actions": [ACTION | {"title": 1}]}),
        ("actions", {"actions": [ACTION | {"url": "/x"}]}),
        ("actions", {"actions": [ACTION | {"navigate": "file:///x"}]}),
        ("actions", {"actions": [ACTION | {"icon": None}]}),
        ("dir", {"dir": "left"}),
        ("dir", {"dir": []}),
        ("silent", {"silent": "yes"}),
        ("silent", {"silent": 1}),
        ("silent", {"silent": True, "vibrate": [200]}),
        ("renotify", {"renotify": True}),
        ("renotify", {"renotify": True, "tag": ""}),
        ("require_interaction", {"require_interaction": "true"}),
        ("timestamp", {"timestamp": "now"}),
        ("timestamp", {"timestamp": -1}),
        ("timestamp", {"timestamp": 1.5}),
        ("timestamp", {"timestamp": 10**16}),
        ("vibrate", {"vibrate": "long"}),
        ("vibrate", {"vibrate": [-1]}),
        ("vibrate", {"vibrate": [1, True]}),
        ("vibrate", {"vibrate": [[1]]}),
        ("vibrate", {"vibrate": 2**32}),
        ("app_badge", {"app_badge": -1}),
        ("app_badge", {"app_badge": True}),
        ("app_badge", {"app_badge": 2**53}),
        ("data", {"data": object()}),
        ("data", {"data": float("nan")}),
        ("data", {"data": {"\ud800": 1}}),
        ("data", {"data": nested(101)}),
        ("data", {"data": nested(972)}),
        ("data", {"data": nested(100_000)}),
    ],
)
def test_an_invalid_field_is_reported(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(MessageError) as rejection:
        Message(**{"title": "x"} | fields)
    assert rejection.value.field == field


def test_every_field_reaches_the_payload_under_its_name_in_the_notifications_api() -> None:
    message = Message(
        title="T", body="B", navigate="/n", icon="/i", image="/p", badge="/b", tag="t", lang="de", dir="rtl",
        actions=[ACTION], data=nested(100), silent=False, renotify=True, require_interaction=True,
        timestamp=0, vibrate=[200, 0, 200], app_badge=0,
    )  # fmt: skip
    assert decoded(message) == {
        "web_push": 8030,
        "notification": {
            "title": "T", "body": "B", "navigate": "/n", "icon": "/i", "image": "/p", "badge": "/b", "tag": "t",
            "lang": "de", "dir": "rtl", "actions": [ACTION], "data": nested(100), "silent": False,
            "renotify": True, "requireInteraction": True, "timestamp": 0, "vibrate": [200, 0, 200],
        },
        "app_badge": 0,
    }  # fmt: skip
    assert Message.from_dict(json.loads(json.dumps(message.to_dict()))) == message


class TestAbsoluteURLs:
    SITE = "https://example.com"

    @pytest.mark.parametrize(
        ("url", "absolute"),
        [
            ("/parcels/7?a=b#c", "https://example.com/parcels/7?a=b#c"),
            ("parcels", "https://example.com/parcels"),
            ("?a", "https://example.com/?a"),
            ("//cdn.example.com/x", "https://cdn.example.com/x"),
            ("http://other.example/x", "http://other.example/x"),
            ("", "https://example.com/"),
        ],
    )
    def test_are_of_the_site_unless_they_are_absolute(self, url: str, absolute: str) -> None:
        action = ACTION | {"navigate": url, "icon": url}
        message = Message(title="x", navigate=url or "/", icon=url, image=url, badge=url, actions=[action])
        notification = decoded(message.with_absolute_urls(self.SITE))["notification"]
        del notification["title"]
        assert notification == {
            "navigate": absolute,
            "icon": absolute,
            "image": absolute,
            "badge": absolute,
            "actions": [ACTION | {"navigate": absolute, "icon": absolute}],
        }

    def test_lead_to_the_root_of_the_site_by_default(self) -> None:
        notification = decoded(Message(title="x").with_absolute_urls(self.SITE))["notification"]
        assert notification == {"title": "x", "navigate": "https://example.com/"}

    def test_count_for_the_length_of_the_payload(self) -> None:
        with pytest.raises(MessageError, match="3993 bytes"):
            Message(title="x" * 3_930).with_absolute_urls(self.SITE)


def test_a_message_is_restored_from_json() -> None:
    message = Message(
        title="x", actions=[{"action": "a", "title": "A"}], urgency=Urgency.HIGH, topic="t", ttl=5, data=[1]
    )
    assert Message.from_dict(json.loads(json.dumps(message.to_dict()))) == message
