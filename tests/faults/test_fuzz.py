"""Configurations, command lines and folders that are nearly right: no traceback, no hang, documented exit codes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fuzzing import ODD, check_command, contents, documents, encoded, for_each, tensor_files
from hypothesis import strategies as some
from safetensors.numpy import save_file

from lost.config import Config
from lost.data.dataset import Dataset
from lost.model.init import initial_values
from lost.storage.files import sealed_json
from lost.storage.nofollow import write_new

EXAMPLES = pytest.mark.parametrize("examples", [25, pytest.param(1000, marks=pytest.mark.slow)])
COMMANDS = ("prepare", "train", "eval", "generate", "inspect", "verify", "convert", "merge", "plan")
OPTIONS = (
    *("--data", "--out", "--set", "--json", "--backend", "--device", "--fresh", "--overwrite", "--to"),
    *("--from", "--rank", "--dtype", "--chat", "--prompt", "--seed", "--top-k", "--top-p", "--temperature", "--text"),
    *("--tokenizer", "--vocab-size", "--valid-fraction", "--examples", "--include", "--end-of-text", "--init-from"),
    *("--branch-from", "--memory-gib", "--context", "--weights", "--bits", "--", "-x", "--help"),
)
TEMPLATES = ["{% for m in messages %}{{ m.content }}{% endfor %}", "{{ 1 // 0 }}", "{% if %}", [{"name": "default"}]]


@pytest.fixture
def folder(whole: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run, its data, its configuration and a text."""
    shutil.copytree(whole / "run", tmp_path / "run")
    shutil.copytree(prepared.path, tmp_path / "data")
    shutil.copy(whole / "tiny.yaml", tmp_path)
    (tmp_path / "text.txt").write_text("the rank of the layer\n" * 300)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@EXAMPLES
def test_configurations(folder: Path, examples: int) -> None:
    content = (folder / "tiny.yaml").read_bytes()
    as_values = documents(yaml.safe_load(content)).map(lambda values: yaml.safe_dump(values).encode())

    def check(drawn: bytes) -> None:
        write_new(folder / "drawn.yaml", drawn)
        check_command("plan", "drawn.yaml", "--data", "data", "--memory-gib", 1)

    for_each(as_values | contents(content), 2 * examples, check)


@EXAMPLES
def test_values_on_the_command_line(folder: Path, examples: int) -> None:
    def check(drawn: tuple[str, Any]) -> None:
        key, value = drawn
        check_command("plan", "tiny.yaml", "--data", "data", "--set", f"{key}={value}", "--memory-gib", 1)

    sections = {"": Config, **{f"{name}.": each.annotation for name, each in Config.model_fields.items()}}
    keys = [f"{name}{key}" for name, each in sections.items() for key in getattr(each, "model_fields", {})]
    values = some.sampled_from(ODD).map(json.dumps) | some.sampled_from(
        [":", "[", "{a", "!!int x", "&a [*a]", "'", "%"]
    )
    for_each(some.tuples(some.sampled_from(keys), values), 2 * examples, check)


@EXAMPLES
def test_command_lines(folder: Path, examples: int) -> None:
    here = ["run", "data", "tiny.yaml", "text.txt", "run/checkpoints/step-00000010", "quickstart"]
    words = [*here, *OPTIONS, *(str(each) for each in ODD if "\0" not in str(each) and "\ud800" not in str(each))]

    def check(drawn: tuple[str, list[str]]) -> None:
        command, more = drawn
        short = {"train": ["--dry-run"], "generate": ["--max-tokens", "1"], "prepare": ["--workers", "1"]}
        check_command(command, *short.get(command, []), *more)

    for_each(
        some.tuples(some.sampled_from(COMMANDS), some.lists(some.sampled_from(words), max_size=5)), examples, check
    )


@EXAMPLES
def test_manifests(folder: Path, examples: int) -> None:
    path = folder / "run" / "checkpoints" / "step-00000020" / "manifest.json"
    manifest = json.loads(path.read_bytes())

    def check(drawn: Any) -> None:
        write_new(path, resealed(drawn))
        check_command("verify", "run")
        check_command("inspect", "run")
        if examples > 100:  # it makes an engine, which takes half a second
            check_command("train", "run", "--dry-run")

    for_each(documents(manifest), examples, check)


@EXAMPLES
def test_headers_of_safetensors(folder: Path, reseal: Callable[..., None], examples: int) -> None:
    checkpoint = folder / "run" / "checkpoints" / "step-00000020"
    path = checkpoint / "model-00001.safetensors"

    def check(drawn: bytes) -> None:
        write_new(path, drawn)
        reseal(checkpoint)
        check_command("verify", checkpoint)
        check_command("inspect", checkpoint)

    for_each(tensor_files(path.read_bytes()), examples, check)


