"""Imports go one way (architecture.md, rule 3), stated as data; an error names file and line."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


def names(text: str) -> set[str]:
    return set(text.split())


PACKAGE = Path(__file__).parent.parent / "tiercache"

# What each module may import of ours, at most. `remote` implements what `port` asks for, so it knows the port's
# types; `cache` and `process` wire everything together; `cli` is a program that uses the public names.
MAY_IMPORT = {
    "errors": "",
    "events": "",
    "keys": "",
    "result": "",
    "workers": "",
    "local": "",
    "policy": "errors",
    "loaded": "errors policy",
    "hot": "",
    "faults": "",
    "extensions": "errors faults",
    "codec": "errors extensions faults",
    "compression": "errors",
    "port": "events local policy result",
    "signing": "errors local",
    "values": "codec compression errors local policy signing",
    "settings": "compression errors policy signing values",
    "alone": "errors local policy port",
    "remote": "codec errors events local policy port",
    "reading": "errors local policy port",
    "patience": "errors events local policy port",
    "delegation": "errors local policy port",
    "leader": "delegation errors events loaded local patience policy port reading result",
    "ahead": "events leader local policy port",
    "flow": "errors events leader local patience policy port reading",
    "blocking": "errors local policy port remote workers",
    "aio_link": "errors local remote",
    "wire": "aio_link remote",
    "aio": "errors local policy port remote wire workers",
    "decorator": "delegation errors keys local policy port",
    "process": "ahead aio aio_link alone blocking errors events local policy port remote values wire workers",
    "cache": "aio blocking codec decorator delegation errors events flow hot keys loaded local policy port process "
    "remote result settings signing values wire",
    "worker": "blocking cache delegation errors leader local policy port remote",
    "testing": "cache local remote",
    "contrib": "blocking cache errors local policy port reading remote signing",
    "__init__": "cache codec errors hot loaded policy result",
    "cli": "__init__ compression errors keys local remote signing worker",
}
LAZILY = {"aio", "aio_link"}  # imported inside functions alone: a sync program never loads it
ONLY_IN = {
    "redis": "remote blocking aio aio_link cli",
    "asyncio": "aio aio_link cli contrib worker",
    "pytest": "testing",
}
PURE = ("flow", "leader", "loaded", "patience", "reading", "policy", "keys", "errors")
IMPURE = names(
    "time random secrets io os socket select ssl threading _thread queue signal multiprocessing concurrent asyncio "
    "sched subprocess"
)
CYTHON = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\s+(\w+)|c?import\s+([\w.]+))", re.MULTILINE)


def imports(source: str, cython: bool = False) -> Iterator[tuple[int, str, bool]]:
    """Line, dotted name and whether a function does it, of each import that is not for type checkers alone."""
    if cython:
        for match in CYTHON.finditer(source):
            name = match[3] or f"{match[1]}.{match[2]}"
            yield source.count("\n", 0, match.start(1 if match[1] else 3)) + 1, name, False
        return
    parts: list[tuple[ast.AST, bool]] = [(ast.parse(source), False)]
    for node, lazy in parts:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            parts += [(child, lazy) for child in node.orelse]
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{'.' * node.level}{node.module or ''}.{a.name}", lazy) for a in node.names)
        inside = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        parts += [(child, inside) for child in ast.iter_child_nodes(node)]


def offences(mine: str, source: str, cython: bool = False) -> Iterator[tuple[int, str]]:
    """Line and text of each import that module or subpackage `mine` may not do."""
    for line, name, lazy in imports(source, cython):
        root, _, rest = name.partition(".")
        target = rest.partition(".")[0] if rest.partition(".")[0] in MAY_IMPORT else "__init__"
        if root == "tiercache" and target != mine:
            if target not in names(MAY_IMPORT[mine]):
                yield line, f"{mine} may not import tiercache.{target}"
            elif target in LAZILY and not lazy:
                yield line, f"{mine} may import tiercache.{target} inside a function only"
        if root == "":
            yield line, f"{mine}: write {name} as an absolute import"
        if root in ONLY_IN and mine not in names(ONLY_IN[root]):
            yield line, f"{mine} may not import {root}: only {ONLY_IN[root]} may"
        if root in IMPURE and mine in PURE:
            yield line, f"{mine} may not import {root}: it is told the time, chance and everything else"


def home(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".pyx", ".pxd"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below(path: Path) -> None:
    """The way through the files is one way down."""
    found = offences(home(path), path.read_text(), cython=path.suffix != ".py")
    assert [f"{path.relative_to(PACKAGE.parent)}:{line}: {text}" for line, text in found] == []


def test_every_module_has_its_place() -> None:
    """A new module is entered above, with what it may import; a removed one is taken out. There is no cycle."""
    assert {home(path) for path in FILES} == set(MAY_IMPORT)
    placed: set[str] = set()
    while len(placed) < len(MAY_IMPORT):
        lowest = {mine for mine, below in MAY_IMPORT.items() if mine not in placed and names(below) <= placed}
        assert lowest, f"these import each other: {MAY_IMPORT.keys() - placed}"
        placed |= lowest


@pytest.mark.parametrize(
    ("mine", "source", "lines"),
    [
        ("flow", "import math\nimport time\n", [2]),
        ("flow", "def now():\n    from time import monotonic\n", [2]),
        ("flow", "from tiercache.policy import Policy\nfrom tiercache.blocking import run\n", [2]),
        ("leader", "try:\n    pass\nfinally:\n    import random as r, asyncio\n", [4, 4, 4]),
        ("blocking", "from tiercache.aio import AioPort", [1]),
        ("aio", "from tiercache import blocking", [1]),
        ("cache", "from tiercache.aio import aclose\ndef f():\n    from tiercache.aio import aclose\n", [1]),
        ("cache", "import redis.exceptions\nfrom redis import Redis\n", [1, 2]),
        ("process", "import asyncio.events", [1]),
        ("remote", "from tiercache.remote.links import Link\nfrom tiercache.flow import get\n", [2]),
        ("port", "from tiercache import Cache", [1]),
        ("codec", "from .errors import CodecError", [1]),
        ("decorator", "if TYPE_CHECKING:\n    from tiercache.cache import Cache\nelse:\n    import asyncio\n", [4]),
        ("cli", "import asyncio, redis\nfrom tiercache import Cache\nfrom tiercache.flow import get\n", [3]),
    ],
)
def test_an_offending_line_is_found(mine: str, source: str, lines: list[int]) -> None:
    """Wherever it stands and however it is written; what type checkers alone import is free."""
    assert sorted(line for line, _ in offences(mine, source)) == lines


def test_an_offending_line_of_a_compiled_module_is_found() -> None:
    """cimport is import."""
    source = "cimport cython\n\nfrom tiercache.local.lru cimport LRU\nfrom tiercache.policy import Policy\n"
    assert list(offences("local", source, cython=True)) == [(4, "local may not import tiercache.policy")]


def test_pytest_is_loaded_by_the_fixtures_alone() -> None:
    """`tiercache.testing` serves any test runner."""
    program = "import sys, tiercache.testing; assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, timeout=60, check=True)
    files = [path for path in FILES if path.suffix == ".py"]
    assert [path.name for path in files if "pytest" in {name for _, name, _ in imports(path.read_text())}] == [
        "fixtures.py"
    ]


def test_a_sync_program_never_loads_our_asyncio_side() -> None:
    """Importing the package and using it in sync code loads no aio, and nothing of the demo's extras."""
    program = (
        "import sys, tiercache\n"
        "with tiercache.Cache('redis://localhost:1') as cache: cache.cached('x:{x}')(lambda x: x)\n"
        "with tiercache.Cache() as cache: cache.get_or_load('k', lambda: 1); cache.invalidate('k'); cache.get('k')\n"
        "unwanted = {'tiercache.aio', 'tiercache.aio_link', 'tiercache.cli',  'tiercache.testing', 'rich'}\n"
        "assert not unwanted & sys.modules.keys(), unwanted & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
