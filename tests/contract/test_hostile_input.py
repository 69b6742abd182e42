"""Input that somebody made to do harm: it runs no code, fills no memory, leaves its folder to nobody."""

from __future__ import annotations

import contextlib
import io
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import recipes
from pipeline.core.failures import ConfigError, DataError, ResumeError
from pipeline.engine.durability.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from pipeline.storage.local import Local
from pipeline.tasks import classfile
from pipeline.tasks.ingest import folder, omniglot
from pipeline.tasks.ingest.options import Options
from tests.contract.bad_input import SERIAL, Ended, rewrite, run
from tests.mlflow_server import Answering, answering

pytestmark = pytest.mark.usefixtures("torch_threads", "undrawn")

ROOT = Path(__file__).parents[2]
SECRET = "hunter2"


def refused(ended: Ended) -> str:
    """The one line with which a job ended."""
    assert ended.code == 2, ended
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1, ended.err
    assert "Traceback" not in ended.out + ended.err
    return ended.err


class Evil:
    """Whoever unpickles it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_a_pickle_is_never_unpickled(place):
    """As a recipe, an image file, a checkpoint (raw and as torch saves it), a journal, a zip and a picture."""
    mark = place.folder / "mark"
    evil = pickle.dumps(Evil(mark))
    pickle.loads(evil)
    assert mark.exists(), "the test's pickle does nothing"
    mark.unlink()
    made = io.BytesIO()
    torch.save(Evil(mark), made)

    assert "cannot be read" in refused(run("train", place.file(evil), *SERIAL))
    recipe = place.images_recipe(place.file(evil, "evil.arrow"))
    assert "is truncated or not an Arrow file" in refused(run("train", recipe, *SERIAL))
    for content in (evil, made.getvalue()):
        broken = place.run()
        for path in (broken / "checkpoints").iterdir():
            path.write_bytes(content)
        assert "cannot be read" in refused(run("evaluate", broken, *SERIAL))
        shutil.rmtree(broken)
    broken = place.run()
    (broken / "journal.jsonl").write_bytes(evil)
    ended = run("train", broken / "recipe.yaml", *SERIAL, "--resume", "--output", broken)
    assert "journal" in refused(ended)
    for name in omniglot.ARCHIVES:
        place.file(evil, f"zips/{name}")
    assert "is not a readable zip" in refused(run("ingest", "omniglot", "--from", place.folder / "zips", "--to", "x"))
    place.file(evil, "in/ant/0.png")
    ended = run("ingest", "folder", place.folder / "in", "--split", "1,0,0")
    assert "1 unreadable image (ant/0.png (not a PNG" in refused(ended)
    assert not mark.exists()


def forged(path: Path, facts: str, tensor: torch.Tensor) -> None:
    """A checkpoint whose checksum fits, whatever it holds: a checksum is no signature."""
    from safetensors.torch import save

    from pipeline.engine.durability.checkpoint import _digest

    tensors = {"theta": tensor}
    path.write_bytes(save(tensors, {"facts": facts, "sha256": _digest(tensors, facts)}))


@pytest.mark.parametrize("facts", ["", "[]", "null", "{}", '{"format": 1}', '{"format": 1, "step": "x"}', "[" * 5000])
def test_a_forged_checkpoint_is_refused(tmp_path, facts):
    forged(tmp_path / "x.safetensors", facts, torch.zeros(2))
    with pytest.raises(ResumeError, match="holds no metadata of a run"):
        read_checkpoint(Local(tmp_path), "x.safetensors")


@pytest.mark.parametrize("facts", ['{"format": 3, "step": %d}', '{"format": 3, "step": %d, "identity": 7}'])
def test_a_forged_checkpoint_is_not_gone_on_from(facts, place):
    broken = place.run()
    for path in (broken / "checkpoints").iterdir():
        forged(path, facts % int(path.stem[5:]), torch.zeros(2))
    ended = run("train", broken / "recipe.yaml", *SERIAL, "--resume", "--output", broken)
    assert "has no identity to go on from" in refused(ended)


def test_tensors_of_any_type_are_read_or_refused(tmp_path, place):
    odd = Checkpoint(1, {"theta/model/x": torch.zeros(3, dtype=torch.bfloat16), "y": torch.zeros(())}, {})
    write_checkpoint(Local(tmp_path), "odd.safetensors", odd)
    assert read_checkpoint(Local(tmp_path), "odd.safetensors").step == 1
    broken = place.run()
    for path in (broken / "checkpoints").iterdir():
        found = read_checkpoint(Local(broken), f"checkpoints/{path.name}")
        write_checkpoint(Local(broken), f"checkpoints/{path.name}", found._replace(tensors=odd.tensors))
    assert "does not hold this recipe's theta" in refused(run("evaluate", broken, *SERIAL))


def zipped(entries: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", packing) as opened:
        for name, data in entries.items():
            opened.writestr(name, data)
    return made.getvalue()


def many_entries() -> bytes:
    return zipped({f"{number}.txt": b"" for number in range(25_001)}, zipfile.ZIP_STORED)


@pytest.mark.parametrize(
    ("archive", "says"),
    [
        (lambda: zipped({"../../../evil/character01/0.png": b"x"}), "hold 1 characters"),
        (lambda: zipped({"/evil/character01/0.png": b"x"}), "hold 1 characters"),
        (lambda: zipped({"a/b/0.png": bytes(1 << 24)}), "has 1 images of up to 16777216 bytes"),
        (lambda: zipped({f"a/b/{number}.png": bytes(4000) for number in range(5000)}), "has 5000 images of up to 4000"),
        (lambda: zipped({"a/b/0.png": b"x"}, zipfile.ZIP_LZMA), "is packed in an unusual way"),
        (many_entries, "which is not Omniglot"),
        (lambda: bytes((1 << 24) + 1), "is larger than 16 MiB"),
    ],
    ids=["slip", "absolute", "bomb", "many bombs", "lzma", "many entries", "large"],
)
def test_a_zip_writes_nowhere_and_fills_no_memory(place, archive, says):
    """Nothing is extracted to disk, so no name in a zip is ever a path."""
    for name in omniglot.ARCHIVES:
        place.file(archive(), f"zips/{name}")
    before = sorted(place.folder.parent.rglob("*"))
    assert says in refused(run("ingest", "omniglot", "--from", place.folder / "zips", "--to", "new/omniglot.arrow"))
    assert sorted(place.folder.parent.rglob("*")) == before


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + b"".join(part(*chunk) for chunk in chunks)


HEADER = (b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
TEXT = (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 26)))
SMALL = (b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0))
PIXELS = (b"IDAT", zlib.compress(b"\0\1\2\0\3\4"))
OTHERS = {
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n",
    "fits": b"SIMPLE  =                    T".ljust(2880),
    "tiff": b"II*\0\x08\0\0\0\0\0\0\0\0\0",
}


@pytest.mark.parametrize("picture", [png(HEADER, PIXELS), png(SMALL, TEXT, PIXELS, (b"IEND", b"")), *OTHERS.values()],
                         ids=["pixels", "text", *OTHERS])  # fmt: skip
def test_a_picture_is_no_bomb_and_of_a_known_format(tmp_path, picture):
    """A limit of our own, and Pillow is asked for five formats alone: no PostScript, no FITS, no TIFF."""
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "0.png").write_bytes(picture)
    with pytest.raises(DataError, match=r"1 unreadable image \(a/0\.png \("):
        folder.ingest(tmp_path / "in", tmp_path / "a.arrow", Options(8, split=(1, 0, 0)))
    assert not (tmp_path / "a.arrow").exists()


READ_ALL = """
import resource, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from pipeline.core.failures import DataError
from pipeline.tasks import classfile

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), resource.RLIM_INFINITY))
folder, good = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
refused = []
for bomb in sorted(folder.glob("*.arrow")):
    try:
        classfile.read(bomb)
    except DataError as error:
        refused.append(str(error))
