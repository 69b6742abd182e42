"""A run's identity: the values that decide theta, the values that a resume may change, and the numerics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from pipeline.core.failures import ResumeError


@dataclass(frozen=True)
class Identity:
    """Values by dotted keys of the recipe. On a resume ``fixed`` must be unchanged; ``free`` may differ.

    ``since`` has the values that runs were made with before there was a setting for them.
    """

    fixed: Mapping[str, Any]
    free: Mapping[str, Any]
    since: Mapping[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        return {"fixed": dict(self.fixed), "free": dict(self.free)}

    def check(self, found: Mapping[str, Any], where: str) -> None:
        """Compare with the facts of a checkpoint.

        Raises:
            ResumeError: a fixed value differs; with a table of all that differ, old -> new, allowed or refused.
        """
        before, now = self._filled({**found["free"], **found["fixed"]}), {**self.free, **self.fixed}
        fixed = {*found["fixed"], *self.fixed}
        rows = [
            f"{key}: {_shown(before, key)} -> {_shown(now, key)} ({'refused' if key in fixed else 'allowed'})"
            for key in sorted({*before, *now}, key=lambda key: (key not in fixed, key))
            if before.get(key) != now.get(key)
        ]
        if not any(row.endswith("(refused)") for row in rows):
            return
        table = f" {rows[0]}. " if len(rows) == 1 else "".join(f"\n  {row}" for row in rows) + "\n"
        raise ResumeError(
            f"--resume: the run in {where} was begun with other values:{table}"
            "Resume with the refused values as they were, or train again in another folder: --output"
        )

    def is_of(self, found: Mapping[str, Any]) -> bool:
        """Whether a checkpoint's facts are of a run with the same fixed values."""
        before = self._filled({**found["free"], **found["fixed"]})
        fixed = {*found["fixed"], *self.fixed}
        return all(key in before and key in self.fixed and before[key] == self.fixed[key] for key in fixed)

    def _filled(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a checkpoint, with those of settings that came after it."""
        return {key: value for key, value in self.since.items() if key in {**self.free, **self.fixed}} | dict(before)

    def check_theta(self, found: Mapping[str, Any], where: str) -> None:
        """Compare with the facts of a checkpoint whose theta is to be evaluated or served.

        Only values that both have are compared: another version may have more.

        Raises:
            ResumeError: a fixed value differs; names each, old -> new.
        """
        before, now = found["fixed"], self.fixed
        rows = [
            f"{key}: {before[key]!r} -> {now[key]!r}" for key in sorted({*before} & {*now}) if before[key] != now[key]
        ]
        if rows:
            raise ResumeError(
                f"{where}: was trained with other values than the run's recipe.yaml and data have now: "
                f"{'; '.join(rows)}; put back what was changed, or remove the checkpoint if it is another run's"
            )


def is_identity(found: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a checkpoint's metadata identify the run that wrote it."""
    if not isinstance(found, Mapping):
        return False
    parts = [found.get(key) for key in ("fixed", "free", "numerics")]
    return all(isinstance(part, Mapping) for part in parts) and isinstance(found.get("numerics_changes"), list)


def _shown(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "none"


def changed_numerics(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The numerics that differ, as text; empty where none do."""
    return ", ".join(
        f"{key} {before.get(key)} -> {now.get(key)}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    )
