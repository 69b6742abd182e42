"""The command line: each job parses, builds and calls. ``python -m jobs.NAME --help`` says what it takes."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    sys.stderr.write("error: metafleet runs on Linux and macOS, and on Windows inside WSL 2\n")
    sys.exit(2)

import jobs.signals  # noqa: F401 - first: from here on a signal is answered

# isort: split
import signal
from collections.abc import Callable
from typing import NoReturn

from jobs.output import nobody_reads, show_what_a_terminal_can
from jobs.signals import end_with_ray
from jobs.stopping import listening
from pipeline.core.failures import PipelineError, Stopped


def run(main: Callable[[], None]) -> NoReturn:
    """Call ``main`` and end the process: 0, the exit code of its ``PipelineError``, 130 for Ctrl-C, 143 for SIGTERM."""
    show_what_a_terminal_can()
    try:
        with listening():
            try:
                main()
                sys.stdout.flush()
            except BrokenPipeError:
                if not nobody_reads():
                    raise
                sys.exit(128 + signal.SIGPIPE)
            except PipelineError as error:
                print(f"error: {error}", *_notes(error), sep="\n", file=sys.stderr)
                sys.exit(error.exit_code)
        sys.exit(0)
    except KeyboardInterrupt as stopped:
        # The run is on disk. Exit handlers would wait seconds for servers and for the processes of a local Ray.
        sys.stdout.flush()
        end_with_ray(stopped.signal if isinstance(stopped, Stopped) else signal.SIGINT, *_notes(stopped))


def _notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])
