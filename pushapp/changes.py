"""What a request adds and deletes, for the signals."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.sql.dml import UpdateBase

from . import signals


class Changes:
    """Rows that were added and deleted, for the signals."""

    def __init__(self) -> None:
        self._added: dict[int, str] = {}  # users by id
        self._deleted: dict[int, str] = {}

    def store(self, row: Mapping[str, Any], stored: Sequence[Any]) -> None:
        """Take the result of an upsert."""
        ((row_id, created_at),) = stored
        if created_at == row["created_at"]:  # else there was one
            self._added[row_id] = row["user_id"]

    def delete(self, connection: Connection, statement: UpdateBase, row: Mapping[str, Any]) -> None:
        """Execute a statement that deletes rows."""
        self._deleted.update((deleted.id, deleted.user_id) for deleted in connection.execute(statement, row))

    def announce(self) -> bool:
        """Send the signals, after the commit; return whether any row was deleted."""
        for changed, other, signal in (
            (self._added, self._deleted, signals.subscribed),
            (self._deleted, self._added, signals.unsubscribed),
        ):
            for subscription_id, user_id in changed.items():
                if subscription_id not in other:
                    signals.send(signal, subscription_id=subscription_id, user_id=user_id)
        return bool(self._deleted)
