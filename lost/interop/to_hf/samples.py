"""Sample texts of a run: the beginning of its validation data, if that is on this machine."""

from lost.config import Config
from lost.data.dataset import VALID
from lost.data.mixture import open_dataset
from lost.errors import DataError
from lost.tokenizer import Tokenizer, same_ids

_TOKENS = 50_000


def validation_texts(config: Config, tokenizer: Tokenizer) -> list[str]:
    """Return documents of the run's validation data; none if it isn't here, or has another tokenizer."""
    try:
        dataset = open_dataset(config.data)
        if not same_ids(dataset.tokenizer, tokenizer):
            return []
        split = dataset.split(VALID)
        ids = split.read(0, min(split.tokens, _TOKENS)).tolist()
    except DataError:
        return []
    documents: list[list[int]] = [[]]
    for token in ids:
        if token == tokenizer.end_of_text:
            documents.append([])
        else:
            documents[-1].append(token)
    return [tokenizer.decode(each) for each in documents if each]
