"""The command line: each job parses, builds and calls. ``python -m jobs.NAME --help`` says what it takes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from pipeline.core.failures import PipelineError


def run(main: Callable[[], None]) -> NoReturn:
    """Call ``main`` and end the process: 0, the exit code of its ``PipelineError``, or 130 for Ctrl-C."""
    try:
        main()
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
