"""Who may join a Ray that we started: whoever has its token, which lies in a file for its owner alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
OWNER = """
import json, stat, sys
from pathlib import Path
import psutil
from pipeline.runtime.cluster import Workers, connect
import ray

connect("local", Workers(1, 0.0))
token = Path.home() / ".ray" / "auth_token"
node = ray._private.worker.global_worker.node
facts = {"mode": token.stat().st_mode & 0o777, "token": token.read_text(), "address": node.gcs_address}
facts |= {"dashboard": node.address_info.get("webui_url")}
processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
ports = [(one.name(), *port) for one in processes for port in one.net_connections()]
listening = [(name, *port[3]) for name, *port in ports if port[5] == "LISTEN"]
print(json.dumps(facts | {"listening": listening}), flush=True)
sys.stdin.readline()
ray.shutdown()
"""
CLIENT = """
import sys
import ray
from ray.exceptions import AuthenticationError

try:
    ray.init(address=sys.argv[1], log_to_driver=False)
    print("joined")
except (AuthenticationError, ConnectionError) as error:
    print("refused")
"""


@pytest.fixture(scope="module")
def owner(tmp_path_factory):
    """A Ray in a home of its own, started by our code with nothing said of tokens: what it is and where."""
    home = tmp_path_factory.mktemp("owner")
    command = [sys.executable, "-c", OWNER]
    unset = {name: value for name, value in without_tokens(home).items() if name not in LOOPBACK}
    process = subprocess.Popen(command, cwd=ROOT, env=unset, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.communicate("done\n", timeout=60)


LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Without it Ray replaces 127.0.0.1 by this machine's address in the network, where nobody listens."""


def without_tokens(home: Path) -> dict[str, str]:
    """This environment as it is for a person who has set nothing."""
    named = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return named | {"HOME": str(home), **LOOPBACK}


def join(address: str, home: Path, **settings: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, address],
        cwd=ROOT,
        env=without_tokens(home) | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_token_is_its_owners_alone_and_there_is_no_dashboard(owner):
    assert owner["mode"] == 0o600
    assert not owner["dashboard"]


def test_no_other_machine_reaches_a_port(owner):
    assert len(owner["listening"]) > 3
    assert not [one for one in owner["listening"] if not ip_address(one[1].removeprefix("::ffff:")).is_loopback]


@pytest.mark.parametrize("token", ["none", pytest.param("another", marks=pytest.mark.drill), "the right one"])
def test_only_who_has_the_token_may_join(owner, tmp_path, token):
    """Another token is a drill: Ray tries for 20 s before it says that it was refused, as it was without one."""
    settings = {"another": {"RAY_AUTH_TOKEN": "0" * 64}, "the right one": {"RAY_AUTH_TOKEN": owner["token"]}}
    said = join(owner["address"], tmp_path, RAY_AUTH_MODE="token", **settings.get(token, {}))
    assert said == {"the right one": "joined"}.get(token, "refused")
