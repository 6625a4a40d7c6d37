"""A shop on Flask: one cache made at import, loaders that need the application's context and a session."""

import os
import threading
from typing import Any

from flask import Flask, abort, current_app, request
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker

from tiercache import Cache

app = Flask(__name__)
app.config["CURRENCY"] = "EUR"
app.logger.setLevel("INFO")
engine = create_engine(os.environ["SHOP_DATABASE"], connect_args={"timeout": 60})
session = scoped_session(sessionmaker(engine))  # one for each thread
cache = Cache(
    os.environ["SHOP_CACHE_URL"],
    namespace="shop",
    around_load=app.app_context,  # also around the refreshes that run behind a response
    connect_timeout=2,  # patient with a busy machine; the defaults are 0.25, 0.1 and 0.5 seconds
    call_timeout=2,
    call_budget=5,
)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    cents: Mapped[int]


@app.teardown_appcontext
def end_session(error: BaseException | None) -> None:
    session.remove()


@cache.cached("item:{item_id}", ttl=300)
def load_item(item_id: int) -> dict[str, Any] | None:
    app.logger.info("loading item %d", item_id)
    item = session.get(Item, item_id)
    return item and {"name": item.name, "price": f"{item.cents / 100:.2f} {current_app.config['CURRENCY']}"}


@cache.cached("offer", ttl=1, stale_while_revalidate=60)
def load_offer() -> dict[str, Any] | None:
    app.logger.info("loading offer on %s", threading.current_thread().name)
    item = session.query(Item).order_by(Item.cents).first()
    return item and {"name": item.name, "price": f"{item.cents / 100:.2f} {current_app.config['CURRENCY']}"}


@app.get("/items/<int:item_id>")
def read_item(item_id: int) -> dict[str, Any]:
    return load_item(item_id) or abort(404)


@app.put("/items/<int:item_id>")
def write_item(item_id: int) -> dict[str, Any]:
    session.merge(Item(id=item_id, **request.get_json()))
    session.commit()
    load_item.invalidate(item_id)  # after the commit: a load that began before it can't store what it saw
    return {}


@app.get("/offer")
def read_offer() -> dict[str, Any]:
    return load_offer() or abort(404)


@app.get("/health")
def health() -> dict[str, Any]:
    cache.ping()
    return {"pid": os.getpid(), "database_connections": engine.pool.checkedout(), **cache.stats()}
