"""The pytest plugin: the fixture `push_sent`.

pytest imports it at the start of every run, so it imports the rest of pushapp only in the fixture.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from flask import Flask

    from .webpush.message import Message


@pytest.fixture
def push_sent(app: "Flask") -> "Iterator[list[tuple[Message, Any]]]":
    """Capture what the test sends, with the application of your fixture `app`: a list of `(message, to)`."""
    from .testing import captured  # noqa: PLC0415  # suites without this fixture do not need it

    with captured(app) as sent:
        yield sent
