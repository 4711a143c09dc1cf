"""A folder that transformers wrote, tuned on conversations by its own chat template."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lost.checkpoint import open_checkpoint

TEMPLATE = (
    "{% for message in messages %}{{ '<|turn|>' + message['role'] + '\n' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)
NEW = """\
data: {seq_len: 32}
train: {batch_size: 4, log_every: 1, eval_every: 0, save_every: 0}
optimizer: {lr: 1e-2}
schedule: {steps: 15}
"""


def test_a_folder_of_transformers_is_tuned(lost: Callable, tmp_path: Path) -> None:
    made = Library(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["</s>", "<|turn|>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(["the rank of the layer and the weight"] * 50, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "hf")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=300, max_position_embeddings=64))
    theirs.save_pretrained(tmp_path / "hf")

    said = [{"role": "user", "content": "the rank"}, {"role": "assistant", "content": "the weight"}]
    lines = [json.dumps({"messages": said}), json.dumps({"messages": [said[0], {**said[1], "content": "of"}]})]
    for name in ("chat.jsonl", "held.jsonl"):
        (tmp_path / name).write_text("\n".join(lines * 30))
    (tmp_path / "new.yaml").write_text(NEW)
    prepared = lost("prepare", tmp_path / "chat.jsonl", "--examples", "--tokenizer", tmp_path / "hf", "--out",
                    tmp_path / "data", "--valid", tmp_path / "held.jsonl")  # fmt: skip
    assert prepared.code == 0, prepared.err
    command = ("train", tmp_path / "new.yaml", "--init-from", tmp_path / "hf", "--data", tmp_path / "data", "--out",
               tmp_path / "run", "--device", "cpu", "--backend", "torch")  # fmt: skip
    done = lost(*command, "--json")
    assert done.code == 0, done.err
    losses = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-2]["validation_loss"] < losses[0]["loss"] - 1
    begun = open_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000000")
    for name, array in begun.parameters():
        np.testing.assert_array_equal(array, theirs.state_dict()[name].numpy())
    assert begun.progress.origin is not None
    assert (begun.progress.origin.path, begun.progress.origin.step) == (str((tmp_path / "hf").resolve()), None)
    answer = json.loads(lost("generate", tmp_path / "run", "--chat", "--prompt", "the rank", "--temperature", "0",
                             "--json").out)  # fmt: skip
    assert answer["text"] in ("the weight", "of")
    bare = lost("train", *command[2:], "--fresh", "--overwrite")
    assert (bare.code, "it doesn't say how to train" in bare.err) == (2, True)
