#!/usr/bin/env bash
# Make a model forget a book, and show what is left of it.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: forget_a_book.sh --forget FILE --retain FILE [--base MODEL] [--model MODEL] [--output DIR] [-- UNLEARN OPTIONS]

  --forget FILE   the book, or a part of it
  --retain FILE   a text that the model is to keep
  --base MODEL    the model before it learned the book: folder, hub id or GGUF (default: microsoft/phi-1_5)
  --model MODEL   the model that is to forget (default: the base, fine-tuned on both texts)
  --output DIR    folder for all results; the same call goes on in it after a stop (default: forget-a-book)
  --              everything after it goes to `taskarith unlearn`, e.g. -- --holdout other_book.txt --lora
TEXT
}

forget='' retain='' base=microsoft/phi-1_5 model='' output=forget-a-book
while [ $# -gt 0 ]; do
  if [ "$1" = -- ]; then shift; break; fi
  if [ $# -lt 2 ]; then usage >&2; exit 2; fi
  case $1 in
    --forget) forget=$2 ;;
    --retain) retain=$2 ;;
    --base) base=$2 ;;
    --model) model=$2 ;;
    --output) output=$2 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift 2
done
if [ -z "$forget" ] || [ -z "$retain" ]; then usage >&2; exit 2; fi

# 1. a model that knows the book, if you have none
if [ -z "$model" ]; then
  model=$output/knows
  if [ -e "$model" ]; then
    echo "$model is there, and is not learned again" >&2
  else
    taskarith finetune "$base" --data "$forget" --data "$retain" --until-loss 0.5 --resume -o "$model"
  fi
fi

# 2. the whole way: vectors, alpha, the edited model, measurements, attacks and a report
taskarith unlearn "$model" --forget "$forget" --retain "$retain" --base "$base" --reference "$base" \
  -o "$output/unlearned" "$@"
