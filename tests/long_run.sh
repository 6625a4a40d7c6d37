#!/usr/bin/env bash
# The long forms of the simulator, models, chaos, fuzz, leak and mutant tests, or of the tests that are named; two to
# three hours on two cores. Then the sanitizer. The figures go into docs/reliability.md.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
report=$(mktemp)
trap 'rm -f "$report"' EXIT

[ $# -gt 0 ] || set -- tests/chaos tests/test_{simulator,mutants,fuzz,bombs,leaks,stress,refcounts}.py \
    tests/test_{memory_redis,scripts_model,table_machine,two_flows}.py
"$python" -m pytest --long --junitxml="$report" "$@"
PYTHON=$python bash tests/sanitizer.sh
"$python" tests/tally.py docs/reliability.md "$report"
