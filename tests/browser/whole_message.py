"""A message with every member, and how a browser shows it."""

from typing import Any

from pushapp import Message

MESSAGE = Message(
    title="Grüße 🎉",
    body="日本語",
    navigate="/inbox",
    icon="/icon.png",
    image="/image.png",
    badge="/badge.png",
    tag="parcel-7",
    actions=[{"action": "mute", "title": "Mute", "navigate": "/settings", "icon": "/mute.png"}],
    data={"id": 7},
    lang="de",
    dir="rtl",
    renotify=True,
    require_interaction=True,
    timestamp=1_700_000_000_000,
    vibrate=[200, 100, 200],
)
SILENT = Message(title="silent", silent=True)


def check_whole(shown: dict[str, Any], site: str) -> set[str]:
    """Check the members that a browser stores of MESSAGE, and return their names; `site` is its origin."""
    expected = {
        "title": "Grüße 🎉",
        "body": "日本語",
        "icon": f"{site}/icon.png",
        "image": f"{site}/image.png",
        "badge": f"{site}/badge.png",
        "tag": "parcel-7",
        "lang": "de",
        "dir": "rtl",
        "renotify": True,
        "requireInteraction": True,
        "timestamp": 1_700_000_000_000,
        "vibrate": [200, 100, 200],
        "silent": shown.get("silent"),  # its default differs: null or false
    }
    data, actions = shown.pop("data"), shown.pop("actions")
    assert data["siteData"] == {"id": 7}
    assert data["navigate"] == f"{site}/inbox"
    assert data["actions"] == {"mute": f"{site}/settings"}
    assert [(each["action"], each["title"]) for each in actions] == [("mute", "Mute")]
    assert shown == {name: expected[name] for name in shown}
    return set(shown)
