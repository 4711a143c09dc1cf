"""`lost convert --to gguf`: llama.cpp computes the run's logits and gives the run's ids, or the export is refused."""

import io
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import pytest
import sentencepiece
import tokenizers
from exports import HOSTS, SIZES, checkpoint_of

from lost.checkpoint import TrainState, write
from lost.config import Config
from lost.data.dataset import Dataset
from lost.errors import DataError, ExportError
from lost.interop.to_gguf.file import _describe_tokenizer
from lost.interop.to_gguf.folder import export
from lost.interop.to_gguf.tensors import GgufType, check_stored
from lost.interop.to_gguf.vocabulary import vocabulary
from lost.interop.to_hf.dense import merged, merged_config
from lost.interop.to_hf.tokenizer_files import tokenizer_files
from lost.model.init import initial_values
from lost.tokenizer import Tokenizer, load_tokenizer
from lost.tokenizer.comparison import AWKWARD
from lost.tokenizer.sentencepiece import PieceTokenizer

pytestmark = pytest.mark.skipif(find_spec("xllamacpp") is None, reason="the authority on GGUF files isn't installed")
LINEAR = {"kind": "lost", "rank": 8, "activation": "none"}


@pytest.mark.parametrize("host", ["Llama", "Qwen3", pytest.param("Qwen2", marks=pytest.mark.slow)])
def test_llama_computes_the_same(config: Callable[..., Config], prepared: Dataset, tmp_path: Path, host: str) -> None:
    """With biases, normed queries and keys, heads of their own width, grouped, scaled positions, spare rows."""
    model = {**SIZES, **HOSTS[host], "vocab_size": 330, "tie_word_embeddings": host == "Qwen3"}
    source = checkpoint_of(config(projection=LINEAR, model=model), tmp_path / "source", prepared)
    made = export(source, tmp_path / "out", "float32")
    assert [each.reader.split()[0] for each in made.agreements] == ["llama.cpp"]
    assert made.agreements[0].difference < 1e-4


def test_a_long_name_of_the_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, config: Callable[..., Config], prepared: Dataset, tmp_path: Path
) -> None:
    """A socket's path has room for about a hundred characters; the export's own may be a relative one."""
    far = tmp_path / ("far" * 40)
    far.mkdir()
    monkeypatch.setenv("TMPDIR", str(far))
    monkeypatch.chdir(tmp_path)
    source = checkpoint_of(config(projection=LINEAR, model=SIZES), tmp_path / "source", prepared)
    assert export(source, Path("out")).agreements
    assert not list(far.iterdir())


