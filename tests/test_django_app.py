"""A Django application over real HTTP, on gunicorn and uvicorn: queries, errors, transactions and connections."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("django", reason="Django is not installed (extra apps)")
pytest.importorskip("gunicorn", reason="gunicorn is not installed (extra apps)")
pytest.importorskip("httpx", reason="httpx is not installed (extra apps)")
pytest.importorskip("uvicorn", reason="uvicorn is not installed (extra apps)")

import httpx
from apps.django_served import HERD, Shop, a_shop
from apps.serving import until


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with a_shop(tmp_path) as shop:
        yield shop


SERVERS = [Shop.gunicorn, Shop.uvicorn]


@pytest.mark.parametrize("server", SERVERS)
def test_a_herd_of_requests_runs_each_query_once(shop: Shop, server: Any, record_property: Any) -> None:
    """Sync and async views, on a Cache and on Django's own, in two processes."""
    requests = 0
    with server(shop) as web:
        for path, key, name, body in (
            ("/item/1", "item:1", "item:1", {"id": 1, "name": "cup", "price": 5}),
            ("/aitem/2", "aitem:2", "aitem:2", {"id": 2, "name": "pot", "price": 20}),
            ("/prices", ":prices", "sync prices", {"cup": 5, "pot": 20}),
            ("/aprices", ":aprices", "async prices", {"cup": 5, "pot": 20}),
        ):
            answers = shop.herd(web, path, key)
            assert [(each.status_code, each.json()) for each in answers] == [(200, body)] * len(answers)
            assert shop.loads(name) == 1, path
            requests += len(answers)
    record_property(f"requests_of_{server.__name__}_herds", requests)


@pytest.mark.parametrize("server", SERVERS)
def test_what_does_not_exist_is_asked_for_once(shop: Shop, server: Any) -> None:
    """DoesNotExist and Http404 are answers: cached, and 404 in every process."""
    with server(shop) as web:
        for path, name in (("/item/404", "item:404"), ("/aitem/404", "aitem:404")):
            assert {each.status_code for each in shop.herd(web, path, name)} == {404}
            assert web.get(path).status_code == 404
            assert shop.loads(name) == 1


def all_of(web: Any, path: str) -> set[str]:
    """What many requests show, each on a connection of its own, which either process may take."""
    answers = [httpx.get(f"{web.base_url}{path}", timeout=60, trust_env=False) for _ in range(HERD)]
    assert {each.status_code for each in answers} == {200}
    return {each.text for each in answers}


def test_a_commit_invalidates_and_a_rollback_does_not(shop: Shop) -> None:
    """Readers have the old row until the commit, then nobody has it; what was rolled back, nobody sees."""

    def row(price: int) -> dict[str, object]:
        return {"id": 1, "name": "cup", "price": price}

    with shop.gunicorn() as web:
        assert web.get("/item/1").json() == row(5)
        assert web.get("/price/1/7").json() == row(7)
        until(lambda: [json.loads(each) for each in all_of(web, "/item/1")] == [row(7)], "the news")
        loads = shop.loads("item:1")
        assert web.get("/price/1/9?try").json() == row(9)
        assert [json.loads(each) for each in all_of(web, "/item/1")] == [row(7)]
        assert shop.loads("item:1") == loads + 1  # the one inside the transaction


def test_sessions_pages_and_fragments(shop: Shop) -> None:
    """They are kept on the backend and shared by the processes; a session that is not saved changes for nobody."""
    with shop.gunicorn() as web:
        for pk in range(1, 6):
            assert web.get(f"/basket/{pk}").json() == {"basket": list(range(1, pk + 1))}
        until(lambda: web.get("/basket/0?try").json()["basket"] == [1, 2, 3, 4, 5, 0])
        for _ in range(10):
            assert web.get("/basket/0?try").json() == {"basket": [1, 2, 3, 4, 5, 0]}
        page = web.get("/page")
        assert all_of(web, "/page") == {page.text}
        assert "max-age=60" in page.headers["cache-control"]
        assert shop.loads("page") == 1
        assert web.get("/fragment").text == "<b>shelf &amp; co</b>!"
        assert all_of(web, "/fragment") == {"<b>shelf &amp; co</b>!"}
        assert shop.loads("fragment") == 1
        web.get("/clear")
        until(lambda: web.get("/page") and shop.loads("page") > 1)
        assert web.get("/basket/9").json() == {"basket": [9]}


def test_refreshes_behind_their_callers_leave_no_connection(shop: Shop) -> None:
    """The process keeps the connection of its one request, however many refreshes have run."""
    with shop.gunicorn(workers=1) as web:
        until(lambda: web.get("/total").json() == {"total": 25} and shop.loads("total") >= 5, "refreshes")
        pid = web.get("/health").json()["pid"]

        def only_one() -> bool:
            web.get("/total")
            return "tiercache-refresh" in web.get("/health").json()["threads"] and shop.connections(pid) == 1

        until(only_one, "a thread that refreshes and has no connection open")


def test_async_views_leave_no_connection(shop: Shop) -> None:
    """Plain defaults of aget_or_set run in threads of ours, which close theirs."""
    with shop.uvicorn(workers=1) as web:
        assert web.get("/aprices").json() == {"cup": 5, "pot": 20}
        assert shop.loads("async prices") == 1
        assert shop.connections(web.get("/health").json()["pid"]) == 0
