"""Names of metrics, params and tags as MLflow takes them."""

from __future__ import annotations

import hashlib
import re

LONGEST = 250
"""The characters of a name (mlflow.utils.validation)."""


def as_key(name: str) -> str:
    """A name that MLflow accepts: letters, digits and ``_-. :/``, no empty or dotted path parts, 250 characters."""
    text = re.sub(r"[^\w.\- :/]", "_", name.replace("@", "_at_").replace("%", "_pct_"))
    text = "/".join("_" if part in (".", "..") else part for part in text.split("/") if part) or "_"
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return text
