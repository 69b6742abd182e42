"""Checks that a run can resume from a checkpoint. A checksum does not say who wrote it."""

from __future__ import annotations

from pipeline.core.failures import ResumeError
from pipeline.engine.durability.checkpoint import FORMAT, Checkpoint
from pipeline.engine.durability.identity import is_identity
from pipeline.engine.durability.journal import entry_of
from pipeline.engine.interfaces import Entry
from pipeline.engine.outer.store import Store

_FACTS = {"texts": dict, "entries": list, "skipped": list}


def check_resumable(checkpoint: Checkpoint, where: str) -> None:
    """Check everything that a resume takes from a checkpoint, except its tensors.

    Raises:
        ResumeError: it has another format, or lacks a part, or a part is not what a run writes.
    """
    if checkpoint.metadata["format"] != FORMAT:
        raise ResumeError(
            f"--resume: the checkpoints in {where} have format {checkpoint.metadata['format']}, and this version goes "
            f"on from format {FORMAT}; finish the run with the version that began it, or train anew in another "
            "--output"
        )
    wrong = [] if is_identity(checkpoint.metadata.get("identity")) else ["identity"]
    wrong += [key for key, kind in _FACTS.items() if not isinstance(checkpoint.metadata.get(key), kind)]
    if wrong:
        raise _strange(checkpoint, where, f"has no {wrong[0]} to go on from")
    identity, best = checkpoint.metadata["identity"], checkpoint.metadata.get("best")
    texts = [*identity["numerics"].values(), *identity["numerics_changes"], *checkpoint.metadata["skipped"]]
    if not all(isinstance(text, str) for text in (*texts, *checkpoint.metadata["texts"].values())):
        raise _strange(checkpoint, where, "holds something else than text where text belongs")
    if not (best is None or _is_best(best)):
        raise _strange(checkpoint, where, f"has the best score {best!r}, expected a step, a score and an evaluation")
    try:
        entries_of(checkpoint)
    except ValueError as error:
        raise _strange(checkpoint, where, f"carries an entry of the journal that is none ({error})") from None


def check_state(store: Store, checkpoint: Checkpoint, where: str) -> None:
    """Raises ``ResumeError`` where the tensors are not those of a run of this recipe."""
    try:
        store.check(checkpoint.tensors, checkpoint.metadata["texts"])
    except ValueError as error:
        raise _strange(checkpoint, where, f"does not hold this recipe's state ({error})") from None


def entries_of(checkpoint: Checkpoint) -> list[Entry]:
    """The entries of the journal that a checkpoint carries."""
    return [entry_of(fields) for fields in checkpoint.metadata["entries"]]


def _is_best(best: object) -> bool:
    """Whether it is a step, a score and the evaluation's key. Older checkpoints have no key."""
    if not (isinstance(best, list) and len(best) in (2, 3)):
        return False
    step, score, *key = best
    return type(step) is int and type(score) in (int, float) and all(type(one) is str for one in key)


def _strange(checkpoint: Checkpoint, where: str, what: str) -> ResumeError:
    return ResumeError(
        f"--resume: the checkpoint of step {checkpoint.step} in {where} {what}; no version of this program wrote it"
    )
