"""Checks of a message's fields: each raises ValueError with a sentence for the user."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

MAX_DATA_DEPTH = 100  # levels; parsers of JSON have limits
MAX_TIMESTAMP = 8_640_000_000_000_000  # milliseconds since 1970: JavaScript's last date
MAX_VIBRATION = 2**32 - 1  # milliseconds
MAX_SAFE_INTEGER = 2**53 - 1  # JavaScript's
DIRECTIONS = ("auto", "ltr", "rtl")
ACTION_MEMBERS = {"action", "title", "navigate", "icon"}

_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")


def to_json(value: Any) -> bytes:
    """Return a value as compact JSON in UTF-8."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode()
    except (TypeError, ValueError, RecursionError):  # lone surrogates included
        raise ValueError("Must be JSON-serializable and valid UTF-8.") from None


def _text(value: object) -> None:
    if not isinstance(value, str):
        raise ValueError("Must be a string.")
    to_json(value)


def _title(value: object) -> None:
    _text(value)
    if not value:
        raise ValueError("Must not be empty.")


def _url(value: object) -> None:
    _text(value)
    try:
        parts = urlsplit(str(value))
        is_valid = parts.scheme == "" or (parts.scheme in ("http", "https") and parts.netloc)
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ValueError("Must be a path, or an http or https URL.")


def _direction(value: object) -> None:
    if value not in DIRECTIONS:
        raise ValueError(f"Must be one of {', '.join(DIRECTIONS)}.")


def _boolean(value: object) -> None:
    if not isinstance(value, bool):
        raise ValueError("Must be true or false.")


def _integer(what: str, maximum: int) -> Callable[[object], None]:
    def check(value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= maximum:
            raise ValueError(f"Must be {what}.")

    return check


def _ttl(value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("Must be a number of seconds.")
    if value < 0:
        raise ValueError("Must not be negative.")


def _vibrate(value: object) -> None:
    check = _integer("a number of milliseconds, or a list of them", MAX_VIBRATION)
    for duration in value if isinstance(value, list | tuple) else [value]:
        check(duration)


def _actions(value: object) -> None:
    if not isinstance(value, list | tuple) or not all(isinstance(action, dict) for action in value):
        raise ValueError("Must be a list of actions.")
    for action in value:
        if unknown := sorted(str(name) for name in action if name not in ACTION_MEMBERS):
            raise ValueError(f"Unknown: {unknown[0]}.")
        if not action.get("action") or not action.get("title"):
            raise ValueError("Each must have an action and a title.")
        for name in ("action", "title"):
            _text(action[name])
        for name in ("navigate", "icon"):
            if name in action:
                _url(action[name])


def _data(value: object) -> None:
    to_json(value)
    layer, depth = [value], 0
    while layer := [parent for parent in layer if isinstance(parent, dict | list | tuple)]:
        depth += 1
        if depth > MAX_DATA_DEPTH:
            raise ValueError(f"Must have at most {MAX_DATA_DEPTH} levels.")
        layer = [child for parent in layer for child in _children(parent)]


def _children(parent: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> Iterable[Any]:
    return parent.values() if isinstance(parent, dict) else parent


def _topic(value: object) -> None:
    if not isinstance(value, str) or not _TOPIC.fullmatch(value):
        raise ValueError("Must be 1 to 32 characters of base64url.")


CHECKS: Mapping[str, Callable[[object], None]] = {
    "title": _title,
    "body": _text,
    "navigate": _url,
    "icon": _url,
    "image": _url,
    "badge": _url,
    "tag": _text,
    "actions": _actions,
    "data": _data,
    "lang": _text,
    "dir": _direction,
    "silent": _boolean,
    "renotify": _boolean,
    "require_interaction": _boolean,
    "timestamp": _integer("milliseconds since 1970", MAX_TIMESTAMP),
    "vibrate": _vibrate,
    "app_badge": _integer("a number of at least 0", MAX_SAFE_INTEGER),
    "ttl": _ttl,
    "topic": _topic,
}
