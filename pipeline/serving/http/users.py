"""Who may use a server: names and the hashes of their bearer tokens."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from pipeline.core.failures import ConfigError

ANYONE = "anyone"
"""Whose sessions they are where no token is asked for."""
VARIABLE = "METAFLEET_TOKENS"
MIN_LENGTH = 16
HASHED = "sha256="


class Users:
    """Recognises users by their tokens, of which it holds hashes only.

    Args:
        digests: name -> sha256 of the token; none means that no token is asked for.
    """

    def __init__(self, digests: Mapping[str, bytes]) -> None:
        self.digests = dict(digests)

    def named(self, authorization: str | None) -> str | None:
        """Whose an ``Authorization`` header is; nobody's where it holds no known bearer token."""
        if not self.digests:
            return ANYONE
        scheme, _, token = (authorization or "").partition(" ")
        asked = hashlib.sha256(token.strip().encode()).digest()
        # All are compared, each in constant time, so that the time tells nothing.
        known = [name for name, digest in self.digests.items() if hmac.compare_digest(digest, asked)]
        return known[0] if known and scheme.lower() == "bearer" else None


def read_users(path: str | Path | None, environment: Mapping[str, str]) -> Users:
    """The users in a file, or else in the variable ``METAFLEET_TOKENS``: a line ``name:token`` for each.

    A line may have ``name:sha256=HASH`` instead, with the token's hash in hexadecimal digits.

    Raises:
        ConfigError: the file cannot be read, others than its owner can read it, or a line is none of these.
    """
    if path is not None:
        return _parse(_private(Path(path)), str(path))
    return _parse(environment[VARIABLE], VARIABLE) if VARIABLE in environment else Users({})


def _private(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise ConfigError(f"{path}: others can read the tokens (mode {mode:o}); run chmod 600 {path}")
            return file.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected a text file of name:token lines") from None


def _parse(text: str, where: str) -> Users:
    digests: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, token = (part.strip() for part in line.partition(":"))
        digest = _digest(token, f"{where}, line {number}")
        if not name or name in digests or digest in digests.values():
            raise ConfigError(f"{where}, line {number}: a name or token that is missing or was there before")
        digests[name] = digest
    if not digests:
        raise ConfigError(f"{where}: no tokens; expected a line name:token for each user")
    return Users(digests)


def _digest(token: str, where: str) -> bytes:
    """The hash of a token, or that which is given. No message shows the line: it is a secret."""
    if token.startswith(HASHED):
        try:
            digest = bytes.fromhex(token.removeprefix(HASHED))
        except ValueError:
            digest = b""
        if len(digest) != 32:
            raise ConfigError(f"{where}: expected name:{HASHED} and the 64 hexadecimal digits of the token's hash")
        return digest
    if len(token) < MIN_LENGTH or any(character.isspace() for character in token):
        raise ConfigError(
            f"{where}: expected name:token, with a token of {MIN_LENGTH} or more characters and no blanks; "
            'python -c "import secrets; print(secrets.token_urlsafe(32))" makes one'
        )
    return hashlib.sha256(token.encode()).digest()
