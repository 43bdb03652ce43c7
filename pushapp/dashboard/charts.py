"""What the pages draw: bars and columns with their geometry, numbers and times as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import NamedTuple, Self

from ..sending.status import Status
from ..webpush.push_services import BROWSERS, OTHER

OUTCOMES = ("sent", "gone", "failed", "expired", "replaced", "cancelled", "waiting")
MIN_WIDTH = 1.0  # percent; so that a few failures among many are seen
DURATIONS = ((86_400, "d"), (3_600, "h"), (60, "min"))  # seconds


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar; `start` and `width` are percentages of the whole."""

    name: str
    count: int
    start: float
    width: float


class Bar(NamedTuple):
    """A stacked bar."""

    segments: Sequence[Segment]
    text: str  # the counts as a sentence

    @classmethod
    def of(cls, counts: Mapping[str, int], total: int) -> Self:
        """Return the bar of counts by outcome; `total` includes recipients that have none yet."""
        given = {name: counts[name] for name in OUTCOMES if counts.get(name)}
        widths = {name: max(100 * count / total, MIN_WIDTH) for name, count in given.items()}
        scale = min(100 / sum(widths.values()), 1) if widths else 1
        segments, start = [], 0.0
        for name, count in given.items():
            segments.append(Segment(name, count, round(start, 2), round(widths[name] * scale, 2)))
            start += widths[name] * scale
        text = ", ".join(f"{number(count)} {name}" for name, count in given.items())
        return cls(segments, text or "no recipients")


class MessageRow(NamedTuple):
    """A message: whom it is for, how far it is."""

    id: int
    name: str
    state: str
    created_at: datetime
    scheduled_for: datetime | None  # None: it is due, or was cancelled
    cancelled_at: datetime | None
    expires_at: datetime
    recipients: int
    more: str  # "+" while recipients are still counted
    percent: int  # done
    bar: Bar


def of_message(status: Status) -> MessageRow:
    """Return the row of a message: no users, and a title only if it is to a channel or everyone."""
    title = f": {status.message.title}" if status.audience.is_broadcast else ""
    counts = {**status.outcomes, "waiting": status.pending if status.is_under_way else 0}
    return MessageRow(
        id=status.id,
        name=f"To {status.audience}{title}",
        state=status.state,
        created_at=status.created_at,
        scheduled_for=status.send_at if status.state == "scheduled" else None,
        cancelled_at=status.cancelled_at,
        expires_at=status.expires_at,
        recipients=status.recipients,
        more="" if status.fan_out_complete else "+",
        percent=100 * status.done // status.recipients if status.recipients else 0,
        bar=Bar.of(counts, sum(counts.values())),
    )


class ServiceRow(NamedTuple):
    """A push service and the outcomes at it."""

    name: str
    total: int
    bar: Bar


def of_push_services(counts: Mapping[str, Mapping[str, int]]) -> list[ServiceRow]:
    """Return the rows of push services, by outcome."""
    rows = []
    for name, outcomes in counts.items():
        total = sum(outcomes.values())
        rows.append(ServiceRow(name_of(name), total, Bar.of(outcomes, total)))
    return rows


class Column(NamedTuple):
    """A part of a day's column in the chart of subscriptions, in its view box."""

    series: str
    x: float
    y: float
    height: float


class Series(NamedTuple):
    """A push service in the chart, and its newest count."""

    css_class: str
    name: str
    newest: int
    counts: Sequence[int | None]  # by day


class Subscriptions(NamedTuple):
    """The chart of subscriptions: a column a day, a hundred high, as wide as there are days."""

    days: Sequence[date]
    series: Sequence[Series]
    columns: Sequence[Column]
    total: int  # of the newest count
    highest: int

    @classmethod
    def of(cls, days: Sequence[date], counts: Mapping[date, Mapping[str, int]]) -> Self:
        """Return the chart; a day that was not counted has no column."""
        known = [*BROWSERS, OTHER]
        names = {name for services in counts.values() for name in services}
        ordered = [*(name for name in known if name in names), *sorted(names.difference(known))]
        newest = counts[max(counts)] if counts else {}
        series = [
            Series(
                css_class=f"series-{known.index(name) if name in known else len(known)}",
                name=name_of(name),
                newest=newest.get(name, 0),
                counts=[counts[day].get(name, 0) if day in counts else None for day in days],
            )
            for name in ordered
        ]
        highest = max((sum(services.values()) for services in counts.values()), default=0)
        columns = []
        for position in range(len(days)):
            top = 100.0
            for each in series:
                height = 100 * (each.counts[position] or 0) / (highest or 1)
                top -= height
                if height:
                    columns.append(Column(each.css_class, position + 0.1, round(top, 2), round(height, 2)))
        return cls(days, series, columns, sum(newest.values()), highest)


def name_of(push_service: str) -> str:
    """Return a push service's name with its browser."""
    browser = BROWSERS.get(push_service, "") or ("Chrome and others" if push_service in BROWSERS else "")
    return f"{push_service} ({browser})" if browser else push_service


def number(value: float) -> str:
    """Return a number with separators of thousands."""
    return f"{value:,.0f}"


def time(value: datetime) -> str:
    """Return a time, to the second."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def day(value: date) -> str:
    """Return a day without its year."""
    return f"{value.day} {value:%b}"


def duration(seconds: float) -> str:
    """Return a duration in its largest unit, such as 5 min."""
    for length, unit in DURATIONS:
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
