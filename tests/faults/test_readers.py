"""Whatever bytes a stranger's file holds, it is read and can be used, or refused with its path, in
little time and memory: models, published .pt files, tables, archives, sounds, what a report shows.

`READERS` is the table of them. Cases are drawn by hypothesis, the same ones every time.
"""

import gzip
import io
import json
import os
import pickletools
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzz
import jax
import numpy as np
import pytest
import soundfile
from archives import archive, tar
from flax.traverse_util import flatten_dict
from fuzz import EXAMPLES, damaged, hunt, json_damaged, outcome, places, shuffled, shuffles
from hypothesis import strategies as st
from runs import FIELDS, ROOT, network
from slim import slim_run
from torch_files import tensor, text, write, write_state_dict
from trees import write_esc50

from jaxsep.data.layouts import read_layout
from jaxsep.errors import ConfigError, DataError, ModelError, ReportError
from jaxsep.inference.bundle import load_bundle, save_bundle
from jaxsep.models.torch_import.convert import from_file
from jaxsep.open_data import unpack
from jaxsep.report.build import build
from jaxsep.report.excerpts import read_excerpt
from jaxsep.report.grouping import group
from jaxsep.report.render import markdown, page
from jaxsep.report.runs import read_runs
from jaxsep.training.workdir import read_config


@dataclass
class Reader:
    """How one kind of file is read.

    path: where a case is written. whole: the content that all cases are damages of. read: raises
    `errors`, which name `named`. size: bytes that memory is measured by, if not those of the case.
    """

    path: Path
    whole: bytes
    read: Callable[[], Any]
    cases: st.SearchStrategy[bytes]
    errors: type[Exception]
    named: Path | None = None
    size: int = 0


READERS: dict[str, tuple[int, Callable[..., Reader]]] = {}


def reader(name: str, examples: int):
    """Put a function of (folder, made) -> Reader into the table; examples: in a default run."""

    def add(make: Callable[..., Reader]) -> Callable[..., Reader]:
        READERS[name] = examples, make
        return make

    return add


@dataclass
class Made:
    """What the readers' files are made from, once for all."""

    model: Path
    params: dict[str, np.ndarray]
    runs: Path
    reference: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory, reference_dir) -> Made:
    model, runs = tmp_path_factory.mktemp("bundle") / "model", tmp_path_factory.mktemp("runs")
    params = network("original")[1]
    about = {"classes": ["a"]}
    save_bundle(model, params, family="original", fields=FIELDS, sample_rate=8000, about=about)
    slim_run(runs / "run")
    slim_run(runs / "other", "weighting.name=uniform", seed=1)
    return Made(model, flatten_dict(params, sep="/"), runs, reference_dir)


# Models.


def copied_model(folder: Path, made: Made) -> Path:
    return shutil.copytree(made.model, folder / "model")


def read_model(folder: Path, made: Made) -> dict[str, np.ndarray]:
    """The parameters; of the network that was saved, as no case changes shapes and fields alike."""
    module, params, description = load_bundle(folder)
    read = flatten_dict(params, sep="/")
    assert {name: (array.shape, array.dtype) for name, array in read.items()} == {
        name: (array.shape, array.dtype) for name, array in made.params.items()
    }
    assert {name: getattr(module, name) for name in FIELDS} == FIELDS
    assert 1 <= description["sample_rate"] <= 10**6
    return read


@reader("model.json", 25)
def model_json(folder: Path, made: Made) -> Reader:
    path = copied_model(folder, made) / "model.json"
    content = path.read_bytes()
    fields = json_damaged({"fields": FIELDS}).map(merged(content))
    cases = st.one_of(json_damaged(json.loads(content)), fields, damaged(content))
    return Reader(path, content, lambda: read_model(folder, made), cases, ModelError)


def merged(content: bytes) -> Callable[[bytes], bytes]:
    """What edits made of the fields, in the whole document; alone where it is no document."""

    def merge(part: bytes) -> bytes:
        try:
            return json.dumps(json.loads(content) | json.loads(part)).encode()
        except (ValueError, TypeError, RecursionError):
            return part

    return merge


@reader("params.safetensors", 15)
def parameters(folder: Path, made: Made) -> Reader:
    path = copied_model(folder, made) / "params.safetensors"

    def read() -> None:
        for name, array in read_model(folder, made).items():
            np.testing.assert_array_equal(array, made.params[name])

    content = path.read_bytes()
    return Reader(path, content, read, damaged(content), ModelError, path)


