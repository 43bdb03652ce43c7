"""`flask push …` and `flask demo`."""

import asyncio
import logging
import sys
from typing import Any

import click
from flask import current_app
from flask.cli import AppGroup, with_appcontext
from flask.globals import app_ctx
from flask.sessions import SecureCookieSessionInterface
from flask_migrate import upgrade
from procrastinate.exceptions import ConnectorException
from psycopg import OperationalError
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.serving import run_simple

from . import demo as demo_site
from . import jobs, outbox, subscriptions, vapid
from . import worker as queue_worker
from .config import ConfigurationError
from .database import describe, engine, is_passing
from .jobs import EVERYONE
from .messages import DEFAULT_TTL, Message, MessageError, Urgency
from .schemas import KeptSubscriptionSchema


class PushGroup(AppGroup):
    """Says in one line, as HTTP says with 503, that the database cannot be used now."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except SQLAlchemyError as error:
            if not is_passing(error):
                raise
            raise click.ClickException(
                f"the database does not answer, or has no tables yet (flask db upgrade): {describe(error)}"
            ) from None


push = PushGroup("push", help="Look after Web Push subscriptions.")


@push.command()
@click.argument("user")
def cookie(user: str) -> None:
    """Print the session cookie that signs USER in.

    For curl: curl --cookie "$(flask --app wsgi push cookie alice)" …/push/subscriptions
    """
    interface = current_app.session_interface
    signer = isinstance(interface, SecureCookieSessionInterface) and interface.get_signing_serializer(
        current_app
    )
    if not signer:
        raise click.ClickException("this application's sessions are not in signed cookies")
    value = signer.dumps({current_app.config["PUSH_SESSION_USER_KEY"]: user})
    click.echo(f"{current_app.config['SESSION_COOKIE_NAME']}={value}")


@push.command("list")
@click.argument("user")
def list_command(user: str) -> None:
    """List USER's browsers: id, push service, since when, until when."""
    kept = KeptSubscriptionSchema(many=True).dump(subscriptions.list_of(user))
    for row in kept:
        click.echo("\t".join(str(member or "-") for member in row.values()))
    click.echo(f"{user} has {len(kept)} subscription{'' if len(kept) == 1 else 's'}.", err=True)


@push.command("vapid-keys")
def vapid_keys() -> None:
    """Print a fresh VAPID key pair, as settings to paste into the environment.

    The private key signs what is sent. A browser that has subscribed takes messages signed with
    the key it subscribed with, and no other: keep the key for as long as the site lives.
    """
    pair = vapid.generate_key_pair()
    click.echo(f"FLASK_PUSH_VAPID_PRIVATE_KEY={pair.private}")
    click.echo(f"# its public key, which browsers get from /push/vapid-public-key: {pair.public}")


@push.command()
def prune() -> None:
    """Forget expired subscriptions, and messages that were finished a month ago.

    A worker does it every night.
    """
    click.echo(f"Forgot {subscriptions.prune()} expired subscriptions.")
    click.echo(f"Forgot {outbox.prune()} old messages.")


@push.command("send")
@click.argument("user", required=False)
@click.option("--everyone", is_flag=True, help="Send to all users instead of USER.")
@click.option("--title", required=True, help="The notification's first line.")
@click.option("--body", help="Its text.")
@click.option("--navigate", help="Where a click leads: a path, or an http or https URL.")
@click.option("--icon", help="The picture beside it, a path or URL.")
@click.option("--tag", help="Replaces the notification that shows the same tag.")
@click.option("--ttl", type=int, default=DEFAULT_TTL, show_default=True, help="Seconds it is worth having.")
@click.option(
    "--urgency",
    type=click.Choice([one.value for one in Urgency]),
    default=Urgency.NORMAL.value,
    show_default=True,
)
@click.option("--topic", help="Replaces the undelivered message with the same topic.")
def send_command(user: str | None, everyone: bool, **members: Any) -> None:
    """Send a message to USER, or to everyone.

    With PostgreSQL it is queued for `flask push worker`; on SQLite it is sent before this returns.
    """
    if everyone == bool(user):
        raise click.UsageError("Name a USER, or say --everyone.")
    try:
        message = Message(**members)
    except MessageError as error:
        raise click.UsageError(str(error)) from None
    with click.progressbar(length=1, label="Sending", file=sys.stderr) as bar:

        def show(done: int, of: int) -> None:
            bar.length = of
            bar.update(done)

        try:
            id = jobs.send(message, to=user or EVERYONE, on_progress=show)
        except MessageError as error:
            raise click.UsageError(str(error)) from None
    status = outbox.status(id)
    queued = status.recipients - status.sent - status.gone - status.failed
    more = "" if status.is_cut or status.recipients < outbox.MAX_COUNTED else " or more"
    counts = f"{status.sent} sent, {status.gone} gone, {status.failed} failed, {queued}{more} queued"
    click.echo(f"Message {status.id}: {counts}.")


@push.command()
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=queue_worker.DEFAULT_CONCURRENCY,
    show_default=True,
    help="Slices of up to 250 subscriptions that are sent at the same time.",
)
@click.option("--drain", is_flag=True, help="Stop when nothing is due.")
def worker(concurrency: int, drain: bool) -> None:
    """Deliver what is queued.

    Run as many as you like, on as many machines. SIGTERM and Ctrl+C let what is in flight finish;
    what a killed worker had in hand is taken up by another within half a minute.
    """
    if engine().dialect.name != "postgresql":
        raise click.ClickException("the queue needs PostgreSQL: on SQLite, messages are sent by their sender")
    _log_to_stderr()
    try:
        asyncio.run(queue_worker.work(app_ctx.app, concurrency=concurrency, drain=drain))
    except (ConnectorException, OperationalError, TimeoutError) as error:
        raise click.ClickException(f"the database does not answer: {type(error).__name__}") from None


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    # That the database is away is said in one line by `jobs`, not once more by all who notice.
    handler.addFilter(
        lambda record: not (record.exc_info and isinstance(record.exc_info[1], ConnectorException))
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    logging.getLogger("pushapp").setLevel(logging.INFO)


@click.command()
@click.option("--port", default=5000, show_default=True, help="The port to serve the page on.")
@with_appcontext
def demo(port: int) -> None:
    """Serve a page to try Web Push with, on the embedded database.

    One signs in under any name, turns notifications on and sees one's devices. It answers this
    machine alone.
    """
    app = app_ctx.app
    if not app.config["PUSH_DEMO"]:
        try:
            demo_site.init_app(app)
        except ConfigurationError as error:
            raise click.ClickException(str(error)) from None
    upgrade()
    click.echo(f"The demo is at http://127.0.0.1:{port}/ (stop it with Ctrl+C)")
    run_simple("127.0.0.1", port, app, threaded=True)
