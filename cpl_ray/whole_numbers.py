"""Whole numbers in the JSON files of a run: as long as counts, bytes and steps are, and no longer."""

_MOST_DIGITS = 20


def whole_number(text: str) -> int:
    """Return a whole number of JSON (`parse_int`), which then also is a number for floating point and for the screen.

    Raises:
        ValueError: it has more digits than anything that is counted here.
    """
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits, {text[:_MOST_DIGITS]}…")
    return int(text)
