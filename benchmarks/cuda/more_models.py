"""Other sizes and kinds, compiled and eager: the papers' comparison."""

import argparse
from typing import Any

from part import Tell, begin
from steps import asked, lines

TITLE = "Sizes and kinds"
__all__ = ["TITLE", "lines"]

ALL, EAGER = "dense,cola,sltrain,lost", "train.compile=false"
CASES = [
    ("llama_60m_paper", ALL, 256, ()),
    ("llama_1b_paper", "cola,sltrain", 128, ()),
    ("llama_1b_paper", "dense,lost", 128, (EAGER,)),
    ("llama_350m_paper", ALL, 256, ()),
    ("llama_60m_paper", ALL, 256, (EAGER,)),
    ("llama_350m_paper", "dense,lost", 256, (EAGER,)),
]


def measured(options: argparse.Namespace, tell: Tell) -> None:
    """Measure case by case."""
    answers: list[dict[str, Any]] = []
    for model, kinds, batch, sets in [("quickstart", ALL, 2, (EAGER,))] if options.small else CASES:
        answers.append(asked(model, kinds, options.device, batch, *sets, rounds=3))
        tell({"answers": answers})


if __name__ == "__main__":
    begin(measured)
