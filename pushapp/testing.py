"""For the tests of applications that use pushapp."""

from alembic import command
from flask import Flask

from .schema import alembic_config


def create_tables(app: Flask) -> None:
    """Create pushapp's tables in the application's database, also in one in memory."""
    with app.app_context():
        command.upgrade(alembic_config(), "head")
