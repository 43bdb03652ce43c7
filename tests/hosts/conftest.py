"""Host applications as people write them, on both databases."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import pushapp
from pushapp import subscriptions
from pushapp.database import engine
from pushapp.subscriptions import Subscription
from pushapp.testing import create_tables
from pushapp.webpush.vapid import generate_key_pair
from tests.support.subscriptions import subscription

KEY = generate_key_pair().private


class Host:
    """A Flask application with a database, a table and pages of its own; pushapp is added by `add_pushapp`."""

    def __init__(self, url: str, folder: Path, metadata: MetaData | None = None, **settings: object):
        base = type("Base", (DeclarativeBase,), {"metadata": metadata} if metadata else {})
        self.db = db = SQLAlchemy(model_class=base)

        class User(db.Model):  # type: ignore[name-defined,misc]  # a class made at run time
            id: Mapped[int] = mapped_column(primary_key=True)

        self.users = User.__table__
        self.app = app = Flask("host", instance_path=str(folder))
        app.config.update(
            SECRET_KEY="the host's secret", SQLALCHEMY_DATABASE_URI=url, PUSH_VAPID_PRIVATE_KEY=KEY
        )
        app.config.update(settings)
        app.add_url_rule("/", view_func=lambda: "Welcome")

    def add_pushapp(self, *, tables: bool = True, **options: Any) -> Flask:
        if "sqlalchemy" not in self.app.extensions:
            self.db.init_app(self.app)
        pushapp.init_app(self.app, **options)
        if tables:
            create_tables(self.app)
        return self.app

    def close(self) -> None:
        with self.app.app_context():
            self.db.session.remove()
            for each in self.db.engines.values() if "sqlalchemy" in self.app.extensions else ():
                each.dispose()
            if "push_engine" in self.app.extensions:
                engine().dispose()


def store(user_id: str = "alice") -> int:
    """Store a new subscription in the current application, and return the user's count."""
    body = subscription()
    return subscriptions.save(user_id, Subscription(body["endpoint"], **body["keys"]))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/host.db"
    created: str = request.getfixturevalue("server").create_database(f"host_{tmp_path.name}")
    return created.replace("postgresql:", "postgresql+psycopg:")


@pytest.fixture
def make_host(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Create hosts, and close them after the test."""
    hosts = []

    def make(url: str, **options: Any) -> Host:
        hosts.append(Host(url, tmp_path, **options))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


@pytest.fixture
def host(url: str, make_host: Callable[..., Host]) -> Host:
    return make_host(url)
