"""`flask push import`: the lines of another system's file."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy.exc import OperationalError

from pushapp import bulk_storage
from pushapp.imports import MAX_LINE_LENGTH
from pushapp.webpush.vapid import generate_key_pair
from tests.conftest import signed_in
from tests.support.deployment import ROOT
from tests.support.http import post, rows
from tests.support.sending import scalar
from tests.support.subscriptions import subscription


def line(user_id: Any = "alice", **members: Any) -> dict[str, Any]:
    return {"user_id": user_id, **subscription(**members)}


def without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def encode(*lines: Any) -> bytes:
    return b"".join(
        (each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in lines
    )


def import_(app: Flask, *lines: Any, options: Sequence[str] = ()) -> Result:
    """Run the command with lines on the standard input: values, or raw bytes."""
    return app.test_cli_runner().invoke(args=["push", "import", "-", *options], input=encode(*lines))


def stored(app: Flask) -> list[tuple[str, str, str]]:
    return [(row.user_id, row.endpoint, row.keys_auth) for row in rows(app)]


def as_stored(*lines: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(str(each["user_id"]), each["endpoint"], each["keys"]["auth"]) for each in lines]


def test_lines_become_subscriptions_that_browsers_find(app: Flask) -> None:
    lines = [line(), line("bob", expirationTime=1_900_000_000_000), line(7)]
    done = import_(app, *lines)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "3 subscriptions stored, 3 of them new or changed; 0 left out, 0 wrong lines.\n"
    assert stored(app) == as_stored(*lines)
    assert "2030-03-17" in signed_in(app, "bob").get("/push/subscriptions").text
    assert post(signed_in(app, "7"), without(lines[2], "user_id")).json["count"] == 1


def test_a_file_is_read_and_a_repeat_writes_nothing(app: Flask, tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    path.write_bytes(encode(line(), line(), line("bob")))
    command = ["push", "import", str(path)]
    app.test_cli_runner().invoke(args=command)
    before = rows(app)
    done = app.test_cli_runner().invoke(args=command)
    assert done.stdout == "3 subscriptions stored, 0 of them new or changed; 0 left out, 0 wrong lines.\n"
    assert rows(app) == before


WRONG = {
    "not valid JSON": b'{"user_id": "alice"',
    "not valid UTF-8": b'{"user_id": "\xff"}',
    f"longer than {MAX_LINE_LENGTH} bytes": b'"' + b"x" * 5 * MAX_LINE_LENGTH,
    "Invalid input type.": [line()],
    "user_id: Missing data for required field.": without(line(), "user_id"),
    "user_id: Must be 1 to 255 characters, and no control characters.": line("a\x00"),
    "user_id: Field may not be null.": line(None),
    "endpoint: Must be an https URL.": line(endpoint="http://push.services.mozilla.com/1"),
    "endpoint: Must have a public host.": line(endpoint="https://localhost/1"),
    "keys: Missing data for required field.": without(line(), "keys"),
    "keys.auth: Must be 16 bytes long.": line(keys=subscription()["keys"] | {"auth": "AAAA"}),
    "expirationTime: Not a valid integer.": line(expirationTime="tomorrow"),
}


def test_wrong_lines_are_reported_by_number_and_the_others_stored(app: Flask) -> None:
    first, last = line(), line("bob")
    done = import_(app, first, *WRONG.values(), b"", last)
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [f"line {number}: {reason}" for number, reason in enumerate(WRONG, 2)]
    assert done.stdout.endswith(f"0 left out, {len(WRONG)} wrong lines.\n")
    assert stored(app) == as_stored(first, last)


def test_nested_too_deep_is_not_valid_json(app: Flask) -> None:
    assert import_(app, b"[" * 15_000).stderr == "line 1: not valid JSON\n"


def test_blank_lines_byte_order_marks_and_windows_line_ends_are_no_errors(app: Flask) -> None:
    first, second = line(), line()
    content = b"\xef\xbb\xbf\r\n" + encode(first).replace(b"\n", b"\r\n") + b"  \n" + encode(second).rstrip()
    done = app.test_cli_runner().invoke(args=["push", "import", "-"], input=content)
    assert (done.exit_code, stored(app)) == (0, as_stored(first, second))
    assert import_(app).stdout.startswith("0 subscriptions stored")


def test_the_last_line_of_a_user_and_an_endpoint_counts(app: Flask) -> None:
    first = line()
    last = first | {"keys": subscription()["keys"], "expirationTime": 1_900_000_000_000}
    assert "2 subscriptions stored" in import_(app, first, last).stdout
    assert stored(app) == as_stored(last)
    assert scalar(app, "SELECT count(*) FROM push_subscriptions WHERE expires_at IS NOT NULL") == 1


def test_a_browser_stays_with_the_user_that_has_it(app: Flask) -> None:
    body = subscription()
    post(signed_in(app, "alice"), body)
    done = import_(app, {"user_id": "bob", **body}, line("bob"))
    assert done.exit_code == 0
    assert done.stderr.startswith("line 1: left out: its browser has another user")
    assert "1 subscriptions stored, 1 of them new or changed; 1 left out, 0 wrong" in done.stdout
    assert [user for user, *_ in stored(app)] == ["alice", "bob"]


def test_of_two_users_in_the_file_the_first_has_the_browser(app: Flask) -> None:
    body = subscription()
    lines = [{"user_id": user, **body} for user in ("alice", "bob")]
    for _ in range(2):
        assert import_(app, *lines).stderr.startswith("line 2: left out")
        assert stored(app) == as_stored(lines[0])


def test_other_keys_are_another_browser(app: Flask) -> None:
    first = line()
    second = first | {"user_id": "bob", "keys": subscription()["keys"]}
    assert import_(app, first, second).stderr == ""
    assert stored(app) == as_stored(first, second)


def test_several_users_keep_a_browser_where_that_is_allowed(make_app: Callable[..., Flask]) -> None:
    app = make_app(PUSH_BROWSER_HAS_ONE_USER=False)
    body = subscription()
    lines = [{"user_id": user, **body} for user in ("alice", "bob")]
    assert import_(app, *lines).stderr == ""
    assert stored(app) == as_stored(*lines)


def test_a_renewed_subscription_does_not_come_back(app: Flask) -> None:
    old, new = subscription(), subscription()
    post(signed_in(app, "alice"), old)
    renewal = {"endpoint": old["endpoint"], "auth": old["keys"]["auth"], "subscription": new}
    assert app.test_client().post("/push/renew", json=renewal).status_code == 200
    assert import_(app, {"user_id": "alice", **old}).stderr.startswith("line 1: left out")
    assert [endpoint for _, endpoint, _ in stored(app)] == [new["endpoint"]]


def test_the_limit_of_a_user_holds_and_takes_no_stored_subscription_away(
    make_app: Callable[..., Flask],
) -> None:
    app = make_app(PUSH_MAX_SUBSCRIPTIONS_PER_USER=3)
    body = subscription()
    post(signed_in(app, "alice"), body)
    lines = [line(), line("bob"), line(), line(), line("bob"), {"user_id": "alice", **body}]
    for _ in range(2):
        assert import_(app, *lines).stderr.startswith("line 4: left out")
        assert sorted(stored(app)[1:]) == sorted(as_stored(lines[0], lines[1], lines[4], lines[2]))


def test_a_label_that_the_user_has_given_stays(app: Flask) -> None:
    body = subscription()
    post(signed_in(app, "alice"), body | {"label": "My phone"})
    import_(app, {"user_id": "alice", **body, "keys": subscription()["keys"]})
    assert [row.label for row in rows(app)] == ["My phone"]


def test_new_rows_have_the_given_vapid_key_or_the_current_one(app: Flask) -> None:
    first, second = line(), line()
    current = app.test_client().get("/push/vapid-public-key").get_json()["publicKey"]
    other = generate_key_pair().public
    import_(app, first)
    for _ in range(2):
        import_(app, second, options=["--vapid-key", other])
        assert [row.vapid_key for row in rows(app)] == [current, other]
    import_(app, first, second)
    assert [row.vapid_key for row in rows(app)] == [current, other]
    assert (
        "1 of them new or changed"
        in import_(app, first, second, options=["--vapid-key", current + "="]).stdout
    )
    assert [row.vapid_key for row in rows(app)] == [current, current]


def test_a_malformed_vapid_key_is_a_usage_error(app: Flask) -> None:
    done = import_(app, line(), options=["--vapid-key", "AAAA"])
    assert (done.exit_code, "Must be 65 bytes long." in done.stderr) == (2, True)
    assert stored(app) == []


def test_chunks_together_store_what_one_would(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushapp.imports.CHUNK_SIZE", 2)
    body = subscription()
    lines = [line(), {"user_id": "bob", **body}, line(), line(), {"user_id": "carol", **body}]
    assert import_(app, *lines).stderr.startswith("line 5: left out")
    assert stored(app) == as_stored(*lines[:4])


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The database fails as often as the list has elements."""
    failures: list[int] = []
    store = bulk_storage.store

    def fail(*arguments: Any) -> Any:
        if failures:
            failures.pop()
            raise OperationalError("", {}, Exception())
        return store(*arguments)

    monkeypatch.setattr("pushapp.bulk_storage.store", fail)
    monkeypatch.setattr("pushapp.imports.RETRY_INTERVAL", 0)
    return failures


