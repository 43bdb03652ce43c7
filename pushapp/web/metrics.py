"""Prometheus metrics: requests, sends, the queue. Imported only if PUSH_METRICS is set."""

import logging
from collections.abc import Callable, Collection, Iterable
from datetime import timedelta

from flask import Blueprint, Flask, Response, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from ..database import autocommit, summarize
from ..diagnostics.queue import MAX_BATCHES, read_queue
from ..sending.clock import database_time
from ..sending.statistics import daily_counts
from ..webpush.endpoints import origin_of
from ..webpush.push_services import hosts_of, push_service_of
from ..webpush.responses import Outcome

REQUESTS = Counter("pushapp_requests", "Requests handled", ["method", "route", "status"], registry=None)
SENDS = Counter("pushapp_sends", "Push messages by outcome", ["push_service", "outcome"], registry=None)
SEND_DURATION = Histogram(
    "pushapp_send_duration_seconds", "Push request duration", ["push_service"], registry=None
)

blueprint = Blueprint("pushapp_metrics", __name__)

logger = logging.getLogger(__name__)


def init_app(app: Flask) -> None:
    """Instrument the routes, and expose /metrics."""
    app.extensions["push_observer"] = _observer(app.config["PUSH_TRUSTED_PUSH_SERVICES"])
    app.after_request(_count_request)
    app.register_blueprint(blueprint)


@blueprint.get("/metrics")
def metrics() -> Response:
    """Expose the metrics of all processes on this host."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(DatabaseCollector())
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class DatabaseCollector(Collector):
    """Reads the queue, its workers and the subscriptions from the database, if it is available."""

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return gauges; none while the database is unavailable."""
        try:
            with autocommit() as connection:
                now = database_time(connection)
                queue = read_queue(connection, now)
                counts = daily_counts(connection, now.date() - timedelta(days=1))
        except SQLAlchemyError as error:
            logger.warning("queue metrics unavailable: %s", summarize(error))
            return
        counted = f"of at most {MAX_BATCHES} that are counted"
        yield GaugeMetricFamily("pushapp_queue_batches", f"Due batches, {counted}", queue.batches)
        yield GaugeMetricFamily(
            "pushapp_queue_subscriptions", f"Recipients in due batches, {counted}", queue.recipients
        )
        yield GaugeMetricFamily("pushapp_queue_age_seconds", "Age of the oldest due batch", queue.age)
        if queue.workers is not None:
            yield GaugeMetricFamily("pushapp_workers", "Workers alive", queue.workers)
        subscriptions = GaugeMetricFamily(
            "pushapp_subscriptions", "Subscriptions, as counted last", labels=["push_service"]
        )
        for name, number in (counts[max(counts)] if counts else {}).items():
            subscriptions.add_metric([name], number)
        yield subscriptions


def _observer(trusted: Collection[str]) -> Callable[[str, Outcome, float], None]:
    trusted_hosts = hosts_of(trusted)

    def observe(origin: str, outcome: Outcome, seconds: float) -> None:
        label = push_service_of(origin_of(origin).host, trusted_hosts)
        SENDS.labels(label, outcome.result.value).inc()
        SEND_DURATION.labels(label).observe(seconds)

    return observe


def _count_request(response: Response) -> Response:
    if request.blueprint in ("pushapp", "health") and request.url_rule is not None:
        REQUESTS.labels(request.method, request.url_rule.rule, response.status_code).inc()
    return response
