#!/usr/bin/env bash
# Everything that wants a GPU, unattended, in MINUTES: the tests marked gpu, what only a GPU can show (gpu_check.py), the
# benchmark, and as much of docs/study.md as fits. Each step has its share of the time and a log of its own; a step that
# fails stops no other. What can be committed, with its provenance, lies in OUT/results.tgz, to be unpacked in results/.
#
#   DATA=/path/to/data scripts/gpu.sh OUT
#
# PY is the Python to use (one with torch for CUDA); WHEELS, a folder of wheels that it lacks, installed beside OUT without
# network; STEPS, some of those below; TASKS and SEEDS of the study. STUDY_PRECISION and LONGEST (seconds): of the study.
set -uo pipefail
cd "$(dirname "$0")/.."
[[ ${1:-} != -* ]] || { sed -n '2,9s/^# \{0,1\}//p' scripts/gpu.sh; exit 0; }
OUT=${1:?usage: scripts/gpu.sh OUT} PY=${PY:-python3} MINUTES=${MINUTES:-9} STEPS=${STEPS:-"tests check bench study"}
TASKS=${TASKS:-rte,cola} SEEDS=${SEEDS:-0,21,42,81,100} STUDY_PRECISION=${STUDY_PRECISION:-bf16}
mkdir -p "$OUT/results" || exit 2
OUT=$(cd "$OUT" && pwd)
end=$((SECONDS + ${MINUTES%.*} * 60 - 15)) status=0
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
[[ -z ${DATA:-} ]] || SORA_DATA=$(cd "$DATA" && pwd) || exit 2
export SORA_DATA=${SORA_DATA:-}
[[ -n $SORA_DATA ]] || unset SORA_DATA

if [[ -n ${WHEELS:-} ]]; then
    "$PY" -m pip install --quiet --no-index --no-deps --target "$OUT/../packages" "$WHEELS"/*.whl || exit 2
    PYTHONPATH=$PYTHONPATH:$(cd "$OUT/../packages" && pwd)
fi

limited() { # NAME SECONDS COMMAND...: at most that long and never beyond the end, with a log
    local name=$1 seconds=$2 left=$((end - SECONDS)) found=0
    ((seconds < left)) || seconds=$left
    if ((seconds < 5)); then
        echo "== $name: no time left"
        return
    fi
    echo "== $name, at most $seconds s"
    timeout --kill-after=10 "$seconds" "${@:3}" >"$OUT/$name.log" 2>&1 || found=$?
    case $found in
    0) echo "   done" ;;
    124) echo "   stopped after $seconds s: what is finished stays" ;;
    *)
        echo "   failed with status $found:"
        tail -n 5 "$OUT/$name.log"
        status=1
        ;;
    esac
}

for step in $STEPS; do
    case $step in
    tests) limited tests 120 "$PY" -m pytest -q -p no:cacheprovider -m gpu tests ;;
    check) limited check 150 "$PY" scripts/gpu_check.py --out "$OUT/results/bench/gpu_check.json" ${CHECK:-} ;;
    bench) limited bench 200 "$PY" scripts/bench.py --minutes 3 --section "${SECTION:-, sora, batch 8}" --results "$OUT/results" ${BENCH:-} ;;
    study)
        RESULTS=$OUT/results RUNS=$OUT/runs PRECISION=$STUDY_PRECISION TASKS=$TASKS SEEDS=$SEEDS STEPS=${STUDY_STEPS:-tune} \
            limited study "${LONGEST:-600}" "$PY" scripts/study.py
        ;;
    *)
        echo "error: STEPS: got $step, must be some of tests check bench study" >&2
        exit 2
        ;;
    esac
done
tar -C "$OUT" -czf "$OUT/results.tgz" results || status=1
echo "== $OUT/results.tgz: $(tar -tzf "$OUT/results.tgz" | grep -c '[^/]$') files"
exit $status
