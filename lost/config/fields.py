"""What keys of a configuration may be: numbers with their limits; and the section, which they stand in."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _no_booleans(value: Any) -> Any:
    """Refuse `true` for a number: pydantic would read it as 1."""
    if isinstance(value, bool):
        raise ValueError("expected a number, got a boolean")
    return value


Int = Annotated[int, BeforeValidator(_no_booleans)]
Float = Annotated[float, BeforeValidator(_no_booleans)]
_MOST = 2**53  # whole numbers below it survive every format, and arithmetic with them is quick
Count = Annotated[Int, Field(ge=1, lt=_MOST)]
Natural = Annotated[Int, Field(ge=0, lt=_MOST)]
Share = Annotated[Float, Field(ge=0, le=1)]
Fraction = Annotated[Float, Field(ge=0, lt=1)]
Positive = Annotated[Float, Field(gt=0)]
NotNegative = Annotated[Float, Field(ge=0)]
Finite = Annotated[NotNegative, Field(allow_inf_nan=False)]
FiniteOrNegative = Annotated[Float, Field(allow_inf_nan=False)]


class Section(BaseModel):
    """A section: immutable, without unknown keys or infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
