"""Files in the application's instance folder: generated secrets, and metrics of several processes."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from flask import Flask


def load_or_create_secret(app: Flask, name: str, create: Callable[[], str]) -> str:
    """Return the secret in the file `name`, created with mode 0600 if it does not exist.

    Processes that create it concurrently all return the same secret.
    """
    path = Path(app.instance_path, name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(create())
                file.flush()
                os.fsync(descriptor)
            os.link(temporary, path)
        except FileExistsError:
            pass  # lost the race: use the other process's secret
        finally:
            os.unlink(temporary)
    return path.read_text().strip()


def configure_multiprocess_metrics(app: Flask) -> None:
    """Set and create PROMETHEUS_MULTIPROC_DIR, which prometheus_client reads when it is imported."""
    folder = os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(Path(app.instance_path, "metrics")))
    Path(folder).mkdir(parents=True, exist_ok=True)
