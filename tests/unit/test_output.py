"""What jobs print: to whom nobody listens any more, to terminals of few characters, and where the result is JSON."""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["env", *(f"{key}={value}" for key, value in environment.items()), sys.executable, "-c", text]
    return subprocess.run(command, capture_output=True, text=True, encoding="latin-1", timeout=60, check=False)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_few_characters_gets_what_it_can_show(encoding):
    ended = python("import jobs\njobs.run(lambda: print('1 ± 2 × 3 …'))", PYTHONIOENCODING=encoding)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("1 ")


def test_a_reader_that_goes_ends_a_job_quietly():
    text = "import jobs\njobs.run(lambda: [print('x' * 100) for _ in range(10000)])"
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
        assert job.stdout is not None
        assert job.stderr is not None
        job.stdout.readline()
        job.stdout.close()
        assert job.stderr.read() == b""
        assert job.wait(60) == 141


def test_stdout_holds_the_result_alone():
    text = (
        "import os\nfrom jobs import output\n"
        "with output.stdout_for_the_result():\n    print('python')\n    os.system('echo process')\nprint('{}')"
    )
    ended = python(text)
    assert (ended.stdout, sorted(ended.stderr.split())) == ("{}\n", ["process", "python"])
