#!/bin/sh
# Stands in front of the compiler for the crates of this repository (RUSTC_WORKSPACE_WRAPPER) and has it put a
# counter on each branch, with the pass that the usual fuzzers use. What it is told besides stays as it is.
exec "$@" -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=3 \
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters
