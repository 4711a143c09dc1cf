"""The tokenizer of an exported folder, in the hands of transformers and mlx-lm: the run's own ids."""

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from mlx_lm.utils import load_tokenizer
from transformers import AutoTokenizer

from lost.checkpoint import Checkpoint, TrainState, write
from lost.config import Config
from lost.data.dataset import TRAIN, Dataset
from lost.data.loss_mask import IN_LOSS
from lost.interop.to_hf.folder import export
from lost.interop.to_hf.tokenizer_files import tokenizer_files
from lost.model.init import initial_values
from lost.tokenizer import load_tokenizer as load_own
from lost.tokenizer import train_tokenizer
from lost.tokenizer.chat_template import PlainTemplate, template_of
from lost.tokenizer.comparison import AWKWARD

SHARED = Path(__file__).parents[3] / "shared" / "data"


def readers_of(folder: Path) -> dict[str, object]:
    """The tokenizer of an exported folder, in the hands of those who load it; asked as their users would ask."""
    mine = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    theirs = load_tokenizer(folder, {"trust_remote_code": True})
    return {"transformers": mine, "mlx-lm": theirs}


def test_ids(exported: tuple[Checkpoint, Path]) -> None:
    own = exported[0].tokenizer()
    for name, reader in readers_of(exported[1]).items():
        for text in (*AWKWARD, "the rank of a layer\n  and its channels"):
            ids = own.encode(text).tolist()
            assert reader.encode(text) == ids, (name, text)
            assert reader.decode(ids) == own.decode(ids)
        assert (reader.eos_token_id, reader.bos_token_id, reader.padding_side) == (1, 1, "left")


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the shared data isn't here")
def test_ids_on_all_shared_data(tmp_path: Path) -> None:
    own = train_tokenizer((line for text in shared_texts(200) for line in text.splitlines(keepends=True)), 8192)
    for name, content in tokenizer_files(own, 1 << 20).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    readers, checked = readers_of(tmp_path), 0
    for text in shared_texts():
        ids = own.encode(text).tolist()
        for name, reader in readers.items():
            assert reader.encode(text) == ids, (name, text[:200])
        assert readers["transformers"].decode(ids) == own.decode(ids)
        checked += len(text)
    assert checked > 10_000_000


def shared_texts(limit: int | None = None) -> Iterator[str]:
    for path in sorted(SHARED.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from (json.loads(line)["text"] for line in islice(lines, limit))
    for path in sorted(SHARED.glob("*.txt")):
        yield path.read_bytes().decode(errors="surrogateescape").encode(errors="replace").decode()


def test_a_tokenizer_json_is_exported_as_it_is(config: Callable[..., Config], tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=made.pre_tokenizer.alphabet()
    )
    made.train_from_iterator(["the rank of a layer and the channels that it keeps"] * 9, trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    own = load_own(tmp_path)
    settings = config(model={"vocab_size": own.vocab_size})
    source = write(tmp_path / "source", initial_values(settings), (), settings, TrainState(), own)
    result = export(source, tmp_path / "out", "hf")
    assert len(result.agreements) == 2
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    assert not (tmp_path / "out" / "tokenizer.model").exists()
    reader = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert reader.eos_token == reader.pad_token == "<|endoftext|>"


def test_conversations_have_the_tokens_of_training(
    lost: Callable, prepared: Dataset, tiny_yaml: Path, tmp_path: Path
) -> None:
    """A run that was tuned on messages tells other libraries how: the plain template, in Jinja."""
    said = [
        {"role": "system", "content": "be low"},
        {"role": "user", "content": "the rank \n"},
        {"role": "assistant", "content": "of the layer"},
        {"role": "user", "content": "</s> and the <|user|> weight?"},
        {"role": "assistant", "content": "the channel"},
    ]
    (tmp_path / "chat.jsonl").write_text("\n".join([json.dumps({"messages": said})] * 9))
    (tmp_path / "text.jsonl").write_text('{"prompt": "the", "completion": " rank"}\n' * 9)
    for name in ("chat", "text"):
        shutil.copy(tmp_path / f"{name}.jsonl", tmp_path / f"{name}-valid.jsonl")
    command = ("train", tiny_yaml, "--set", "train.stop_after=1", "--out")
    for name in ("chat", "text"):
        done = lost("prepare", tmp_path / f"{name}.jsonl", "--examples", "--tokenizer", prepared.path, "--valid",
                    tmp_path / f"{name}-valid.jsonl", "--out", tmp_path / name)  # fmt: skip
        assert done.code == 0, done.err
        assert lost(*command, tmp_path / f"{name}-run", "--data", tmp_path / name).code == 0
        done = lost("convert", tmp_path / f"{name}-run", tmp_path / f"{name}-out", "--to", "hf")
        assert done.code == 0, done.err
    split = Dataset(tmp_path / "chat").split(TRAIN)
    assert split.loss_mask is not None
    trained = split.read(1, split.tokens // 9).tolist()  # of one example, after the end-of-text that is before it
    learned = int(np.argmax(split.loss_mask.mask[1:] & IN_LOSS))
    for name, reader in readers_of(tmp_path / "chat-out").items():
        asked = reader.apply_chat_template(said[:-1], add_generation_prompt=True, return_dict=False)
        assert asked == trained[:learned], name
        assert reader.apply_chat_template(said, return_dict=False) == trained[:-1], name
    assert trained[-1] == 1
    for reader in readers_of(tmp_path / "text-out").values():
        assert not reader.chat_template
    # And it comes back: the same tokens, without Jinja, and what is written out stays text.
    again = load_own(tmp_path / "chat-out")
    assert isinstance(template_of(again), PlainTemplate)
    asked = [1, *again.encode(PlainTemplate().question(said[:-1])).tolist()]
    assert asked[1:] == trained[:learned]
