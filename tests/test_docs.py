"""The documentation: its code runs, its links lead somewhere, its reference is complete."""

import ast
import dataclasses
import importlib.util
import inspect
import re
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import RedisServer

import tiercache
from tiercache import Cache, Policy, TierCacheError, testing
from tiercache.cache import COUNTERS
from tiercache.remote.commands import Names

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
RUN = [
    ROOT / "README.md",
    *(DOCS / f"{name}.md" for name in ("index", "tutorial", "recipes", "migrating", "popular", "operations")),
]
NOT_SHOWN = {"__init__.py", "asgi.py", "wsgi.py"}  # as Django writes them
URL = "redis://localhost:6379/0"
TEST_COMMAND = 'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/python -m pytest'
DEMO_COMMAND = 'python3 -m venv .venv && .venv/bin/pip install ".[demo]" && .venv/bin/tiercache demo'

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$", re.M | re.S)
_SHOWN = re.compile(r"^(?P<indent> *)(?P<expression>\S.*?)  # -> (?P<value>.+)$", re.M)
_HEADING = re.compile(r"^#+ (.+)$", re.M)
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")

by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
by_code = pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)


@dataclasses.dataclass
class Block:
    """A fenced block: its code at the line where it stands, and why it is not run, if it is not."""

    code: str
    not_run: str | None


def blocks(page: Path, language: str) -> Iterator[Block]:
    """The fenced blocks of a page in one language."""
    text = page.read_text(encoding="utf-8")
    for fence in _FENCE.finditer(text):
        if fence["language"] == language:
            line = text.count("\n", 0, fence.start("code"))
            reason = re.search(r"<!-- not run: (.+) -->\n$", text[: fence.start()])
            yield Block("\n" * line + textwrap.dedent(fence["code"]), reason and reason[1])


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """What `#...` may name on a page."""
    headings = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in _HEADING.findall(prose(page)))
    return {re.sub(r"[-\s]+", "-", heading) for heading in headings}


