"""A run whose layers merge, in the hands of other programs: greedy tokens, token ids and sizes beside ours.

usage: python benchmarks/opens_elsewhere.py RUN TEXT... [--prompts 20] [--tokens 24]      (minutes)

RUN is merged and exported: a folder for transformers and mlx-lm in float32, GGUF files of every type for llama.cpp (its
binding xllamacpp). After end-of-text and the first tokens of 20 texts each takes the likeliest token, again and again,
in float32 but for llama.cpp with a file of another type. TEXT are text and .jsonl.gz files; llama.cpp gives their ids.
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_PIECE = 100_000  # characters of a text file that are encoded at once
_AT_ONCE = 200  # texts that llama.cpp is given at once
_PROMPT = 8  # tokens of a text that begin one
TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "q8_0": "q8_0"}


def main() -> None:
    """Export, ask everyone, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("texts", type=Path, nargs="+", metavar="TEXT")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=24)
    options = parser.parse_args()
    from common import heading

    from lost.checkpoint import find_checkpoint

    source, _ = find_checkpoint(options.run)
    tokenizer = source.tokenizer()
    documents = [text for path in options.texts for text in read(path)]
    chosen = documents[:: max(1, len(documents) // options.prompts)][: options.prompts]
    prompts = [[tokenizer.end_of_text, *tokenizer.encode(text[:200]).tolist()[:_PROMPT]] for text in chosen]
    with tempfile.TemporaryDirectory() as place:
        sizes = export(options.run, Path(place))
        ours, margins = own(source, prompts, options.tokens)
        found = {"transformers": transformers(Path(place) / "dense", prompts, options.tokens)}
        found["mlx-lm"] = mlx_lm(Path(place) / "dense", prompts, options.tokens)
        for short in TYPES.values():
            asked = {"prompts": prompts, "tokens": options.tokens}
            found[f"llama.cpp, {short}"] = llama(Path(place) / short / f"model-{short}.gguf", asked)["generated"]
        ids = equal_ids(tokenizer, documents, Path(place) / "f32" / "model-f32.gguf")
    print(f"{heading('Opened elsewhere', 'transformers', 'mlx-lm', 'xllamacpp', 'gguf', 'torch')}.\n")
    print(f"{options.tokens} greedy tokens after each of {len(prompts)} prompts, beside ours in float32; where one "
          "differs, by how much our first choice leads our second there (in logits).\n")  # fmt: skip
    print("| | bytes on disk | prompts with all tokens ours | first differences |\n| --- | --- | --- | --- |")
    for name, theirs in found.items():
        size = sizes[name.rpartition(", ")[2] if "llama" in name else "dense"]
        apart = list(differences(ours, theirs, margins))
        print(f"| {name} | {size:,} | {len(prompts) - len(apart)} | {'; '.join(apart)} |")
    print(f"\nToken ids by llama.cpp and by the run's tokenizer: {ids}")


def read(path: Path) -> Iterator[str]:
    """Yield the texts of a file; of plain text, pieces that end with a line."""
    if path.name.endswith(".jsonl.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from (json.loads(line)["text"] for line in lines)
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    while text:
        end = text.rfind("\n", 0, _PIECE) + 1 or _PIECE
        yield text[:end]
        text = text[end:]


def export(run: Path, place: Path) -> dict[str, int]:
    """Write all exports, and return their sizes in bytes: the weights, for a folder."""
    from commands import call

    for kind, name, dtype in (("dense", "dense", "float32"), *(("gguf", short, long) for long, short in TYPES.items())):
        call("convert", run, place / name, "--to", kind, "--dtype", dtype)
    files = {short: place / short / f"model-{short}.gguf" for short in TYPES.values()}
    return {name: path.stat().st_size for name, path in {**files, "dense": place / "dense/model.safetensors"}.items()}


def own(source: Any, prompts: Sequence[list[int]], tokens: int) -> tuple[list[list[int]], list[list[float]]]:
    """Return our greedy tokens, and by how much each leads the second choice."""
    from lost.engine import create_engine, inference_config

    exact = inference_config(source.config).replace("train", dtype="float32", param_dtype="float32")
    engine = create_engine(exact, "auto", "cpu")
    engine.load(source.parameters())
    generated, margins = [], []
    for prompt in prompts:
        leads: list[float] = []

        def pick(logits: np.ndarray, leads: list[float] = leads) -> int:
            second, first = np.partition(logits[: source.tokenizer().vocab_size], -2)[-2:]
            leads.append(float(first - second))
            return int(np.argmax(logits))

        generated.append(list(engine.generate(prompt, pick, tokens)))
        margins.append(leads)
    return generated, margins


def transformers(folder: Path, prompts: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """Return the greedy tokens of transformers, which runs no code of the folder."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    how = {"do_sample": False, "max_new_tokens": tokens, "min_new_tokens": tokens}
    made = []
    for prompt in prompts:
        whole = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), **how)
        made.append(whole[0, len(prompt) :].tolist())
    return made


def mlx_lm(folder: Path, prompts: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """Return the greedy tokens of mlx-lm's own Llama."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load

    model, *_ = load(str(folder))
    return [[int(token) for token, _ in generate_step(mx.array(each), model, max_tokens=tokens)] for each in prompts]


def llama(file: Path, question: dict[str, Any]) -> Any:
    """Return llama.cpp's answer, from a process of its own: beside PyTorch it aborts."""
    done = subprocess.run([sys.executable, __file__, "--llama", file], input=json.dumps(question), check=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # fmt: skip
    return json.loads(done.stdout)


def answer_as_llama(file: str) -> None:
    """Answer a question of `llama` on standard input."""
    from lost.interop.to_gguf.llama_process import asked, ids, opened

    question, answer = json.load(sys.stdin), {}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/llama.sock"
        server = opened(file, path, 512)
        how = {"n_predict": question.get("tokens"), "temperature": 0, "return_tokens": True, "ignore_eos": True}
        generated = [asked(path, "/completion", {"prompt": each, **how}) for each in question.get("prompts", ())]
        answer = {"generated": [each["tokens"] for each in generated]}
        answer["ids"] = [ids(path, text) for text in question.get("texts", ())]
        print(json.dumps(answer), flush=True)
        del server


def differences(ours: Sequence[list[int]], theirs: Sequence[list[int]], margins: Any) -> Iterator[str]:
    """Yield what is to be said of each prompt whose tokens differ."""
    for number, (own_tokens, other) in enumerate(zip(ours, theirs, strict=True)):
        at = next((n for n, (a, b) in enumerate(zip(own_tokens, other, strict=False)) if a != b), None)
        if at is not None or len(own_tokens) != len(other):
            where = min(len(own_tokens), len(other)) - 1 if at is None else at
            yield f"prompt {number + 1}, token {where + 1}: {margins[number][where]:.3g}"


def equal_ids(tokenizer: Any, documents: Sequence[str], file: Path) -> str:
    """Say of how many texts the ids are equal."""
    equal = tokens = 0
    for start in range(0, len(documents), _AT_ONCE):
        some = documents[start : start + _AT_ONCE]
        for text, theirs in zip(some, llama(file, {"texts": some})["ids"], strict=True):
            expected = tokenizer.encode(text).tolist()
            equal += expected == theirs
            tokens += len(expected)
    characters = sum(map(len, documents))
    return f"equal for {equal:,} of {len(documents):,} texts ({characters:,} characters, {tokens:,} tokens)."


if __name__ == "__main__":
    if sys.argv[1:2] == ["--llama"]:
        answer_as_llama(sys.argv[2])
    else:
        main()
