"""`join`, `leave` and `channels_of`."""

from typing import Any

import pytest
from flask import Flask

import pushapp
from pushapp import Channel


@pytest.fixture(autouse=True)
def context(app: Flask) -> Any:
    with app.app_context():
        yield


def test_a_user_belongs_to_the_channels_it_has_joined() -> None:
    for channel in ("news", "news", "a.b_c-9"):
        pushapp.join("alice", channel)
    pushapp.join(7, "news")
    assert pushapp.channels_of("alice") == ["a.b_c-9", "news"]
    assert pushapp.channels_of("7") == ["news"]
    pushapp.leave("alice", "news")
    pushapp.leave("alice", "never joined".replace(" ", "-"))
    assert pushapp.channels_of("alice") == ["a.b_c-9"]
    assert pushapp.channels_of(7) == ["news"]


@pytest.mark.parametrize("name", ["", "News", "a b", "x" * 65, "é", "news\n", None, 7])
def test_an_invalid_name_is_rejected(name: Any) -> None:
    for call in (pushapp.join, pushapp.leave):
        with pytest.raises(ValueError, match="1 to 64"):
            call("alice", name)
    with pytest.raises(ValueError, match="1 to 64"):
        Channel(name)


@pytest.mark.parametrize("user", ["", None, True, "x" * 256, "a\0"])
def test_an_invalid_user_id_is_rejected(user: Any) -> None:
    for call in (pushapp.join, pushapp.leave):
        with pytest.raises(ValueError, match="1 to 255"):
            call(user, "news")
    with pytest.raises(ValueError, match="1 to 255"):
        pushapp.channels_of(user)
