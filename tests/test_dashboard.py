"""The dashboard: who may see it, what it shows, and what it costs."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event

import pushapp
from pushapp import EVERYONE, Channel, Device, Message, create_app
from pushapp.database import engine
from pushapp.sending import statistics
from tests.conftest import SETTINGS, signed_in
from tests.support.http import post
from tests.support.push_server import PushServer, Response
from tests.support.sending import TOKEN, enqueue, execute, queued_only, scalar, send
from tests.support.subscriptions import subscription

PAGE = "/push/dashboard"
WITH_PASSWORD = ("any name", TOKEN)


@pytest.fixture
def app(sending_app: Flask) -> Flask:
    return sending_app


def get(app: Flask, path: str = PAGE, status: int = 200, **options: Any) -> str:
    response = app.test_client().get(path, auth=WITH_PASSWORD, **options)
    assert response.status_code == status
    return response.text


def text_of(page: str) -> str:
    """Return a page's text, with single spaces."""
    return " ".join(re.sub("<[^>]*>", " ", page[page.index("<main>") :]).split())


class TestAccess:
    def test_is_not_there_without_tokens(self, make_app: Callable[..., Flask]) -> None:
        app = make_app()
        for path in (PAGE, f"{PAGE}/messages/1", f"{PAGE}/dashboard.css"):
            assert get(app, path, status=404).startswith('{"code": 404')

    @pytest.mark.parametrize("auth", [None, ("x", ""), ("x", TOKEN + "x"), (TOKEN, "x"), ("x", "é")])
    def test_asks_for_a_token_as_password(self, app: Flask, auth: tuple[str, str] | None) -> None:
        for path in (PAGE, f"{PAGE}/messages/1", f"{PAGE}/dashboard.js"):
            response = app.test_client().get(path, auth=auth)
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"].startswith("Basic realm=")
            assert response.get_json()["code"] == 401

    def test_takes_each_token_with_any_name_and_no_bearer_token(self, app: Flask) -> None:
        for token in ("other", TOKEN):
            for name in ("", "operator"):
                assert app.test_client().get(PAGE, auth=(name, token)).status_code == 200
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert app.test_client().get(PAGE, headers=bearer).status_code == 401

    def test_a_session_does_not_help(self, app: Flask) -> None:
        assert signed_in(app, "alice").get(PAGE).status_code == 401

    def test_only_reads(self, app: Flask) -> None:
        assert app.test_client().post(PAGE, json={}, auth=WITH_PASSWORD).status_code == 405

    def test_other_origins_may_not_read_it(self, make_app: Callable[..., Flask]) -> None:
        app = make_app(PUSH_API_TOKENS=[TOKEN], PUSH_ALLOWED_ORIGINS=["https://shop.example.com"])
        headers = {"Origin": "https://shop.example.com"}
        response = app.test_client().get(PAGE, auth=WITH_PASSWORD, headers=headers)
        assert "Access-Control-Allow-Origin" not in response.headers

    def test_allows_nothing_but_its_own_files(self, app: Flask) -> None:
        response = app.test_client().get(PAGE, auth=WITH_PASSWORD)
        assert response.headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert response.headers["Cache-Control"] == "no-store"
        assert not re.search(r"\sstyle=|\son\w+=|<style|<script>|https?://", response.text)
        for name, kind in (
            ("dashboard.css", "text/css"),
            ("dashboard.js", "text/javascript"),
            ("icon.svg", "image/svg+xml"),
        ):
            with app.test_client().get(f"{PAGE}/{name}", auth=WITH_PASSWORD) as asset:
                assert (asset.status_code, asset.mimetype) == (200, kind)
        assert get(app, f"{PAGE}/overview.html", status=404)

    def test_works_below_any_prefix_and_script_name(self, tmp_path: Path) -> None:
        host = Flask("host", instance_path=str(tmp_path))
        url = f"sqlite:///{tmp_path}/host.db"
        host.config.update(SETTINGS, SQLALCHEMY_DATABASE_URI=url, PUSH_API_TOKENS=[TOKEN])
        # A host's own template and context stay out.
        host.context_processor(lambda: {"title": 1 / 0})
        pushapp.init_app(host, url_prefix="/notify")
        assert host.test_cli_runner().invoke(args=["push", "db", "upgrade"]).exit_code == 0
        message = enqueue(host, EVERYONE)
        page = get(host, "/notify/dashboard", environ_overrides={"SCRIPT_NAME": "/shop"})
        addresses = re.findall(r'(?:href|src)="([^"]*)"', page)
        assert f"/shop/notify/dashboard/messages/{message}" in addresses
        assert all(address.startswith("/shop/notify/dashboard") for address in addresses)
        with host.app_context():
            engine().dispose()


