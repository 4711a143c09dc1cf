"""Conversations: what the model reads turn by turn, what is left out where there is no room, what is written down."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from chatml import CHATML, END, START, TURN_END, saved

from lost.data.dataset import Dataset
from lost.errors import DataError, UserError
from lost.generation.continuation import Continuation
from lost.generation.conversation import Conversation
from lost.generation.sampler import Sampler
from lost.generation.stopping import ends_of_turn
from lost.prepare.example_lines import read_examples
from lost.tokenizer import Tokenizer, load_tokenizer
from lost.tokenizer.chat_template import PLAIN, template_of


class Scripted:
    """An engine that says what it is told, and notes what it has read."""

    def __init__(self, tokenizer: Tokenizer, *answers: str) -> None:
        self.tokenizer, self.answers, self.read, self.limits = tokenizer, list(answers), [], []

    def generate(self, prompt: Sequence[int], choose: Callable[[Any], int], limit: int) -> Iterator[int]:
        self.read.append(list(prompt))
        self.limits.append(limit)
        yield from self.tokenizer.encode(self.answers.pop(0)).tolist()[:limit]


def talk(tokenizer: Tokenizer, *answers: str, positions: int = 1000, limit: int = 50) -> tuple[Conversation, Scripted]:
    engine = Scripted(tokenizer, *answers)
    return Conversation(engine, tokenizer, Sampler(0), positions, limit), engine  # type: ignore[arg-type]


def test_turns_stand_in_the_template(prepared: Dataset) -> None:
    tokenizer = prepared.tokenizer.with_chat_template(PLAIN)
    conversation, engine = talk(tokenizer, "the rank", "a layer")
    assert "".join(conversation.ask("what")) == "the rank"
    assert "".join(conversation.ask("and")) == "a layer"
    first = "<|user|>\nwhat\n<|assistant|>\n"
    second = f"{first}the rank\n<|user|>\nand\n<|assistant|>\n"
    assert engine.read == [[1, *tokenizer.encode(text).tolist()] for text in (first, second)]
    assert conversation.tokens == len(engine.read[1]) + len(tokenizer.encode("a layer"))
    conversation.reset()
    assert not conversation.messages


def test_without_a_template_all_is_one_text(prepared: Dataset) -> None:
    tokenizer = prepared.tokenizer
    conversation, engine = talk(tokenizer, " the rank", "")
    for text in ("what", "and"):
        list(conversation.ask(text))
    assert engine.read[1] == [1, *tokenizer.encode("what\n the rank\nand").tolist()]


def test_the_oldest_turns_make_room(prepared: Dataset) -> None:
    """A quarter of the positions, or as much as an answer may have, is kept for it."""
    tokenizer = prepared.tokenizer.with_chat_template(PLAIN)
    turn = len(tokenizer.encode("<|user|>\nwhat\n<|assistant|>\nthe rank\n"))
    conversation, engine = talk(tokenizer, *["the rank"] * 9, positions=4 * turn, limit=1000)
    for asked in range(6):
        list(conversation.ask("what"))
        assert len(engine.read[-1]) + engine.limits[-1] == 4 * turn
        assert engine.limits[-1] >= turn
        assert conversation.dropped == max(0, asked - 2)
    assert len(json.loads(conversation.record())["messages"]) == len(conversation.messages) == 12
    before, dropped = list(conversation.messages), conversation.dropped
    with pytest.raises(UserError, match=rf"tokens, with what stands before it; .*max_position_embeddings = {4 * turn}"):
        conversation.ask("what " * 4 * turn)
    assert (conversation.messages, conversation.dropped) == (before, dropped)
    assert "".join(conversation.ask("what")) == "the rank"


def test_a_template_of_its_own_may_refuse(prepared: Dataset) -> None:
    """The conversation stays as it was, and goes on."""
    template = (
        "{% for each in messages %}{% if each.content == 'bad' %}{{ raise_exception('not so') }}{% endif %}"
        "[{{ each.role }}] {{ each.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tokenizer = prepared.tokenizer.with_chat_template(template)
    conversation, engine = talk(tokenizer, "the rank", "a layer")
    list(conversation.ask("what"))
    before = list(conversation.messages)
    with pytest.raises(UserError, match="not so"):
        conversation.ask("bad")
    assert conversation.messages == before
    list(conversation.ask("and"))
    assert engine.read[1] == [1, *tokenizer.encode("[user] what[assistant] the rank[user] and[assistant]").tolist()]


def test_what_was_taken_of_an_answer_stays(prepared: Dataset) -> None:
    conversation, _ = talk(prepared.tokenizer.with_chat_template(PLAIN), "the rank of a layer")
    pieces = conversation.ask("what")
    taken = next(pieces) + next(pieces)
    assert conversation.messages[-1] == {"role": "assistant", "content": taken}


@pytest.mark.parametrize("template", [PLAIN, None])
def test_a_record_is_an_example_to_learn_from(prepared: Dataset, template: str | None, tmp_path: Path) -> None:
    tokenizer = prepared.tokenizer.with_chat_template(template) if template else prepared.tokenizer
    conversation, _ = talk(tokenizer, "the\x1b[2J\u202e rank")
    list(conversation.ask("what"))
    record = conversation.record()
    assert record.isascii()
    assert record.isprintable()
    (tmp_path / "chat.jsonl").write_text(record + "\n")
    (example,) = read_examples([tmp_path / "chat.jsonl"], template_of(tokenizer))
    assert example.conversation is (template is not None)
    assert example.text.endswith("the\x1b[2J\u202e rank")


def test_an_answer_ends_with_its_turn(tmp_path: Path) -> None:
    """Though training had a line break and another token after it; the next question is as examples have it."""
    tokenizer = load_tokenizer(saved(tmp_path, CHATML, END))
    turn_end = tokenizer.encode(TURN_END, special_tokens=True).tolist()
    conversation, engine = talk(tokenizer)
    answer = tokenizer.encode("the rank").tolist()
    engine.generate = lambda prompt, choose, limit: (
        engine.read.append(list(prompt))
        or iter(  # type: ignore[method-assign]
            [*answer, *turn_end, *tokenizer.encode("\n").tolist(), tokenizer.end_of_text]
        )
    )
    assert "".join(conversation.ask("what")) == "the rank"
    assert conversation.answer
    assert conversation.answer.ended == "end_of_text"
    list(conversation.ask("and"))
    asked = f"{START}user\nwhat{TURN_END}\n{START}assistant\nthe rank{TURN_END}\n{START}user\nand{TURN_END}\n"
    expected = tokenizer.encode(f"{asked}{START}assistant\n", special_tokens=True).tolist()
    assert engine.read[1][1:] == expected
    assert ends_of_turn(tokenizer.with_chat_template(PLAIN)) == frozenset()


def test_a_model_that_is_made_to_think_first_ends_its_answers(tmp_path: Path) -> None:
    """A template that begins answers with `<think>`, which finished ones don't have, is fit to talk, not to train."""
    template = CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
    assert "<think>" in template
    tokenizer = load_tokenizer(saved(tmp_path, template, END))
    assert ends_of_turn(tokenizer) == {*tokenizer.encode(TURN_END, special_tokens=True).tolist()}
    conversation, engine = talk(tokenizer, "the rank")
    list(conversation.ask("what"))
    assert engine.read
    with pytest.raises(DataError, match="changes a conversation when an answer is added"):
        template_of(tokenizer).completion("what", "the rank")


