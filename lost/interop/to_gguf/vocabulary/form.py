"""What a GGUF file says of a tokenizer, and the refusal of one that has no such form."""

from dataclasses import dataclass, field

from lost.errors import DataError


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer.

    Attributes:
        model: `llama` or `gpt2`.
        pre: llama.cpp's name of the pattern that cuts text into words.
        tokens: their texts, by id.
        types: their kinds, by id, numbered as sentencepiece does.
        scores: of `llama`, by id.
        merges: of `gpt2`, the first first.
        unknown: the entry for unknown characters; None: there is none.
        space_prefix: whether a text gets a leading space.
        remarks: on texts whose ids differ.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    unknown: int | None = None
    space_prefix: bool = False
    remarks: list[str] = field(default_factory=list)


def refusal(why: str) -> DataError:
    """Return the error for a tokenizer that llama.cpp has no form for."""
    return DataError(
        f"--to gguf: llama.cpp can't cut text as the run's tokenizer does: {why}; expected a sentencepiece model as "
        "`lost prepare` trains it, or a BPE tokenizer.json of bytes or of such pieces; use --to dense, whose folder "
        "transformers and mlx-lm open"
    )
