#!/usr/bin/env bash
# TOFU: make a model that learned 200 made-up authors forget some of them, and compare it with one that never knew these.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: tofu.sh --model MODEL --reference MODEL --data FOLDER [--split SPLIT] [--limit N] [--output DIR] [-- UNLEARN OPTIONS]

  --model MODEL      a model that was fine-tuned on all of TOFU: folder or hub id
  --reference MODEL  the same model, fine-tuned without the authors to forget
  --data FOLDER      a copy of the data set: hf download locuslab/TOFU --repo-type dataset --local-dir FOLDER
  --split SPLIT      forget01, forget05 or forget10 (default: forget10)
  --limit N          questions of each kind that are measured (default: 300, as in the paper)
  --output DIR       folder for all results; the same call goes on in it after a stop (default: tofu)
  --                 everything after it goes to `taskarith unlearn`, e.g. -- --base MODEL --apply-chat-template
TEXT
}

model='' reference='' data='' split=forget10 limit=300 output=tofu
while [ $# -gt 0 ]; do
  if [ "$1" = -- ]; then shift; break; fi
  if [ $# -lt 2 ]; then usage >&2; exit 2; fi
  case $1 in
    --model) model=$2 ;;
    --reference) reference=$2 ;;
    --data) data=$2 ;;
    --split) split=$2 ;;
    --limit) limit=$2 ;;
    --output) output=$2 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift 2
done
if [ -z "$model" ] || [ -z "$reference" ] || [ -z "$data" ]; then usage >&2; exit 2; fi
case $split in
  forget01) kept=retain99 ;;
  forget05) kept=retain95 ;;
  forget10) kept=retain90 ;;
  *) usage >&2; exit 2 ;;
esac

# 1. forget: vectors of both splits, alpha by a rule, the edited model
taskarith unlearn "$model" --forget "$data/$split.json" --retain "$data/$kept.json" --reference "$reference" \
  -o "$output/unlearned" "$@"
if [ ! -e "$output/unlearned/edited" ]; then exit 0; fi  # with --dry-run

# 2. TOFU's questions to the model before and after, beside the reference
taskarith eval "$model" "$output/unlearned/edited" --reference "$reference" --benchmark "tofu:$split=$data" \
  --limit "$limit" --overwrite -o "$output/scores"

# 3. model utility, forget quality and the like, one row a model
taskarith score "$output/scores" --reference "$reference"
