"""The list of compiled modules; everything else about the package is in pyproject.toml.

TIERCACHE_DEBUG=1 compiles with C assertions, bounds checks and line tracing of the reference counts.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

debug = os.environ.get("TIERCACHE_DEBUG") == "1"
flags = ["-O0", "-g", "-UNDEBUG"] if debug else ["-O2"]

extensions = [
    Extension(f"tiercache.local.{name}", [f"tiercache/local/{name}.pyx"], extra_compile_args=flags)
    for name in ("xfetch", "flight", "lru", "table", "face")
]

setup(
    ext_modules=cythonize(
        extensions,
        language_level=3,
        compiler_directives={"boundscheck": debug, "wraparound": False, "initializedcheck": debug},
    )
)
