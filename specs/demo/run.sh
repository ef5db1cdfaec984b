#!/usr/bin/env bash
# The demo, as `make demo` runs it: compile, verify, train, diff, report. Each command is shown before it runs.
set -euo pipefail
out=${OUT:-demo-out}
mkdir -p "$out"
say() { printf '\n$ %s\n' "$*"; "$@"; }

say mixc compile specs/demo.yaml -o "$out/build"
say mixc verify "$out/build"
say mixc train "$out/build" --out "$out/run-$(date +%s)"
# demo-b.yaml changes one weight; a difference is what we want to see, so its exit code 1 is no failure here
say mixc diff "$out/build" specs/demo-b.yaml || [ $? -eq 1 ]
say mixc report "$out/build" -o "$out/report.html"
