"""The sdist and the wheel hold what they must and nothing stray: python tests/check_dists.py dist"""

import sys
import tarfile
import zipfile
from pathlib import Path

SCRIPTS = {
    f"tiercache/remote/scripts/{name}.lua"
    for name in (
        "acquire",
        "commit",
        "delegate",
        "hot",
        "hottest",
        "invalidate",
        "only_if",
        "release",
        "renew",
        "write",
    )
}
STUBS = {
    f"tiercache/local/{name}.pyi"
    for name in (
        *("alias", "combining", "face", "flight", "following", "lru", "outcome", "packing", "ready"),
        *("record", "run", "store", "table", "trip", "turnstile", "waiter", "warmth", "worth", "xfetch"),
    )
}


def main(folder: Path) -> None:
    [wheel] = folder.glob("*.whl")
    [sdist] = folder.glob("*.tar.gz")
    inside = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    missing = ({"tiercache/py.typed"} | SCRIPTS | STUBS) - inside
    missing |= (
        {
            "pyproject.toml",
            "setup.py",
            "README.md",
            "LICENSE",
            "tiercache/local/table.pyx",
            "tiercache/local/fastcall.h",
            "tiercache/local/ended.h",
        }
        | SCRIPTS
        | STUBS
    ) - sources
    stray = {
        name for name in inside if name.endswith((".c", ".pyx")) or name.startswith(("tests", "benchmarks", "docs"))
    }
    compiled = {name for name in inside if name.endswith((".so", ".pyd"))}
    binary_sources = {name for name in sources if name.endswith((".so", ".c", ".pyc"))}
    if missing or stray or binary_sources or len(compiled) < len(STUBS):
        sys.exit(f"missing: {missing}\nstray: {stray | binary_sources}\ncompiled: {compiled}")
    print(f"{wheel.name}: {len(inside)} files, {sdist.name}: {len(sources)} files")


main(Path(sys.argv[1]))
