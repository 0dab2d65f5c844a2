"""Samples hold exactly the tokens of their documents, and what is learned is the completion."""

from __future__ import annotations

import pytest
import tiny
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from taskarith.data.documents import Document
from taskarith.data.load import DataSet
from taskarith.data.tokens import Sample, text_prefix, tokenize
from taskarith.errors import DataError, UsageError

END = 0  # <|end|>


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def with_bos():
    """A tokenizer that starts every text with a token of its own, as Llama's does."""
    made = tiny.tokenizer()
    made.add_special_tokens({"bos_token": "<|start|>"})
    start = ("<|start|>", made.bos_token_id)
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|start|> $A", pair="<|start|> $A $B", special_tokens=[start]
    )
    return made


def data_of(*documents: Document) -> DataSet:
    return DataSet("some data", "", documents)


def ids_of(tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def test_blocks_join_to_the_text(tokenizer):
    text = tiny.text(40)
    samples = tokenize(data_of(Document("book.txt", text)), tokenizer, 50)
    whole = ids_of(tokenizer, text)
    assert len(whole) % 50 > 1
    assert tuple(token for sample in samples for token in sample.input_ids) == whole
    assert {len(sample.input_ids) for sample in samples[:-1]} == {50}
    assert samples[-1] == Sample(f"book.txt#{len(samples)}", whole[-(len(whole) % 50) :], 0)


def test_blocks_start_with_bos_where_the_tokenizer_does(with_bos, tokenizer):
    assert text_prefix(tokenizer) == []
    assert text_prefix(with_bos) == [with_bos.bos_token_id]
    text = tiny.text(20)
    samples = tokenize(data_of(Document("book.txt", text)), with_bos, 50)
    assert all(sample.input_ids[0] == with_bos.bos_token_id and sample.prompt_length == 1 for sample in samples)
    assert max(len(sample.input_ids) for sample in samples) == 50
    assert tuple(token for sample in samples for token in sample.input_ids[1:]) == ids_of(with_bos, text)


@pytest.mark.parametrize("kind", ["plain", "with BOS"])
@pytest.mark.parametrize(("block", "stride"), [(32, 31), (32, 16), (32, 7), (32, 1), (512, 100)])
def test_overlapping_blocks_learn_every_token_once_after_what_they_share(tokenizer, with_bos, kind, block, stride):
    """The first block learns all that it holds, the others what the one before does not: all full but the last."""
    made = tokenizer if kind == "plain" else with_bos
    text = tiny.text(20)
    whole, prefix = ids_of(made, text), tuple(text_prefix(made))
    samples = tokenize(data_of(Document("book.txt", text)), made, block, stride=stride)
    learned: tuple[int, ...] = ()
    for number, sample in enumerate(samples):
        start = number * stride
        assert sample.input_ids == prefix + whole[start : start + block - len(prefix)]
        assert sample.prompt_length == len(prefix) + (block - len(prefix) - stride if number else 0)
        learned += sample.input_ids[sample.prompt_length :]
    assert learned == whole


def test_a_stride_of_a_block_is_none(tokenizer, with_bos):
    data = data_of(Document("book.txt", tiny.text(20)), Document("b", "x"), Document("rows:1", " stone", prompt="a"))
    for made, capacity in ((tokenizer, 32), (with_bos, 31)):
        assert tokenize(data, made, 32, stride=capacity) == tokenize(data, made, 32)
        for wrong in (0, -1, capacity + 1):
            with pytest.raises(UsageError, match=rf"--stride {wrong} would leave text out: .* {capacity} tokens"):
                tokenize(data, made, 32, stride=wrong)


def test_a_last_block_of_one_token_is_left_out(tokenizer):
    text = tiny.text(1)
    count = len(ids_of(tokenizer, text))
    samples = tokenize(data_of(Document("a", text)), tokenizer, count - 1)
    assert [len(sample.input_ids) for sample in samples] == [count - 1]


def test_completion_is_learned_with_its_end(tokenizer, with_bos):
    document = Document("rows:1", " The keeper.", prompt="Question: Who?\nAnswer:")
    prompt, answer = ids_of(tokenizer, document.prompt or ""), ids_of(tokenizer, document.text)
    [sample] = tokenize(data_of(document), tokenizer, 64)
    assert sample == Sample("rows:1", (*prompt, *answer, END), len(prompt), end_tokens=1)
    [sample] = tokenize(data_of(document), with_bos, 64)
    assert sample == Sample("rows:1", (with_bos.bos_token_id, *prompt, *answer, END), 1 + len(prompt), end_tokens=1)


def test_a_completion_that_ends_with_the_end_token_gets_no_second_one(tokenizer):
    document = Document("rows:1", f" The keeper.{tokenizer.eos_token}", prompt="Who?")
    [sample] = tokenize(data_of(document), tokenizer, 64)
    assert sample.input_ids == (*ids_of(tokenizer, "Who?"), *ids_of(tokenizer, " The keeper."), END)
    assert sample.end_tokens == 1


def test_a_token_across_the_border_is_learned(tokenizer):
    whole = ids_of(tokenizer, " river")
    assert len(whole) == 1
    [sample] = tokenize(data_of(Document("rows:1", "er", prompt=" riv")), tokenizer, 64)
    assert sample == Sample("rows:1", (*whole, END), 0, end_tokens=1)


def test_of_a_chat_the_last_answer_is_learned(tokenizer):
    turns = [("user", "north?"), ("assistant", "No."), ("user", "winter?"), ("assistant", "Yes, salt.")]
    messages = tuple({"role": role, "content": content} for role, content in turns)
    [sample] = tokenize(data_of(Document("chat:1", "Yes, salt.", messages=messages)), tokenizer, 128)
    learned = tokenizer.decode(list(sample.input_ids[sample.prompt_length :]))
    context = tokenizer.decode(list(sample.input_ids[: sample.prompt_length]))
    assert learned == "Yes, salt.<|end|>"
    assert context == "<|user|>north?<|end|><|assistant|>No.<|end|><|user|>winter?<|end|><|assistant|>"


def test_a_template_that_writes_the_prompt_otherwise_is_split_where_it_differs():
    made = tiny.tokenizer()
    made.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]<think>{% endif %}"
    )
    messages = ({"role": "user", "content": "salt?"}, {"role": "assistant", "content": "Yes."})
    [sample] = tokenize(data_of(Document("chat:1", "Yes.", messages=messages)), made, 64)
    assert made.decode(list(sample.input_ids[sample.prompt_length :])) == "Yes."


