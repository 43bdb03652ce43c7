"""The tables: subscriptions, and the messages sent to them."""

import hashlib
import re
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Date,
    DateTime,
    Dialect,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from .extensions import db

MAX_USER_ID_LENGTH = 255
MAX_LABEL_LENGTH = 100
MAX_TOPIC_LENGTH = 32
MAX_CHANNEL_LENGTH = 64
MAX_ID = 2**63 - 1

# Control characters and lone surrogates: PostgreSQL stores neither NUL nor surrogates.
_INVALID_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def normalize_user_id(value: object) -> str | None:
    """Return a user's id as it is stored: a string of 1 to 255 characters; an integer or a UUID as a string.

    Returns None if the id is invalid.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 10**MAX_USER_ID_LENGTH else ""
    if isinstance(value, UUID):
        value = str(value)
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_USER_ID_LENGTH:
        return None
    return None if _INVALID_CHARACTERS.search(value) else value


def hash_endpoint(endpoint: str) -> bytes:
    """Return the SHA-256 digest of an endpoint, 32 bytes: an index of whole endpoints would be huge."""
    return hashlib.sha256(endpoint.encode()).digest()


def hash_possession(endpoint: str, auth: str) -> bytes:
    """Return the SHA-256 digest of an endpoint and its `auth`, which only that browser knows, 32 bytes."""
    return hashlib.sha256(f"{endpoint} {auth}".encode()).digest()


def _parameters(context: DefaultExecutionContext) -> dict[str, Any]:
    parameters: dict[str, Any] = context.get_current_parameters()  # type: ignore[no-untyped-call]  # SQLAlchemy
    return parameters


def _topic(context: DefaultExecutionContext) -> str | None:
    message = _parameters(context)["message"]
    topic: str | None = message.get("topic")
    return topic


def _endpoint_hash(context: DefaultExecutionContext) -> bytes:
    return hash_endpoint(_parameters(context)["endpoint"])


class UTCDateTime(TypeDecorator[datetime]):
    """Time zone aware UTC date and time on every database (SQLite stores no time zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC."""
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the value with UTC as its time zone."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def _identity() -> Mapped[int]:
    return mapped_column(BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True)


class PushSubscription(db.Model):  # type: ignore[misc,name-defined]  # created by Flask-SQLAlchemy at run time
    """A browser of a user: its endpoint at the push service, and the keys to encrypt with."""

    __tablename__ = "push_subscriptions"

    id: Mapped[int] = _identity()
    user_id: Mapped[str] = mapped_column(String(MAX_USER_ID_LENGTH))
    endpoint: Mapped[str] = mapped_column(String(2048))
    endpoint_hash: Mapped[bytes] = mapped_column(LargeBinary(32), default=_endpoint_hash)
    keys_p256dh: Mapped[str] = mapped_column(String(88))
    keys_auth: Mapped[str] = mapped_column(String(24))
    # The public key that the browser subscribed with; NULL: stored before this column, so the oldest key
    vapid_key: Mapped[str | None] = mapped_column(String(87))
    label: Mapped[str | None] = mapped_column(String(MAX_LABEL_LENGTH))
    # `hash_possession` of the subscription that this one replaced
    renewed_from: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    expires_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    last_sent_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now())

    __table_args__ = (
        UniqueConstraint("user_id", "endpoint_hash", name="uq_push_subscriptions_user_id_endpoint_hash"),
        # To find the same browser under another user.
        Index("ix_push_subscriptions_endpoint_hash", "endpoint_hash", postgresql_using="hash"),
        # Partial: few subscriptions were renewed or expire, and the others need no entry.
        Index(
            "ix_push_subscriptions_renewed_from",
            "renewed_from",
            postgresql_using="hash",
            postgresql_where=text("renewed_from IS NOT NULL"),
            sqlite_where=text("renewed_from IS NOT NULL"),
        ),
        Index(
            "ix_push_subscriptions_expires_at",
            "expires_at",
            postgresql_where=text("expires_at IS NOT NULL"),
            sqlite_where=text("expires_at IS NOT NULL"),
        ),
        {"sqlite_autoincrement": True},  # never reuse ids
    )


class PushFailure(db.Model):  # type: ignore[misc,name-defined]  # as above
    """Consecutive failures of a subscription, and when they began."""

    __tablename__ = "push_failures"

    subscription_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    failures: Mapped[int] = mapped_column(Integer)
    since: Mapped[datetime] = mapped_column(UTCDateTime)


class PushChannelMember(db.Model):  # type: ignore[misc,name-defined]  # as above
    """A user that has joined a channel."""

    __tablename__ = "push_channel_members"

    channel: Mapped[str] = mapped_column(String(MAX_CHANNEL_LENGTH), primary_key=True)
    user_id: Mapped[str] = mapped_column(String(MAX_USER_ID_LENGTH), primary_key=True, index=True)


class PushMessage(db.Model):  # type: ignore[misc,name-defined]  # as above
    """A message and its audience."""

    __tablename__ = "push_messages"

    id: Mapped[int] = _identity()
    # The one user it is to. Both NULL: everyone
    user_id: Mapped[str | None] = mapped_column(String(MAX_USER_ID_LENGTH))
    audience: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    message: Mapped[dict[str, Any]] = mapped_column(JSON)
    recipients: Mapped[int] = mapped_column(BigInteger)
    topic: Mapped[str | None] = mapped_column(String(MAX_TOPIC_LENGTH), default=_topic)
    idempotency_key: Mapped[str | None] = mapped_column(String(255), unique=True)
    # The SHA-256 digest of what was sent with the idempotency key
    content_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now(), index=True)
    send_at: Mapped[datetime | None] = mapped_column(UTCDateTime)  # NULL: when it is created
    cancelled_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    __table_args__ = (
        # To find a newer message with the same topic to the same user. Partial: few messages have one.
        Index(
            "ix_push_messages_topic_user_id_id",
            "topic",
            "user_id",
            "id",
            postgresql_where=text("topic IS NOT NULL"),
            sqlite_where=text("topic IS NOT NULL"),
        ),
        {"sqlite_autoincrement": True},
    )


class PushBatch(db.Model):  # type: ignore[misc,name-defined]  # as above
    """Recipients whose outcomes are not recorded yet; deleted when they are."""

    __tablename__ = "push_batches"

    id: Mapped[int] = _identity()
    message_id: Mapped[int] = mapped_column(ForeignKey("push_messages.id", ondelete="CASCADE"), index=True)
    first_id: Mapped[int] = mapped_column(BigInteger)
    last_id: Mapped[int] = mapped_column(BigInteger)
    # Of a fan-out to a channel: the last member that has its batches
    after_user_id: Mapped[str | None] = mapped_column(String(MAX_USER_ID_LENGTH))
    # NULL: all subscriptions from first_id to last_id
    subscription_ids: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True))
    size: Mapped[int] = mapped_column(Integer)
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    due_at: Mapped[datetime] = mapped_column(UTCDateTime, index=True)
    # The process that is sending the batch, and when it last said so; NULL: none
    claimed_by: Mapped[int | None] = mapped_column(BigInteger)
    claimed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    __table_args__ = (
        Index(
            "ix_push_batches_pending",
            "message_id",
            postgresql_where=text("size = 0"),
            sqlite_where=text("size = 0"),
        ),
        {"sqlite_autoincrement": True},
    )


class PushOutcome(db.Model):  # type: ignore[misc,name-defined]  # as above
    """Outcome counts of a message by push service."""

    __tablename__ = "push_outcomes"

    message_id: Mapped[int] = mapped_column(
        ForeignKey("push_messages.id", ondelete="CASCADE"), primary_key=True
    )
    push_service: Mapped[str] = mapped_column(Text, primary_key=True)
    outcome: Mapped[str] = mapped_column(String(16), primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)


class PushDailyCount(db.Model):  # type: ignore[misc,name-defined]  # as above
    """How many subscriptions a push service had on a day; few rows, whatever hosts endpoints name."""

    __tablename__ = "push_daily_counts"

    day: Mapped[date] = mapped_column(Date, primary_key=True)  # UTC
    push_service: Mapped[str] = mapped_column(Text, primary_key=True)
    subscriptions: Mapped[int] = mapped_column(BigInteger)


class PushReceipt(db.Model):  # type: ignore[misc,name-defined]  # as above
    """What a browser reported of a message."""

    __tablename__ = "push_receipts"

    # No foreign keys: a million receipts would all lock their message's row to check it.
    message_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    subscription_id: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False, index=True
    )
    event: Mapped[str] = mapped_column(String(8), primary_key=True)


class PushReceiptCount(db.Model):  # type: ignore[misc,name-defined]  # as above
    """How many devices reported an event of a message: the sum of the shards."""

    __tablename__ = "push_receipt_counts"

    message_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    event: Mapped[str] = mapped_column(String(8), primary_key=True)
    shard: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    count: Mapped[int] = mapped_column(BigInteger)
