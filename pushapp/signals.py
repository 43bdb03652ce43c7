"""Signals (blinker): what has happened to subscriptions and messages, once it is committed.

The sender is the Flask application. Receivers are called where it happened, in a request, a command or a
thread of the worker, with an application context. What they raise is logged, and changes nothing.
"""

import logging

from blinker import NamedSignal, Namespace
from flask.globals import app_ctx

_signals = Namespace()

subscribed = _signals.signal(
    "subscribed",
    "A user has a new subscription: subscription_id, user_id. A repeat and a renewal are silent.",
)
unsubscribed = _signals.signal(
    "unsubscribed",
    "A subscription was deleted by its user, by the next user of the browser, or as the oldest of too many: "
    "subscription_id, user_id.",
)
subscription_gone = _signals.signal(
    "subscription_gone",
    "A subscription was deleted because its push service does not know it, it failed for too long, or it "
    "expired: subscription_id, user_id.",
)
message_done = _signals.signal(
    "message_done",
    "All recipients of a message have an outcome: message_id, recipients, outcomes (numbers by outcome).",
)
message_clicked = _signals.signal(
    "message_clicked",
    "A device has reported the first click on a message: message_id, subscription_id, user_id (None: the "
    "subscription is deleted), action (None: the notification itself).",
)

logger = logging.getLogger(__name__)


def send(signal: NamedSignal, **values: object) -> None:
    """Call a signal's receivers with the current application."""
    app = app_ctx.app
    for receiver in signal.receivers_for(app):
        try:
            receiver(app, **values)
        except Exception as error:  # of the host's code: what is stored stays stored
            logger.error("a receiver of the signal %s raised %r", signal.name, error)