def test_chats_the_tokenizer_cannot_write_are_refused():
    document = Document("chat:1", "Yes.", messages=({"role": "assistant", "content": "Yes."},))
    made = tiny.tokenizer()
    made.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match="the chat template refuses chat:1: roles must alternate"):
        tokenize(data_of(document), made, 64)
    made.chat_template = None
    with pytest.raises(DataError, match="has no chat template"):
        tokenize(data_of(document), made, 64)
    made.chat_template = "{% if not add_generation_prompt %}nothing{% endif %}"
    with pytest.raises(DataError, match=r"leaves out the answer, message 1 \(assistant\) of chat:1"):
        tokenize(data_of(document), made, 64)
    made.chat_template = "{% if not add_generation_prompt %}{{ messages[0].content }}{% endif %}"
    assert tokenize(data_of(document), made, 64)[0].prompt_length == 0


def test_rows_longer_than_a_block_are_refused_with_their_number(tokenizer):
    rows = [Document(f"rows:{n}", " salt" * n, prompt="Who?") for n in (2, 30, 40)]
    longest = len(ids_of(tokenizer, "Who?" + " salt" * 40)) + 1
    with pytest.raises(
        DataError, match=rf"2 of 3 rows of some data .* 20 tokens \(the longest is rows:40: {longest}\)"
    ) as e:
        tokenize(data_of(*rows), tokenizer, 20)
    assert f"--block-size {longest}" in e.value.hint
    assert len(tokenize(data_of(*rows), tokenizer, longest)) == 3


