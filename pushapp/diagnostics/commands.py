"""`flask push check`, `status` and `why`."""

from collections import Counter, defaultdict

import click
from flask.cli import with_appcontext

from ..database import autocommit
from ..models import MAX_ID
from ..sending import statistics
from . import checks, devices, messages, queue
from .devices import at


@click.command()
@click.option("--connect", is_flag=True, help="Also connect to the push services, by DNS and TLS.")
@with_appcontext
@click.pass_context
def check(context: click.Context, connect: bool) -> None:
    """Check a deployment: settings, keys, the database, its clock, workers.

    Prints a line for each check: `ok`, or `fix` and what to do. The exit status is 1 if there is something to
    fix.
    """
    findings = [*checks.check_settings(), *checks.check_database()]
    if connect:
        findings += checks.check_connections()
    for finding in findings:
        click.echo(f"{'ok ' if finding.is_ok else 'fix'}  {finding.text}")
    if not all(finding.is_ok for finding in findings):
        context.exit(1)


@click.command()
@with_appcontext
def status() -> None:
    """Print what is going on: subscriptions, queue, workers, messages under way.

    Counts all subscriptions, about a second for each million.
    """
    _print_subscriptions(statistics.count_subscriptions())
    with autocommit() as connection:
        state = queue.read_queue(connection)
        under_way = messages.progress(connection, messages.under_way_ids(connection))
    more = " or more" if state.is_longer else ""
    oldest = f", the oldest for {state.age:.0f} s" if state.batches else ""
    click.echo(f"Queue: {state.batches}{more} batches due, with {state.recipients}{more} recipients{oldest}.")
    if state.workers is not None:
        click.echo(f"Workers: {state.workers} alive.")
    click.echo(f"Messages under way: {len(under_way) or 'none'}.")
    for message in under_way:
        click.echo(f"  {_progress(message)}")


@click.command()
@click.argument("user")
@click.argument("message_id", metavar="[MESSAGE]", required=False, type=click.IntRange(1, MAX_ID))
@with_appcontext
def why(user: str, message_id: int | None) -> None:
    """Print what became of USER's devices, or of the message with the id MESSAGE on them."""
    with autocommit() as connection:
        message = None
        if message_id is not None:
            message = next(iter(messages.progress(connection, [message_id])), None)
            if message is None:
                raise click.ClickException(f"there is no message {message_id}")
        found = devices.devices_of(connection, user)
        ids = [device.id for device in found]
        waiting = devices.waiting_batches(connection, user, ids, message_id)
    if message is not None:
        click.echo(_progress(message))
        if message.user_id not in (None, user):
            raise click.ClickException(f"message {message.id} was sent to another user")
    if not found:
        click.echo(f"{user} has no subscriptions: notifications are on in none of this user's browsers.")
    for device in found:
        click.echo(devices.describe(device, waiting, message))


def _print_subscriptions(counts: Counter[tuple[str, str]]) -> None:
    click.echo(f"Subscriptions: {counts.total()}.")
    browsers: dict[str, Counter[str]] = defaultdict(Counter)
    for (service, browser), number in counts.items():
        browsers[service][browser] += number
    for service, numbers in sorted(browsers.items(), key=lambda item: (-item[1].total(), item[0])):
        ranked = sorted(numbers.items(), key=lambda item: (-item[1], item[0] or "~"))
        parts = ", ".join(f"{number} {browser or 'unknown browser'}" for browser, number in ranked)
        click.echo(f"  {service}: {numbers.total()} ({parts})")


def _progress(message: messages.Progress) -> str:
    to = "everyone" if message.user_id is None else "one user"
    more = "" if message.is_counted else " or more"
    parts = [f"{number} {outcome}" for outcome, number in message.outcomes.items()]
    parts += [f"{message.waiting}{more} waiting"] if message.is_under_way else []
    return (
        f"message {message.id} to {to}, created {at(message.created_at)}, {message.state}:"
        f" {', '.join(parts) or 'no recipients'} of {message.recipients}{more}"
    )
