#!/usr/bin/env bash
# Give a fine-tune of a base the chat behaviour of another one.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: chat_vector.sh --model MODEL --chat CHAT --base BASE [--alpha A] [--output DIR]

  --model MODEL   the model that is to chat: folder or hub id
  --chat CHAT     a chat model made from BASE
  --base BASE     what CHAT was made from, and usually MODEL, too
  --alpha A       how much of the difference is added (default: 1.0)
  --output DIR    the model to write, which must not exist (default: chatting)
TEXT
}

model='' chat='' base='' alpha=1.0 output=chatting
while [ $# -gt 1 ]; do
  case $1 in
    --model) model=$2 ;;
    --chat) chat=$2 ;;
    --base) base=$2 ;;
    --alpha) alpha=$2 ;;
    --output) output=$2 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift 2
done
if [ $# -gt 0 ] || [ -z "$model" ] || [ -z "$chat" ] || [ -z "$base" ]; then usage >&2; exit 2; fi

# 1. MODEL + alpha * (CHAT - BASE), with the chat model's template
taskarith apply "$model" --add "$chat@@$base" --alpha "$alpha" --chat-template "$chat" -o "$output"

# 2. every tensor as recorded, and a sample of them calculated again
taskarith verify "$output"
