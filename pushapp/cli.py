"""`flask push …` and `flask demo`."""

from typing import Any

import click
from flask import Flask, current_app
from flask.cli import AppGroup, with_appcontext
from flask.sessions import SecureCookieSessionInterface
from flask_migrate import upgrade
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.serving import run_simple

from . import demo as demo_site
from . import subscriptions, vapid
from .config import ConfigurationError
from .errors import describe, is_passing
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
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    interface = app.session_interface
    signer = isinstance(interface, SecureCookieSessionInterface) and interface.get_signing_serializer(app)
    if not signer:
        raise click.ClickException("this application's sessions are not in signed cookies")
    value = signer.dumps({app.config["PUSH_SESSION_USER_KEY"]: user})
    click.echo(f"{app.config['SESSION_COOKIE_NAME']}={value}")


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
    """Forget the subscriptions that have expired."""
    click.echo(f"Forgot {subscriptions.prune()} expired subscriptions.")


@click.command()
@click.option("--port", default=5000, show_default=True, help="The port to serve the page on.")
@with_appcontext
def demo(port: int) -> None:
    """Serve a page to try Web Push with, on the embedded database.

    One signs in under any name, turns notifications on and sees one's devices. It answers this
    machine alone.
    """
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    if not app.config["PUSH_DEMO"]:
        try:
            demo_site.init_app(app)
        except ConfigurationError as error:
            raise click.ClickException(str(error)) from None
    upgrade()
    click.echo(f"The demo is at http://127.0.0.1:{port}/ (stop it with Ctrl+C)")
    run_simple("127.0.0.1", port, app, threaded=True)
