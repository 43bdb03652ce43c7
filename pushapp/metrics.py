"""What Prometheus sees: requests, sends, and the queue. Imported only where PUSH_METRICS is set."""

from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime

from flask import Blueprint, Flask, Response, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from . import outbox
from .outcomes import Outcome
from .push_services import origin_of

# Anybody can bring an endpoint of a host that nobody knows: those share one label.
KNOWN = ("fcm.googleapis.com", "push.services.mozilla.com", "push.apple.com", "notify.windows.com")

REQUESTS = Counter("pushapp_requests", "Requests answered", ["method", "route", "status"], registry=None)
SENDS = Counter(
    "pushapp_sends", "Push messages sent, by what became of them", ["push_service", "outcome"], registry=None
)
SEND_SECONDS = Histogram("pushapp_send_seconds", "Time a push service took", ["push_service"], registry=None)

blueprint = Blueprint("metrics", __name__)


def init_app(app: Flask) -> None:
    """Count the requests to our routes, and answer at /metrics."""
    app.extensions["push_observer"] = _observer(app.config["PUSH_TRUSTED_PUSH_SERVICES"])
    app.after_request(_count_request)
    app.register_blueprint(blueprint)


@blueprint.get("/metrics")
def metrics() -> Response:
    """Show what all processes of this machine have counted."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(QueueCollector())
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class QueueCollector(Collector):
    """Asks the database how much is due, and for how long."""

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return the queue's depth and age."""
        backlog = outbox.backlog()
        age = (datetime.now(UTC) - backlog.oldest_due_at).total_seconds() if backlog.oldest_due_at else 0.0
        yield GaugeMetricFamily("pushapp_queue_slices", "Slices that are due", backlog.slices)
        yield GaugeMetricFamily(
            "pushapp_queue_subscriptions", "Subscriptions in them", float(backlog.subscriptions or 0)
        )
        yield GaugeMetricFamily(
            "pushapp_queue_age_seconds",
            "How long the oldest has been due",
            age,
        )


def _observer(trusted: Collection[str]) -> Callable[[str, Outcome, float], None]:
    hosts = {origin_of(origin).host for origin in trusted}

    def observe(origin: str, outcome: Outcome, seconds: float) -> None:
        host = origin_of(origin).host
        known = (name for name in KNOWN if f".{host}".endswith(f".{name}"))
        label = host if host in hosts else next(known, "other")
        SENDS.labels(label, outcome.result.value).inc()
        SEND_SECONDS.labels(label).observe(seconds)

    return observe


def _count_request(response: Response) -> Response:
    if request.blueprint in ("push", "health") and request.url_rule is not None:
        REQUESTS.labels(request.method, request.url_rule.rule, response.status_code).inc()
    return response