@by_code
def test_the_code_of_a_page_runs_and_gives_what_it_says(
    page: Path, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python blocks of a page run from top to bottom in one namespace; `# -> value` shows an expression's value."""

    def shows(value: object, wanted: str) -> None:
        assert repr(value) == wanted

    module = types.ModuleType(page.stem.lower())
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    module.__dict__["_shows"] = shows
    before = {id(cache) for cache in _caches(module)}
    try:
        for block in blocks(page, "python"):
            if block.not_run is None:
                code = _SHOWN.sub(lambda m: f"{m['indent']}_shows({m['expression']}, {m['value']!r})", block.code)
                exec(compile(code.replace(URL, redis_server.url), str(page), "exec"), module.__dict__)
    finally:
        for cache in _caches(module):
            if id(cache) not in before:
                cache.close()


def _caches(module: types.ModuleType) -> list[Cache]:
    return [value for value in vars(module).values() if isinstance(value, Cache)]


@by_name
def test_every_python_block_is_valid_python(page: Path) -> None:
    """Also what is not run, and the signatures of the reference, are Python."""
    for block in blocks(page, "python"):
        ast.parse(block.code, str(page))


@pytest.mark.parametrize(
    "page", [DOCS / "tutorial.md", DOCS / "recipes.md", DOCS / "migrating.md"], ids=lambda page: page.name
)
def test_most_of_a_page_runs(page: Path) -> None:
    """Only blocks that need a framework are left out, each with its reason."""
    left_out = [block.not_run for block in blocks(page, "python") if block.not_run is not None]
    assert all(reason.startswith("needs ") for reason in left_out)
    assert len(left_out) <= 3
    assert len(list(blocks(page, "python"))) >= 10


APPS = ROOT / "tests" / "apps"
SHOWN = [
    *(APPS / name for name in ("celery_shop.py", "fastapi_shop.py", "flask_shop.py", "notebook.py", "report.py")),
    *(path for path in sorted((APPS / "django_shop" / "shop").rglob("*.py")) if path.name not in NOT_SHOWN),
]


@pytest.mark.parametrize("file", SHOWN, ids=lambda path: path.name)
def test_an_application_is_shown_as_the_tests_run_it(file: Path) -> None:
    """Some page has the whole file, under its name."""
    name, code = file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")
    block = f"<!-- file: {name} -->\n```python\n{code}```\n"
    assert [page.name for page in PAGES if block in page.read_text(encoding="utf-8")], f"no page shows {name} as it is"


@by_name
def test_links_lead_to_files_and_headings(page: Path) -> None:
    """Every link within the repository names a file that is there and a heading in it."""
    for link in _LINK.findall(prose(page)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@by_name
def test_only_the_right_distribution_is_ever_installed(page: Path) -> None:
    """Every line that runs pip names this checkout or tiercache-client: the name tiercache alone is not ours."""
    text = page.read_text(encoding="utf-8")
    for line in text.splitlines():
        for what in re.findall(r"pip\w* install ((?:-\w+ )*\S+)", line):
            wanted = what.split(" ")[-1].strip("\"'`")
            assert re.match(r"(\.(\[|$)|tiercache-client\b)", wanted), line


@by_name
def test_no_page_names_a_machine(page: Path) -> None:
    """No path of the machine on which it was written, and no package index."""
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(^|[\s`\"'(])/(work|tmp|home|root|Users)/|pypi\.org|pythonhosted", text, re.M)


def test_the_readme_is_short() -> None:
    """At most 150 lines."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_readme_has_the_two_commands() -> None:
    """Each is one line in a block of its own, and a comment marks the one that CI takes from there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"<!-- test command -->\n```sh\n{TEST_COMMAND}\n```\n" in text
    assert f"\n```sh\n{DEMO_COMMAND}\n```\n" in text
    assert "bash tests/all_pythons.sh" in text


def test_the_readme_has_a_place_for_the_herd() -> None:
    """The table's columns are those of `tiercache demo`, one row for each arm."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("<!-- herd table -->\n")[2].partition("<!-- /herd table -->")[0].splitlines()
    columns = [cell.strip() for cell in table[0].strip("|").split("|")]
    assert columns == ["arm", "queries", "median ms", "p99 ms", "last ms", "Redis commands"]
    arms = [row.split("|")[1].strip() for row in table[2:]]
    assert arms == ["unprotected", "get/lock/sleep/retry", "tiercache, threads", "tiercache, asyncio"]


def reference() -> set[str]:
    """Every name that stands as code in api.md."""
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    return {name for code in re.findall(r"`([^`\n]+)`", text) for name in re.findall(r"\w+", code)}


@pytest.mark.parametrize(
    "names",
    [
        pytest.param([field.name for field in dataclasses.fields(Policy) if field.init], id="policy fields"),
        pytest.param([name for name in inspect.signature(Cache.__init__).parameters if name != "self"], id="settings"),
        pytest.param(
            [name for name in dir(Cache) if not name.startswith("_") and callable(getattr(Cache, name))], id="methods"
        ),
        pytest.param([name for name in inspect.signature(Cache.cached).parameters if name != "self"], id="decorator"),
        pytest.param(
            [name for name, value in vars(tiercache).items() if inspect.isclass(value) and name[0].isupper()],
            id="exported names",
        ),
        pytest.param(COUNTERS, id="counters"),
        pytest.param(testing.__all__, id="testing"),
    ],
)
def test_the_reference_is_complete(names: list[str]) -> None:
    """api.md names every field, setting, method, exported class and counter."""
    assert set(names) - reference() == set()


def test_the_reference_gives_the_defaults() -> None:
    """The tables of api.md show the defaults that the code has."""
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    rows = {row[0]: row[1] for row in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.M)}
    for field in dataclasses.fields(Policy):
        if field.init and field.name not in ("stale_if_error", "negative_ttl"):
            assert _same(rows[field.name], getattr(Policy(), field.name)), field.name
    for name, parameter in inspect.signature(Cache.__init__).parameters.items():
        if name not in ("self", "policy", "codec", "max_value_bytes"):
            assert _same(rows[name], parameter.default), name


def _same(shown: str, default: object) -> bool:
    text = shown.strip("` ")
    return bool(ast.literal_eval(text.replace(",", "") if text[0].isdigit() else text) == default)


def test_the_errors_are_explained() -> None:
    """Each error has a row with what else it is."""
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    for name, error in vars(tiercache).items():
        if inspect.isclass(error) and issubclass(error, TierCacheError):
            others = [base.__name__ for base in error.__bases__ if not issubclass(base, TierCacheError)]
            assert f"| `{name}` | {''.join(f'`{other}` ' for other in others)}|" in text


def test_the_counters_are_explained() -> None:
    """Each counter has a row, and there is no row for one that does not exist."""
    section = (DOCS / "api.md").read_text(encoding="utf-8").partition("\n## Stats\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.M) == list(COUNTERS)


def logged() -> Iterator[tuple[str, str]]:
    """Each warning or error that the package logs: where, and its text with `...` for what is filled in."""
    for path in sorted((ROOT / "tiercache").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match call:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr="warning" | "error" | "exception" | "critical"),
                    args=[ast.Constant(value=str(text)), *_],
                ):
                    yield f"{path.name}:{call.lineno}", re.sub(r"%[rsd]", "...", text)


def test_the_log_lines_are_explained() -> None:
    """operations.md says of each line what to do, and there is no line on it that nobody writes."""
    section = (DOCS / "operations.md").read_text(encoding="utf-8").partition("\n## The log\n")[2].partition("\n## ")[0]
    explained = re.findall(r"^\| `(.+?)` \|", section, re.M)
    lines = dict(logged())
    assert len(lines) > 10
    assert set(explained) == set(lines.values())


def test_what_is_to_be_watched_is_counted() -> None:
    """operations.md has rows for all counters that can tell of something wrong, and for nothing else."""
    section = (DOCS / "operations.md").read_text(encoding="utf-8").partition("\n## What to watch\n")[2]
    firsts = re.findall(r"^\| (`.+?) \|", section.partition("\n## ")[0], re.M)
    named = {name for first in firsts for name in re.findall(r"`(\w+)`", first)}
    assert named == set(COUNTERS) - {"grants", "busy", "commits"}


POPULARITY = Names("ns").popularity


def test_the_names_of_the_protocol_are_those_of_the_code() -> None:
    """protocol.md shows each script, and each name as `Names` builds it."""
    text = (DOCS / "protocol.md").read_text(encoding="utf-8")
    for script in (ROOT / "tiercache" / "remote" / "scripts").glob("*.lua"):
        assert f"\n### {script.stem}\n" in text
    for name in (
        "tc1:{ns:KEY}:v",
        "tc1:{ns:KEY}:l",
        "tc1:{ns:KEY}:f",
        "tc1:{ns:KEY}:s:",
        "tc1:in:",
        "tc1:iv:ns",
        *POPULARITY,
    ):
        assert name in text


def test_the_changelog_keeps_a_changelog() -> None:
    """A section for the version of the package, with the usual kinds of entries."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(tiercache.__version__)}\] - (Unreleased|\d{{4}}-\d\d-\d\d)$", text, re.M)
    kinds = set(re.findall(r"^### (.+)$", text, re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="MkDocs is not installed (extra dev)")
def test_the_pages_build_strictly(tmp_path: Path) -> None:
    """MkDocs builds every page without a warning."""
    options = ["--strict", "-f", str(ROOT / ".mkdocs.yml"), "-d", str(tmp_path / "site")]
    command = [sys.executable, "-m", "mkdocs", "build", *options]
    built = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    for page in DOCS.glob("*.md"):
        assert (tmp_path / "site" / f"{page.stem}.html").is_file()
