"""`flask push send`, `cancel` and `messages`."""

import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click
from flask.cli import with_appcontext

from .channels import Channel
from .sending import outbox
from .sending.audience import EVERYONE, Device, To
from .sending.recipients import PART_SIZE
from .sending.status import OUTCOMES, MessageNotFoundError, Status, status, statuses
from .web.fields import parse_time
from .webpush.message import DEFAULT_TTL, Message, MessageError, Urgency
from .webpush.message_checks import DIRECTIONS


def _parsed(parse: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return an option's callback that parses its text, and reports a ValueError."""

    def callback(_context: click.Context, _option: click.Parameter, value: Any) -> Any:
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


def _parse_data(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError("must be JSON") from None


def _parse_vibrate(text: str) -> list[int]:
    try:
        return [int(duration) for duration in text.split(",")]
    except ValueError:
        raise ValueError("must be milliseconds, such as 200,100,200") from None


@click.command("send")
@click.argument("users", nargs=-1, metavar="[USER]...")
@click.option("--channel", metavar="NAME", callback=_parsed(Channel), help="Send to a channel's members.")
@click.option("--device", type=int, callback=_parsed(Device), help="Send to one subscription.")
@click.option("--everyone", is_flag=True, help="Send to all users.")
@click.option("--exclude", multiple=True, metavar="USER", help="Leave a user out; may be repeated.")
@click.option("--at", metavar="TIME", callback=_parsed(parse_time), help="When: 2030-01-31T09:00:00+01:00.")
@click.option("--title", required=True, help="The notification's title.")
@click.option("--body", help="The notification's text.")
@click.option("--navigate", help="The target of a click: a path, or an http or https URL.")
@click.option("--icon", help="The icon: a path or URL.")
@click.option("--image", help="A large image: a path or URL.")
@click.option("--badge", help="The small monochrome icon of Android's status bar: a path or URL.")
@click.option("--tag", help="Replaces a notification with the same tag.")
@click.option(
    "--action",
    "actions",
    nargs=3,
    multiple=True,
    metavar="NAME TITLE URL",
    help="A button and its target; may be repeated.",
)
@click.option("--data", metavar="JSON", callback=_parsed(_parse_data), help="For a service worker of yours.")
@click.option("--lang", help="The language of the texts, such as de.")
@click.option("--dir", type=click.Choice(DIRECTIONS), help="The direction of the texts.")
@click.option("--silent", is_flag=True, default=None, help="No sound, no vibration.")
@click.option("--renotify", is_flag=True, default=None, help="Alert again when a tag is replaced.")
@click.option("--require-interaction", is_flag=True, default=None, help="Stay until the user reacts.")
@click.option("--timestamp", type=int, help="The time of the event, in milliseconds since 1970.")
@click.option("--vibrate", metavar="MS,…", callback=_parsed(_parse_vibrate), help="Such as 200,100,200.")
@click.option("--app-badge", type=int, help="The number on the application's icon; 0 removes it.")
@click.option("--ttl", type=int, default=DEFAULT_TTL, show_default=True, help="Time to live, in seconds.")
@click.option(
    "--urgency",
    type=click.Choice([urgency.value for urgency in Urgency]),
    default=Urgency.NORMAL.value,
    show_default=True,
)
@click.option("--topic", help="Replaces an undelivered message with the same topic.")
@with_appcontext
def send(
    *,
    users: tuple[str, ...],
    channel: Channel | None,
    device: Device | None,
    everyone: bool,
    exclude: tuple[str, ...],
    at: datetime | None,
    actions: tuple[tuple[str, str, str], ...],
    **fields: Any,
) -> None:
    """Send a message to USERs, or to a channel, a device or everyone.

    On PostgreSQL it is queued for the workers; on SQLite it is sent synchronously.
    """
    named: To = users[0] if len(users) == 1 else users
    audiences: list[To] = [to for to in (named, channel, device, EVERYONE if everyone else None) if to]
    if len(audiences) != 1:
        raise click.UsageError("Pass USERs, or one of --channel, --device and --everyone.")
    if actions:
        fields["actions"] = [
            dict(zip(("action", "title", "navigate"), each, strict=True)) for each in actions
        ]
    with click.progressbar(length=1, label="Sending", file=sys.stderr) as bar:

        def update(done: int, total: int) -> None:
            bar.length = total
            bar.update(done)

        try:
            message = Message(**fields)
            message_id = outbox.send(message, to=audiences[0], exclude=exclude, at=at, on_progress=update)
        except MessageError as error:
            raise click.UsageError(str(error)) from None
    click.echo(describe(status(message_id)))


@click.command("cancel")
@click.argument("message_id", type=int, metavar="ID")
@with_appcontext
def cancel(message_id: int) -> None:
    """Cancel the message with this ID: what has not begun is not sent."""
    try:
        cancelled = outbox.cancel(message_id)
    except MessageNotFoundError:
        raise click.ClickException(f"there is no message {message_id}") from None
    if cancelled.state != "cancelled":
        raise click.ClickException(f"message {message_id} is done: too late to cancel it")
    click.echo(describe(cancelled))


@click.command("messages")
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, show_default=True, help="How many.")
@with_appcontext
def messages(limit: int) -> None:
    """List the newest messages: to whom, state, counts of recipients by outcome, and how far they are."""
    found = statuses(limit=limit)
    table: list[tuple[str, ...]] = [("id", "to", "state", "created", "recipients", *OUTCOMES, "progress")]
    for each in found:
        counts = [str(getattr(each, name) or "-") for name in OUTCOMES]
        created = f"{each.created_at:%Y-%m-%d %H:%M}"
        share = f"{1 - each.pending / each.recipients:.0%}" if each.recipients else "-"
        row = (
            str(each.id),
            str(each.audience),
            each.state,
            created,
            str(each.recipients),
            *counts,
            share,
        )
        table.append(row)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def describe(status: Status) -> str:
    """Return a message's state and counts in one line."""
    if status.state == "scheduled" and status.send_at:
        return f"Message {status.id}: scheduled for {status.send_at.isoformat()}."
    counts = [f"{status.sent} sent", f"{status.gone} gone", f"{status.failed} failed"]
    rare = {"expired": status.expired, "replaced": status.replaced, "cancelled": status.cancelled}
    counts += [f"{number} {name}" for name, number in rare.items() if number]
    state = "cancelled; " if status.state == "cancelled" else ""
    is_exact = status.fan_out_complete or status.recipients < PART_SIZE
    more = "" if is_exact else " or more"
    return f"Message {status.id}: {state}{', '.join(counts)}, {status.pending}{more} queued."