@EXAMPLES
def test_prepared_sets(folder: Path, examples: int) -> None:
    files = {name: (folder / "data" / name).read_bytes() for name in ("dataset.json", "tokenizer.model")}
    drawn_files = some.one_of(
        documents(json.loads(files["dataset.json"])).map(lambda drawn: {"dataset.json": resealed(drawn)}),
        contents(files["dataset.json"]).map(lambda drawn: {"dataset.json": drawn}),
        contents(files["tokenizer.model"]).map(lambda drawn: {"tokenizer.model": drawn}),
    )

    def check(drawn: dict[str, bytes]) -> None:
        for name, content in {**files, **drawn}.items():
            write_new(folder / "data" / name, content)
        check_command("verify", "data")
        check_command("plan", "tiny.yaml", "--data", "data", "--memory-gib", 1)

    for_each(drawn_files, examples, check)


@EXAMPLES
def test_folders_to_import(folder: Path, config: Callable[..., Config], prepared: Dataset, examples: int) -> None:
    model = folder / "llama"
    model.mkdir()
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 4, "vocab_size": 320, "max_position_embeddings": 64, "rms_norm_eps": 1e-5}
    described = {"architectures": ["LlamaForCausalLM"], "rope_scaling": None, **sizes}
    values = dict(initial_values(config(model=sizes, projection={"kind": "dense"})))
    save_file(values, model / "model.safetensors")
    prepared.tokenizer.save(model)
    weights = (model / "model.safetensors").read_bytes()
    index = {"weight_map": dict.fromkeys(values, "model-1.safetensors")}
    files = {"config.json": encoded(described), "model.safetensors": weights}
    drawn_files = some.one_of(
        documents(described).map(lambda drawn: {"config.json": encoded(drawn)}),
        contents(files["config.json"]).map(lambda drawn: {"config.json": drawn}),
        tensor_files(weights).map(lambda drawn: {"model.safetensors": drawn}),
        documents(index).map(
            lambda drawn: {"model.safetensors.index.json": encoded(drawn), "model-1.safetensors": weights}
        ),
    )

    def check(drawn: dict[str, bytes]) -> None:
        for path in model.glob("model*"):
            path.unlink()
        for name, content in (
            {**files, **drawn} if len(drawn) == 1 else {**drawn, "config.json": files["config.json"]}
        ).items():
            write_new(model / name, content)
        check_command("convert", "llama", "out", "--from", "hf")
        shutil.rmtree(folder / "out", ignore_errors=True)

    for_each(drawn_files, examples, check)


@EXAMPLES
def test_tokenizers(folder: Path, examples: int) -> None:
    home = folder / "tokenizer"
    home.mkdir()
    end = {"id": 0, "content": "</s>", "special": True, "normalized": False, "single_word": False, "lstrip": False}
    document = {
        "version": "1.0",
        "added_tokens": [{**end, "rstrip": False}],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Isolated", "invert": False},
        "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": {"</s>": 0, "t": 1, "h": 2, "th": 3}, "merges": [["t", "h"]]},
    }
    named = {"eos_token": "</s>", "bos_token": {"content": "</s>"}, "chat_template": TEMPLATES[0]}
    files = {"tokenizer.json": encoded(document), "tokenizer_config.json": encoded(named)}
    said = [{"role": "user", "content": "th"}, {"role": "assistant", "content": "t"}]
    lines = [{"messages": [*said, *said]}, {"prompt": "t", "completion": "h"}, {"text": "ht"}]
    drawn_files = some.one_of(
        documents(document).map(lambda drawn: {"tokenizer.json": encoded(drawn)}),
        documents(named).map(lambda drawn: {"tokenizer_config.json": encoded(drawn)}),
        some.sampled_from(TEMPLATES).map(
            lambda drawn: {"tokenizer_config.json": encoded({**named, "chat_template": drawn})}
        ),
        documents(lines).map(lambda drawn: {"lines.jsonl": b"\n".join(map(encoded, drawn))}),
        contents(b"\n".join(map(encoded, lines))).map(lambda drawn: {"lines.jsonl": drawn}),
    )

    def check(drawn: dict[str, bytes]) -> None:
        for name, content in {**files, "lines.jsonl": b"\n".join(map(encoded, lines)), **drawn}.items():
            write_new(home / name, content)
        check_command(
            "prepare", "--examples", home / "lines.jsonl", "--tokenizer", "tokenizer", "--out", "out", "--overwrite"
        )

    for_each(drawn_files, examples, check)


def resealed(document: Any) -> bytes:
    """Return a document with the right checksum, if it can have one."""
    if not isinstance(document, dict):
        return encoded(document)
    document.pop("seal", None)
    try:
        return sealed_json(document)
    except ValueError:  # NaN, which JSON as it is written here can't express
        return encoded(document)
