"""`flask push check`, `status` and `why`."""

import click
from flask.cli import with_appcontext

from . import checks


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
