"""Comparison of tokenizers by the ids that they give, whatever their files look like."""

from collections.abc import Iterator

from lost.tokenizer.base import Tokenizer

AWKWARD = (
    "",
    " ",
    "   three spaces before,   three   between, three after   ",
    "\ttabs\t\tand\nnewlines\n\n\nand\r\nboth \n ",
    "=" * 77 + "-" * 50 + "." * 33 + " " * 41,
    "Zwölf Boxkämpfer jagen Виктора über den größten 東京タワー, \u0939\u093f\u0928\u094d\u0926\u0940",
    "emoji \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f3fd, flags \U0001f1e8\U0001f1ed",
    "accents e\u0301 and \u00e9, ligatures \ufb01 and \u2167",
    "\u2581 and \u2581\u2581 are sentencepiece's spaces; \u00a0 and \u3000 and \u200b aren't",
    "control \x00 \x01 \x7f \x1b[0m, private \ue000, last \U0010ffff",
    "</s> <s> <unk> <pad> <|endoftext|> <|im_start|> <0x0A> [INST]",
    "antidisestablishmentarianism" * 12,
    "0123456789 3.14159265358979 1e-10 0xDEADBEEF",
    "def f(self, x):\n    if x:\n        return {k: v for k, v in x}  # why\n",
)
"""Texts that tokenizers often get wrong."""

_EVERY_BYTE = "".join(map(chr, (*range(0x800), *range(0x800, 0xD800, 0x800), *range(0xE000, 0x110000, 0x800))))
"""Characters that have every byte of UTF-8 among theirs."""


def same_ids(first: Tokenizer, second: Tokenizer) -> bool:
    """Whether two tokenizers give the same ids: for each piece of their vocabularies, all in a row, and awkward texts.

    So does a sentencepiece model and the tokenizer.json that an export has of it.
    """
    if first.fingerprint == second.fingerprint:
        return True
    if (first.end_of_text, first.vocab_size) != (second.end_of_text, second.vocab_size):
        return False
    return all(first.encode(text).tolist() == second.encode(text).tolist() for text in _probes(first, second))


def _probes(*tokenizers: Tokenizer) -> Iterator[str]:
    yield from AWKWARD
    yield _EVERY_BYTE
    for tokenizer in tokenizers:
        pieces = [tokenizer.decode([number]) for number in range(tokenizer.vocab_size)]
        yield from pieces
        yield "".join(pieces)
