"""`flask push check`, `status` and `why`."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import click
from flask.cli import with_appcontext

from ..database import autocommit
from ..models import MAX_ID
from ..sending import statistics
from ..sending.clock import database_time
from ..sending.status import Status, load
from . import checks, devices, messages, queue
from .devices import at


@click.command()
@click.option("--connect", is_flag=True, help="Also connect to the push services, as workers do.")
@with_appcontext
@click.pass_context
def check(context: click.Context, connect: bool) -> None:
    """Check a deployment: settings, keys, the database, its clock, workers.

    Prints a line for each check: `ok`, or `fix` and what to do. The exit status is 1 if there is something to
    fix.
    """
    findings = [*checks.check_settings(), *checks.check_database()]
    if connect:
        from . import connections  # noqa: PLC0415  # web processes do not need libcurl

        findings += connections.check_connections()
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
        now = database_time(connection)
        state = queue.read_queue(connection, now)
        under_way = load(connection, messages.under_way_ids(connection, now))
        scheduled = load(connection, messages.scheduled_ids(connection, now))
    more = " or more" if state.is_longer else ""
    oldest = f", the oldest for {state.age:.0f} s" if state.batches else ""
    click.echo(f"Queue: {state.batches}{more} batches due, with {state.recipients}{more} recipients{oldest}.")
    if state.workers is not None:
        click.echo(f"Workers: {state.workers} alive.")
    _print_messages("Messages under way", under_way)
    _print_messages("Messages scheduled", scheduled)


@click.command()
@click.argument("user")
@click.argument("message_id", metavar="[MESSAGE]", required=False, type=click.IntRange(1, MAX_ID))
@with_appcontext
def why(user: str, message_id: int | None) -> None:
    """Print what became of USER's devices, or of the message with the id MESSAGE on them."""
    with autocommit() as connection:
        now = database_time(connection)
        message = None
        if message_id is not None:
            message = next(iter(load(connection, [message_id])), None)
            if message is None:
                raise click.ClickException(f"there is no message {message_id}")
        found = devices.read_user(connection, user)
        waiting = devices.waiting_batches(connection, found, message_id)
    if message is not None:
        click.echo(_progress(message))
        if not found.is_addressed(message.audience, message.user_id):
            channel = message.audience.channel
            reason = f": {user} is not a member of the channel {channel}" if channel else ""
            raise click.ClickException(f"message {message.id} was not for this user{reason}")
        if user in message.audience.exclude:
            click.echo(f"{user} was left out by exclude.")
            return
    if not found.devices:
        click.echo(f"{user} has no subscriptions: notifications are on in none of this user's browsers.")
    for device in found.devices:
        click.echo(devices.describe(device, waiting, now, message))


def _print_subscriptions(counts: Counter[tuple[str, str]]) -> None:
    click.echo(f"Subscriptions: {counts.total()}.")
    browsers: dict[str, Counter[str]] = defaultdict(Counter)
    for (service, browser), number in counts.items():
        browsers[service][browser] += number
    for service, numbers in sorted(browsers.items(), key=lambda item: (-item[1].total(), item[0])):
        ranked = sorted(numbers.items(), key=lambda item: (-item[1], item[0] or "~"))
        parts = ", ".join(f"{number} {browser or 'unknown browser'}" for browser, number in ranked)
        click.echo(f"  {service}: {numbers.total()} ({parts})")


def _print_messages(title: str, found: Sequence[Status]) -> None:
    more = " or more" if len(found) == messages.MAX_MESSAGES else ""
    click.echo(f"{title}: {len(found) or 'none'}{more}.")
    for message in found:
        click.echo(f"  {_progress(message)}")


def _progress(message: Status) -> str:
    line = f"message {message.id} to {message.audience}, created {at(message.created_at)}"
    if message.state == "scheduled":
        return f"{line}, scheduled for {at(message.starts_at)}"
    state = f"cancelled at {at(message.cancelled_at)}" if message.cancelled_at else message.state
    more = "" if message.fan_out_complete else " or more"
    parts = [f"{number} {outcome}" for outcome, number in message.outcomes.items()]
    parts += [f"{message.pending}{more} waiting"] if message.is_under_way else []
    counts = f"{', '.join(parts)} of {message.recipients}{more}" if parts else "no recipients"
    return f"{line}, {state}: {counts}"
