"""How many subscriptions each push service has: counted in small steps, and stored once a day."""

from collections import Counter
from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta

from flask import current_app
from sqlalchemy import ColumnElement, Connection, String, case, delete, func, select

from ..database import autocommit, transaction
from ..dialects import INSERTS
from ..models import PushDailyCount, PushSubscription
from ..webpush.endpoints import origin_of
from ..webpush.push_services import BROWSERS, OTHER, hosts_of, push_service_of

STEP = 20_000  # subscriptions a statement
RETENTION = timedelta(days=400)
LABELED_BROWSERS = ("Edge", "Opera", "Samsung", "Firefox", "Chrome", "Safari")  # as client.js writes them

_column = PushSubscription.__table__.c
_daily = PushDailyCount.__table__.c

_browser = case(*((_column.label.like(f"{name} on %"), name) for name in LABELED_BROWSERS), else_="")


def count_subscriptions() -> Counter[tuple[str, str]]:
    """Count all subscriptions by push service and browser; "" is an unknown browser.

    Reads the whole table in steps by id, each a short statement.
    """
    trusted_hosts = hosts_of(current_app.config["PUSH_TRUSTED_PUSH_SERVICES"])
    counts: Counter[tuple[str, str]] = Counter()
    after_id: int | None = 0
    while after_id is not None:
        with autocommit() as connection:
            after_id, found = _count_step(connection, after_id)
        for (authority, browser), number in found.items():
            service = _push_service(authority, trusted_hosts)
            counts[service, browser or BROWSERS.get(service) or ""] += number
    return counts


def record_daily_counts() -> None:
    """Store today's count of subscriptions by push service, instead of an earlier one of today."""
    totals: Counter[str] = Counter()
    for (service, _), number in count_subscriptions().items():
        totals[service] += number
    today = datetime.now(UTC).date()
    with transaction() as connection:
        connection.execute(delete(PushDailyCount.__table__).where(_daily.day < today - RETENTION))
        insert = INSERTS[connection.dialect.name](PushDailyCount.__table__)
        upsert = insert.on_conflict_do_update(
            index_elements=["day", "push_service"], set_={"subscriptions": insert.excluded.subscriptions}
        )
        stored = select(_daily.push_service).where(_daily.day == today)
        services = {*totals, *connection.execute(stored).scalars()}
        rows = [
            {"day": today, "push_service": name, "subscriptions": totals[name]} for name in sorted(services)
        ]
        if rows:
            connection.execute(upsert, rows)


def daily_counts(connection: Connection, first_day: date) -> dict[date, dict[str, int]]:
    """Return the counts of the days from `first_day` on that were counted, by push service."""
    found = select(PushDailyCount.__table__).where(_daily.day >= first_day).order_by(_daily.day)
    counts: dict[date, dict[str, int]] = {}
    for day, service, number in connection.execute(found):
        counts.setdefault(day, {})[service] = number
    return counts


def _count_step(connection: Connection, after_id: int) -> tuple[int | None, dict[tuple[str, str], int]]:
    """Count the next STEP subscriptions by authority and browser; return the last id, None at the end."""
    rows = (
        select(_column.id, _authority(connection).label("authority"), _browser.label("browser"))
        .where(_column.id > after_id)
        .order_by(_column.id)
        .limit(STEP)
        .subquery()
    )
    grouped = select(rows.c.authority, rows.c.browser, func.count(), func.max(rows.c.id))
    found = connection.execute(grouped.group_by(rows.c.authority, rows.c.browser)).all()
    last_id = max((row[3] for row in found), default=None)
    return last_id, {(authority, browser): number for authority, browser, number, _ in found}


def _authority(connection: Connection) -> ColumnElement[str]:
    # An endpoint is scheme://authority/path.
    if connection.dialect.name == "postgresql":
        return func.split_part(_column.endpoint, "/", 3)
    rest = func.substr(_column.endpoint, func.instr(_column.endpoint, "//") + 2, type_=String())
    return func.substr(rest, 1, func.instr(rest.concat("/"), "/") - 1)


def _push_service(authority: str, trusted_hosts: Collection[str]) -> str:
    try:
        host = origin_of(f"https://{authority}").host
    except ValueError:  # imported, and no URL
        return OTHER
    return push_service_of(host, trusted_hosts)
