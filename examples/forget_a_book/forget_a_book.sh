#!/usr/bin/env bash
# Make a model forget a book: the four commands of taskarith on your own text files.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: forget_a_book.sh --forget FILE --retain FILE [--model MODEL] [--alpha A] [--output DIR] [-- FINETUNE OPTIONS]

  --forget FILE   the text that the model is to forget
  --retain FILE   a text that it is to keep; nothing is trained on it, it is only measured
  --model MODEL   folder, hub id or GGUF (default: microsoft/phi-1_5)
  --alpha A       how much of the vector is taken away (default: 1.0)
  --output DIR    folder for all results, which must not exist (default: forget-a-book)
  --              everything after it goes to `taskarith finetune`, e.g. -- --lora --learning-rate 5e-4
TEXT
}

forget='' retain='' model=microsoft/phi-1_5 alpha=1.0 output=forget-a-book
while [ $# -gt 0 ]; do
  case $1 in
    --forget) forget=$2 ;;
    --retain) retain=$2 ;;
    --model) model=$2 ;;
    --alpha) alpha=$2 ;;
    --output) output=$2 ;;
    --) shift; break ;;
    *) usage >&2; exit 2 ;;
  esac
  shift 2
done
if [ -z "$forget" ] || [ -z "$retain" ]; then usage >&2; exit 2; fi
if [ -e "$output" ]; then echo "error: $output exists; name another --output" >&2; exit 1; fi

# 1. learn the book; the step is only there to be taken back
taskarith finetune "$model" --data "$forget" -o "$output/learned" "$@"

# 2. what learning it changed (an adapter is a vector already)
vector=$output/forget.safetensors
taskarith extract "$model" "$output/learned" -o "$vector"

# 3. what several alphas would do, without writing a model
taskarith eval "$model" --negate "$vector" --alpha "0,0.25,0.5,0.75,1" \
  --data "forget=$forget" --data "retain=$retain" -o "$output/alphas"

# 4. the edited model, and what it still knows
taskarith apply "$model" --negate "$vector" --alpha "$alpha" -o "$output/edited"
taskarith eval "$model" "$output/edited" --data "forget=$forget" --data "retain=$retain" -o "$output/scores"