class TestPages:
    def test_an_empty_database(self, app: Flask) -> None:
        text = text_of(get(app))
        assert "Recipients due 0" in text
        assert "Not counted yet: a worker counts them every hour" in text
        assert "None yet." in text
        assert "Nothing was sent yet." in text

    def test_outcomes_of_a_message(self, app: Flask, push_server: PushServer) -> None:
        responses: list[Response | None] = [None, None, (410, {}, b""), (400, {}, b"")]
        for response in responses:
            post(signed_in(app, "alice"), push_server.subscription(response))
        status = send(app, "alice", Message(title="A secret"))
        page = get(app)
        assert "Done: 2 sent, 1 gone, 1 failed" in text_of(page)
        assert '<rect class="gone" x="50.0" width="25.0" height="10"/>' in page
        assert f'aria-label="Message {status.id}: 2 sent, 1 gone, 1 failed"' in page
        assert "alice" not in page
        assert "A secret" not in page
        page = get(app, f"{PAGE}/messages/{status.id}")
        assert "State done Recipients 4 Done 100 %" in text_of(page)
        assert "127.0.0.1 4 127.0.0.1: 2 sent, 1 gone, 1 failed" in text_of(page)

    def test_a_broadcasts_title_is_text(self, app: Flask) -> None:
        message = enqueue(app, EVERYONE, Message(title="<script>alert(1)</script> & more"))
        for path in (PAGE, f"{PAGE}/messages/{message}"):
            assert "To everyone: &lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in get(app, path)

    def test_titles_are_those_of_messages_to_channels_and_everyone(self, app: Flask) -> None:
        for to, name in (
            (["alice", "bob"], "To 2 users"),
            (Device(7), "To one device"),
            (Channel("news"), "To channel news: A title"),
            (EVERYONE, "To everyone (excluding one user): A title"),
        ):
            exclude = ["carol"] if to is EVERYONE else []
            message = enqueue(app, to, Message(title="A title"), exclude=exclude)
            for path in (PAGE, f"{PAGE}/messages/{message}"):
                text = text_of(get(app, path))
                assert f"{name} " in text
                assert not any(user in text for user in ("alice", "bob", "carol"))

    def test_a_scheduled_message_and_a_cancelled_one(
        self, app: Flask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pushapp.dashboard.NEWEST_MESSAGES", 1)
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        message, _ = (enqueue(app, "alice", at=tomorrow) for _ in range(2))
        text = f"{tomorrow:%Y-%m-%d %H:%M:%S} UTC"
        assert text_of(get(app)).count(f"Scheduled for {text}") == 2
        page = text_of(get(app, f"{PAGE}/messages/{message}"))
        assert "State scheduled" in page
        assert f"scheduled for {text} ; its TTL is over {tomorrow + timedelta(days=1):%Y-%m-%d}" in page
        with app.app_context():
            pushapp.cancel(message)
        page = text_of(get(app, f"{PAGE}/messages/{message}"))
        assert "State cancelled" in page
        assert f"; cancelled {datetime.now(UTC):%Y-%m-%d}" in page
        assert "scheduled for" not in page

    @queued_only
    def test_a_message_under_way_stays_among_the_newest(
        self, app: Flask, push_server: PushServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pushapp.dashboard.NEWEST_MESSAGES", 1)
        post(signed_in(app, "alice"), push_server.subscription())
        waiting, done = enqueue(app, EVERYONE), enqueue(app, "bob")
        page = get(app)
        assert page.index(f"messages/{done}") < page.index(f"messages/{waiting}")
        assert "No worker is alive" in page
        assert "Queued: 1 waiting" in text_of(page)

    @pytest.mark.parametrize("message", [999_999, 2**63 - 1, 2**63, 10**30])
    def test_a_message_that_does_not_exist(self, app: Flask, message: int) -> None:
        assert get(app, f"{PAGE}/messages/{message}", status=404).startswith('{"code": 404')

    def test_an_unavailable_database(self, tmp_path: Path) -> None:
        settings = {"SQLALCHEMY_DATABASE_URI": "postgresql://user@127.0.0.1:1/x", "PUSH_API_TOKENS": [TOKEN]}
        app = create_app(SETTINGS | settings, instance_path=str(tmp_path))
        response = app.test_client().get(PAGE, auth=WITH_PASSWORD)
        assert (response.status_code, response.mimetype) == (503, "text/html")
        assert "Retry-After" in response.headers
        assert "The database is unavailable" in response.text


class TestSubscriptions:
    def count(self, app: Flask) -> None:
        with app.app_context():
            statistics.record_daily_counts()

    def store(self, app: Flask, day: date, service: str, number: int) -> None:
        row = f"('{day.isoformat()}', '{service}', {number})"
        execute(app, f"INSERT INTO push_daily_counts (day, push_service, subscriptions) VALUES {row}")

    def test_are_counted_once_a_day_and_push_service(self, app: Flask, push_server: PushServer) -> None:
        post(signed_in(app, "alice"), push_server.subscription())
        for _ in range(2):
            post(signed_in(app, "alice"), subscription())
        self.count(app)
        post(signed_in(app, "alice"), subscription())
        execute(app, "DELETE FROM push_subscriptions WHERE endpoint LIKE 'http:%'")
        self.count(app)
        with app.app_context(), engine().connect() as connection:
            rows = connection.exec_driver_sql(
                "SELECT push_service, subscriptions FROM push_daily_counts ORDER BY 1"
            )
            assert rows.all() == [("127.0.0.1", 0), ("push.services.mozilla.com", 3)]
        assert "push.services.mozilla.com (Firefox): 3" in get(app)

    def test_are_deleted_after_a_year(self, app: Flask) -> None:
        today = datetime.now(UTC).date()
        for ago in (399, 401):
            self.store(app, today - timedelta(days=ago), "other", 1)
        self.count(app)
        assert scalar(app, "SELECT count(*) FROM push_daily_counts") == 1

    def test_are_drawn_by_day(self, app: Flask) -> None:
        today = datetime.now(UTC).date()
        for ago, number in ((0, 100), (1, 50), (31, 10_000)):
            self.store(app, today - timedelta(days=ago), "other", number)
            self.store(app, today - timedelta(days=ago), "fcm.googleapis.com", number)
        page = get(app)
        columns = re.findall(r'<rect class="(\S+)" x="(\S+)" y="(\S+)" width="0.8" height="(\S+)"/>', page)
        assert columns == [
            ("series-0", "28.1", "75.0", "25.0"), ("series-4", "28.1", "50.0", "25.0"),
            ("series-0", "29.1", "50.0", "50.0"), ("series-4", "29.1", "0.0", "50.0"),
        ]  # fmt: skip
        assert f"{today.isoformat()} 100 100" in text_of(page)

    def test_prune_counts_too(self, app: Flask) -> None:
        post(signed_in(app, "alice"), subscription())
        assert app.test_cli_runner().invoke(args=["push", "prune"]).exit_code == 0
        assert scalar(app, "SELECT subscriptions FROM push_daily_counts") == 1


@pytest.fixture
def statements(app: Flask) -> Iterator[list[str]]:
    """The statements that were executed."""
    found: list[str] = []

    def record(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        found.append(statement)

    with app.app_context():
        event.listen(engine(), "before_cursor_execute", record)
        yield found
        event.remove(engine(), "before_cursor_execute", record)


def test_costs_few_statements_and_never_counts_subscriptions(app: Flask, statements: list[str]) -> None:
    enqueue(app, EVERYONE)
    statements.clear()
    get(app)
    few = len(statements)
    assert few <= 13
    for _ in range(5):
        enqueue(app, EVERYONE)
    statements.clear()
    get(app)
    assert len(statements) == few
    assert not any("push_subscriptions" in statement for statement in statements)
