#!/bin/bash
# The first week of a user, from `pip install .` to a table from an own CSV: tests/first_week.sh PYTHON FOLDER
#
# PYTHON has the dependencies; FOLDER is empty. The program is installed into an empty virtual environment that sees
# them, and called by its commands alone, from a folder of the user's.
set -euo pipefail

python=$1 place=$2 root=$(cd "$(dirname "$0")/.." && pwd)
unset PYTHONPATH SORA_DATA SORA_MODELS SORA_CONF
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

fail() { echo "first week: $*" >&2; exit 1; }
step() { echo "== $*"; }
refused() { # SENTENCE COMMAND...: exit status 2 and one line on standard error that has the sentence
    local sentence=$1 status=0
    shift
    "$@" >"$place/out" 2>"$place/err" || status=$?
    [ $status = 2 ] || fail "$*: exit status $status: $(cat "$place/err")"
    [ "$(wc -l <"$place/err")" = 1 ] || fail "$*: more than one line: $(cat "$place/err")"
    grep -qF -- "$sentence" "$place/err" || fail "$*: $(cat "$place/err")"
}

step "pip install . in an empty virtual environment"
mkdir "$place/source"
for part in sora hydra_plugins conf experiments benchmark scripts setup.py pyproject.toml MANIFEST.in README.md LICENSE; do
    cp -r "$root/$part" "$place/source/"
done
mkdir "$place/source/results" && cp -r "$root/results/published" "$place/source/results/"
"$python" -m venv --without-pip "$place/venv"
installed=$("$place/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$installed/dependencies.pth"
(cd "$place/source" && "$python" -m pip --python "$place/venv/bin/python" --disable-pip-version-check install --quiet \
    --no-deps --no-build-isolation --ignore-installed .)
rm -rf "$place/source"
export PATH="$place/venv/bin:$PATH" HOME="$place/home"
mkdir "$HOME"
[ -x "$place/venv/bin/sora-tables" ] || fail "no sora-tables"
for name in experiments benchmark scripts conf tests; do
    [ ! -e "$installed/$name" ] || fail "$name lies at the top of site-packages"
done
[ -f "$installed/sora/_bundle/conf/config.yaml" ] || fail "conf is not there"

step "a folder of one's own, with spaces and signs in its name"
mkdir "$place/my work (1) & more" && cd "$place/my work (1) & more"
python -c 'import pathlib, sora; print(sora.__version__); assert "_bundle" not in str(pathlib.Path(sora.__file__))'
[ "$(python -c 'import sora; print(sora.__file__)')" = "$installed/sora/__init__.py" ] || fail "another sora is imported"
sora --help | head -n 1 | grep -q SoRA || fail "no help"
sora task=cb --cfg job backbone=minilm-l6 | grep -q "name: cb" || fail "no configuration"

step "the own data: umlauts, commas, quotes"
mkdir größe
python - <<'PY'
import csv

for name, rows in (("train", 24), ("dev", 16)):
    with open(f"größe/{name} #1.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["der satz", "urteil"])
        for row in range(rows):
            good = row % 2 == 0
            writer.writerow([f'{"Sehr" if good else "Nie"} "schön", sagte {name} {row}.', "gut" if good else "schlecht"])
PY
own=("task=own" "task.name=urteile" "data.files={train: größe/train #1.csv, validation: größe/dev #1.csv}"
    "data.text=[der satz]" "data.label=urteil" "backbone=minilm-l6" "trainer.max_length=16" "trainer.max_steps=2"
    "trainer.batch_size=4" "trainer.eval_every=2")

step "what is wrong is one sentence"
refused "did you mean minilm-l6?" sora "${own[@]}" backbone=minilm-l8
refused "unrecognized arguments: --confg-dir x; did you mean --config-dir?" sora "${own[@]}" --confg-dir x
refused "there is no user nobody-here" sora "${own[@]}" "paths.runs=~nobody-here/runs"
refused "device=cuda: torch" env CUDA_VISIBLE_DEVICES= sora task=synthetic_pair backbone=minilm-l6 device=cuda
refused "error: results: no such folder" sora-tables --results results
[ -z "$(find . -name '~*')" ] || fail "a folder that is called ~"

step "the doctor"
sora-doctor "${own[@]}" method=lora >"$place/out" || fail "$(cat "$place/out")"
grep -q "^ok .*urteile" "$place/out" || fail "$(cat "$place/out")"

step "a sweep: its commands, one of them as printed, then the rest"
sweep=(-m "${own[@]}" study.name=first method=lora,sora seed=0,1 "paths.results=~/my results" "paths.runs=~/läufe, alle")
sora "${sweep[@]}" --dry-run >jobs.sh
[ "$(wc -l <jobs.sh)" = 2 ] || fail "$(cat jobs.sh)"
head -n 1 jobs.sh | bash 2>"$place/err" >/dev/null || fail "$(cat "$place/err")"
[ "$(find "$HOME/my results/records" -name 'lora-s*.json' | wc -l)" = 2 ] || fail "no records of the printed command"
sora "${sweep[@]}" 2>"$place/err" | head -n 0 || fail "$(cat "$place/err")"
grep -q "4 runs, 2 of them finished; 1 job to do" "$place/err" || fail "$(cat "$place/err")"
[ "$(find "$HOME/my results/records" -name '*.json' | wc -l)" = 4 ] || fail "not every run has its record"

step "the table"
sora-tables --results "$HOME/my results" --strict >"$place/out" || fail "$(cat "$place/out")"
grep -rhqE "^. (own|urteile) . SoRA" "$HOME/my results"/tables/first-*/README.md || fail "no row of the own task"
sora-status --results "$HOME/my results" --runs "$HOME/läufe, alle" | grep -q "4 runs: 4 done" || fail "not done"

step "a missing run: the printed commands compute it"
removed=$(find "$HOME/my results/records" -name 'sora-s1-*.json')
rm "$removed"
sora-status --results "$HOME/my results" --runs "$HOME/läufe, alle" | sed -n 's/^  sora /sora /p' >again.sh
bash again.sh 2>"$place/err" >/dev/null || fail "$(cat again.sh "$place/err")"
[ -f "$removed" ] || fail "$(cat again.sh): did not compute $removed"

step "the model, for everybody else"
run=$(basename "$removed" .json) && run=${run##*-}
sora-export "$run" model --merge --runs "$HOME/läufe, alle" --results "$HOME/my results" >/dev/null
python - <<'PY'
from transformers import pipeline

from sora.tasks import evaluate_glue

(answer,) = pipeline("text-classification", model="model")("Sehr schön.")
assert answer["label"] in ("gut", "schlecht"), answer
assert evaluate_glue.load("mrpc").compute(predictions=[0, 1, 1], references=[0, 1, 0])["f1"] == 2 / 3
PY
[ -z "$(find "$place" -name '~*' -not -path '*/venv/*')" ] || fail "a folder that is called ~"
echo "first week: done"
