"""Web Push subscriptions and notifications for Flask."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .application import create_app, init_app
    from .channels import Channel, channels_of, join, leave
    from .config import ConfigurationError
    from .sending.audience import EVERYONE, Device
    from .sending.outbox import cancel, send
    from .userdata import erase
    from .webpush.message import Message, MessageError, Urgency

__version__ = "0.2.0"
__all__ = ["EVERYONE", "Channel", "ConfigurationError", "Device", "Message", "MessageError", "Urgency"]
__all__ += ["cancel", "channels_of", "create_app", "erase", "init_app", "join", "leave", "send"]

_MODULES = {
    ".application": {"create_app", "init_app"},
    ".channels": {"Channel", "channels_of", "join", "leave"},
    ".config": {"ConfigurationError"},
    ".sending.audience": {"EVERYONE", "Device"},
    ".sending.outbox": {"cancel", "send"},
    ".userdata": {"erase"},
    ".webpush.message": {"Message", "MessageError", "Urgency"},
}


def __getattr__(name: str) -> Any:
    # Imported at first use: pytest imports this package for its plugin, in every test run.
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
