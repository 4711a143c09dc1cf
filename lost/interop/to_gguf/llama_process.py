"""The program that opens one GGUF file in llama.cpp for `lost.interop.to_gguf.reader`; it imports nothing of lost.

usage: python -P llama_process.py FILE

Standard input is a JSON object with `tokens` and `texts`, standard output another with log-probabilities after each
token and the ids of each text. What llama.cpp says goes to standard error; where a file isn't as it expects, it may end
the process. Its Python binding is a server, which answers here at a socket in a folder of its own.
"""

import json
import socket
import sys
import tempfile
from contextlib import chdir
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import xllamacpp as llama


class _Connection(HTTPConnection):
    """A connection to a server at a path."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def opened(file: str, path: str, positions: int) -> Any:
    """Return a server of the model, on one thread of the CPU, whose cache is exact."""
    settings = llama.CommonParams()
    settings.model.path, settings.hostnames = file, [path]
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = positions, 1, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.cache_type_k = settings.cache_type_v = llama.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.warmup = settings.fit_params = False
    return llama.Server(settings)


def asked(path: str, where: str, question: dict[str, Any]) -> Any:
    """Return the server's answer."""
    connection = _Connection(path)
    connection.request("POST", where, json.dumps(question), {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def log_probabilities(path: str, tokens: list[int]) -> list[float]:
    """Return the log-probability of every token to come next.

    The server tells them beside a token that it writes, and none beside one without a text. So it is made to write a
    letter, which changes nothing in what it tells.
    """
    letter = ids(path, "a")[-1]
    question = {"prompt": tokens, "n_predict": 1, "n_probs": 1 << 20, "temperature": 0, "logit_bias": [[letter, 1e4]]}
    (step,) = asked(path, "/completion", question)["completion_probabilities"]
    scores = {each["id"]: each["logprob"] for each in step["top_logprobs"]}
    return [scores[number] for number in range(len(scores))]


def ids(path: str, text: str) -> list[int]:
    """Return the ids of a text in which nothing is special."""
    return asked(path, "/tokenize", {"content": text, "parse_special": False})["tokens"]


def main(file: str) -> None:
    """Answer the question on standard input."""
    question = json.load(sys.stdin)
    tokens, texts = question["tokens"], question["texts"]
    file = str(Path(file).absolute())
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        path = "llama.sock"  # llama.cpp knows a socket by its ending; a whole path may be longer than a socket's can be
        server = opened(file, path, len(tokens) + 8)
        scores = [log_probabilities(path, tokens[:end]) for end in range(1, len(tokens) + 1)]
        print(json.dumps({"scores": scores, "ids": [ids(path, text) for text in texts]}), flush=True)
        del server


if __name__ == "__main__":
    main(sys.argv[1])