@pytest.mark.parametrize("dtype", ["q8_0", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_types(config: Callable[..., Config], prepared: Dataset, tmp_path: Path, dtype: GgufType) -> None:
    """Matrices have the type, vectors don't, nor has a row that no blocks fill: one of 48 entries."""
    settings = config(projection=LINEAR, model={**SIZES, "intermediate_size": 48})
    made = export(checkpoint_of(settings, tmp_path / "source", prepared), tmp_path / "out", dtype)
    assert made.agreements
    (file,) = (tmp_path / "out").glob("*.gguf")
    found = gguf.GGUFReader(file).tensors
    kinds = {each.name: each.tensor_type.name for each in found}
    expected = {"bfloat16": ("BF16", "BF16"), "q8_0": ("Q8_0", "F16")}[dtype]
    assert (kinds["token_embd.weight"], kinds["blk.0.ffn_down.weight"]) == expected
    assert {kinds[each.name] for each in found if len(each.shape) == 1} == {"F32"}


def test_what_is_written_is_compared(
    monkeypatch: pytest.MonkeyPatch, config: Callable[..., Config], prepared: Dataset, tmp_path: Path
) -> None:
    """Heads in another order, a number beyond float16, a file that llama.cpp refuses: nothing is kept."""
    source = checkpoint_of(config(projection=LINEAR, model=SIZES), tmp_path / "source", prepared)
    large = [(name, array * (1e6 if "q_proj.up" in name else 1)) for name, array in source.parameters()]
    for where, wrong, message in (
        ("tensors._paired", lambda model, name, array: array, "log-probabilities differ from ours"),
        (
            "folder.merged",
            lambda *_: merged(source.config, merged_config(source.config), iter(large)),
            "blk.0.attn_q.weight was read back as F16",
        ),
        ("file._describe_tokenizer", lambda writer, *_: writer.add_tokenizer_model("other"), "unknown tokenizer"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"lost.interop.to_gguf.{where}", wrong)
            with pytest.raises(ExportError, match=message):
                export(source, tmp_path / "out")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def pieces(**options: object) -> PieceTokenizer:
    model = io.BytesIO()
    usual = {"model_type": "bpe", "vocab_size": 330, "byte_fallback": True, "normalization_rule_name": "identity"}
    usual |= {"add_dummy_prefix": False, "remove_extra_whitespaces": False, "bos_id": -1, "eos_id": 1, "unk_id": 0}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=model, minloglevel=2, **{**usual, **options}
    )
    return PieceTokenizer(model.getvalue(), "the tokenizer of a test")


def merges(folder: Path, pattern: str, **changes: object) -> Tokenizer:
    """A byte-level BPE whose text is cut by a pattern of `PATTERNS`."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<|endoftext|>"], initial_alphabet=made.pre_tokenizer.alphabet()
    )
    made.train_from_iterator(TEXT, trainer)
    made.add_tokens([tokenizers.AddedToken("<keep>", normalized=False)])
    document = json.loads(made.to_str())
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": PATTERNS[pattern]}
    document["model"]["ignore_merges"] = pattern == "llama-bpe"
    (folder / "tokenizer.json").write_text(json.dumps({**document, **changes}))
    return load_tokenizer(folder)


TEXT = ["the rank of a layer, and the channels it keeps: 1234 of 56,789! <p>It's</p>\n\n\tone</cats>  two"] * 9
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
WORDS = {**BYTES, "use_regex": True}


def split(digits: str) -> dict:
    """Qwen's pattern, as it stands in its tokenizer.json, and with three digits for one Llama 3's."""
    expression = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


PATTERNS = {
    "gpt-2": [WORDS],
    "smollm": [{"type": "Digits", "individual_digits": True}, WORDS],
    "qwen2": [split(r"\p{N}"), BYTES],
    "dbrx": [split(r"\p{N}{1,3}"), BYTES],
    "llama-bpe": [split(r"\p{N}{1,3}"), BYTES],
}


def ids_agree(tokenizer: Tokenizer, config: Callable[..., Config], folder: Path) -> bool:
    settings = config(projection={"kind": "dense"}, model={"vocab_size": tokenizer.vocab_size})
    source = write(folder / "source", initial_values(settings), (), settings, TrainState(), tokenizer)
    return export(source, folder / "out").agreements[0].texts >= len(AWKWARD)


@pytest.mark.parametrize("space", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_ids_of_pieces(config: Callable[..., Config], tmp_path: Path, space: bool) -> None:
    """Also where two pieces make the text of a control symbol, which to llama.cpp is a piece like any other."""
    symbols = {} if space else {"control_symbols": ["he"], "user_defined_symbols": ["<keep>"]}
    tokenizer = pieces(add_dummy_prefix=space, **symbols)
    assert ("\ue000he\ue000" in vocabulary(tokenizer).tokens) is not space
    assert ids_agree(tokenizer, config, tmp_path)


def converted(tokenizer: PieceTokenizer, folder: Path, **changes: object) -> Tokenizer:
    """The tokenizer.json that an export has of pieces."""
    for name, content in tokenizer_files(tokenizer, 64).items():
        (folder / name).write_bytes(content)
    document = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**document, **changes}))
    return load_tokenizer(folder)


@pytest.mark.parametrize("space", [False, True])
def test_pieces_that_an_export_has_as_merges(tmp_path: Path, space: bool) -> None:
    """A run that began with an export has them so: their order gives the scores."""
    own = pieces(add_dummy_prefix=space, **({} if space else {"control_symbols": ["he"]}))
    before, after = vocabulary(own), vocabulary(converted(own, tmp_path))
    assert (after.model, after.tokens, after.types, after.space_prefix, after.unknown) == (
        "llama", before.tokens, before.types, space, before.unknown)  # fmt: skip
    merged = [number for number, score in enumerate(after.scores) if score]
    assert len(merged) > 20
    assert sorted(merged, key=lambda n: after.scores[n]) == sorted(merged, key=lambda n: before.scores[n])


@pytest.mark.slow
def test_ids_of_pieces_that_an_export_has_as_merges(config: Callable[..., Config], tmp_path: Path) -> None:
    assert ids_agree(converted(pieces(control_symbols=["he"]), tmp_path), config, tmp_path)


def test_blocks_of_small_numbers() -> None:
    """Their scale is below float16's range: how the library rounds there is no fault of the disk."""
    kind, random = gguf.GGMLQuantizationType.Q8_0, np.random.default_rng(0)
    for largest in (1e-5, 3e-4, 7e-3, 1.0):
        block = (largest * random.uniform(-1, 1, (64, 32))).astype(np.float32)
        stored = gguf.dequantize(gguf.quantize(block, kind), kind)
        check_stored("a", block, stored, "Q8_0")
        with pytest.raises(ExportError):
            check_stored("a", block, stored + 0.02 * largest + 1e-5, "Q8_0")


def test_a_strangers_template(prepared: Dataset) -> None:
    """What is no template is left out, and half a character replaced."""
    for template, kept in (([{"name": "default", "template": "a\ud800"}], "a?"), ([3], None), ({"a": 1}, None)):
        own = prepared.tokenizer.with_chat_template(template)  # type: ignore[arg-type]
        writer = gguf.GGUFWriter(None, "llama")
        _describe_tokenizer(writer, vocabulary(own), own, ours=True)
        found = writer.kv_data[0].get("tokenizer.chat_template")
        assert (found and found.value) == kept


def test_merges_that_no_scores_give(tmp_path: Path) -> None:
    own = pieces()
    document = json.loads(tokenizer_files(own, 64)["tokenizer.json"])
    model, merges = document["model"], [list(each) for each in document["model"]["merges"]]
    apart = [*merges, merges[0]]
    for changes, reason in (
        ({"model": {**model, "merges": apart}}, "stand apart"),
        ({"model": {**model, "merges": merges[:-1]}}, "aren't merged"),
        ({"normalizer": {"type": "Lowercase"}}, "changes text before it cuts"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "changes text before it cuts"),
    ):
        with pytest.raises(DataError, match=reason):
            vocabulary(converted(own, tmp_path, **changes))


@pytest.mark.parametrize("pattern", ["llama-bpe", *(pytest.param(each, marks=pytest.mark.slow)
                                     for each in ("gpt-2", "smollm", "qwen2", "dbrx"))])  # fmt: skip
def test_ids_of_merges(config: Callable[..., Config], tmp_path: Path, pattern: str) -> None:
    tokenizer = merges(tmp_path, pattern)
    assert vocabulary(tokenizer).pre == pattern
    assert ids_agree(tokenizer, config, tmp_path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model_type": "unigram", "vocab_size": 297}, "no BPE model"),
        ({"byte_fallback": False, "vocab_size": 60}, "no bytes for unknown characters"),
        ({"normalization_rule_name": "nfkc"}, "changes characters"),
        ({"remove_extra_whitespaces": True}, "one space of several"),
        ({"add_dummy_prefix": True, "user_defined_symbols": ["<keep>"]}, "behind its own symbols"),
    ],
)
def test_pieces_that_llama_would_cut_elsewhere(options: dict, reason: str) -> None:
    with pytest.raises(DataError, match=f"--to gguf: .*{reason}.*use --to dense"):
        vocabulary(pieces(**options))


def test_merges_that_llama_would_cut_elsewhere(tmp_path: Path) -> None:
    strip = {"id": 330, "content": "<a>", "lstrip": True, "rstrip": False, "single_word": False, "special": False,
             "normalized": False}  # fmt: skip
    end = {**strip, "id": 0, "content": "<|endoftext|>", "lstrip": False, "special": True}
    for changes, reason in (
        ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "none of its patterns"),
        ({"pre_tokenizer": {**WORDS, "add_prefix_space": True}}, "none of its patterns"),
        ({"pre_tokenizer": split(r"\p{N}")}, "none of its patterns"),
        ({"added_tokens": [end, strip]}, "'<a>' takes spaces"),
    ):
        with pytest.raises(DataError, match=reason):
            vocabulary(merges(tmp_path, "qwen2", **changes))
    (remark,) = vocabulary(merges(tmp_path, "qwen2", normalizer={"type": "NFC"})).remarks
    assert "NFC" in remark


