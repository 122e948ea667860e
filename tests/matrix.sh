#!/usr/bin/env bash
# For maintainers: the tests that train or compare numbers (marked `numeric`), under the vector units of other processors.
#
#   tests/matrix.sh [arguments of pytest]      such as  tests/matrix.sh tests/engine -k fusion
#
# One line a combination; what failed follows it, and the exit code is then 1. An hour and a half on two idle cores.
# A word on the levels: those of ATen are torch's own kernels, those of oneDNN convolutions and matrix products.
# Others are given as  ISAS="AVX512_CORE AVX512_CORE_BF16" tests/matrix.sh.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
LEVELS=${LEVELS:-default avx2 avx512} ISAS=${ISAS:-DEFAULT AVX2} THREADS=${THREADS:-1 2}

# ATen does not ask whether the processor has what it is told to use.
highest=$("$PYTHON" -c 'import torch; print(torch.backends.cpu.get_cpu_capability())')
case $highest in
    AVX512) has="default avx2 avx512" ;;
    AVX2) has="default avx2" ;;
    *) has="default" ;;
esac
[ $# = 0 ] && set -- tests # without the doctests of the package
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=0
for threads in $THREADS; do
    workers=$(($(nproc) / threads))
    for level in $LEVELS; do
        for isa in $ISAS; do
            name="ATEN_CPU_CAPABILITY=$level ONEDNN_MAX_CPU_ISA=$isa OMP_NUM_THREADS=$threads"
            if [[ " $has " != *" $level "* ]]; then
                echo "$name: left out, this processor has $highest at most"
                continue
            fi
            if env $name "$PYTHON" -m pytest -n "$((workers > 1 ? workers : 1))" --dist worksteal \
                -m "numeric and not slow and not distributed" --tb=short "$@" >"$log" 2>&1; then
                echo "$name: $(tail -n 1 "$log")"
            else
                failed=1
                echo "$name: FAILED, $(tail -n 1 "$log")"
                grep -E '^(FAILED|ERROR|E  )' "$log" || tail -n 20 "$log"
            fi
        done
    done
done
exit $failed
