"""How ingest names files in its errors."""

from __future__ import annotations

from collections.abc import Sequence


def some_of(count: int, what: str, examples: Sequence[str]) -> str:
    plural = f"{what}{'es' if what.endswith('s') else 's'}" if count > 1 else what
    return f"{count} {plural} ({'; '.join(map(shown, examples[:3]))}{'; …' if count > 3 else ''})"


def shown(name: object) -> str:
    """A file's name as it is printed: on one line, without terminal control codes."""
    text = str(name)
    return text if text.isprintable() else ascii(text)
