"""VAPID keys: those of the settings, and those that subscriptions were made with."""

from typing import Any, NamedTuple

from flask import Flask, current_app
from sqlalchemy import func, select, text

from .config import ConfigurationError
from .database import deadline_after, transaction
from .instance import load_or_create_secret
from .models import PushSubscription
from .webpush.vapid import (
    PLACEHOLDER_SUBJECT,
    KeyPair,
    Signers,
    check_subject,
    generate_key_pair,
    load_key_pair,
)

COUNT_TIMEOUT = 600  # seconds: millions of subscriptions are counted in seconds


class KeyUse(NamedTuple):
    """A public key, base64url, and how many subscriptions were made with it."""

    public_key: str
    state: str  # current, fallback; missing: its private key is not in the settings
    subscriptions: int


def load(app: Flask, *, on_sqlite: bool) -> None:
    """Load the application's VAPID keys and subject; on SQLite, generate and store a missing key.

    Raises ConfigurationError.
    """
    private_key = app.config["PUSH_VAPID_PRIVATE_KEY"]
    if not private_key:
        if not on_sqlite:
            raise ConfigurationError(
                "PUSH_VAPID_PRIVATE_KEY is not set: with a database server, set FLASK_PUSH_VAPID_PRIVATE_KEY "
                "to a key from `python -m pushapp vapid-keys`"
            )
        private_key = load_or_create_secret(app, "vapid_private_key", lambda: generate_key_pair().private)
    fallbacks = app.config["PUSH_VAPID_PRIVATE_KEY_FALLBACKS"]
    if not isinstance(fallbacks, list | tuple):
        raise ConfigurationError(
            """PUSH_VAPID_PRIVATE_KEY_FALLBACKS must be a list of private keys, such as '["the old key"]'"""
        )
    key_pairs = [
        _load_key_pair("PUSH_VAPID_PRIVATE_KEY", private_key),
        *(_load_key_pair("PUSH_VAPID_PRIVATE_KEY_FALLBACKS", fallback) for fallback in fallbacks),
    ]
    subject = app.config["PUSH_VAPID_SUBJECT"]
    try:
        subject = PLACEHOLDER_SUBJECT if subject is None else check_subject(subject)
    except ValueError:
        raise ConfigurationError(
            "PUSH_VAPID_SUBJECT must be your contact for push services, such as mailto:you@your-site.org or "
            "https://your-site.org, at a public host"
        ) from None
    app.extensions["push_vapid_signers"] = Signers(key_pairs, subject)


def signers() -> Signers:
    """Return the signers of the current application."""
    loaded: Signers = current_app.extensions["push_vapid_signers"]
    return loaded


def usage() -> list[KeyUse]:
    """Return the keys of the settings and of all subscriptions, the current one first, missing ones last.

    Reads the whole table of subscriptions.
    """
    column = PushSubscription.__table__.c.vapid_key
    configured = signers().public_keys
    with transaction(deadline_after(COUNT_TIMEOUT)) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL statement_timeout = 0"))
        key = func.coalesce(column, configured[-1])
        rows: Any = connection.execute(select(key, func.count()).group_by(key))
        counts = dict(rows.all())
    states = dict.fromkeys(configured, "fallback") | {configured[0]: "current"}
    missing = sorted(set(counts) - set(states))
    return [
        KeyUse(public_key, states.get(public_key, "missing"), counts.get(public_key, 0))
        for public_key in (*configured, *missing)
    ]


def _load_key_pair(name: str, private_key: object) -> KeyPair:
    try:
        return load_key_pair(private_key)
    except ValueError:
        article = "must be" if name == "PUSH_VAPID_PRIVATE_KEY" else "must be a list of keys, each"
        raise ConfigurationError(
            f"{name} {article} the base64url of a 32-byte private key on P-256, as "
            "`python -m pushapp vapid-keys` prints it"
        ) from None
