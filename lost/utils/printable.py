"""Text that others wrote (names, keys, commands) as it may be shown: nothing in it steers a terminal or hides."""


def printable(text: str) -> str:
    """Return text in which every character that isn't shown as itself is escaped; line ends and tabs stay.

    Escaped are control characters, halves of surrogate pairs (bytes of a file name that aren't UTF-8), marks that turn
    the direction of writing, and the like.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
