"""Send a message in a test, run the worker, and read the outcome."""

import asyncio
from datetime import datetime
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import bindparam, text

import pushapp
from pushapp import Message
from pushapp.database import engine
from pushapp.models import UTCDateTime
from pushapp.sending import worker
from pushapp.sending.status import Status
from pushapp.sending.status import status as load_status

TOKEN = "a long random token"

# On SQLite, messages are delivered before `send` returns.
queued_only = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def drain(app: Flask, **options: Any) -> None:
    """Run a worker until nothing is due; nothing on SQLite."""
    with app.app_context():
        if engine().dialect.name == "postgresql":
            asyncio.run(worker.run_worker(app, drain=True, **options))


def enqueue(app: Flask, to: Any, message: Message | None = None, **options: Any) -> int:
    """Call `pushapp.send`, and return the message's id; on SQLite this delivers it."""
    with app.app_context():
        return pushapp.send(message or Message(title="Hello"), to=to, **options)


def send(app: Flask, to: Any, message: Message | None = None, **options: Any) -> Status:
    """Send a message, run a worker, and return the delivery status."""
    message_id = enqueue(app, to, message, **options)
    drain(app)
    return status(app, message_id)


def status(app: Flask, message_id: int) -> Status:
    """Return a message's delivery status."""
    with app.app_context():
        return load_status(message_id)


def counts(status: Status) -> tuple[int, int, int]:
    """Return how many deliveries were sent, gone, failed."""
    return status.sent, status.gone, status.failed


def execute(app: Flask, statement: str, **timestamps: datetime) -> None:
    """Execute SQL in a transaction."""
    typed = text(statement).bindparams(*(bindparam(name, type_=UTCDateTime) for name in timestamps))
    with app.app_context(), engine().begin() as connection:
        connection.execute(typed, timestamps)


def scalar(app: Flask, query: str) -> Any:
    """Return the first value of a query."""
    with app.app_context(), engine().connect() as connection:
        return connection.execute(text(query)).scalar()
