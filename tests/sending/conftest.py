import pytest
from flask import Flask


@pytest.fixture
def app(sending_app: Flask) -> Flask:
    return sending_app
