#!/usr/bin/env bash
# Learn three texts by adapters, and make one adapter of them: the first two added, the third taken away.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: merge_loras.sh --add FILE --add FILE --negate FILE [--model MODEL] [--output DIR] [-- FINETUNE OPTIONS]

  --add FILE      a text to learn; two of them
  --negate FILE   a text whose adapter is taken away
  --model MODEL   folder or hub id (default: microsoft/phi-1_5)
  --output DIR    folder for all results, which must not exist (default: merge-loras)
  --              everything after it goes to `taskarith finetune`, e.g. -- --lora-rank 8
TEXT
}

added=() negated='' model=microsoft/phi-1_5 output=merge-loras
while [ $# -gt 0 ]; do
  if [ "$1" = -- ]; then shift; break; fi
  if [ $# -lt 2 ]; then usage >&2; exit 2; fi
  case $1 in
    --add) added+=("$2") ;;
    --negate) negated=$2 ;;
    --model) model=$2 ;;
    --output) output=$2 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift 2
done
if [ ${#added[@]} -ne 2 ] || [ -z "$negated" ]; then usage >&2; exit 2; fi
if [ -e "$output" ]; then echo "error: $output exists; name another --output" >&2; exit 1; fi

# 1. one adapter for each text
taskarith finetune "$model" --lora --data "${added[0]}" -o "$output/first" "$@"
taskarith finetune "$model" --lora --data "${added[1]}" -o "$output/second" "$@"
taskarith finetune "$model" --lora --data "$negated" -o "$output/third" "$@"

# 2. do they concern the same weights?
taskarith relate "$output/first" "$output/second" "$output/third"

# 3. one adapter, which PEFT loads like any other: its rank is the sum of the three
taskarith combine "$output/first:0.5 + $output/second:0.5 - $output/third:0.5" -o "$output/merged"

# 4. the same in the model's own weights, and what that model knows
taskarith apply "$model" --add "$output/merged" -o "$output/edited"
taskarith eval "$model" "$output/edited" --data "first=${added[0]}" --data "second=${added[1]}" --data "forget=$negated" -o "$output/scores"
