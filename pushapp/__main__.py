"""`python -m pushapp …`: the commands that need no application."""

import click

from .cli import vapid_keys


@click.group()
def main() -> None:
    """Web Push for Flask. The other commands are `flask push …`, in an application."""


main.add_command(vapid_keys)

if __name__ == "__main__":
    main(prog_name="python -m pushapp")
