"""A Modelfile, by which Ollama makes a model of a GGUF file."""

from collections.abc import Sequence

import lost
from lost.errors import DataError, MissingPackageError
from lost.tokenizer import Tokenizer
from lost.tokenizer.chat_template import template_of

FILE = "Modelfile"
MARK = "# Written by lost-pretrain "
"""How one of ours begins."""

_SAID = [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V")]
_QUOTES = '"""'
_POSITIONS = 8192  # that Ollama makes room for: the cache of Llama 3.1 8B's 131,072 takes 17 GB
# How a conversation is written in known forms: each turn, the beginning of an answer, and what ends one.
_FORMS = (
    ("<|{role}|>\n{text}\n", "<|assistant|>\n", ("<|user|>", "<|system|>")),
    ("<|im_start|>{role}\n{text}<|im_end|>\n", "<|im_start|>assistant\n", ("<|im_start|>", "<|im_end|>")),
)


def modelfile(gguf: str, tokenizer: Tokenizer, positions: int, ends: Sequence[str]) -> str:
    """Return the content of a Modelfile.

    A chat template is written in Ollama's language if it gives a known form, and so is what it tells the model where a
    conversation doesn't begin by that. Otherwise that is left to Ollama, which finds the template in the GGUF file.

    Args:
        gguf: the file's name.
        tokenizer: the run's.
        positions: of the model.
        ends: further tokens that end a text; one that can't stand in a line is left out.
    """
    lines = [f"{MARK}{lost.__version__}. To use it: ollama create NAME -f {FILE}", f"FROM ./{gguf}"]
    if not tokenizer.chat_template:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    elif form := _form(tokenizer):
        (turn, answer, stops), system = form
        turns = turn.format(role="{{ .Role }}", text="{{ .Content }}")
        lines.append(f'TEMPLATE """{{{{ range .Messages }}}}{turns}{{{{ end }}}}{answer}"""')
        lines += [f"SYSTEM {_QUOTES}{system}{_QUOTES}"] if system else []
        ends = [*dict.fromkeys((*stops, *ends))]
    lines += [f'PARAMETER stop "{text}"' for text in ends if text.isprintable() and not {*text} & {'"', "\\"}]
    return "\n".join([*lines, f"PARAMETER num_ctx {min(positions, _POSITIONS)}", ""])


def _form(tokenizer: Tokenizer) -> tuple[tuple[str, str, tuple[str, ...]], str] | None:
    """Return the form in which the tokenizer's template writes a conversation, if it is a known one.

    With it, what the system says where nobody says it.
    """
    try:
        template = template_of(tokenizer)
        written, without = (
            template.question([{"role": role, "content": text} for role, text in said]) for said in (_SAID, _SAID[1:])
        )
    except (DataError, MissingPackageError):
        return None
    for form in _FORMS:
        turn, answer, stops = form
        if written != _conversation(turn, answer, _SAID):
            continue
        rest = _conversation(turn, answer, _SAID[1:])
        if without == rest:
            return form, ""
        begin, end = turn.format(role="system", text="\0").split("\0")
        system = without.removeprefix(begin).removesuffix(end + rest)
        # What would end the quotes, or begin another turn, stays where only the template writes it.
        plain = system and not system.endswith('"') and not any(text in system for text in (_QUOTES, *stops))
        return (form, system) if plain and without == begin + system + end + rest else None
    return None


def _conversation(turn: str, answer: str, said: Sequence[tuple[str, str]]) -> str:
    return "".join(turn.format(role=role, text=text) for role, text in said) + answer
