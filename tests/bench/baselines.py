"""Two other implementations of `POST /push/subscribe`: same cookie and response, and no validation."""

import os
from datetime import UTC, datetime
from typing import Any

from flask import Flask, abort, request, session
from flask_sqlalchemy import SQLAlchemy
from psycopg_pool import ConnectionPool
from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pushapp.models import hash_endpoint
from pushapp.subscriptions import Subscription

ONE_STATEMENT = """
WITH own AS (
    SELECT count(*) AS count,
           count(*) FILTER (WHERE endpoint_hash = %(endpoint_hash)s) AS of_endpoint,
           count(*) FILTER (WHERE endpoint_hash = %(endpoint_hash)s AND keys_p256dh = %(p256dh)s
                            AND keys_auth = %(auth)s AND expires_at IS NOT DISTINCT FROM %(expires_at)s) AS stored
    FROM push_subscriptions WHERE user_id = %(user_id)s
), written AS (
    INSERT INTO push_subscriptions (user_id, endpoint, endpoint_hash, keys_p256dh, keys_auth, expires_at)
    SELECT %(user_id)s, %(endpoint)s, %(endpoint_hash)s, %(p256dh)s, %(auth)s, %(expires_at)s FROM own WHERE stored = 0
    ON CONFLICT (user_id, endpoint_hash) DO UPDATE SET keys_p256dh = excluded.keys_p256dh,
        keys_auth = excluded.keys_auth, expires_at = excluded.expires_at, updated_at = now()
    RETURNING 1
)
SELECT count + CASE WHEN of_endpoint = 0 THEN 1 ELSE 0 END,
       EXISTS (SELECT FROM push_subscriptions WHERE endpoint_hash = %(endpoint_hash)s AND keys_p256dh = %(p256dh)s
               AND keys_auth = %(auth)s AND user_id <> %(user_id)s)
FROM own
"""


def _application() -> Flask:
    app = Flask(__name__)
    app.secret_key = os.environ["SECRET_KEY"]
    app.config.update(SESSION_COOKIE_NAME="access_token", PUSH_TRUSTED_PUSH_SERVICES=[])
    return app


def _read_request() -> tuple[str, Subscription]:
    user_id = session.get("user_id") or abort(401)
    body = request.get_json()
    return user_id, Subscription(body["endpoint"], body["keys"]["p256dh"], body["keys"]["auth"])


def bare_psycopg() -> Flask:
    """Return the upper bound: Flask on a bare psycopg pool, one statement, which writes only what is new."""
    app = _application()
    pool = ConnectionPool(
        os.environ["DATABASE_URL"], min_size=4, max_size=4, kwargs={"autocommit": True}, open=True
    )

    @app.post("/push/subscribe")
    def subscribe() -> dict[str, Any]:
        user_id, subscription = _read_request()
        values = {name: getattr(subscription, name) for name in Subscription.__slots__}
        values |= {"user_id": user_id, "endpoint_hash": hash_endpoint(subscription.endpoint)}
        with pool.connection() as connection:
            row = connection.execute(ONE_STATEMENT, values).fetchone()
        assert row is not None
        return {"ok": True, "count": row[0]}

    return app


def orm() -> Flask:
    """Return Flask with Flask-SQLAlchemy's session: read, write, commit, count."""

    class Base(DeclarativeBase):
        pass

    class Row(Base):
        __tablename__ = "push_subscriptions"
        id: Mapped[int] = mapped_column(primary_key=True)
        user_id: Mapped[str]
        endpoint: Mapped[str]
        endpoint_hash: Mapped[bytes]
        keys_p256dh: Mapped[str]
        keys_auth: Mapped[str]
        updated_at: Mapped[datetime]

    app = _application()
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"].replace("sql:", "sql+psycopg:", 1)
    db = SQLAlchemy(app, model_class=Base)

    @app.post("/push/subscribe")
    def subscribe() -> dict[str, Any]:
        user_id, subscription = _read_request()
        endpoint_hash = hash_endpoint(subscription.endpoint)
        row = db.session.scalar(select(Row).filter_by(user_id=user_id, endpoint_hash=endpoint_hash))
        if row is None:
            row = Row(user_id=user_id, endpoint=subscription.endpoint, endpoint_hash=endpoint_hash)
            db.session.add(row)
        row.keys_p256dh, row.keys_auth = subscription.p256dh, subscription.auth
        row.updated_at = datetime.now(UTC)
        db.session.commit()
        count = db.session.scalar(select(func.count()).select_from(Row).filter_by(user_id=user_id))
        return {"ok": True, "count": count}

    return app
