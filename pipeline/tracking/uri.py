"""Tracking URIs: made absolute, shown without their secrets, and turned into the page that shows a run. No mlflow."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.core.failures import ConfigError
from pipeline.core.redact import STARS, redact_uri

SQLITE = "sqlite:///"
WEB = ("http://", "https://")
UI = "http://127.0.0.1:5000"
_PLAIN = r"(?:[\w.~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})"
_WEB_URI = re.compile(
    rf"https?://(?:{_PLAIN}*@)?(?:[\w.-]*|\[[0-9A-Fa-f:.]+\])(?::\d*)?(?:/(?:{_PLAIN}|/)*)?(?:\?(?:{_PLAIN}|[/?])*)?",
    re.ASCII,
)
"""The characters that every reader of a URI interprets alike; all others are written as %XX."""


def shown(uri: str) -> str:
    """The key and its value for a message, with the value's origin where the recipe does not set it."""
    default = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    source = " (from MLFLOW_TRACKING_URI)" if default and default == uri.rstrip("/") else ""
    return f"tracking.uri {redact_uri(uri)!r}{source}"


def is_web(uri: str) -> bool:
    """Whether a tracking server is behind the URI."""
    return uri.startswith(WEB)


def database(uri: str) -> Path:
    """The file of a SQLite URI, absolute.

    Raises:
        ConfigError: the URI is of another kind, or its database would live in memory only.
    """
    name = unquote(uri.removeprefix(SQLITE).partition("?")[0])  # as SQLAlchemy reads it
    if not uri.startswith(SQLITE) or name in ("", ":memory:"):
        raise ConfigError(f"{shown(uri)}: expected sqlite:///PATH or http(s)://HOST:PORT; {_remedy(redact_uri(uri))}")
    return Path(name).absolute()


def absolute(uri: str) -> str:
    """The URI with an absolute path, so that it means the same in every process.

    Raises:
        ConfigError: the URI is neither SQLite nor http(s), or it has signs that would have to be encoded.
    """
    if is_web(uri):
        check_signs(uri)
        return uri.rstrip("/")
    query = uri.partition("?")[1:]
    return uri_of(database(uri)) + "".join(query)


def uri_of(path: Path) -> str:
    """The SQLite URI of a file."""
    return SQLITE + str(path).replace("%", "%25").replace("?", "%3F")


def is_model_uri(text: str | Path) -> bool:
    """Whether this names a model in MLflow, and not a folder."""
    return str(text).startswith(("models:", "runs:"))


def is_relative(uri: str) -> bool:
    """Whether the URI means another database in another working folder."""
    return not is_web(uri) and absolute(uri).partition("?")[0] != uri.partition("?")[0]


def check_signs(uri: str) -> None:
    """Check that the password of an http(s) URI is encoded, so that its end is unambiguous.

    Raises:
        ConfigError: it holds a space, a second @ or another sign that would have to be encoded.
    """
    if not _WEB_URI.fullmatch(uri):
        if "@" not in uri:
            raise ConfigError(f"{shown(uri)}: expected http(s)://HOST:PORT, for example {UI}")
        raise ConfigError(
            f"{shown(uri)}: expected http(s)://USER:PASSWORD@HOST:PORT with each other sign of user and password as %XX"
            " (a space is %20, @ is %40, / is %2F); encode them, or leave both out and set MLFLOW_TRACKING_USERNAME"
            " and MLFLOW_TRACKING_PASSWORD"
        )


def check_address(uri: str) -> None:
    """Check that an http(s) URI names a host, and that it is not a saved one, which has lost its password.

    Raises:
        ConfigError: it is not one, or has stars where the password was.
    """
    check_signs(uri)
    try:
        parts = urlsplit(uri)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    if not named:
        raise ConfigError(f"{shown(uri)}: expected http(s)://HOST:PORT, for example {UI}")
    if STARS in uri:
        bare = uri.replace(f"{STARS}@", "")
        raise ConfigError(
            f"tracking.uri {uri!r}: a run is saved without its password; set MLFLOW_TRACKING_USERNAME and"
            f" MLFLOW_TRACKING_PASSWORD and pass tracking.uri={bare}, or pass the whole URI as tracking.uri=…"
        )


def check_database(uri: str) -> None:
    """Check that MLflow can write the database of a SQLite URI. Creates nothing.

    Raises:
        ConfigError: its folder is missing or closed, or the file is no database.
    """
    path, given = database(uri), shown(uri)
    if not path.parent.is_dir():
        raise ConfigError(f"{given}: the folder {path.parent} does not exist; create it with mkdir -p {path.parent}")
    for place in (path.parent, path):
        if place.exists() and not os.access(place, os.W_OK):
            raise ConfigError(f"{given}: {place} is not writable; make it so with chmod, or name another path")
    if path.is_dir():
        raise ConfigError(f"{given}: {path} is a folder, expected a file; use {SQLITE}{path / 'mlflow.db'}")
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(16) != b"SQLite format 3\0":
                raise ConfigError(f"{given}: {path} is not an SQLite database; name another path")


def run_url(uri: str, experiment: str, run: str) -> str:
    """The page with a run's curves. Without the last parameter MLflow opens in its GenAI mode."""
    return f"{_base(uri)}/#/experiments/{experiment}/runs/{run}/model-metrics?workflowType=machine_learning"


def runs_url(uri: str) -> str:
    """The page that lists the experiments."""
    return f"{_base(uri)}/#/experiments?workflowType=machine_learning"


def ui_command(uri: str) -> str:
    """The command that starts the UI; empty for a server."""
    return "" if is_web(uri) else f"mlflow ui --backend-store-uri {shlex.quote(absolute(uri))}"


def ui_rows(command: str, link: str) -> dict[str, str]:
    """How to open MLflow's page, as rows that are printed: the command is empty where a server runs already."""
    return {"MLflow UI": f"run {command}", "": f"open {link}"} if command else {"MLflow UI": f"open {link}"}


def _base(uri: str) -> str:
    """The address without credentials: a browser asks for them itself."""
    if not is_web(uri):
        return UI
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def _remedy(uri: str) -> str:
    """The fix for an unusable URI."""
    if uri.startswith("sqlite"):
        return "write sqlite:///mlflow.db, or four slashes before an absolute folder: sqlite:////folder/mlflow.db"
    if re.match(r"(\*\*\*@)?[\w.-]+:\d+", uri):
        return f"write http://{uri}"
    scheme, found, _ = uri.partition("://")
    if found and scheme != "file":
        return f"start mlflow server --backend-store-uri {scheme}://… and name the server's http address"
    folder = uri.removeprefix("file:").removeprefix("//").rstrip("/")
    return f"MLflow 3 has no file store, write {SQLITE}{Path(folder) / 'mlflow.db'}"
