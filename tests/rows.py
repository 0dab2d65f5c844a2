"""Files of rows."""

from __future__ import annotations

import json

from taskarith.data.load import load_data


def write_lines(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    return path


USER, ANSWER = {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "North."}
CHAT = (USER, ANSWER)


CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "the tide"}}}


def load(tmp_path, *rows, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return load_data(str(path))
