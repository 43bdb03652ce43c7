"""A Flask site with Flask-Login, Flask-WTF and a database of its own; pushapp is the last two lines of `create_app`."""

import os

from flask import Flask
from flask_login import LoginManager, UserMixin, current_user
from flask_sqlalchemy import SQLAlchemy
from flask_wtf import CSRFProtect

import pushapp

db = SQLAlchemy()
login_manager = LoginManager()
csrf = CSRFProtect()


class User(UserMixin, db.Model):
    id = db.Column(db.Integer, primary_key=True)


@login_manager.user_loader
def load_user(user_id: str) -> User | None:
    return db.session.get(User, int(user_id))


def create_app() -> Flask:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
    app.config["SECRET_KEY"] = os.environ["SECRET_KEY"]
    db.init_app(app)
    login_manager.init_app(app)
    csrf.init_app(app)
    pushapp.init_app(app, user_id=lambda: current_user.get_id())  # noqa: PLW0108  # a proxy, per request
    csrf.exempt(app.blueprints["pushapp"])
    return app
