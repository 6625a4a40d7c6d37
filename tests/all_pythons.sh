#!/usr/bin/env bash
# Runs the suite on each of CPython 3.11, 3.12 and 3.13 that is at hand: on PATH, or among pyenv's versions.
# Usage: bash tests/all_pythons.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
failed=()
for version in 3.11 3.12 3.13; do
    python=""
    for candidate in "$(command -v "python$version" || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version"*/bin/python; do
        if [ -n "$candidate" ] && "$candidate" -c "import sys; assert sys.version_info[:2] == tuple(map(int, '$version'.split('.')))" 2>/dev/null; then
            python=$candidate
        fi
    done
    if [ -z "$python" ]; then
        echo "== CPython $version is not at hand"
        continue
    fi
    echo "== CPython $version"
    "$python" -m venv ".venv-$version"
    ".venv-$version/bin/pip" install -q -e ".[test]"
    ".venv-$version/bin/python" -m pytest "$@" || failed+=("$version")
done
[ ${#failed[@]} -eq 0 ] || { echo "failed on: ${failed[*]}"; exit 1; }
