"""Group memory: bytes per entry beyond its key and value, and a full collection with all the entries in the cache."""

import sys
from typing import Any

import memory
import pytest
from peers import needed
from rows import Row

YARDSTICK = "functools.lru_cache"
CACHES = (
    (memory.lru_cache, YARDSTICK, "", "no ttl"),
    (memory.tiercache, "tiercache", "", ""),
    (memory.plain_dict, "dict", "", "no order, no bound"),
    (memory.cachebox_lru, "cachebox, `LRUCache`", "cachebox", "no ttl"),
    (memory.cachebox_ttl, "cachebox, `TTLCache`", "cachebox", "one ttl for all"),
    (memory.cachebox_vttl, "cachebox, `VTTLCache`", "cachebox", ""),
    (memory.lru_dict, "lru-dict", "lru", "no ttl"),
    (memory.cachetools_ttl, "cachetools, `TTLCache`", "cachetools", "one ttl for all"),
    (memory.theine, "theine", "theine", ""),
)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("fill", "name", "module", "note"), CACHES, ids=[each[1] for each in CACHES])
def test_memory(row: Row, fill: Any, name: str, module: str, note: str, quick: bool) -> None:
    if module:
        needed(module)
    entries = 100_000 if quick else 1_000_000
    size, pause = row.once(lambda: memory.measured(fill, entries))
    role = "ours" if name == "tiercache" else "peer" if module else "yardstick"
    row.note("memory", name, role, YARDSTICK, note, entries=entries, bytes=size, pause=pause)