def test_the_command(lost: Callable, config: Callable[..., Config], prepared: Dataset, tmp_path: Path) -> None:
    settings = config(projection=LINEAR, model=SIZES)
    path, out = checkpoint_of(settings, tmp_path / "source", prepared).path, tmp_path / "out"
    done = lost("convert", path, out, "--to", "gguf", "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert (answer["to"], answer["dtype"], answer["checked"], answer["needs_code"]) == ("gguf", "float16", True, False)
    assert sorted(each.name for each in out.iterdir()) == ["Modelfile", "model-f16.gguf"]
    (out / "model-q4_k_m.gguf").write_bytes(b"made by llama-quantize")
    done = lost("convert", path, out, "--to", "gguf", "--overwrite")
    assert (done.code, "holds model-q4_k_m.gguf, which would go with it" in done.err) == (2, True), done.err
    (out / "model-q4_k_m.gguf").unlink()
    bent = checkpoint_of(settings.replace("projection", activation="silu"), tmp_path / "bent", prepared).path
    both = settings.replace("model", use_qk_norm=True, attention_bias=True)
    mine = tmp_path / "mine"
    mine.mkdir()
    for arguments, wrong in (
        ((path, out), "add --overwrite"),
        ((path, mine, "--overwrite"), "is not an export of this kind"),
        ((bent, tmp_path / "no"), "--to gguf: 21 projections have an activation inside"),
        ((checkpoint_of(both, tmp_path / "both", prepared).path, tmp_path / "no"), "llama.cpp has no model"),
    ):
        done = lost("convert", *arguments, "--to", "gguf")
        assert (done.code, wrong in done.err) == (2, True), done.err
    done = lost("convert", path, tmp_path / "no", "--to", "hf", "--dtype", "q8_0")
    assert (done.code, "--dtype q8_0 with --to hf" in done.err) == (2, True)
    assert not (tmp_path / "no").exists()
