"""`flask push …` and `flask demo`; `message_commands` has those that send."""

from typing import Any

import click
from alembic import command
from alembic.util import CommandError
from flask import current_app
from flask.cli import AppGroup, with_appcontext
from flask.globals import app_ctx
from flask.sessions import SecureCookieSessionInterface
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.serving import run_simple

from . import data_commands, message_commands, subscriptions
from . import demo as demo_site
from . import keys as push_keys
from .database import is_transient, summarize
from .diagnostics import commands as diagnostics
from .schema import alembic_config
from .sending import failures, outbox, statistics
from .sending.queue import DEFAULT_CONCURRENCY
from .web.schemas import SubscriptionSummarySchema
from .webpush.vapid import generate_key_pair


class PushGroup(AppGroup):
    """Reports an unavailable database as a one-line error."""

    def invoke(self, ctx: click.Context) -> Any:
        """Invoke the command."""
        try:
            return super().invoke(ctx)
        except SQLAlchemyError as error:
            if not is_transient(error):
                raise
            advice = f"flask {ctx.info_name} db upgrade"
            raise click.ClickException(
                f"database unavailable, or without tables ({advice}): {summarize(error)}"
            ) from None
        except CommandError as error:
            raise click.ClickException(str(error)) from None


push = PushGroup("push", help="Manage Web Push subscriptions and messages.")
for other_command in (
    *data_commands.COMMANDS,
    diagnostics.check,
    diagnostics.status,
    diagnostics.why,
):
    push.add_command(other_command)


@push.group("db")
def db_group() -> None:
    """Migrate pushapp's tables; your own migrations neither see nor change them."""


@db_group.command()
@click.argument("revision", default="head")
@click.option("--sql", is_flag=True, help="Print the SQL instead of running it.")
def upgrade(revision: str, sql: bool) -> None:
    """Upgrade to REVISION, by default to the newest."""
    command.upgrade(alembic_config(), revision, sql=sql)


@db_group.command()
@click.argument("revision", default="-1")
@click.option("--sql", is_flag=True, help="Print the SQL instead of running it.")
def downgrade(revision: str, sql: bool) -> None:
    """Downgrade to REVISION, by default to the previous; `base` deletes the tables and their data."""
    command.downgrade(alembic_config(), revision, sql=sql)


@db_group.command()
def current() -> None:
    """Print the database's revision."""
    command.current(alembic_config())


@db_group.command()
def check() -> None:
    """Check that the tables are as this version expects them."""
    command.check(alembic_config())


@push.command()
@click.argument("user")
def cookie(user: str) -> None:
    """Print the session cookie that signs USER in, for curl's option --cookie."""
    interface = current_app.session_interface
    signer = isinstance(interface, SecureCookieSessionInterface) and interface.get_signing_serializer(
        current_app
    )
    if not signer:
        raise click.ClickException("this application does not use signed-cookie sessions")
    value = signer.dumps({current_app.config["PUSH_SESSION_USER_KEY"]: user})
    click.echo(f"{current_app.config['SESSION_COOKIE_NAME']}={value}")


@push.command("list")
@click.argument("user")
def list_command(user: str) -> None:
    """List USER's subscriptions: id, label, push service, created, expires, last message."""
    stored = SubscriptionSummarySchema(many=True).dump(subscriptions.list_for(user))
    for row in stored:
        click.echo("\t".join(str(value or "-") for value in row.values()))
    click.echo(f"{user} has {len(stored)} subscription{'' if len(stored) == 1 else 's'}.", err=True)


@push.command("vapid-keys", with_appcontext=False)
def vapid_keys() -> None:
    """Print a new VAPID key pair, as settings for the environment.

    The private key signs messages. Existing subscriptions only accept messages signed with the key
    they were made with, so store it safely.
    """
    pair = generate_key_pair()
    click.echo(f"FLASK_PUSH_VAPID_PRIVATE_KEY={pair.private}")
    click.echo(f"# its public key, which browsers get from /push/vapid-public-key: {pair.public}")


KEY_STATES = {
    "current": "new subscriptions are made with it",
    "fallback": "a browser moves to the current key when it loads a page that calls resume()",
    "missing": "messages fail: set PUSH_VAPID_PRIVATE_KEY_FALLBACKS to a list with its private key",
}


@push.command()
def keys() -> None:
    """List the VAPID keys: public half, subscriptions, state.

    This counts all subscriptions, which takes a second for some millions.
    """
    used = push_keys.usage()
    for key in used:
        click.echo(f"{key.public_key}\t{key.subscriptions}\t{key.state}: {KEY_STATES[key.state]}")
    total = sum(key.subscriptions for key in used)
    left = total - used[0].subscriptions
    click.echo(f"{left} of {total} subscriptions are left to move to the current key.", err=True)


@push.command()
def prune() -> None:
    """Delete expired subscriptions and old finished messages; count what is left.

    Workers do this every night.
    """
    click.echo(f"Deleted {failures.prune()} expired subscriptions.")
    click.echo(f"Deleted {outbox.prune()} old messages.")
    statistics.record_daily_counts()


push.add_command(message_commands.send)
push.add_command(message_commands.cancel)
push.add_command(message_commands.messages)


@push.command()
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=DEFAULT_CONCURRENCY,
    show_default=True,
    help="Messages in flight.",
)
@click.option("--drain", is_flag=True, help="Exit when nothing is due.")
def worker(concurrency: int, drain: bool) -> None:
    """Process the send queue.

    Run any number of workers, on any number of machines; on SQLite one. SIGTERM and Ctrl+C shut down
    gracefully; what a killed worker was sending is sent by another within a minute.
    """
    from . import worker_command  # noqa: PLC0415  # web processes need neither Procrastinate nor libcurl

    worker_command.run(concurrency, drain=drain)


@click.command()
@click.option("--port", default=5000, show_default=True, help="The port to listen on.")
@with_appcontext
def demo(port: int) -> None:
    """Run the demo site on SQLite. Listens on localhost only."""
    app = app_ctx.app
    if not app.config["PUSH_DEMO"]:
        demo_site.init_app(app)
    command.upgrade(alembic_config(), "head")
    click.echo(f"Demo: http://127.0.0.1:{port}/ (Ctrl+C stops it)")
    run_simple("127.0.0.1", port, app, threaded=True)
