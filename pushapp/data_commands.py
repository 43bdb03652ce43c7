"""`flask push erase`, `export`: a user's data."""

import json
from datetime import datetime

import click
from flask.cli import with_appcontext

from . import userdata


@click.command()
@click.argument("user")
@with_appcontext
def erase(user: str) -> None:
    """Delete all that is stored of USER: subscriptions, and messages to USER."""
    try:
        erased = userdata.erase(user)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    click.echo(f"Deleted {erased.subscriptions} subscriptions and {erased.messages} messages of {user}.")


@click.command()
@click.argument("user")
@with_appcontext
def export(user: str) -> None:
    """Print all that is stored of USER, as JSON; without the keys of the subscriptions."""
    try:
        data = userdata.export(user)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, default=datetime.isoformat))


COMMANDS = (erase, export)
