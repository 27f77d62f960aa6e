#!/usr/bin/env bash
# Every experiment of configs/experiment, two points at a time, then one page of them all. What is
# finished is skipped, so the same command goes on after any end.
# Usage: scripts/study.sh [overrides of every experiment]; NAMES="…" chooses, STUDY is the
# folder, POINTS how many at a time
set -uo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
study="${STUDY:-runs/study}"
names="${NAMES:-$(basename -s .yaml -a configs/experiment/*.yaml)}"
folders="" failed=""

for name in $names; do
  started=$SECONDS
  lmtrain train -m "+experiment=$name" "run.dir=$study/$name" \
    hydra/launcher=joblib hydra.launcher.n_jobs="${POINTS:-2}" "$@"
  code=$?
  echo "$name: $((SECONDS - started)) s, exit code $code"
  [ "$code" -ge 128 ] && exit "$code" # a signal stops the study
  [ "$code" -eq 0 ] || failed="$failed $name"
  folders="$folders,$study/$name"
done

lmtrain report "run=[${folders#,}]" "out=$study/report.html" || failed="$failed report"
echo "study: $SECONDS s${failed:+, failed:$failed}"
[ -z "$failed" ]
