"""The base class of what is told of each operation on tensors."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode outside of what torch compiles.

    torch would keep its compiler away from each call of one, and import the compiler for that: seconds of a start.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
