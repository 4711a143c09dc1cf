"""The shipped 1B shape: LOST beside dense, in turns, compiled."""

import argparse

from part import Tell, begin
from steps import asked, lines

TITLE = "1B: LOST beside dense"
__all__ = ["TITLE", "lines"]


def measured(options: argparse.Namespace, tell: Tell) -> None:
    """Measure them together or, where they don't fit together, each alone."""
    model, batch = ("quickstart", 2) if options.small else ("llama_1b_paper", 128)
    answer = asked(model, "dense,lost", options.device, batch)
    if "reason" in answer:
        tell({"answers": [answer]})
        tell({"answers": [answer, *(asked(model, kind, options.device, batch) for kind in ("lost", "dense"))]})
    else:
        tell({"answers": [answer]})


if __name__ == "__main__":
    begin(measured)
