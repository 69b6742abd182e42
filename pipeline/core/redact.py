"""Removes the secrets of URIs from texts. Every error message passes through here.

The end of a secret in a malformed URI is ambiguous, so the patterns remove too much rather than too little.
"""

from __future__ import annotations

import re

STARS = "***"

_NAMES = (
    r"pass(?:word|wd|phrase)?|pwd|token|secret|credentials?|signature|sig|auth|authorization"
    r"|(?:api|access|account|private|secret)[_-]?key(?:[_-]?id)?"
)
# A SQLite URI holds no credentials, but its path may well hold an @. So does the URI of a model's alias.
_USERS = (
    re.compile(r"(?P<before>(?<!sqlite)://)(?:\S*|[^/\n]*|[^/:@\n]*:[^\n]*)@"),  # with and without spaces in them
    re.compile(r"(?P<before>(?<![^\s'\"(=/]))(?!(?:sqlite|file|models):)[^\s/:@'\"(=]+:(?!//)\S*@"),  # me:password@host
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
    """Like ``redact``, for a text that is one URI: everything before its last @ is removed."""
    head, found, tail = uri.rpartition("@")
    if found and not uri.startswith("sqlite:"):
        scheme, separator, _ = head.partition("://")
        uri = f"{scheme if separator else ''}{separator}{STARS}@{tail}"
    return redact(_SECRET_OF_URI.sub(rf"\1={STARS}", uri))
