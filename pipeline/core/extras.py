"""What a user reads who needs a package that only an extra of metafleet installs."""

from __future__ import annotations

from pipeline.core.failures import ConfigError


def missing(package: str, extra: str) -> ConfigError:
    """The error to raise where importing ``package`` failed."""
    return ConfigError(f"{package} is not installed; it comes with the extra {extra}: pip install -e '.[{extra}]'")
