"""Record the signals of an application."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from flask import Flask

from pushapp import signals

NAMES = ("subscribed", "unsubscribed", "subscription_gone", "message_done", "message_clicked")


@contextmanager
def received(app: Flask) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Record the signals of an application."""
    found: list[tuple[str, dict[str, Any]]] = []
    with ExitStack() as stack:
        for name in NAMES:

            def receive(sender: Flask, name: str = name, **values: Any) -> None:
                assert sender is app
                found.append((name, values))

            stack.enter_context(getattr(signals, name).connected_to(receive, app))
        yield found
