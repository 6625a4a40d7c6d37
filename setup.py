"""The list of compiled modules; everything else about the package is in pyproject.toml.

TIERCACHE_DEBUG=1 compiles for valgrind and gdb: no optimisation, C assertions, bounds and None checks.
"""

import os

import setuptools  # before Cython, whose build_ext is made of the distutils that this brings
from Cython.Distutils import build_ext  # turns .pyx into C when it builds: an sdist holds the sources alone

debug = os.environ.get("TIERCACHE_DEBUG") == "1"
flags = ["-O0", "-g", "-UNDEBUG"] if debug else ["-O2"]

names = (
    *("xfetch", "store", "lru", "warmth", "alias", "foreign", "flight", "table", "ready", "face"),  # tier 1
    *("record", "outcome", "worth", "packing", "trip", "combining", "run"),  # of tier 2, what every read needs
    *("turnstile", "waiter", "following"),  # of those who wait for a flight
)
extensions = [
    setuptools.Extension(
        f"tiercache.local.{name}",
        [f"tiercache/local/{name}.pyx"],
        include_dirs=["tiercache/local"],
        depends=["tiercache/local/fastcall.h", "tiercache/local/ended.h"],
        extra_compile_args=flags,
    )
    for name in names
]
for extension in extensions:
    extension.cython_c_in_temp = True
    extension.cython_directives = {
        "language_level": 3,
        "boundscheck": debug,
        "wraparound": False,
        "initializedcheck": debug,
        "nonecheck": debug,
    }

setuptools.setup(ext_modules=extensions, cmdclass={"build_ext": build_ext})
