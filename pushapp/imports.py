"""Import of subscriptions: read and check the lines of a file, and store them in chunks."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from marshmallow import ValidationError, fields, post_load
from sqlalchemy.exc import SQLAlchemyError

from . import bulk_storage
from .database import is_transient, summarize
from .models import MAX_USER_ID_LENGTH, normalize_user_id
from .subscriptions import Subscription
from .web.parsing import parse_json
from .web.schemas import PushSubscriptionSchema

MAX_LINE_LENGTH = 16 * 1024  # bytes
CHUNK_SIZE = 1_000  # lines a transaction
RETRIES = 5  # of a chunk, while the database is unavailable
RETRY_INTERVAL = 2  # seconds
LEFT_OUT = "left out: its browser has another user or a newer subscription, or the user has the most allowed"

logger = logging.getLogger(__name__)


class UserID(fields.Field[str]):
    """A user's id: a string, or an integer."""

    def _deserialize(self, value: Any, *_arguments: Any, **_options: Any) -> str:
        user_id = normalize_user_id(value)
        if user_id is None:
            raise ValidationError(f"Must be 1 to {MAX_USER_ID_LENGTH} characters, and no control characters.")
        return user_id


class LineSchema(PushSubscriptionSchema):
    """A subscription as browsers post it, and its user."""

    user_id = UserID(required=True)

    @post_load
    def make_subscription(self, data: dict[str, Any], **options: Any) -> tuple[str, Subscription]:
        """Return the user's id and the Subscription."""
        return data["user_id"], super().make_subscription(data, **options)


class Line(NamedTuple):
    """A line of the file that can be stored."""

    number: int
    user_id: str
    subscription: Subscription


@dataclass(slots=True)
class Report:
    """What became of the lines so far."""

    stored: int = 0  # lines whose subscription is stored now
    written: int = 0  # of these, the new and the changed ones
    left_out: int = 0
    wrong: int = 0


def import_lines(
    file: BinaryIO,
    report: Report,
    on_problem: Callable[[int, str], None],
    on_progress: Callable[[int], None],
    vapid_key: str | None = None,
) -> None:
    """Store the subscriptions of a file, one JSON object a line; blank lines are ignored.

    `vapid_key` is the public key that they were made with, by default the current one. Calls `on_problem`
    with the number of a line that is not stored and the reason, and `on_progress` with numbers of bytes.
    Repeats write nothing. Short outages of the database are waited out.

    Raises SQLAlchemyError; what `report` counts is stored then.
    """
    chunk: list[Line] = []
    schema = LineSchema()
    for number, content in enumerate(_read(file), 1):
        on_progress(len(content))
        if content.isspace():
            continue
        try:
            chunk.append(Line(number, *_parse(schema, content)))
        except ValueError as error:
            report.wrong += 1
            on_problem(number, str(error))
        if len(chunk) == CHUNK_SIZE:
            _store(chunk, vapid_key, report, on_problem)
            chunk = []
    _store(chunk, vapid_key, report, on_problem)


def _read(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines; of a longer one than MAX_LINE_LENGTH, one byte more than that, and not the rest."""
    prefix = b"\xef\xbb\xbf"  # a byte order mark
    while line := file.readline(MAX_LINE_LENGTH + 1):
        yield line.removeprefix(prefix) or b"\n"
        prefix = b""
        while not line.endswith(b"\n") and (line := file.readline(MAX_LINE_LENGTH)):
            pass


def _parse(schema: LineSchema, content: bytes) -> tuple[str, Subscription]:
    if len(content) > MAX_LINE_LENGTH:
        raise ValueError(f"longer than {MAX_LINE_LENGTH} bytes")
    try:
        values = parse_json(content)
    except UnicodeDecodeError:
        raise ValueError("not valid UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON") from None
    try:
        loaded: tuple[str, Subscription] = schema.load(values)
    except ValidationError as error:
        raise ValueError(" ".join(_sentences(error.messages_dict))) from None
    return loaded


def _sentences(messages: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, content in messages.items():
        if isinstance(content, dict):
            yield from _sentences(content, f"{path}{name}.")
        else:
            field = "" if name == "_schema" else f"{path}{name}: "
            yield field + " ".join(content)


def _store(
    chunk: Sequence[Line], vapid_key: str | None, report: Report, on_problem: Callable[[int, str], None]
) -> None:
    pairs = [(line.user_id, line.subscription) for line in chunk]
    for retries_left in reversed(range(RETRIES + 1)):
        try:
            written, stored = bulk_storage.store(pairs, vapid_key)
            break
        except SQLAlchemyError as error:
            if not (retries_left and is_transient(error)):
                raise
            logger.warning("database unavailable: %s", summarize(error))
            time.sleep(RETRY_INTERVAL)
    report.written += written
    for line in chunk:
        if (line.user_id, line.subscription.endpoint) in stored:
            report.stored += 1
        else:
            report.left_out += 1
            on_problem(line.number, LEFT_OUT)