@pytest.mark.parametrize("field", ["num_blocks", "enc_num_basis", "num_sources", "out_channels"])
def test_fields_of_a_model_that_cannot_be(made, tmp_path, field):
    path = copied_model(tmp_path, made) / "model.json"
    about = json.loads(path.read_text())
    said = rf"model/(model\.json: .*model\.{field} is|params\.safetensors: parameter)"
    for value in (10**4, 10**9, 10**30, -1, 0, "2", [2], {"a": 2}, None, True, 2.0):
        about["fields"][field] = value
        path.write_text(json.dumps(about))
        with pytest.raises(ModelError, match=said), fuzz.watched(0):
            load_bundle(tmp_path)


# .pt files.

# Instructions, and numbers and names for them to take.
BITS = [bytes([code]) for code in b"02(t]})aesubQRN\x85\x86\x87\x81\x93\x94"]
BITS += [
    text("weight"),
    text("0"),
    text("storage"),
    b"cos\nsystem\n",
    b"ctorch\nLongStorage\n",
    b"h\x00",
    b"h\x05",
    b"q\x00",
]
BITS += [
    b"K\x07",
    b"\x8a\x09" + bytes(8) + b"\x01",
    b"J\xff\xff\xff\xff",
    b"r\xff\xff\xff\x7f",
    b"(K\x00K\x01t",
    b"(" * 9,
]


def pickles(content: bytes) -> st.SearchStrategy[bytes]:
    """A pickle with instructions taken out, doubled, swapped, put in."""
    starts = [place for _, _, place in pickletools.genops(content)]
    parts = [
        content[start:stop] for start, stop in zip(starts, [*starts[1:], len(content)], strict=True)
    ]
    extra = st.lists(st.tuples(places(), st.sampled_from(BITS)), max_size=3)

    def assemble(case):
        edits, added = case
        edited = shuffled(parts, edits)
        for place, bit in added:
            edited.insert(
                int(place * len(edited)) if isinstance(place, float) else place % (len(edited) + 1),
                bit,
            )
        return b"".join(edited)

    return st.one_of(st.tuples(shuffles(), extra).map(assemble), damaged(content))


def published(form: str) -> Callable[[Path, Made], Reader]:
    def make(folder: Path, made: Made) -> Reader:
        path = folder / "net.pt"
        content = (made.reference / f"improved_sudormrf_{form}.pt").read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            members = {name: file.read(name) for name in file.namelist()}
        main = next(name for name in members if name.endswith("/data.pkl"))
        edited = pickles(members[main]).map(lambda pickle: archive(members | {main: pickle}))

        def read() -> None:
            params = from_file(path)[1]
            assert all(np.size(array) for array in jax.tree.leaves(params))

        cases = st.one_of(edited, damaged(content))
        return Reader(path, content, read, cases, ValueError, path)

    return make


reader(".pt of a module", 20)(published("module"))
reader(".pt of a state dict", 20)(published("state_dict"))


def test_a_published_file_that_claims_to_be_one_of_two_disks(reference_dir, tmp_path):
    content = (reference_dir / "improved_sudormrf_module.pt").read_bytes()
    end = content.rindex(b"PK\5\6")
    path = tmp_path / "net.pt"
    path.write_bytes(content[:end] + b"PK\6\7" + struct.pack("<LQL", 0, 0, 2) + content[end:])
    with pytest.raises(ValueError, match=rf"{path}: damaged"):
        from_file(path)


def doubling(last: bytes) -> bytes:
    """A tuple of three tuples of three …, 60 deep and shared: small, but without end to anyone who
    walks through it."""
    return b")" + b"".join(b"q\x01h\x01h\x01\x87" for _ in range(60)) + last


def many_names(form, count):
    """A state dict of so many tensors that share one value."""
    names = [form.format(n) for n in range(count)]
    names += ["m.weight", "l1.weight", "decoder.weight", "sm.0.proj_1x1.conv.weight"]
    first = tensor("0", 1, (1, 1, 1, 1), (1, 1, 1, 1)) + b"q\x00"
    return (
        b"}("
        + b"".join(text(name) + (b"h\x00" if n else first) for n, name in enumerate(names))
        + b"u."
    )


