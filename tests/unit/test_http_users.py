"""Bearer tokens: from a private file or the environment, kept as hashes, and asked for in every request."""

from __future__ import annotations

import hashlib

import pytest

from pipeline.core.failures import ConfigError
from pipeline.serving.http.users import ANYONE, Users, read_users

ALICE, BOB = "correct-horse-battery", "staple-staple-staple"


def file_of(folder, text, mode=0o600):
    path = folder / "tokens"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_each_token_is_its_users(tmp_path):
    digest = hashlib.sha256(BOB.encode()).hexdigest()
    users = read_users(file_of(tmp_path, f"# who\n\nalice:{ALICE}\nbob:sha256={digest}\n"), {})
    assert users.named(f"Bearer {ALICE}") == "alice"
    assert users.named(f"bearer  {BOB}") == "bob"
    refused = (None, "", "Bearer", ALICE, f"Basic {ALICE}", f"Bearer {ALICE}x", f"Bearer {digest}", "Bearer é")
    assert [users.named(one) for one in refused] == [None] * len(refused)
    assert ALICE not in repr(vars(users))


def test_without_tokens_there_is_one_user():
    assert read_users(None, {}).named(None) == ANYONE
    assert Users({}).named("Bearer x") == ANYONE


def test_the_environment_serves_where_no_file_is_named(tmp_path):
    environment = {"METAFLEET_TOKENS": f"alice:{ALICE}"}
    assert read_users(None, environment).named(f"Bearer {ALICE}") == "alice"
    assert read_users(file_of(tmp_path, f"bob:{BOB}"), environment).named(f"Bearer {ALICE}") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no tokens; expected a line name:token for each user"),
        ("alice", "line 1: expected name:token, with a token of 16 or more characters"),
        ("alice:short", "line 1: expected name:token"),
        (f"alice:{ALICE}\nalice:{BOB}", "line 2: a name or token that is missing or was there before"),
        (f"alice:{ALICE}\nbob:{ALICE}", "line 2: a name or token"),
        (f":{ALICE}", "line 1: a name or token"),
        ("alice:sha256=12", "line 1: expected name:sha256= and the 64 hexadecimal digits"),
        ("alice:two words and more", "line 1: expected name:token"),
    ],
)
def test_a_wrong_file_is_refused_without_showing_a_secret(tmp_path, text, said):
    with pytest.raises(ConfigError) as error:
        read_users(file_of(tmp_path, text), {})
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert ALICE not in str(error.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(tmp_path, mode):
    path = file_of(tmp_path, f"alice:{ALICE}", mode)
    with pytest.raises(ConfigError, match=rf"others can read the tokens \(mode {mode:o}\); run chmod 600"):
        read_users(path, {})


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"tokens: cannot be read .* expected a text file of name:token lines"):
        read_users(tmp_path / "tokens", {})
