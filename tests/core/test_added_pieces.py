"""A sentencepiece model that files beside it extend: refused, where text would end otherwise than the model learned."""

import json
from pathlib import Path

import pytest

from lost.data.dataset import Dataset
from lost.errors import DataError
from lost.tokenizer import load_tokenizer

CONFIG, ADDED = "tokenizer_config.json", "added_tokens.json"


def beside(dataset: Dataset, folder: Path, **files: object) -> Path:
    dataset.tokenizer.save(folder)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"tokenizer_config": {"eos_token": "<|im_end|>"}}, "end a text with <|im_end|>"),
        ({"tokenizer_config": {"eos_token": {"content": "<unk>"}}}, "end a text with <unk>"),
        ({"added_tokens": {"<|im_start|>": 320}}, "add the token <|im_start|>"),
        ({"tokenizer_config": {"added_tokens_decoder": {"320": {"content": "<tool>"}}}}, "add the token <tool>"),
        ({"added_tokens": []}, "can't be read"),
    ],
)
def test_refused(prepared: Dataset, tmp_path: Path, files: dict, said: str) -> None:
    folder = beside(prepared, tmp_path, **files)
    with pytest.raises(DataError) as raised:
        load_tokenizer(folder)
    assert said in str(raised.value)
    assert ("tokenizer.json" in str(raised.value)) is ("can't" not in said)


def test_what_the_model_has_itself(prepared: Dataset, tmp_path: Path) -> None:
    """And a token for padding, which no text has."""
    config = {"eos_token": "</s>", "pad_token": "<pad>", "added_tokens_decoder": {"1": {"content": "</s>"}, "2": None}}
    folder = beside(prepared, tmp_path, tokenizer_config=config, added_tokens={"<pad>": 320, "<unk>": 0})
    assert load_tokenizer(folder).fingerprint == prepared.tokenizer.fingerprint
