#!/usr/bin/env bash
# The small study: MiniLM-L6, every method, one budget a task, one grid of learning rates (chosen on seeds that are not
# reported), then the studies. What is finished is not trained again, so the same command goes on after a stop; several
# shells may run it at once.
#
#   make study DATA=/path/to/data [TASKS=sst2_10k,stsb,cola,mrpc] [SEEDS=0,21,42,81,100] [RESULTS=results] [PRECISION=bf16]
#
# PRECISION=fp32 is faster where the processor has no AVX-512; a table is of one precision, so that a study stays with one.
set -euo pipefail
PY=${PY:-python} TASKS=${TASKS:-sst2_10k,stsb,cola,mrpc} SEEDS=${SEEDS:-0,21,42,81,100} RESULTS=${RESULTS:-results}
PRECISION=${PRECISION:-bf16}
STEPS=${STEPS:-"tuning main_table threshold rank_map scheduler pruning_baselines rank_budget fidelity efficiency"}

study() {
    local name=$1
    shift
    echo "== $name $(date +%T)"
    "$PY" run.py "experiment=$name" backbone=minilm-l6 protocol=holdout "precision=$PRECISION" "study.tasks=[$TASKS]" \
        "paths.results=$RESULTS" "$@"
}

# A gate that the loss does not hold up falls by xi at every step: by 0.1 in the first level's 25 steps, by 1.5 in the last's.
levels=(schedule.steps=25 schedule.spacing=exp_linear schedule.start=4e-3 schedule.stop=6e-2 schedule.count=8 method.threshold=1e-3)
for step in $STEPS; do
    case $step in
    tuning)
        study learning_rate 'study.seeds=[1,2]' trainer.learning_rate=5e-5,4e-4,3.2e-3
        "$PY" scripts/tune.py --results "$RESULTS"
        ;;
    threshold) study threshold "study.seeds=[$SEEDS]" method.threshold=5e-4,1e-3,2e-3,4e-3,8e-3 ;;
    scheduler | pruning_baselines) study "$step" "study.seeds=[$SEEDS]" "${levels[@]}" ;;
    efficiency) study efficiency "study.seeds=[$SEEDS]" trainer.epochs=1 trainer.max_steps=100 ;;
    *) study "$step" "study.seeds=[$SEEDS]" ;;
    esac
done
echo "== done $(date +%T)"
