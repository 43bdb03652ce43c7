"""Sending: from a call of `send` to recorded outcomes."""
