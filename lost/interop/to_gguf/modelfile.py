"""A Modelfile, by which Ollama makes a model of a GGUF file."""

import lost
from lost.errors import DataError, MissingPackageError
from lost.tokenizer import Tokenizer
from lost.tokenizer.chat_template import template_of

FILE = "Modelfile"
MARK = "# Written by lost-pretrain "
"""How one of ours begins."""

_SAID = [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V")]
# How a conversation is written in known forms: each turn, the beginning of an answer, and what ends one.
_FORMS = (
    ("<|{role}|>\n{text}\n", "<|assistant|>\n", ("<|user|>", "<|system|>")),
    ("<|im_start|>{role}\n{text}<|im_end|>\n", "<|im_start|>assistant\n", ("<|im_start|>", "<|im_end|>")),
)


def modelfile(gguf: str, tokenizer: Tokenizer, positions: int) -> str:
    """Return the content of a Modelfile.

    A chat template is written in Ollama's language if it gives a known form. Otherwise that is left to Ollama, which
    finds the template in the GGUF file.

    Args:
        gguf: the file's name.
        tokenizer: the run's.
        positions: of the model.
    """
    lines = [f"{MARK}{lost.__version__}. To use it: ollama create NAME -f {FILE}", f"FROM ./{gguf}"]
    if not tokenizer.chat_template:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    elif form := _form(tokenizer):
        turn, answer, stops = form
        turns = turn.format(role="{{ .Role }}", text="{{ .Content }}")
        lines.append(f'TEMPLATE """{{{{ range .Messages }}}}{turns}{{{{ end }}}}{answer}"""')
        lines += [f'PARAMETER stop "{text}"' for text in stops]
    return "\n".join([*lines, f"PARAMETER num_ctx {positions}", ""])


def _form(tokenizer: Tokenizer) -> tuple[str, str, tuple[str, ...]] | None:
    """Return the form in which the tokenizer's template writes a conversation, if it is a known one."""
    try:
        written = template_of(tokenizer).question([{"role": role, "content": text} for role, text in _SAID])
    except (DataError, MissingPackageError):
        return None
    return next((form for form in _FORMS if written == _conversation(*form[:2])), None)


def _conversation(turn: str, answer: str) -> str:
    return "".join(turn.format(role=role, text=text) for role, text in _SAID) + answer
