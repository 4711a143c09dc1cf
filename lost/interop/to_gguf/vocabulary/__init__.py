"""A tokenizer as llama.cpp has it, or a refusal: it turns text into ids by code of its own, which some don't fit."""

from lost.interop.to_gguf.vocabulary.form import Vocabulary, refusal
from lost.interop.to_gguf.vocabulary.merges import of_merges
from lost.interop.to_gguf.vocabulary.pieces import of_pieces, piece_model
from lost.interop.to_hf.pieces import read_pieces
from lost.tokenizer import Tokenizer
from lost.tokenizer.huggingface import JsonTokenizer
from lost.tokenizer.sentencepiece import PieceTokenizer
from lost.utils.parsing import parse_object

__all__ = ["Vocabulary", "vocabulary"]


def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """Return a tokenizer as llama.cpp has it.

    Raises:
        DataError: it would give other ids.
    """
    if isinstance(tokenizer, PieceTokenizer):
        return of_pieces(read_pieces(tokenizer.files[PieceTokenizer.FILE]))
    if not isinstance(tokenizer, JsonTokenizer):
        raise refusal(f"it is of another kind, {tokenizer.FILE}")
    document, size = parse_object(tokenizer.files[JsonTokenizer.FILE]), tokenizer.vocab_size
    if (kind := document["model"].get("type")) != "BPE":
        raise refusal(f"its model is {kind}, not BPE")
    if document["model"].get("byte_fallback"):
        return of_pieces(piece_model(document, size, tokenizer.end_of_text))
    return of_merges(document, size, tokenizer.end_of_text)
