"""`flask push erase`, `export`, `import`: users' data."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from io import UnsupportedOperation
from typing import BinaryIO

import click
from flask.cli import with_appcontext
from marshmallow import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from . import imports, userdata
from .web.fields import P256DH


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


def _check_vapid_key(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else P256DH().deserialize(value)
    except ValidationError as error:
        raise click.BadParameter(" ".join(error.messages)) from None


@click.command("import")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--vapid-key", metavar="PUBLIC-KEY", callback=_check_vapid_key, help="The key that they were made with."
)
@with_appcontext
def import_command(file: BinaryIO, vapid_key: str | None) -> None:
    """Store the subscriptions in FILE, of another system; `-` is the standard input.

    One JSON object a line: {"user_id", "endpoint", "keys": {"p256dh", "auth"}, "expirationTime"?}. Wrong
    lines are reported, and the others stored; then the exit status is 1. It can be run again.
    """
    done = imports.Report()
    with _progress_bar(file) as (advance, before_line):

        def print_problem(number: int, reason: str) -> None:
            click.echo(f"{before_line}line {number}: {reason}", err=True)

        try:
            imports.import_lines(file, done, print_problem, advance, vapid_key)
        except SQLAlchemyError:
            click.echo(
                f"{before_line}Stopped with {done.stored} subscriptions stored: run it again.", err=True
            )
            raise
    summary = f"{done.stored} subscriptions stored, {done.written} of them new or changed"
    click.echo(f"{summary}; {done.left_out} left out, {done.wrong} wrong lines.")
    if done.wrong:
        sys.exit(1)


@contextmanager
def _progress_bar(file: BinaryIO) -> Iterator[tuple[Callable[[int], None], str]]:
    """Yield what advances the bar by a number of bytes, and what clears it before another line."""
    try:
        size = os.fstat(file.fileno()).st_size
    except UnsupportedOperation:
        size = 0
    if not size or not sys.stderr.isatty():
        yield lambda _bytes: None, ""
        return
    with click.progressbar(length=size, label="Importing", file=sys.stderr) as bar:
        yield bar.update, "\r\033[K"


COMMANDS = (erase, export, import_command)