def test_a_special_token_stops_a_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(saved(tmp_path, None, END))
    (turn_end,) = tokenizer.encode(TURN_END, special_tokens=True).tolist()
    rank = tokenizer.encode("rank").tolist()
    engine = SimpleNamespace(generate=lambda *given: iter([*rank, turn_end, *rank]))
    for stop, expected, ended in ((TURN_END, "rank", "stop"), ("none", "rankrank", "length")):
        text = Continuation(engine, tokenizer, [0], Sampler(0), 9, [stop])  # type: ignore[arg-type]
        assert ("".join(text), text.ended) == (expected, ended)


def test_what_begins_a_text_may_end_it(prepared: Dataset) -> None:
    """A penalty on repetition doesn't count it as said."""
    logits = np.zeros(prepared.tokenizer.vocab_size, np.float32)
    logits[prepared.tokenizer.end_of_text], logits[9] = 10, 9
    engine = SimpleNamespace(generate=lambda prompt, choose, limit: iter([choose(logits)]))
    begin = [prepared.tokenizer.end_of_text, 5]
    text = Continuation(engine, prepared.tokenizer, begin, Sampler(0, repetition_penalty=1.3), 1)  # type: ignore[arg-type]
    assert ("".join(text), text.ended) == ("", "end_of_text")