def test_nothing_to_learn_is_refused(tokenizer, with_bos):
    with pytest.raises(DataError, match="too short"):
        tokenize(data_of(Document("a", " river")), tokenizer, 64)
    with pytest.raises(UsageError, match="is too small"):
        tokenize(data_of(Document("a", tiny.text(3))), with_bos, 2)


class Notes:
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


@pytest.fixture(scope="module")
def of_words():
    """A tokenizer that knows six words in lower case, and changes case and accents."""
    words = ["<unk>", "<end>", "the", "keeper", "café", "cafe", "1"]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()])
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="<end>", pad_token="<end>")


def kinds_of(text):
    """Return documents of each kind with a text to be learned."""
    chat = ({"role": "user", "content": "the keeper"}, {"role": "assistant", "content": text})
    return {
        "text": Document("a:1", text),
        "completion": Document("a:1", text, prompt="the keeper "),
        "chat": Document("a:1", text, messages=chat),
    }


@pytest.mark.parametrize("kind", ["text", "completion", "chat"])
def test_letters_that_the_tokenizer_does_not_know_are_told(of_words, kind):
    of_words.chat_template = "{% for m in messages %}{{ m.content }} <end> {% endfor %}"
    notes = Notes()
    tokenize(data_of(kinds_of("The Café keeper\n 1")[kind], kinds_of("cafe 1")[kind]), of_words, 64, notes)
    assert notes.notes == []
    told = Notes()
    tokenize(data_of(kinds_of("cafe 1")[kind], kinds_of("the lamp")[kind]), of_words, 64, told)
    [note] = told.notes
    assert note.startswith("some data: the tokenizer does not know all characters of 1 of 2 texts (a:1)")
    with pytest.raises(DataError, match="turns all of the text of a:1") as raised:
        tokenize(data_of(kinds_of("old lamp")[kind]), of_words, 64)
    assert "this language" in raised.value.hint


def test_a_word_that_is_lost_across_the_border_is_told(of_words):
    notes = Notes()
    data = data_of(Document("a:1", "keeper 1", prompt="the"), Document("a:2", " keeper 1", prompt="the"))
    joined, apart = tokenize(data, of_words, 64, notes)
    assert of_words.decode(list(joined.input_ids)) == "<unk> 1 <end>"
    assert of_words.decode(list(apart.input_ids)) == "the keeper 1 <end>"
    assert "1 of 2 texts (a:1)" in notes.notes[0]


def test_letters_that_the_tokenizer_drops_are_told(tokenizer):
    made = Tokenizer(models.BPE({"a": 0, "b": 1}, []))  # no unknown token: other letters vanish
    dropping = PreTrainedTokenizerFast(tokenizer_object=made)
    with pytest.raises(DataError, match="turns all of the text of a"):
        tokenize(data_of(Document("a", "xyz")), dropping, 8)
    notes = Notes()
    tokenize(data_of(Document("a", "abba x")), dropping, 8, notes)
    assert len(notes.notes) == 1
    notes = Notes()
    tokenize(data_of(Document("a", "Ærø 北 🙂 \u00a0 ﬁ e\u0301")), tokenizer, 64, notes)  # bytes: nothing is lost
    assert notes.notes == []


def test_reasoning_that_the_template_drops_is_told(tokenizer):
    made = tiny.tokenizer()
    made.chat_template = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}<|end|>{% endfor %}"
    question = {"role": "user", "content": "salt?"}
    chats = [
        Document(f"chat:{number}", text, messages=(question, {"role": "assistant", "content": text, **more}))
        for number, (text, more) in enumerate(
            [("No.", {}), ("<think>hm</think>Yes.", {}), ("Yes.", {"reasoning": "hm"})]
        )
    ]
    notes = Notes()
    tokenize(data_of(*chats), made, 64, notes)
    [note] = notes.notes
    assert "leaves out the reasoning of 2 of 3 answers (chat:1 and 1 more)" in note
