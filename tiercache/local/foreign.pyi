from typing import Self, final

from cachetools import Cache

from tiercache.local.store import Entry, Store

@final
class Foreign(Store):
    def __new__(cls, cache: Cache[str, Entry]) -> Self: ...
