"""Texts without the secrets of the URIs in them. Every error of ours goes through here on its way to people."""

from __future__ import annotations

import re

STARS = "***"

# A SQLite URI holds no credentials, but its path may well hold an @.
_USER = re.compile(r"(?<!sqlite)://\S*@")
_SECRET = re.compile(r"\b(password|passwd|token|secret)=[^&\s]*", re.IGNORECASE)


def redact(text: str) -> str:
    """``text`` with ``user:password@`` and ``password=…`` of every URI in it replaced by stars."""
    return _SECRET.sub(rf"\1={STARS}", _USER.sub(f"://{STARS}@", text))
