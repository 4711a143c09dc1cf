"""Documents of one file, whole or in parts, one file a format; and of one data set of the hub."""

from lost.prepare.reading.base import Reader
from lost.prepare.reading.json_lines import JsonLines
from lost.prepare.reading.kinds import KINDS, TEXT
from lost.prepare.reading.parquet import Parquet
from lost.prepare.reading.parts import Part
from lost.prepare.reading.plain import PlainText

KINDS.update({TEXT: PlainText(), "json_lines": JsonLines(), "parquet": Parquet()})

__all__ = ["KINDS", "Part", "Reader"]
