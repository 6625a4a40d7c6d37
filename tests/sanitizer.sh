#!/usr/bin/env bash
# Builds the compiled modules with AddressSanitizer and UndefinedBehaviorSanitizer in a temporary copy and runs the
# tests of what is compiled on them. Needs gcc with libasan and libubsan, and no root.
# Usage: bash tests/sanitizer.sh [pytest arguments]       PYTHON=... chooses an interpreter that has the test extra.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
case $python in /*) ;; */*) python=$PWD/$python ;; esac # it is called from elsewhere

library() { # the path of a library of gcc's, or nothing
    local path
    path=$(gcc -print-file-name="$1" 2>/dev/null) && [ -f "$path" ] && realpath "$path"
}
if ! asan=$(library libasan.so) || ! ubsan=$(library libubsan.so); then
    echo "SKIPPED: the sanitizer run needs gcc with libasan and libubsan"
    exit 0
fi

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r pyproject.toml setup.py tiercache tests "$copy"
cd "$copy"
find tiercache -name '*.so' -delete
sanitize="-fsanitize=address,undefined -fno-sanitize-recover=undefined"
CFLAGS="$sanitize -fno-omit-frame-pointer -g -O1" LDFLAGS="$sanitize" \
    "$python" setup.py -q build_ext --inplace >build.log 2>&1 || { cat build.log; exit 1; }

# Python's own allocator would hide what is freed too early. The interpreter frees nothing at exit: no leak check.
export PYTHONMALLOC=malloc PYTHONPATH=$PWD PYTHONDONTWRITEBYTECODE=1
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=1:strict_string_checks=1:abort_on_error=0
export UBSAN_OPTIONS=print_stacktrace=1
export LD_PRELOAD="$asan $ubsan"
"$python" - <<'PY'
import pathlib

import tiercache.local.table

where = pathlib.Path(tiercache.local.table.__file__)
assert where.is_relative_to(pathlib.Path.cwd()), f"the modules under test are not the sanitized ones: {where}"
PY
"$python" -m pytest -q -p no:cacheprovider -p no:benchmark \
    tests/test_table.py tests/test_lru.py tests/test_flight.py tests/test_xfetch.py tests/test_face.py \
    tests/test_awaitables.py tests/test_waiter.py tests/test_refcounts.py tests/test_stress.py tests/test_trip.py \
    tests/test_records.py tests/test_run.py tests/test_combining.py \
    tests/test_turnstile.py "$@"
