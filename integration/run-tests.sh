#!/bin/sh
# Runs cargo's tests and closes with one line that counts them all.
#
#   integration/run-tests.sh CARGO-ARGUMENTS...
set -u

log=$(mktemp)
trap 'rm -f "$log"' EXIT

{ cargo test --locked --no-fail-fast "$@" 2>&1; echo "exit status $?"; } | tee "$log"

awk '
    /^test result: / { passed += $4; failed += $6; ignored += $8 }
    /^exit status / { status = $3 }
    END {
        printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored
        exit status != 0 || failed > 0 || passed == 0
    }
' "$log"
