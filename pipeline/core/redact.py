"""Texts without the secrets of the URIs in them. Every error of ours goes through here on its way to people.

A URI with a secret may be malformed, and then nobody can say where the secret ends. The patterns rather take too much.
"""

from __future__ import annotations

import re

STARS = "***"

_NAMES = (
    r"pass(?:word|wd|phrase)?|pwd|token|secret|credentials?|signature|sig|auth|authorization"
    r"|(?:api|access|account|private|secret)[_-]?key(?:[_-]?id)?"
)
# A SQLite URI holds no credentials, but its path may well hold an @.
_USERS = (
    re.compile(r"(?P<before>(?<!sqlite)://)(?:\S*|[^/\n]*|[^/:@\n]*:[^\n]*)@"),  # with and without spaces in them
    re.compile(r"(?P<before>(?<![^\s'\"(=/]))(?!(?:sqlite|file):)[^\s/:@'\"(=]+:(?!//)\S*@"),  # me:password@host
    re.compile(r"(?P<before>(?<![:/\w])//)[^\s/]*@"),
)
_SECRET = re.compile(rf"(?<![^\W_])({_NAMES})=[^&\s]*", re.IGNORECASE)
_SECRET_OF_URI = re.compile(rf"(?<![^\W_])({_NAMES})=[^&]*", re.IGNORECASE)


def redact(text: str) -> str:
    """``text`` with ``user:password@`` and ``password=…`` of every URI in it replaced by stars."""
    for user in _USERS:
        text = user.sub(rf"\g<before>{STARS}@", text)
    return _SECRET.sub(rf"\1={STARS}", text)


def redact_uri(uri: str) -> str:
    """As ``redact``, of a text that is nothing but one URI, however malformed: all before its last @ goes."""
    head, found, tail = uri.rpartition("@")
    if found and not uri.startswith("sqlite:"):
        scheme, separator, _ = head.partition("://")
        uri = f"{scheme if separator else ''}{separator}{STARS}@{tail}"
    return redact(_SECRET_OF_URI.sub(rf"\1={STARS}", uri))
