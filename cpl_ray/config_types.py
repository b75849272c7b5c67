"""Types that the sections of the configuration share."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
MOST = 10**9
"""Of anything that is counted; products of a few such numbers still have a float beside them."""
MOST_PROCESSES = 100_000
"""Of one run."""
PositiveInt = Annotated[int, Field(ge=1, le=MOST)]
Count = Annotated[int, Field(ge=0, le=MOST)]
Processes = Annotated[int, Field(ge=1, le=MOST_PROCESSES)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator of random numbers takes."""
Every = Literal["epoch"] | PositiveInt


class Section(BaseModel):
    """Base of all sections: immutable, unknown keys are errors, field docstrings become descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
