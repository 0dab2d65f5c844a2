"""Prompts and continuations: where windows lie, where texts end, and that batches change nothing."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from attacking import opened
from evaluating import LENGTHS, SMALL, constant_model, load, random_samples, strip, values

from taskarith.data.load import load_data
from taskarith.data.tokens import tokenize
from taskarith.errors import DataError
from taskarith.evaluation.batches import Batching
from taskarith.evaluation.evaluate import evaluate
from taskarith.evaluation.generation import Prompt, Sampling, continue_greedily, continue_sampled, make_prompts


def random_prompts():
    return [Prompt(sample.id, sample.input_ids, "", "") for sample in random_samples()]


def continuations(model, batch_size, end_ids=(), prompts=None):
    return continue_greedily(
        model,
        tiny.tokenizer(),
        prompts or random_prompts(),
        Batching(batch_size),
        max_new_tokens=12,
        end_ids=end_ids,
    )


def greedy_by_hand(model, ids, steps):
    ids = torch.tensor([ids])
    start = ids.shape[1]
    for _ in range(steps):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return tiny.tokenizer().decode(ids[0, start:].tolist(), skip_special_tokens=True)


def test_continuations_do_not_depend_on_the_batch(any_model):
    alone = continuations(any_model, 1)
    assert continuations(any_model, 8) == alone
    assert len(set(alone)) > 1
    assert alone[1] == greedy_by_hand(any_model, random_prompts()[1].input_ids, 12)


def test_a_model_that_knows_a_text_reproduces_it(salt, tmp_path):
    (tmp_path / "salt.txt").write_text(" salt" * 100, encoding="utf-8")
    evaluation = evaluate([str(salt)], {"salt": str(tmp_path / "salt.txt")}, **SMALL)
    found = values(evaluation, str(salt), "salt")
    assert found["loss"] == pytest.approx(0, abs=1e-6)
    assert found["perplexity"] == pytest.approx(1, abs=1e-6)
    names = ("accuracy", "rouge_l_f1", "rouge_l_recall", "verbatim", "exact_memorisation", "extraction_strength")
    assert [found[name] for name in names] == [1] * 6
    tokens = [record["tokens"] for record in evaluation.records if record["kind"] == "loss"]
    assert tokens == [47, 47, 3]  # three blocks of 48, 48 and 4 tokens, the first of each unscored
    assert evaluation.scores.by_text[str(salt)]["salt"]["rouge_l_f1"].n == 3


def test_a_continuation_ends_before_an_end_token(salt):
    model, token = load(salt), tiny.tokenizer()(" salt").input_ids[0]
    assert continuations(model, 4) == [" salt" * 12] * len(LENGTHS)
    assert continuations(model, 4, end_ids={token, 5}) == [""] * len(LENGTHS)


def test_end_tokens_are_the_generation_configurations(salt, tmp_path, book):
    model = tmp_path / "m"
    constant_model(model, 7)
    (model / "generation_config.json").write_text('{"eos_token_id": [7, 3]}')
    records = evaluate([str(model)], {"book": str(book)}, **SMALL).records
    assert {record["continuation"] for record in records if record["kind"] == "continuation"} == {""}


def test_sampling_and_penalties_of_a_checkpoint_are_not_used(phi, tmp_path, book):
    plain = evaluate([str(phi)], {"book": str(book)}, **SMALL)
    model = tiny.save_model(tmp_path / "m")
    odd = {"do_sample": True, "temperature": 9.0, "top_k": 3, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1}
    odd |= {"num_beams": 4, "max_length": 5, "min_new_tokens": 3, "suppress_tokens": [1, 2], "eos_token_id": 0}
    (model / "generation_config.json").write_text(json.dumps(odd))
    assert strip(evaluate([str(model)], {"book": str(book)}, **SMALL)) == strip(plain)


def prompts_of(path, prompts=3, prompt_tokens=8, continuation_tokens=12, tokenizer=None):
    data, tokenizer = load_data(str(path)), tokenizer or tiny.tokenizer()
    samples = tokenize(data, tokenizer, 64)
    sizes = {"prompt_tokens": prompt_tokens, "continuation_tokens": continuation_tokens}
    return make_prompts(data, samples, tokenizer, prompts=prompts, **sizes)


def test_windows_spread_over_a_text_from_end_to_end(book):
    tokenizer = tiny.tokenizer()
    ids = tokenizer(book.read_text(encoding="utf-8")).input_ids
    made = prompts_of(book, prompts=5)
    last = len(ids) - 20
    starts = [0, last // 4, last // 2, 3 * last // 4, last]
    assert [prompt.id for prompt in made] == [f"book.txt@{start}" for start in starts]
    assert [prompt.input_ids for prompt in made] == [tuple(ids[start : start + 8]) for start in starts]
    assert [prompt.reference for prompt in made] == [tokenizer.decode(ids[s + 8 : s + 20]) for s in starts]


def test_windows_start_with_what_the_tokenizer_puts_before_texts(book):
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|end|>"})
    tokenizer.add_bos_token = True
    assert tokenizer("river").input_ids[0] == 0
    first = prompts_of(book, tokenizer=tokenizer)[0]
    assert len(first.input_ids) == 9
    assert first.input_ids[0] == 0


def test_there_are_never_more_prompts_than_windows(tmp_path):
    text = tmp_path / "short.txt"
    ids = tiny.tokenizer()(tiny.text(3)).input_ids[:22]
    text.write_text(tiny.tokenizer().decode(ids), encoding="utf-8")
    assert [prompt.id for prompt in prompts_of(text, prompts=16)] == ["short.txt@0", "short.txt@1", "short.txt@2"]
    assert len(prompts_of(text, prompts=1)) == 1
    assert prompts_of(text, prompts=0) == []
    with pytest.raises(DataError, match="at most 22 consecutive tokens, too few for a prompt of 8"):
        prompts_of(text, continuation_tokens=15)


def test_windows_of_rows_of_text_never_cross_a_row(tmp_path):
    rows = [tiny.text(3, seed) for seed in range(6)] + ["river"]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": row}) for row in rows), encoding="utf-8")
    made = prompts_of(path, prompts=9)
    assert len({prompt.id for prompt in made}) == 9
    for prompt in made:
        row = rows[int(prompt.id.split(":")[1].split("@")[0]) - 1]
        assert tiny.tokenizer().decode(list(prompt.input_ids)) + prompt.reference in row


def test_rows_with_prompts_give_them_and_their_completions(tmp_path):
    rows = [{"prompt": f"River {n}:", "completion": " salt" * (n + 1)} for n in range(8)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    made = prompts_of(path, prompts=4, continuation_tokens=5)
    assert [prompt.id for prompt in made] == ["rows.jsonl:1", "rows.jsonl:3", "rows.jsonl:5", "rows.jsonl:8"]
    assert [tiny.tokenizer().decode(list(prompt.input_ids)) for prompt in made[:2]] == ["River 0:", "River 2:"]
    assert [prompt.reference for prompt in made] == [" salt", " salt" * 3, " salt" * 5, " salt" * 5]


def test_chats_give_the_template_up_to_the_answer(tmp_path):
    chat = [{"role": "user", "content": "Which road?"}, {"role": "assistant", "content": "The north road"}]
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": chat}), encoding="utf-8")
    (prompt,) = prompts_of(path)
    assert tiny.tokenizer().decode(list(prompt.input_ids)) == "<|user|>Which road?<|end|><|assistant|>"
    assert prompt.reference == "The north road"


def test_a_row_without_a_prompt_is_refused_for_continuations_only(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "", "completion": "river road"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl:1 has an empty prompt"):
        prompts_of(path)
    assert prompts_of(path, prompts=0) == []


def test_sampling_is_seeded_and_leaves_the_generators_alone(phi):
    loaded, prompts = opened(phi), [Prompt(str(n), tuple(range(5, 9 + n)), "", "") for n in range(3)]
    how = {"max_new_tokens": 8, "end_ids": ()}

    def drawn(seed, top_k=50):
        return continue_sampled(loaded.model, loaded.tokenizer, prompts, Batching(4), Sampling(3, top_k, seed), **how)

    state = torch.get_rng_state()
    first = drawn(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(draws) for draws in first] == [3, 3, 3]
    assert first == drawn(1)
    assert first != drawn(2)
    greedy = continue_greedily(loaded.model, loaded.tokenizer, prompts, Batching(4), **how)
    assert drawn(1, top_k=1) == [[text] * 3 for text in greedy]
