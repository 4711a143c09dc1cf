"""Escaping of untrusted text (names, keys, commands) for display: nothing in it can control a terminal or hide."""

JOINERS = "\u200c\u200d"
"""Zero-width marks that some scripts and emoji are written with. They steer nothing, but can hide in a name."""


def printable(text: str, keep: str = "") -> str:
    """Return text with every unprintable character escaped, except line ends, tabs and those to keep.

    These are control characters, lone surrogates (bytes of a file name that aren't UTF-8), marks that change the
    direction of writing, and the like.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" + keep else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