def test_a_short_outage_is_waited_out(app: Flask, outage: list[int]) -> None:
    outage.extend(range(3))
    first = line()
    assert import_(app, first).exit_code == 0
    assert stored(app) == as_stored(first)


def test_a_long_outage_says_where_it_stopped(
    app: Flask, outage: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushapp.imports.CHUNK_SIZE", 2)
    assert import_(app, line(), line()).exit_code == 0
    outage.extend(range(100))
    done = import_(app, line(), line(), line())
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("Error: database unavailable")
    assert "Stopped with 0 subscriptions stored: run it again." in done.stderr


def test_secrets_are_not_in_the_reports(app: Flask) -> None:
    wrong = line(endpoint="https://localhost/secret-path")
    done = import_(app, wrong)
    assert "secret-path" not in done.output
    assert wrong["keys"]["auth"] not in done.output


def test_a_missing_file_is_a_usage_error(app: Flask) -> None:
    done = app.test_cli_runner().invoke(args=["push", "import", "missing.jsonl"])
    assert (done.exit_code, "missing.jsonl" in done.stderr) == (2, True)


def test_a_terminal_shows_a_progress_bar_and_wrong_lines_above_it(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    path.write_bytes(encode(*(line(number) for number in range(30)), {"user_id": "alice"}, line("bob")))
    environment = {"PATH": os.environ["PATH"], "SECRET_KEY": "x" * 20, "TERM": "xterm"}
    environment["DATABASE_URL"] = f"sqlite:///{tmp_path}/site.db"
    flask = [sys.executable, "-m", "flask", "--app", str(ROOT / "wsgi.py")]
    subprocess.run([*flask, "db", "upgrade"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    terminal, of_process = pty.openpty()
    done = subprocess.run(
        [*flask, "push", "import", str(path)], cwd=tmp_path, env=environment, check=False,
        stdout=subprocess.PIPE, stderr=of_process, text=True,
    )  # fmt: skip
    shown = os.read(terminal, 100_000).decode()
    os.close(terminal)
    os.close(of_process)
    assert done.returncode == 1
    assert done.stdout.startswith("31 subscriptions stored, 31 of them new")
    assert "Importing" in shown
    assert "100%" in shown
    assert "\x1b[Kline 31: " in shown
