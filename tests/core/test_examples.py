"""Lines of examples as mlx-lm reads them: the same tokens, the same ones to be learned; and what is refused."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chatml import CHATML, END, TURN_END, saved
from mlx_lm.tuner.datasets import create_dataset
from transformers import PreTrainedTokenizerFast

from lost.data.dataset import Dataset
from lost.data.loss_mask import EXAMPLE_START, IN_LOSS
from lost.errors import DataError, MissingPackageError
from lost.prepare.example_lines import Answers, encode_example, read_examples
from lost.tokenizer import Tokenizer, load_tokenizer
from lost.tokenizer.chat_template import PlainTemplate, question, template_of

WITH_TOOLS = (
    "{{ bos_token }}{% if tools %}{{ tools | tojson(indent=2) }}\n{% endif %}\n"
    "    {% for message in messages %}\n"
    "    {% if message.role == 'system' %}{% continue %}{% endif %}\n"
    "[{{ message.role | upper }}] {{ message['content'] | trim }}{{ eos_token if message.role == 'assistant' }}\n"
    "    {% endfor %}"
)
RECORDS: list[dict[str, Any]] = [
    {"prompt": "the rank of", "completion": "the weight"},
    {"messages": [{"role": "user", "content": "rank"}, {"role": "assistant", "content": "layer\nof"}]},
    {
        "messages": [
            {"role": "system", "content": "You answer."},
            {"role": "user", "content": "the <b>\u00e9</b>"},
            {"role": "assistant", "content": "first"},
            {"role": "user", "content": "and"},
            {"role": "assistant", "content": "second"},
        ]
    },
    {"text": "the layer and the weight"},
]


def encoded(
    record: dict[str, Any], tokenizer: Tokenizer, folder: Path, answers: Answers = "last"
) -> tuple[list[int], np.ndarray]:
    file = folder / "one.jsonl"
    file.write_text(json.dumps(record))
    (example,) = read_examples([file], template_of(tokenizer), answers)
    ids, marks = encode_example(example, tokenizer)
    assert marks[0] & EXAMPLE_START
    assert not (marks[1:] & EXAMPLE_START).any()
    return ids.tolist(), (marks & IN_LOSS).astype(bool)


@pytest.mark.parametrize("record", RECORDS, ids=["completion", "chat", "turns", "text"])
@pytest.mark.parametrize(("template", "eos"), [(CHATML, END), (CHATML, TURN_END), (WITH_TOOLS, END)])
def test_tokens_and_masks_are_those_of_mlx_lm(tmp_path: Path, template: str, eos: str, record: dict[str, Any]) -> None:
    folder = saved(tmp_path / "tokenizer", template, eos)
    if template is WITH_TOOLS:
        record = {**record, "tools": [{"name": "f", "arguments": {"x": "<1>"}}]}
    tokenizer, theirs = load_tokenizer(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    setting = type("Settings", (), {"mask_prompt": "text" not in record})
    tokens, offset = create_dataset([record], theirs, setting).process(record)
    ids, counted = encoded(record, tokenizer, tmp_path)
    assert ids[: len(tokens)] == tokens
    np.testing.assert_array_equal(counted[: len(tokens)], np.arange(len(tokens)) >= offset)
    if tokens[-1] == tokenizer.end_of_text:
        assert len(ids) == len(tokens)
    else:  # the separator, learned where nothing else says that the answer is over
        assert ids[len(tokens) :] == [tokenizer.end_of_text]
        assert counted[-1] == (tokenizer.end_of_text not in tokens[offset:])


def test_a_prompt_asked_is_encoded_as_it_was_learned(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(saved(tmp_path / "tokenizer", CHATML, TURN_END))
    ids, counted = encoded(RECORDS[0], tokenizer, tmp_path)
    assert question(tokenizer, "the rank of").tolist() == ids[: int(counted.argmax())]


def test_each_answer_is_what_transformers_marks(tmp_path: Path) -> None:
    """And what ends its turn; the tokens are those of the last answer's example, or of both spans alone."""
    folder = saved(tmp_path / "tokenizer", CHATML, TURN_END)
    tokenizer, theirs = load_tokenizer(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    messages = RECORDS[2]["messages"]
    marked = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    ids, counted = encoded(RECORDS[2], tokenizer, tmp_path, "all")
    assert ids == [*marked["input_ids"], tokenizer.end_of_text] or ids == marked["input_ids"]
    ours, own = counted[: len(marked["input_ids"])], np.array(marked["assistant_masks"], bool)
    assert ours[own].all()
    assert {tokenizer.decode([ids[each]]) for each in np.flatnonzero(ours & ~own)} == {"\n"}
    assert ids == encoded(RECORDS[2], tokenizer, tmp_path)[0]
    assert tokenizer.decode(np.array(ids)[counted].tolist()).count("first") == 1
    for record in (RECORDS[0], RECORDS[1], RECORDS[3]):
        last, each = encoded(record, tokenizer, tmp_path), encoded(record, tokenizer, tmp_path, "all")
        assert last[0] == each[0]
        np.testing.assert_array_equal(last[1], each[1])


def test_each_answer_without_a_template(prepared: Dataset, tmp_path: Path) -> None:
    tokenizer = prepared.tokenizer
    ids, counted = encoded(RECORDS[2], tokenizer, tmp_path, "all")
    edges = np.flatnonzero(np.diff(counted, prepend=False)).tolist()
    pieces = [tokenizer.decode(ids[begin:end]) for begin, end in zip([0, *edges], [*edges, len(ids) - 1], strict=True)]
    assert pieces == [
        "<|system|>\nYou answer.\n<|user|>\nthe <b>\u00e9</b>\n<|assistant|>\n",
        "first",
        "\n<|user|>\nand\n<|assistant|>\n",
        "second",
    ]
    assert counted[-1]


def test_a_template_that_changes_earlier_answers(tmp_path: Path) -> None:
    last = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content if loop.last or m.role == 'user' else '...' }}{% endfor %}"
    )
    tokenizer = load_tokenizer(
        saved(tmp_path / "t", last + "{% if add_generation_prompt %}[assistant]{% endif %}", END)
    )
    assert encoded(RECORDS[2], tokenizer, tmp_path)[1].any()
    with pytest.raises(DataError, match=r"one.jsonl:1: .*changes an answer once others follow.*use --answers last"):
        encoded(RECORDS[2], tokenizer, tmp_path, "all")


