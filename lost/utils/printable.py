"""Escaping of untrusted text (names, keys, commands) for display: nothing in it can control a terminal or hide."""


def printable(text: str) -> str:
    """Return text with every unprintable character escaped, except line ends and tabs.

    These are control characters, lone surrogates (bytes of a file name that aren't UTF-8), marks that change the
    direction of writing, and the like.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
