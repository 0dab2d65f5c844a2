"""What a chat template wrote, held against the messages, without a template."""

from __future__ import annotations

import pytest

from taskarith.data.template_check import LeftOutError, Written, as_object, check_written, drops_reasoning, mark

ASK = {"role": "user", "content": "Who tends\nthe lamp?"}
ANSWER = {"role": "assistant", "content": "The keeper."}
CALL = {"function": {"name": "light", "arguments": {"lamp": "west", "hours": [7, None]}}}


def written(whole, prompt="<u>Who tends the lamp?<a>", marked=None):
    return Written.of(whole, prompt, marked)


@pytest.mark.parametrize(
    "whole",
    [
        "<u>Who tends the lamp?<a>The keeper.",
        "<u> who  tends the lamp? <a>\n\nTHE KEEPER.\n",  # templates strip, and change case
        "<u>Who tends the lamp?<a>The keeper. The keeper.",
    ],
)
def test_white_space_and_case_do_not_matter(whole):
    check_written([ASK, ANSWER], "row 1", written(whole))


@pytest.mark.parametrize(
    ("messages", "whole", "number", "words"),
    [
        ([ASK, ANSWER], "<u>Who tends the lamp?<a>", 2, r"leaves out the answer, message 2 \(assistant\) of row 1"),
        ([ASK, ANSWER], "<u>Who tends?<a>The keeper.", 1, r"leaves out the text of message 1 \(user\) of row 1"),
        ([ASK, ANSWER], "<a>The keeper.<u>Who tends the lamp?", 1, "begins differently when it asks for an answer"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "Hm"}]}, ANSWER],
            "<u>[{'type': 'text', 'text': 'Hm'}]<a>The keeper.",
            1,
            "writes the parts of message 1 .* as a list",
        ),
        ([ASK, ANSWER | {"tool_calls": [CALL]}], "<u>Who tends the lamp?<a>The keeper.", 2, "the tool call light of"),
        (
            [ASK, ANSWER | {"tool_calls": [CALL]}],
            '<u>Who tends the lamp?<a>The keeper.light{"lamp": "west"}',
            2,
            "leaves out the argument '7'",
        ),
        (
            [ASK, ANSWER | {"tool_calls": [CALL]}],
            "<u>Who tends the lamp?<a>The keeper.light{'lamp': 'west', 'hours': [7, None]}",
            2,
            "as a quoted string or a Python object",
        ),
    ],
)
def test_what_is_left_out_or_written_otherwise_is_named(messages, whole, number, words):
    prompt = "<u>[{'type': 'text', 'text': 'Hm'}]<a>" if "Hm" in whole else "<u>Who tends the lamp?<a>"
    with pytest.raises(LeftOutError, match=words) as caught:
        check_written(messages, "row 1", written(whole, prompt))
    assert caught.value.number == number


def test_a_mark_shows_that_words_were_not_there_by_chance():
    ends = [one["content"][-5:] for one in mark([ASK, ANSWER])]
    assert ends == ["zq1qz", "zq2qz"]
    assert [one["content"][:-5] for one in mark([ASK, ANSWER])] == [ASK["content"], ANSWER["content"]]
    whole = "<u>Who tends the lamp?<a>The keeper."
    check_written([ASK, ANSWER], "row 1", written(whole, marked=f"{whole}zq1qzzq2qz"))
    with pytest.raises(LeftOutError, match="leaves out the text of message 1"):
        check_written([ASK, ANSWER], "row 1", written(whole, marked=f"{whole}zq2qz"))


@pytest.mark.parametrize(("whole", "drops"), [("<a>hm</think>The keeper.", False), ("<a>The keeper.", True)])
def test_reasoning_may_be_left_out_and_that_is_known(whole, drops):
    messages = [ASK, {"role": "assistant", "content": "<think>hm</think>The keeper."}]
    found = written(f"<u>Who tends the lamp?{whole}".replace("hm", "<think>hm"))
    check_written(messages, "row 1", found)
    assert drops_reasoning(messages[-1], found) is drops
    beside = {**ANSWER, "reasoning_content": "the lamp is lit"}
    assert drops_reasoning(beside, found)


def test_arguments_may_be_json():
    assert as_object('{"lamp": "west"}') == {"lamp": "west"}
    assert as_object("west") == "west"
    assert as_object("[1]") == "[1]"