def test_without_a_template(prepared: Dataset, tmp_path: Path) -> None:
    tokenizer, end = prepared.tokenizer, prepared.tokenizer.end_of_text
    for record, given, answer in (
        ({"prompt": "the rank", "completion": " of it"}, "the rank", " of it"),
        ({"prompt": "the we", "completion": "ight"}, "the we", "ight"),  # a border inside a token
        ({"prompt": "", "completion": "the rank"}, "", "the rank"),
        ({"prompt": "the rank", "completion": ""}, "the rank", ""),
        (RECORDS[1], "<|user|>\nrank\n<|assistant|>\n", "layer\nof"),
        (
            RECORDS[2],
            "<|system|>\nYou answer.\n<|user|>\nthe <b>\u00e9</b>\n<|assistant|>\nfirst\n<|user|>\nand\n"
            "<|assistant|>\n",
            "second",
        ),
        (RECORDS[3], "", RECORDS[3]["text"]),
    ):
        ids, counted = encoded(record, tokenizer, tmp_path)
        start = len(tokenizer.encode(given))
        assert ids[:start] == tokenizer.encode(given).tolist()
        assert tokenizer.decode(ids[start:-1]) == answer
        assert ids[-1] == end
        np.testing.assert_array_equal(counted, np.arange(len(ids)) >= start)


def test_what_is_held_out_does_not_depend_on_the_template(tmp_path: Path) -> None:
    """Nor on the order of a line's keys, nor on keys that aren't read."""
    file = tmp_path / "x.jsonl"
    shuffled = [{"more": 1, **dict(reversed(record.items()))} for record in RECORDS]
    file.write_text("".join(json.dumps(record) + "\n" for record in [*RECORDS, *shuffled]))
    templates = [template_of(load_tokenizer(saved(tmp_path / "tokenizer", each, END))) for each in (CHATML, WITH_TOOLS)]
    digests = [[each.digest for each in read_examples([file], template)] for template in (PlainTemplate(), *templates)]
    assert digests[0] == digests[1] == digests[2]
    assert digests[0][: len(RECORDS)] == digests[0][len(RECORDS) :]
    assert len(set(digests[0])) == len(RECORDS)


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    half = '"kara \\ud83d"'
    said = f'{{"role": "user", "content": {half}}}, {{"role": "assistant", "content": {half}}}'
    file.write_text(f'{{"prompt": {half}, "completion": {half}}}\n{{"messages": [{said}]}}\n{{"text": {half}}}\n')
    for example in read_examples([file], PlainTemplate()):
        assert "kara ?" in example.learned
        assert example.text.encode()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "not JSON"),
        ("[1]", "a list, not an object"),
        ('{"prompt": "x"}', "the keys are prompt; expected"),
        ("{}", "the keys are none"),
        ('{"prompt": "x", "completion": 3}', "completion = 3; expected text"),
        ('{"text": null}', "text = None"),
        ('{"messages": "hello"}', "no list of objects"),
        ('{"messages": []}', "last message's role is None"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "last message's role is 'user'"),
        ('{"messages": [{"role": "judge", "content": "x"}, {"role": "assistant", "content": "x"}]}', "'judge'"),
        ('{"messages": [{"role": "assistant"}]}', "the content None"),
        ('{"messages": [{"role": "assistant", "content": "x"}], "tools": []}', "there are tools"),
    ],
)
def test_lines_that_are_no_examples(tmp_path: Path, line: str, named: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(f'{{"text": "fine"}}\n\n{line}\n')
    with pytest.raises(DataError, match=f"bad.jsonl:3: .*{named}"):
        list(read_examples([file], PlainTemplate()))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    whole = tmp_path / "x.jsonl.gz"
    whole.write_bytes(gzip.compress(b'{"text": "fine"}\n' * 1000))
    assert len(list(read_examples([whole], PlainTemplate()))) == 1000
    whole.write_bytes(whole.read_bytes()[:-12])
    for path in (whole, tmp_path / "missing.jsonl"):
        with pytest.raises(DataError, match="can't be read"):
            list(read_examples([path], PlainTemplate()))


def test_templates_that_do_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for template, named in (
        ("{% for %}", "can't be read"),
        ("{{ raise_exception('no systems here') }}", "rejects a conversation: no systems here"),
        ("{{ messages | length }}", "so that the answer can't be told from the rest"),
        ("{{ messages[0].__class__.__mro__ }}", "rejects a conversation"),
        ("{{ 1 // 0 }}", "rejects a conversation"),
        ("{{ range(10000000) }}", "rejects a conversation"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "rejects a conversation"),
    ):
        tokenizer = load_tokenizer(saved(tmp_path / "tokenizer", template, END))
        with pytest.raises(DataError, match=named):
            encoded(RECORDS[0], tokenizer, tmp_path)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingPackageError, match=r"-e '\.\[chat\]'"):
        template_of(tokenizer)
