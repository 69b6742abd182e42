"""What is printed at the end of a sweep."""

from __future__ import annotations

from pipeline.core.failures import SweepError
from pipeline.runs.report import final_table, key_values
from pipeline.storage import storage_at
from pipeline.storage.texts import read_word
from pipeline.sweeps.children import table
from pipeline.sweeps.space import overrides_of
from pipeline.sweeps.sweep import SweepResult
from pipeline.tracking.mlflow_tracker import how_to_open
from pipeline.tracking.uri import ui_rows


def report(swept: SweepResult) -> str:
    """The table of the children, the best child's evaluation, and where to look."""
    parts = [table(swept.children, swept.judge)]
    storage, best = storage_at(swept.folder), swept.best
    rows = {"sweep": storage.where}
    if best is not None:
        count, split = len(swept.children), swept.evaluation["split"]
        values = "  ".join(overrides_of(best.values))
        unseen = "" if split == "val" else ", by which no child was chosen"
        parts.append(
            f"Child {best.number}, {values}, was chosen of {count} on validation tasks. Tasks of the {split} "
            f"split{unseen}:\n\n{final_table(swept.evaluation)}"
        )
        rows |= {"best": swept.prepared.child_folder(swept.folder, best.number), "repeat it": swept.command}
    command, link = how_to_open(swept.prepared.recipe.tracking.uri, read_word(storage, "tracked_run"))
    return "\n\n".join([*parts, key_values(rows | ui_rows(command, link))])


def require_all(swept: SweepResult) -> None:
    """Raises ``SweepError`` where a child failed."""
    failed = [one.number for one in swept.children if one.state == "failed"]
    if failed:
        raise SweepError(
            f"{len(failed)} of {len(swept.children)} children failed: {', '.join(map(str, failed))}; the table has "
            "their reasons, the others are whole"
        )