assert pa.default_memory_pool().max_memory() < 1 << 20, pa.default_memory_pool().max_memory()
rng, outcomes = np.random.default_rng(0), [0, 0]
for _ in range(600):
    data = bytearray(good)
    for at in rng.integers(0, len(data), rng.integers(1, 5)):
        data[at] = rng.integers(256)
    (folder / "mutant").write_bytes(data if rng.integers(4) else data[: rng.integers(len(data))])
    try:
        classfile.read(folder / "mutant").images.sum()
        outcomes[0] += 1
    except DataError:
        outcomes[1] += 1
print(len(refused), *outcomes)
"""


def test_an_arrow_file_fills_no_memory_and_ends_no_process(tmp_path):
    """Compressed and dictionary bombs under a limit of memory, and 600 damaged files, in a process of its own."""
    splits = {"random": {"train": [0], "test": [1]}}
    classfile.write(tmp_path / "pixels.arrow", np.zeros((3, 10_000, 10_000), np.uint8), [1, 2], ["a", "b"], splits, "s")
    shutil.copy(tmp_path / "pixels.arrow", tmp_path / "words.arrow")
    rewrite(tmp_path / "pixels.arrow", lambda batch: batch, compression="zstd")
    words = pa.DictionaryArray.from_arrays(pa.array([0, 0, 0], pa.int32()), ["x" * 200_000_000])
    dictionaries = pa.record_batch([words, words], ["image", "label"])
    rewrite(tmp_path / "words.arrow", lambda batch: dictionaries, compression="zstd")
    assert max(path.stat().st_size for path in tmp_path.glob("*.arrow")) < 1 << 20
    good = tmp_path / "good"
    pixels = np.random.default_rng(1).integers(0, 256, (9, 5, 5), dtype=np.uint8)
    classfile.write(good, pixels, [4, 5], ["a", "b"], splits, "s")
    command = [sys.executable, "-c", READ_ALL, tmp_path, good]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    bombs, read, refused_count = map(int, done.stdout.split())
    assert bombs == 2
    assert read + refused_count == 600
    assert refused_count > 200


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("!!python/object/apply:os.system [touch mark]", "no valid YAML"),
        ("!!python/name:os.system", "no valid YAML"),
        ("x: !!python/object/new:type [a, [], {}]", "no valid YAML"),
        (LAUGHS, "more than 10,000 keys and values once its aliases are written out"),
        ("net: &a {name: *a}", "more than 10,000 keys and values"),
        ("[" * 3000, "nested too deeply"),
        ("x: " + "y" * (1 << 20), "longer than 1,048,576 characters"),
        ('x: "\\0"', "a text with a NUL"),
        ('x: "\\ud800"', "a text with a NUL or half a character"),
        ("x: !!int abc", "a value that cannot be read"),
        ("x: !!timestamp abc", "a value that cannot be read"),
    ],
)  # fmt: skip
def test_yaml_builds_no_object_and_fills_no_memory(place, text, says):
    """A tag builds nothing, and anchors do not multiply."""
    said = refused(run("train", place.file(text), *SERIAL))
    assert says in said
    assert len(said) < 1000
    assert not list(Path.cwd().iterdir())


@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@ \n\t0e.~?,", max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_recipe_or_an_error_of_ours(text):
    with contextlib.suppress(ConfigError):
        recipes.read("sinusoid_maml", [f"net={text}"])


@pytest.mark.parametrize("name", ["../../evil", "/evil", "..", ".", "", "a\\b", "a\nb", "x" * 201])
def test_a_name_in_a_recipe_leads_nowhere_else(place, name):
    """It becomes the folder runs/NAME."""
    text = f"base: sinusoid_maml\nname: {name!r}\n" if "\n" not in name else 'base: sinusoid_maml\nname: "a\\nb"\n'
    assert "name: expected the name of a folder" in refused(run("train", place.file(text), "steps=1", *SERIAL))
    assert not list(Path.cwd().parent.glob("*evil*"))


def test_a_class_named_like_a_command_to_the_terminal_is_shown_as_text(place):
    for name in ("ant", "\x1b]0;title\x07\nerror: no", "../up".replace("/", "\u2215")):
        place.picture(f"{name}/0.png")
    place.file("text", "in/ant/1.png").rename(place.folder / "in/ant/\x1b[2J.png")
    to = place.folder / "a.arrow"
    ended = run("ingest", "folder", place.folder / "in", "--to", to, "--split", "1,0,0")
    assert r"1 unreadable image ('ant/\x1b[2J.png' (" in refused(ended)
    assert "\x1b" not in ended.err
    assert run("ingest", "folder", place.folder / "in", "--to", to, "--split", "1,0,0", "--skip-unreadable").code == 0
    assert sorted(path.name for path in place.folder.iterdir()) == ["a.arrow", "in"]
    assert "\x1b]0;title\x07\nerror: no" in classfile.read(to).names, "kept as it is in the data"


class NoTracker(Answering):
    """Looks like a tracking server until something is to be kept."""

    def answer(self) -> tuple[int, str, bytes]:
        return 200 if "experiments/get-by-name" in self.path else 404, "application/json", b'{"experiments": []}'


@pytest.fixture
def server():
    with answering(NoTracker) as server:
        yield f"127.0.0.1:{server.server_port}"


def test_a_password_is_nowhere_but_in_the_call(place, server, caplog):
    """Not printed, logged or saved anywhere; a resume says how to give it again."""
    uri = f"tracking.uri=http://me:{SECRET}@{server}"
    small = ["steps=2", "tasks_per_step=4", "chunk_size=2", "evaluation.tasks=4", *SERIAL, "--output", "run"]
    ended = run("train", "sinusoid_maml", uri, *small)
    assert ended.code == 0, ended.err
    assert f"uri: http://***@{server}" in ended.out
    assert "not in MLflow" in ended.out
    written = b"".join(path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file())
    assert b"theta/model" in written
    for text in (ended.out, ended.err, caplog.text, written.decode("latin1")):
        assert SECRET not in text

    again = ["run/recipe.yaml", *SERIAL, "--resume", "--output", "run"]
    said = refused(run("train", *again))
    assert f"set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD and pass tracking.uri=http://{server}" in said
    assert run("train", *again, uri).code == 0
    assert run("train", *again, f"tracking.uri=http://{server}").code == 0
    assert run("evaluate", "run", *SERIAL).code == 0, "nothing is tracked"


@pytest.mark.parametrize(
    "wrong", ["tracking=http://me:{}@lab", "tracking.uri=postgresql://me:{}@db/x", "tracking.uri='http://me:{}@[x'",
              "tracking.uri=[http://me:{}@lab", "outer=http://me:{}@lab"],
)  # fmt: skip
def test_no_error_quotes_a_password(place, wrong):
    assert "***@" in (said := refused(run("train", "sinusoid_maml", wrong.format(SECRET), *SERIAL)))
    assert SECRET not in said
