#!/usr/bin/env bash
# The tests marked slurm and ray; called by make test-cluster. Where there can be no Slurm, its tests skip with the reason.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

SORA_SLURM=$(mktemp -d /tmp/sora-slurm.XXXXXX)
export SORA_SLURM
# How the tests ended counts, not what is left to clean up.
trap 'bash scripts/ci/slurm.sh stop || true; rm -rf "$SORA_SLURM" || true' EXIT
if reason=$(bash scripts/ci/slurm.sh start); then
    export SLURM_CONF=$SORA_SLURM/slurm.conf
else
    export SORA_NO_SLURM=${reason##*$'\n'}
    unset SLURM_CONF
fi
echo "$reason"
"$PYTHON" -m pytest -q -m "slurm or ray" tests/cluster </dev/null
