"""The browsers and the sites of these tests.

All tests of a process share one browser of each kind, since its start takes seconds. Each test has a site
on a new port, so a new origin, and the browser is reset before it.
"""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.browser.demo_page import Demo, DemoPage
from tests.browser.firefox import PROGRAM, Firefox
from tests.browser.mozilla import PushService
from tests.browser.site import Site
from tests.conftest import migrate


@pytest.fixture(scope="session")
def shared_push_service() -> Iterator[PushService]:
    push_service = PushService()
    yield push_service
    push_service.close()


@pytest.fixture(scope="session")
def shared_firefox(shared_push_service: PushService) -> Iterator[Firefox]:
    if PROGRAM is None:
        pytest.skip("Firefox is not installed")
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        closing(Firefox(Path(profile), shared_push_service.websocket)) as firefox,
    ):
        yield firefox


@pytest.fixture
def firefox(shared_firefox: Firefox, shared_push_service: PushService) -> Firefox:
    shared_firefox.reset()
    shared_push_service.reset()
    return shared_firefox


@pytest.fixture
def push_service(firefox: Firefox, shared_push_service: PushService) -> PushService:
    """The push service of Firefox."""
    return shared_push_service


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    migrate(f"sqlite:///{folder}/pushapp.db", folder)
    return folder / "pushapp.db"


@pytest.fixture
def database_url(migrated_database: Path, tmp_path: Path) -> str:
    """An empty database of one test."""
    shutil.copy(migrated_database, tmp_path / "site.db")
    return f"sqlite:///{tmp_path}/site.db"


@pytest.fixture
def site(database_url: str, tmp_path: Path, shared_push_service: PushService) -> Iterator[Site]:
    site = Site(
        tmp_path,
        SQLALCHEMY_DATABASE_URI=database_url,
        PUSH_TRUSTED_PUSH_SERVICES=[shared_push_service.origin],
    )
    yield site
    site.stop()


@pytest.fixture
def demo(database_url: str, tmp_path: Path, shared_push_service: PushService) -> Iterator[Demo]:
    demo = Demo(
        tmp_path,
        SQLALCHEMY_DATABASE_URI=database_url,
        PUSH_TRUSTED_PUSH_SERVICES=[shared_push_service.origin],
    )
    yield demo
    demo.stop()


@pytest.fixture
def page(firefox: Firefox, demo: Demo) -> DemoPage:
    """The demo's page, with alice signed in."""
    page = DemoPage(firefox, demo)
    page.sign_in("alice")
    return page


@pytest.fixture
def subscribed_page(page: DemoPage) -> DemoPage:
    """The demo's page, with alice signed in and subscribed."""
    page.switch(on=True)
    return page
