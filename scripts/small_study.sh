#!/usr/bin/env bash
# The small study: MiniLM-L6, every method, one budget a task, one grid of learning rates (chosen on seeds that are not
# reported), then the studies. Without variables it is the study of results/. What is finished is not trained again, so the
# same command goes on after a stop; several shells may run it at once.
#
#   make study DATA=/path/to/data
#
# TASKS of the grids and the main table, SEEDS of what is compared; STUDIED tasks of the other studies (without it the first two
# of TASKS), FEW seeds of fidelity, pruning_baselines and efficiency (the first three of SEEDS); STEPS, some of those below;
# RESULTS, another folder. PRECISION=fp32 is faster where the processor has no AVX-512; it needs a folder of its own, as no
# learning rate is chosen from grids of two precisions, and writes its rates over those of conf/recipe.
set -euo pipefail
PY=${PY:-python} RESULTS=${RESULTS:-results} PRECISION=${PRECISION:-bf16}
TASKS=${TASKS:-sst2_10k,stsb,cola,mrpc,rte} SEEDS=${SEEDS:-0,21,42,81,100}
STUDIED=${STUDIED:-$(cut -d, -f1-2 <<<"$TASKS")} FEW=${FEW:-$(cut -d, -f1-3 <<<"$SEEDS")}
STEPS=${STEPS:-"tuning main_table threshold rank_map scheduler pruning_baselines rank_budget fidelity efficiency"}

study() { # NAME TASKS SEEDS OVERRIDE...
    echo "== $1 $2 $(date +%T)"
    "$PY" run.py "experiment=$1" backbone=minilm-l6 protocol=holdout "precision=$PRECISION" "study.tasks=[$2]" "study.seeds=[$3]" \
        "paths.results=$RESULTS" "${@:4}"
}

each() { # NAME TASKS SEEDS OVERRIDE...: a study for every task, as what they show has nothing to do with one another
    local task
    for task in ${2//,/ }; do
        study "$1" "$task" "${@:3}"
    done
}

# A gate that the loss does not hold up falls by xi at every step: by 0.1 in the first level's 25 steps, by 1.5 in the last's.
levels=(schedule.steps=25 schedule.spacing=exp_linear schedule.start=4e-3 schedule.stop=6e-2 schedule.count=8 method.threshold=1e-3)
for step in $STEPS; do
    case $step in
    tuning)
        # SST-2's slice had a narrower grid first; both count.
        if [[ ,$TASKS, == *,sst2_10k,* ]]; then
            study learning_rate sst2_10k 1,2 trainer.learning_rate=2e-4,8e-4,3.2e-3
        fi
        each learning_rate "$TASKS" 1,2 trainer.learning_rate=5e-5,4e-4,3.2e-3
        "$PY" scripts/tune.py --results "$RESULTS"
        ;;
    main_table) study main_table "$TASKS" "$SEEDS" ;;
    rank_budget) study rank_budget "$STUDIED" "$SEEDS" ;;
    rank_map) each rank_map "$STUDIED" "$SEEDS" ;;
    threshold) each threshold "$STUDIED" "$SEEDS" method.threshold=5e-4,1e-3,2e-3,4e-3,8e-3 ;;
    scheduler) each scheduler "$STUDIED" "$SEEDS" "${levels[@]}" ;;
    pruning_baselines) each pruning_baselines "$STUDIED" "$FEW" "${levels[@]}" ;;
    fidelity) each fidelity "$STUDIED" "$FEW" ;;
    efficiency) study efficiency "$STUDIED" "$FEW" trainer.epochs=1 trainer.max_steps=100 ;;
    *)
        echo "error: STEPS: got $step, must be some of tuning main_table threshold rank_map scheduler pruning_baselines" \
            "rank_budget fidelity efficiency" >&2
        exit 2
        ;;
    esac
done
echo "== done $(date +%T)"
