"""The tables: subscriptions, and the messages on their way to them."""

import re
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    DateTime,
    Dialect,
    ForeignKey,
    Identity,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    func,
    literal_column,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from .extensions import db

MAX_USER_ID_LENGTH = 255
MAX_ID = 2**63 - 1

UNIQUE_ON_SQLITE = "uq_push_subscriptions_user_id_endpoint"
UNIQUE_ON_POSTGRESQL = "uq_push_subscriptions_user_id_endpoint_digest"
# PostgreSQL digests bytes, and reads text as bytes with backslashes for escapes.
ENDPOINT_DIGEST: ColumnElement[bytes] = literal_column(r"sha256(replace(endpoint, '\', '\\')::bytea)")


# Control characters and lone surrogates: no name has them, and PostgreSQL takes neither.
_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def user_id_of(value: object) -> str | None:
    """Return a user's id as the tables keep it: a text of 1 to 255 characters, or an integer as text.

    Returns None for what can be nobody's id.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 10**MAX_USER_ID_LENGTH else ""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_USER_ID_LENGTH:
        return None
    return None if _NO_TEXT.search(value) else value


class UTCDateTime(TypeDecorator[datetime]):
    """A moment, with its zone on every database (SQLite keeps none)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Hand the database a moment in UTC."""
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the moment with UTC as its zone."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def _identity() -> Mapped[int]:
    return mapped_column(BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True)


class PushSubscription(db.Model):  # type: ignore[misc,name-defined]  # Flask-SQLAlchemy makes it at run time
    """One browser of one user: where its push service takes messages, and the keys to encrypt them with."""

    __tablename__ = "push_subscriptions"

    id: Mapped[int] = _identity()
    user_id: Mapped[str] = mapped_column(String(MAX_USER_ID_LENGTH))
    endpoint: Mapped[str] = mapped_column(String(2048))
    keys_p256dh: Mapped[str] = mapped_column(String(88))
    keys_auth: Mapped[str] = mapped_column(String(24))
    expires_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now())

    __table_args__ = (
        # One row for a user and an endpoint. An index of whole endpoints would be as large as the table.
        Index(UNIQUE_ON_POSTGRESQL, "user_id", ENDPOINT_DIGEST, unique=True).ddl_if("postgresql"),
        UniqueConstraint("user_id", "endpoint", name=UNIQUE_ON_SQLITE).ddl_if("sqlite"),
        # Finds the same browser under another user.
        Index("ix_push_subscriptions_endpoint", "endpoint", postgresql_using="hash"),
        # Few subscriptions expire, so an index of those alone costs nothing to the others.
        Index(
            "ix_push_subscriptions_expires_at",
            "expires_at",
            postgresql_where=text("expires_at IS NOT NULL"),
            sqlite_where=text("expires_at IS NOT NULL"),
        ),
        {
            # An id that is gone never comes back for another browser.
            "sqlite_autoincrement": True,
            "info": {"only_on": {UNIQUE_ON_POSTGRESQL: "postgresql", UNIQUE_ON_SQLITE: "sqlite"}},
        },
    )


class PushFailure(db.Model):  # type: ignore[misc,name-defined]
    """How often a subscription has failed since its last success, and since when."""

    __tablename__ = "push_failures"

    subscription_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    failures: Mapped[int] = mapped_column(Integer)
    since: Mapped[datetime] = mapped_column(UTCDateTime)


class PushMessage(db.Model):  # type: ignore[misc,name-defined]
    """A message to one user, or to everyone."""

    __tablename__ = "push_messages"

    id: Mapped[int] = _identity()
    user_id: Mapped[str | None] = mapped_column(String(MAX_USER_ID_LENGTH))  # none: everyone
    message: Mapped[dict[str, Any]] = mapped_column(JSON)
    recipients: Mapped[int] = mapped_column(BigInteger)
    idempotency_key: Mapped[str | None] = mapped_column(String(255), unique=True)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now(), index=True)

    __table_args__ = ({"sqlite_autoincrement": True},)


class PushSlice(db.Model):  # type: ignore[misc,name-defined]
    """Subscriptions that a message has still to be sent to, together. Gone when that is done."""

    __tablename__ = "push_slices"

    id: Mapped[int] = _identity()
    message_id: Mapped[int] = mapped_column(ForeignKey("push_messages.id", ondelete="CASCADE"), index=True)
    first_id: Mapped[int] = mapped_column(BigInteger)
    last_id: Mapped[int] = mapped_column(BigInteger)
    subscription_ids: Mapped[list[int] | None] = mapped_column(
        JSON(none_as_null=True)
    )  # none: the whole range
    size: Mapped[int] = mapped_column(Integer)
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    due_at: Mapped[datetime] = mapped_column(UTCDateTime, index=True)

    __table_args__ = ({"sqlite_autoincrement": True},)


class PushOutcome(db.Model):  # type: ignore[misc,name-defined]
    """How many of a message's pushes ended in which way at which push service."""

    __tablename__ = "push_outcomes"

    message_id: Mapped[int] = mapped_column(
        ForeignKey("push_messages.id", ondelete="CASCADE"), primary_key=True
    )
    push_service: Mapped[str] = mapped_column(Text, primary_key=True)
    outcome: Mapped[str] = mapped_column(String(8), primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)
