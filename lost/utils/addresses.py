"""Addresses that name a user and a password: neither is shown, nor written to a file."""

import re
from urllib.parse import unquote

_USERINFO = re.compile(r"(?<=://)[^/]*@")


def without_userinfo(address: str) -> str:
    """Return an address, or an argument that has one in it, without the user's name and password."""
    return _USERINFO.sub("", address)


def has_userinfo(address: str) -> bool:
    """Say whether an address names a user."""
    return _USERINFO.search(address) is not None


def without_secrets(text: str, address: str) -> str:
    """Return what was said of an address without the passwords that are in it, as they stand there and decoded."""
    for userinfo in _USERINFO.findall(address):
        password = userinfo[:-1].partition(":")[2]
        for secret, instead in ((userinfo, ""), (password, "***"), (unquote(password), "***")):
            text = text.replace(secret, instead) if secret else text
    return text
