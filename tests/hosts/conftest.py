"""Host applications as people write them, on both databases."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import pushapp
from pushapp.database import engine
from pushapp.testing import create_tables
from pushapp.webpush.vapid import generate_key_pair

KEY = generate_key_pair().private


class Host:
    """A Flask application with a database, a table and pages of its own; pushapp is added by `add_pushapp`."""

    def __init__(self, url: str, folder: Path, metadata: MetaData | None = None):
        base = type("Base", (DeclarativeBase,), {"metadata": metadata} if metadata else {})
        self.db = db = SQLAlchemy(model_class=base)

        class User(db.Model):  # type: ignore[name-defined,misc]
            id: Mapped[int] = mapped_column(primary_key=True)

        self.users = User.__table__
        self.app = app = Flask("host", instance_path=str(folder))
        app.config.update(
            SECRET_KEY="the host's secret", SQLALCHEMY_DATABASE_URI=url, PUSH_VAPID_PRIVATE_KEY=KEY
        )
        app.add_url_rule("/", view_func=lambda: "Welcome")

    def add_pushapp(self, **options: object) -> Flask:
        if "sqlalchemy" not in self.app.extensions:
            self.db.init_app(self.app)
        pushapp.init_app(self.app, **options)  # type: ignore[arg-type]
        create_tables(self.app)
        return self.app

    def close(self) -> None:
        with self.app.app_context():
            self.db.session.remove()
            for each in self.db.engines.values():
                each.dispose()
            if "push_engine" in self.app.extensions:
                engine().dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/host.db"
    created: str = request.getfixturevalue("server").create_database(f"host_{tmp_path.name}")
    return created.replace("postgresql:", "postgresql+psycopg:")


@pytest.fixture
def host(url: str, tmp_path: Path) -> Iterator[Host]:
    host = Host(url, tmp_path)
    yield host
    host.close()
