"""Every cell of the notebook, with a tiny model in place of the real one."""

from __future__ import annotations

import ast
import json
from pathlib import Path

from taskarith import Measurement, TrainingSettings

NOTEBOOK = Path(__file__).parents[2] / "examples/notebook/forget_a_text.ipynb"


def shown(source, names):
    """Execute a cell; return what a notebook would show of its last line, or None."""
    code = ast.parse(source)
    last = code.body.pop() if isinstance(code.body[-1], ast.Expr) else None
    exec(compile(code, "cell", "exec"), names)  # noqa: S102
    if last is None:
        return None
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307
    return value._repr_html_() if hasattr(value, "_repr_html_") else repr(value)


def test_every_cell_runs(tmp_path, phi, capsys):
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    tiny = TrainingSettings(block_size=64, max_steps=8, learning_rate=1e-2, per_device_train_batch_size=2)
    values = {"base": str(phi), "folder": tmp_path / "run", "learning": tiny}
    values["measuring"] = Measurement(block_size=64, prompts=4, prompt_tokens=8, continuation_tokens=8)
    names, outputs = {}, []
    for cell in cells:
        assert cell["outputs"] == []
        outputs.append(shown("".join(cell["source"]), names))
        if cell["metadata"].get("tags") == ["parameters"]:
            assert {*values} < {*names}
            names |= values
    assert sum(output is not None and output.startswith("<") for output in outputs) >= 3  # tables
    assert "True" in outputs  # of verify
    printed = capsys.readouterr().out
    assert all(printed.count(f"\n{name}: ") == 1 for name in ("base", "tuned", "edited"))
    rows = names["rows"]
    losses = rows[(rows.text == "forget") & (rows.metric == "loss")].value.tolist()
    *minus, base = losses
    assert minus == sorted(minus)  # the larger alpha, the less of the text is left
    assert minus[0] + 0.5 < minus[-1] < base + 0.5
