"""Words that follow a number."""


def counted(number: int, noun: str) -> str:
    """Return "1 document", "1,234 documents"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
