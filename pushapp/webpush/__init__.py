"""The Web Push protocol (RFC 8030, RFC 8291, RFC 8292), independent of Flask and the database."""
