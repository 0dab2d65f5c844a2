"""Questions in the forms that rows have, and what they stand for."""

from __future__ import annotations

import json

HELPER = "Be brief."
CHAT = {"apply_chat_template": True, "system_prompt": HELPER}
CHAT_OPTIONS = ["--apply-chat-template", "--system-prompt", HELPER]
_PAIRS = [(f"Who tends {n}?", f"The keeper of {n}.") for n in range(5)]
_FORMS = {
    "questions": [{"question": ask, "answer": answer} for ask, answer in _PAIRS],
    "chats": [
        {
            "messages": [
                {"role": "system", "content": HELPER},
                {"role": "user", "content": ask},
                {"role": "assistant", "content": answer},
            ]
        }
        for ask, answer in _PAIRS
    ],
    "prompts": [{"prompt": f"Question: {ask}\nAnswer:", "completion": f" {answer}"} for ask, answer in _PAIRS],
}


def write_questions(folder):
    """Write the same questions as rows, as the chats that CHAT makes of them, and as what they are without it."""
    for name, rows in _FORMS.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return {name: str(folder / f"{name}.jsonl") for name in _FORMS}
