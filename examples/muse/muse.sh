#!/usr/bin/env bash
# MUSE: make a model forget books or news, and compare it with one that was trained without them.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: muse.sh --model MODEL --reference MODEL --forget SPEC --retain SPEC --data FOLDER [--corpus NAME] [--limit N]
               [--output DIR] [-- UNLEARN OPTIONS]

  --model MODEL      MUSE's target model, which learned both texts: folder or hub id
  --reference MODEL  MUSE's retrained model, which learned the kept texts only
  --forget SPEC      the texts to forget: a file, folder, pattern or data set
  --retain SPEC      the texts to keep
  --data FOLDER      the benchmark's questions, with knowmem/, verbmem/ and privleak/ in it:
                     hf download muse-bench/MUSE-Books --repo-type dataset --local-dir FOLDER
  --corpus NAME      books or news (default: books)
  --limit N          samples of each kind that are measured (default: all)
  --output DIR       folder for all results; the same call goes on in it after a stop (default: muse)
  --                 everything after it goes to `taskarith unlearn`, e.g. -- --base MODEL --lora
TEXT
}

model='' reference='' forget='' retain='' data='' corpus=books limit=() output=muse
while [ $# -gt 0 ]; do
  if [ "$1" = -- ]; then shift; break; fi
  if [ $# -lt 2 ]; then usage >&2; exit 2; fi
  case $1 in
    --model) model=$2 ;;
    --reference) reference=$2 ;;
    --forget) forget=$2 ;;
    --retain) retain=$2 ;;
    --data) data=$2 ;;
    --corpus) corpus=$2 ;;
    --limit) limit=(--limit "$2") ;;
    --output) output=$2 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift 2
done
for given in "$model" "$reference" "$forget" "$retain" "$data"; do
  if [ -z "$given" ]; then usage >&2; exit 2; fi
done
case $corpus in books | news) ;; *) usage >&2; exit 2 ;; esac

# 1. forget: vectors of both texts, alpha by a rule, the edited model
taskarith unlearn "$model" --forget "$forget" --retain "$retain" --reference "$reference" \
  -o "$output/unlearned" "$@"
if [ ! -e "$output/unlearned/edited" ]; then exit 0; fi  # with --dry-run

# 2. verbatim and knowledge memorisation, and privacy leakage, before and after, beside the reference
taskarith eval "$model" "$output/unlearned/edited" --reference "$reference" --benchmark "muse-$corpus=$data" \
  ${limit[@]+"${limit[@]}"} --overwrite -o "$output/scores"

# 3. one row a model
taskarith score "$output/scores" --reference "$reference"
