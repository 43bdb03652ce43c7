"""WSGI entry point."""

import sys

from pushapp import ConfigurationError, create_app

GUNICORN_APP_LOAD_ERROR = 4  # gunicorn exits instead of restarting its workers for ever

try:
    app = create_app()
except ConfigurationError as error:
    print(f"pushapp: {error.message}", file=sys.stderr)
    sys.exit(GUNICORN_APP_LOAD_ERROR)
