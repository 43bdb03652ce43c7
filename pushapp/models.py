"""`PushSubscription`: one browser of one user."""

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    Identity,
    Index,
    Integer,
    String,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from .extensions import db

MAX_USER_ID_LENGTH = 255
MAX_ID = 2**63 - 1


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


class PushSubscription(db.Model):  # type: ignore[misc,name-defined]  # Flask-SQLAlchemy makes it at run time
    """One browser of one user: where its push service takes messages, and the keys to encrypt them with."""

    __tablename__ = "push_subscriptions"

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True
    )
    user_id: Mapped[str] = mapped_column(String(MAX_USER_ID_LENGTH))
    endpoint: Mapped[str] = mapped_column(String(2048))
    keys_p256dh: Mapped[str] = mapped_column(String(88))
    keys_auth: Mapped[str] = mapped_column(String(24))
    expires_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now())

    __table_args__ = (
        UniqueConstraint("user_id", "endpoint", name="uq_push_subscriptions_user_id_endpoint"),
        # Finds the same browser under another user.
        Index("ix_push_subscriptions_endpoint", "endpoint", postgresql_using="hash"),
        # Few subscriptions expire, so an index of those alone costs nothing to the others.
        Index(
            "ix_push_subscriptions_expires_at",
            "expires_at",
            postgresql_where=text("expires_at IS NOT NULL"),
            sqlite_where=text("expires_at IS NOT NULL"),
        ),
        # An id that is gone never comes back for another browser.
        {"sqlite_autoincrement": True},
    )
