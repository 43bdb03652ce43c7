"""What `flask push worker` does."""

import asyncio
import logging

import click
from flask.globals import app_ctx
from procrastinate.exceptions import ConnectorException
from psycopg import OperationalError

from .sending.worker import describe, run_worker


def run(concurrency: int, *, drain: bool) -> None:
    """Run a worker with a log on the standard error; a database that is unavailable is a one-line error."""
    _log_to_stderr()
    try:
        asyncio.run(run_worker(app_ctx.app, concurrency=concurrency, drain=drain))
    except (ConnectorException, OperationalError, TimeoutError) as error:
        raise click.ClickException(describe(error)) from None


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    # The worker logs an outage in one line; the queue's own tracebacks would repeat it.
    handler.addFilter(
        lambda record: not (record.exc_info and isinstance(record.exc_info[1], ConnectorException))
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    logging.getLogger("pushapp").setLevel(logging.INFO)
