"""The tokenizer of an exported folder, in the hands of transformers and mlx-lm: the run's own ids."""

import gzip
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
import tokenizers
from mlx_lm.utils import load_tokenizer
from transformers import AutoTokenizer

from lost.checkpoint import Checkpoint, TrainState, write
from lost.config import Config
from lost.interop.to_hf.folder import export
from lost.interop.to_hf.tokenizer_files import tokenizer_files
from lost.model.init import initial_values
from lost.tokenizer import load_tokenizer as load_own
from lost.tokenizer import train_tokenizer
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