def long_name():
    """A module with a name of a megabyte that holds a hundred thousand tensors."""
    shell = b"ctorch.nn.modules.container\nSequential\n)\x81"
    first = tensor("0", 1, (1,), (1,)) + b"q\x00"
    members = b"".join(text(str(n)) + (first if n == 0 else b"h\x00") for n in range(100_000))
    inner = shell + b"}" + text("_parameters") + b"}(" + members + b"usb"
    return shell + b"}" + text("_modules") + b"}" + text("x" * 10**6) + inner + b"ssb."


BOMBS = {
    "tuples as a class's name": (doubling(b"q\x01h\x01\x93."), "damaged"),
    "tuples as a key": (b"}" + doubling(b"Ns."), "neither text nor number"),
    "tuples as a call's arguments": (
        b"ccollections\nOrderedDict\n" + doubling(b"R."),
        "damaged",
    ),
    "tuples as a storage": (doubling(b"Q."), "damaged"),
    "tuples as a state dict": (doubling(b"."), "holds a tuple"),
    "tuples as an entry": (b"}" + text("a") + doubling(b"s."), "'a' is no tensor"),
    "empty dictionaries": (b"}" * (5 * 2**20) + b".", "data.pkl has"),
    "a name that would be copied": (long_name(), "lies too deep"),
    "blocks without end": (
        many_names("sm.{}.x", 20_000),
        r"model\.num_blocks is 2000\d; .* at most 128",
    ),
    "levels without end": (
        many_names("sm.0.spp_dw.{}.x", 20_000),
        r"model\.upsampling_depth is 20000; .* at most 12",
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_small_pickles_that_stand_for_something_huge(tmp_path, bomb):
    body, message = BOMBS[bomb]
    path = write(tmp_path / "net.pt", b"\x80\x02" + body, {"0": bytes(4)})
    size = path.stat().st_size
    with pytest.raises(ValueError, match=rf"net\.pt.*{message}"), fuzz.watched(size):
        from_file(path)


def test_axes_without_values_build_no_network(reference_dir, tmp_path):
    with np.load(reference_dir / "sudormrf_original.npz") as file:
        values = {name: value for name, value in file.items() if name.startswith("param/")}
    weights = {name.removeprefix("param/"): value for name, value in values.items()}
    weights["m.weight"] = np.zeros((10**7, 1, 0, 1), np.float32)
    path = write_state_dict(tmp_path / "net.pt", weights)
    said = r"net\.pt: m\.weight has shape \(10000000, 1, 0, 1\), no values"
    with pytest.raises(ValueError, match=said), fuzz.watched(0):
        from_file(path)


# What a report shows.


def report_of(folders):
    """A report but for its figures."""
    sections, _ = build(group(read_runs(folders)), "none")
    for section in sections:
        for table in section.tables:
            table.cells.to_csv().encode()
    markdown("t", sections).encode()


def report_file(name: str) -> Callable[[Path, Made], Reader]:
    def make(folder: Path, made: Made) -> Reader:
        run = shutil.copytree(made.runs, folder / "runs") / "run"
        content = (run / name).read_bytes()
        cases = damaged(content)
        if name.endswith(".json"):
            cases = st.one_of(json_damaged(json.loads(content)), cases)
        elif name.endswith(".jsonl"):
            lines = [json.loads(line) for line in content.splitlines()]
            cases = st.one_of(json_damaged(lines).map(as_lines), cases)
        else:
            cases = st.one_of(damaged_table(content), cases)
        read = lambda: report_of([run, run.parent / "other"])  # noqa: E731
        return Reader(run / name, content, read, cases, ReportError, run)

    return make


def as_lines(document: bytes) -> bytes:
    try:
        return b"".join(json.dumps(line).encode() + b"\n" for line in json.loads(document))
    except (ValueError, TypeError, RecursionError):
        return document


CELLS = ["", "-1", "0", "1", "9" * 30, "9" * 5000, "nan", "inf", "1e999", "1e12", "-1e300"]
CELLS += ["٣", "1_0", "x", '"', "a\nb", "../../x", "\0", "=1+1"]


def damaged_table(content: bytes) -> st.SearchStrategy[bytes]:
    """A CSV file with cells replaced and lines taken out, doubled, swapped."""
    lines = content.decode().splitlines()
    edit = st.tuples(st.integers(0, len(lines) - 1), st.integers(0, 9), st.sampled_from(CELLS))

    def assemble(case):
        table = [line.split(",") for line in lines]
        for row, column, cell in case[0]:
            table[row][column % len(table[row])] = cell
        return "\n".join(shuffled([",".join(row) for row in table], case[1])).encode()

    return st.tuples(st.lists(edit, max_size=3), st.one_of(st.just([]), shuffles())).map(assemble)


for _name in ("config.json", "summary.json", "metrics.jsonl", "evaluation/test.csv"):
    reader(f"a report's {_name}", 20)(report_file(_name))


@reader("a report's excerpts", 25)
def excerpts(folder: Path, made: Made) -> Reader:
    run = shutil.copytree(made.runs / "run", folder / "run")
    place = run / "evaluation" / "audio" / "worst-1-mixture3"
    place.mkdir(parents=True)
    path = place / "mixture.wav"
    soundfile.write(path, fuzz.np_noise(200), 8000, subtype="FLOAT")
    shown = read_runs([run])[0]
    read = lambda: page("t", [], [read_excerpt("label", shown, place)], {}).encode()  # noqa: E731
    content = path.read_bytes()
    return Reader(path, content, read, damaged(content), ReportError, place)


@reader("a run's configuration", 30)
def configuration(folder: Path, made: Made) -> Reader:
    content = (made.runs / "run" / "config.json").read_bytes()
    cases = st.one_of(json_damaged(json.loads(content)), damaged(content))
    read = lambda: read_config(folder)  # noqa: E731
    return Reader(folder / "config.json", content, read, cases, ConfigError)


# Tables, archives, sounds.


@reader("ESC-50's table", 60)
def esc50_table(folder: Path, made: Made) -> Reader:
    entries = [(1, 0, "dog", "1", "A"), (4, 10, "rain", "2", "A")]
    entries += [(5, 0, "dog", "3", "A"), (5, 11, "sea", "4", "A")]
    root = write_esc50(folder / "root", entries)
    path = root / "meta" / "esc50.csv"

    def read() -> None:
        for (path,), ((class_name, _),), split in read_layout(root, "environment").rows:
            assert (root / path).parent == root / "audio"
            assert split in ("train", "val", "test")
            assert "/" not in class_name

    content = path.read_bytes()
    cases = st.one_of(damaged_table(content), damaged(content))
    return Reader(path, content, read, cases, DataError, root)


def packed_files(kind: str) -> Callable[[Path, Made], Reader]:
    def make(folder: Path, made: Made) -> Reader:
        members = {"top/a.txt": b"a" * 500, "top/below/b.txt": fuzz.noise(600)}
        path, into = folder / f"a.{kind}", folder / "into"
        content = archive(members) if kind == "zip" else tar(members)
        cases = damaged(content)
        if kind != "zip":
            cases = damaged(gzip.decompress(content)).map(lambda raw: gzip.compress(raw, 1))

        def read() -> None:
            shutil.rmtree(into, ignore_errors=True)
            into.mkdir()
            try:
                unpack(path, into, "(?s)(.*)", limit=10**6)
            finally:
                assert {path.name for path in folder.iterdir()} == {path.name, "into"}

        return Reader(path, content, read, cases, DataError, size=10**6)

    return make


reader("an archive, tar", 40)(packed_files("tar.gz"))
reader("an archive, zip", 40)(packed_files("zip"))


@pytest.mark.parametrize("times", EXAMPLES)
@pytest.mark.parametrize("name", READERS)
def test_a_stranger_s_file_is_read_or_refused(times, name, made, tmp_path):
    examples, make = READERS[name]
    file = make(tmp_path, made)
    named = file.named or tmp_path

    def check(case: bytes) -> str:
        file.path.write_bytes(case)
        return outcome(file.read, (file.errors,), named, file.size or len(case))

    assert check(file.whole) == "read"
    assert hunt(examples * times, file.cases, check)["refused"] > 0


@pytest.mark.parametrize("times", EXAMPLES)
def test_sound_files(times, tmp_path):
    """In a process of its own: libsndfile is not Python, and its faults would end this one."""
    script = ROOT / "tests" / "faults" / "sound_reader.py"
    command = [sys.executable, str(script), str(tmp_path), str(15 * times)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"capture_output": True, "text": True, "check": False}
    done = subprocess.run(command, timeout=3000, env=env, **pipes)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(done.stdout)
