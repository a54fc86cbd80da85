"""Whatever bytes a model, a pack, recipes, a run's files, a table, a sound, an archive or a .pt file hold: they are read and
can be used, or refused with the path, in little time and memory. Cases are drawn by hypothesis, the same ones every time."""

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

import fuzz
import jax
import numpy as np
import pytest
import soundfile
from archives import archive, tar
from flax.traverse_util import flatten_dict
from fuzz import EXAMPLES, damaged, hunt, json_damaged, outcome, places, shuffled, shuffles
from hypothesis import strategies as st
from npz import edited_arrays, npy, npz
from runs import FIELDS, ROOT, network
from slim import slim_run
from torch_files import tensor, text, write, write_state_dict
from trees import RATE, sign_pack, write_esc50, write_libri2mix, write_tree

from jaxsep.config import load as settings
from jaxsep.config import schema as rules
from jaxsep.data.fetch import FetchError
from jaxsep.data.layouts import read_layout
from jaxsep.data.mixtures.dynamic import draw, load_recipes, make_pool, render, save_recipes
from jaxsep.data.mixtures.premixed import make_premixed_pool, open_premixed, prepare_premixed
from jaxsep.data.packs.corpus import class_table, open_packed, prepare
from jaxsep.data.unpack import unpack
from jaxsep.errors import ConfigError, DataError, ModelError, ReportError
from jaxsep.inference.bundle import load_bundle, save_bundle
from jaxsep.models.torch_import.convert import from_file
from jaxsep.report import curves, report_compare, report_sections
from jaxsep.report import grouping as experiments
from jaxsep.report import tables as report_tables
from jaxsep.report.page import page
from jaxsep.report.players import read_excerpts
from jaxsep.report.runs import read_runs
from jaxsep.training.experiment import finished
from jaxsep.training.metric_writer import _cut
from jaxsep.training.workdir import read_config

fuzzed = pytest.mark.parametrize("times", EXAMPLES)


# Models.


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(folder, parameters by name) of a bundle."""
    folder = tmp_path_factory.mktemp("bundle") / "model"
    params = network("original")[1]
    save_bundle(
        folder, params, family="original", fields=FIELDS, sample_rate=8000, about={"classes": ["a"]}
    )
    return folder, flatten_dict(params, sep="/")


def read_model(folder, saved):
    """The parameters by name; of the network that was saved, as no case changes shapes and fields alike."""
    module, params, description = load_bundle(folder)
    found = flatten_dict(params, sep="/")
    assert {name: (array.shape, array.dtype) for name, array in found.items()} == {
        name: (array.shape, array.dtype) for name, array in saved.items()
    }
    assert {name: getattr(module, name) for name in FIELDS} == FIELDS
    assert 1 <= description["sample_rate"] <= 10**6
    return found


@fuzzed
def test_model_json(times, model, tmp_path):
    shutil.copytree(model[0], tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    content = path.read_bytes()

    def check(case):
        path.write_bytes(case)
        return outcome(lambda: read_model(tmp_path, model[1]), (ModelError,), tmp_path, len(case))

    fields = json_damaged({"fields": FIELDS}).map(merged(content))
    cases = st.one_of(json_damaged(json.loads(content)), fields, damaged(content))
    assert hunt(60 * times, cases, check)["read"] > 0


def merged(content):
    """What edits made of the fields, in the whole document; the edited part where it is no document any more."""

    def merge(part):
        try:
            return json.dumps(json.loads(content) | json.loads(part)).encode()
        except (ValueError, TypeError, RecursionError):
            return part

    return merge


@fuzzed
def test_parameters_of_a_model_are_those_that_were_saved_or_refused(times, model, tmp_path):
    shutil.copytree(model[0], tmp_path / "model")
    path = tmp_path / "model" / "params.safetensors"
    content = path.read_bytes()

    def check(case):
        path.write_bytes(case)

        def read():
            for name, array in read_model(tmp_path, model[1]).items():
                np.testing.assert_array_equal(array, model[1][name])

        return outcome(read, (ModelError,), path, len(case))

    hunt(60 * times, damaged(content), check)


@fuzzed
def test_parameters_of_older_models_that_have_no_checksum(times, model, tmp_path):
    shutil.copytree(model[0], tmp_path / "model")
    about = json.loads((model[0] / "model.json").read_text())
    about.pop("params_sha256", None)
    (tmp_path / "model" / "model.json").write_text(json.dumps(about))
    path = tmp_path / "model" / "params.safetensors"
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]

    def check(case):
        path.write_bytes(case)
        return outcome(
            lambda: read_model(tmp_path, model[1]), (ModelError,), tmp_path / "model", len(case)
        )

    def assembled(edited):
        return struct.pack("<Q", len(edited)) + edited + data

    hunt(80 * times, st.one_of(json_damaged(header).map(assembled), damaged(content)), check)


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


def test_a_published_file_that_claims_to_be_one_of_two_disks(reference_dir, tmp_path):
    content = (reference_dir / "improved_sudormrf_module.pt").read_bytes()
    end = content.rindex(b"PK\5\6")
    path = tmp_path / "net.pt"
    path.write_bytes(content[:end] + b"PK\6\7" + struct.pack("<LQL", 0, 0, 2) + content[end:])
    with pytest.raises(ValueError, match=rf"{path}: damaged zip archive"):
        from_file(path)


@fuzzed
@pytest.mark.parametrize("form", ["module", "state_dict"])
def test_published_files(times, reference_dir, tmp_path, form):
    content = (reference_dir / f"improved_sudormrf_{form}.pt").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    main = next(name for name in members if name.endswith("/data.pkl"))
    path = tmp_path / "net.pt"

    def again(pickled):
        return archive(members | {main: pickled})

    def check(case):
        path.write_bytes(case)

        def read():
            params = from_file(path)[1]
            assert all(np.size(array) for array in jax.tree.leaves(params))

        return outcome(read, (ValueError,), path, len(case))

    hunt(80 * times, st.one_of(pickles(members[main]).map(again), damaged(content)), check)


def doubling(last: bytes) -> bytes:
    """A tuple of three tuples of three …, 60 deep and shared: small, but without end to anyone who walks through it."""
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
    "tuples as a class's name": (doubling(b"q\x01h\x01\x93."), "damaged pickle"),
    "tuples as a key": (b"}" + doubling(b"Ns."), "neither text nor number"),
    "tuples as a call's arguments": (
        b"ccollections\nOrderedDict\n" + doubling(b"R."),
        "damaged pickle",
    ),
    "tuples as a storage": (doubling(b"Q."), "damaged pickle"),
    "tuples as a state dict": (doubling(b"."), "holds a tuple"),
    "tuples as an entry": (b"}" + text("a") + doubling(b"s."), "no tensors: 'a'"),
    "empty dictionaries": (b"}" * (5 * 2**20) + b".", "data.pkl has"),
    "a name that would be copied": (long_name(), "lies too deep"),
    "blocks without end": (
        many_names("sm.{}.x", 20_000),
        r"model\.num_blocks is 2000\d; .* at most 1000",
    ),
    "levels without end": (
        many_names("sm.0.spp_dw.{}.x", 20_000),
        r"model\.upsampling_depth is 20000; .* at most 16",
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
        weights = {
            name.removeprefix("param/"): value
            for name, value in file.items()
            if name.startswith("param/")
        }
    weights["m.weight"] = np.zeros((10**7, 1, 0, 1), np.float32)
    path = write_state_dict(tmp_path / "net.pt", weights)
    with (
        pytest.raises(
            ValueError, match=r"net\.pt: m\.weight has shape \(10000000, 1, 0, 1\), no values"
        ),
        fuzz.watched(0),
    ):
        from_file(path)


@pytest.mark.parametrize(
    "field", ["num_blocks", "upsampling_depth", "enc_num_basis", "num_sources", "out_channels"]
)
@pytest.mark.parametrize(
    "value", [10**4, 10**9, 10**12, 10**30, -1, 0, "2", [2], {"a": 2}, None, True, 2.0]
)
def test_fields_of_a_model_that_cannot_be(model, tmp_path, field, value):
    shutil.copytree(model[0], tmp_path / "model")
    about = json.loads((model[0] / "model.json").read_text())
    about["fields"][field] = value
    (tmp_path / "model" / "model.json").write_text(json.dumps(about))
    with (
        pytest.raises(
            ModelError,
            match=rf"model/(model\.json: model\.{field} is|params\.safetensors: parameter)",
        ),
        fuzz.watched(0),
    ):
        load_bundle(tmp_path)


# Packs and recipes.


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """Folders of a packed corpus and of a packed premixed set."""
    place = tmp_path_factory.mktemp("packs")
    corpus = prepare(
        write_tree(place / "tree", seconds=0.5), "speech", RATE, place / "cache", progress=False
    )
    premixed = prepare_premixed(
        write_libri2mix(place / "libri"), RATE, place / "cache", progress=False
    )
    return {"corpus": corpus, "premixed": premixed}


def folder_of(pack):
    return fuzz.Path(pack.audio.filename).parent


def use_pack(folder, kind):
    """Opens a pack and renders mixtures of every split that it has."""
    pack = open_packed(folder) if kind == "corpus" else open_premixed(folder)
    for split in ("train", "val", "test"):
        try:
            if kind == "corpus":
                given = {
                    "split": split,
                    "slots": (pack.name,) * 2,
                    "segment_seconds": 0.1,
                    "max_snr_db": 5.0,
                }
                pool = make_pool({pack.name: pack}, class_table([pack]), **given)
            else:
                pool = make_premixed_pool(pack, split=split, segment_seconds=None)
        except DataError:
            continue  # too few classes in the split
        count = 3 if kind == "corpus" else pool.num_mixtures
        batch = render(pool, draw(pool, 0, 0, np.arange(count)))
        assert np.isfinite(batch["mixture"]).all()
        assert all(pool.table.names[number] for number in batch["class_ids"].ravel() if number >= 0)


@fuzzed
@pytest.mark.parametrize("kind", ["corpus", "premixed"])
def test_packs(times, packs, tmp_path, kind):
    folder = tmp_path / "pack"
    shutil.copytree(folder_of(packs[kind]), folder)
    header, index = (folder / "corpus.json").read_bytes(), (folder / "index.npz").read_bytes()
    with np.load(folder / "index.npz") as file:
        arrays = dict(file)

    def check(case):
        name, content = case
        (folder / "corpus.json").write_bytes(header)
        (folder / "index.npz").write_bytes(index)
        (folder / name).write_bytes(content)
        if name == "index.npz":
            sign_pack(folder)
        return outcome(lambda: use_pack(folder, kind), (DataError,), folder, len(content))

    headers = st.one_of(json_damaged(json.loads(header)), damaged(header))
    indices = st.one_of(edited_arrays(arrays), edited_arrays(arrays), damaged(index))
    cases = st.one_of(
        st.tuples(st.just("corpus.json"), headers), st.tuples(st.just("index.npz"), indices)
    )
    assert hunt(250 * times, cases, check)["read"] > 0


@pytest.mark.parametrize("size", [0, 4, 3, 1000])
def test_audio_of_another_length_is_refused(packs, tmp_path, size):
    shutil.copytree(folder_of(packs["corpus"]), tmp_path / "pack")
    with open(tmp_path / "pack" / "audio.f32", "rb+") as file:
        file.truncate(size)
    with pytest.raises(DataError, match=rf"audio\.f32: has {size} bytes"):
        open_packed(tmp_path / "pack")


@fuzzed
def test_recipes(times, packs, tmp_path):
    corpus = packs["corpus"]
    settled = {
        "split": "test",
        "slots": ("speech", "speech"),
        "segment_seconds": 0.1,
        "max_snr_db": 5.0,
    }
    pool = make_pool({"speech": corpus}, class_table([corpus]), **settled, active_counts=(0.3, 0.7))
    path = tmp_path / "test.npz"
    save_recipes(path, draw(pool, 1, 0, np.arange(20)), pool)
    content = path.read_bytes()
    with np.load(path) as file:
        arrays = dict(file)

    def check(case):
        path.write_bytes(case)

        def read():
            assert np.isfinite(render(pool, load_recipes(path, pool))["mixture"]).all()
            load_recipes(path)

        return outcome(read, (DataError,), path, len(case))

    assert hunt(250 * times, st.one_of(edited_arrays(arrays), damaged(content)), check)["read"] > 0


@pytest.mark.parametrize("kind", ["deflated", "header", "stored twice", "objects"])
def test_small_arrays_that_stand_for_huge_ones(packs, tmp_path, kind):
    folder = tmp_path / "pack"
    shutil.copytree(folder_of(packs["corpus"]), folder)
    with np.load(folder / "index.npz") as file:
        members = [(f"{name}.npy", npy(array)) for name, array in file.items()]
    offsets = (
        npy(np.zeros(25_000_000, np.int64))
        if kind == "deflated"
        else npy(np.zeros(18, np.int64), shape=(10**11,))
    )
    if kind == "objects":
        offsets = npy(np.zeros(18, np.int64), descr="|O")
    if kind == "stored twice":
        members = [*members[1:], *[("energies.npy", npy(np.zeros(10**5, np.float32)))] * 2000]
    else:
        members[0] = ("offsets.npy", offsets)
    content = npz(
        members, zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED, one_copy=True
    )
    (folder / "index.npz").write_bytes(content)
    sign_pack(folder)
    with pytest.raises(DataError, match=r"is damaged \((?!its SHA)"), fuzz.watched(len(content)):
        open_packed(folder)


# A run's files.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folders of two runs that are compared, and of another experiment."""
    place = tmp_path_factory.mktemp("runs")
    slim_run(place / "run")
    slim_run(place / "other", "weighting.name='uniform'", seed=1)
    return place


def report_of(folders):
    """What a report computes, all but the figures."""
    runs = read_runs(folders)
    for experiment in experiments.group(runs):
        experiment.flag.encode()
        " ".join(condition.label for condition in experiment.conditions).encode()
        report_tables.distribution(experiment)
        report_tables.corpora(experiment)
        report_tables.input_snr(experiment)
        report_tables.weights(experiment)
        report_tables.batch_sizes(experiment)
        report_compare.combinations(experiment)
        report_compare.by_seed(experiment)
        curves.score_counts(
            [report_tables.scores(condition) for condition in experiment.conditions]
        )
        for condition in experiment.conditions:
            curves.ess_share(condition.runs)
        if all(curves.validation(condition.runs)[0].size for condition in experiment.conditions):
            report_tables.epochs_to_reference(experiment)
        report_sections.about([experiment], "none")


@fuzzed
@pytest.mark.parametrize(
    "name", ["config.json", "summary.json", "metrics.jsonl", "evaluation/test.csv"]
)
def test_the_report_s_files(times, run, tmp_path, name):
    shutil.copytree(run, tmp_path / "runs")
    folder = tmp_path / "runs" / "run"
    content = (folder / name).read_bytes()

    def check(case):
        (folder / name).write_bytes(case)
        return outcome(
            lambda: report_of([folder, folder.parent / "other"]), (ReportError,), folder, len(case)
        )

    cases = damaged(content)
    if name.endswith(".json"):
        cases = st.one_of(json_damaged(json.loads(content)), cases)
    if name == "metrics.jsonl":
        lines = [json.loads(line) for line in content.splitlines()]
        cases = st.one_of(json_damaged(lines).map(as_lines), cases)
    if name == "evaluation/test.csv":
        cases = st.one_of(damaged_table(content), cases)
    assert hunt(60 * times, cases, check)["read"] > 0


def as_lines(document):
    try:
        return b"".join(json.dumps(line).encode() + b"\n" for line in json.loads(document))
    except (ValueError, TypeError, RecursionError):
        return document


CELLS = [
    "",
    "-1",
    "0",
    "1",
    "9" * 30,
    "9" * 5000,
    "nan",
    "inf",
    "1e999",
    "1e12",
    "-1e300",
    "٣",
    "1_0",
    "x",
]
CELLS += ['"', "a\nb", "../../x", "\0", "=1+1"]


def damaged_table(content):
    """A CSV file with cells replaced and lines taken out, doubled, swapped."""
    lines = content.decode().splitlines()
    edit = st.tuples(st.integers(0, len(lines) - 1), st.integers(0, 9), st.sampled_from(CELLS))

    def assemble(case):
        table = [line.split(",") for line in lines]
        for row, column, cell in case[0]:
            table[row][column % len(table[row])] = cell
        return "\n".join(shuffled([",".join(row) for row in table], case[1])).encode()

    return st.tuples(st.lists(edit, max_size=3), st.one_of(st.just([]), shuffles())).map(assemble)


@fuzzed
def test_a_run_s_configuration(times, run, tmp_path):
    path = tmp_path / "config.json"
    content = (run / "run" / "config.json").read_bytes()

    def check(case):
        path.write_bytes(case)

        def read():
            config = settings.override(read_config(tmp_path), ["--config.evaluation.batch_size=2"])
            settings.differences(read_config(tmp_path), config)

        def judge():
            try:
                rules.validate(read_config(tmp_path))
            except ConfigError as error:
                raise ConfigError(f"{tmp_path}: {error}") from error

        found = outcome(lambda: read_config(tmp_path), (ConfigError,), tmp_path, len(case))
        if found == "refused":
            return found
        try:
            read()
        except ConfigError:
            return "refused"  # by the field, as on the command line
        return outcome(judge, (ConfigError,), tmp_path, len(case))

    assert (
        hunt(150 * times, st.one_of(json_damaged(json.loads(content)), damaged(content)), check)[
            "read"
        ]
        > 0
    )


@fuzzed
def test_the_summary_of_a_run_started_again(times, run, tmp_path):
    config = read_config(run / "run")
    document = json.loads((run / "run" / "summary.json").read_text())
    document["best"] = {"epoch": 3, "metric": "mean", "value": 2.0}
    path = tmp_path / "summary.json"

    def check(case):
        path.write_bytes(case)
        return outcome(lambda: finished(tmp_path, config), (ConfigError,), tmp_path, len(case))

    content = json.dumps(document).encode()
    assert hunt(150 * times, st.one_of(json_damaged(document), damaged(content)), check)["read"] > 0


@fuzzed
def test_metrics_of_a_run_that_goes_on(times, run, tmp_path):
    path = tmp_path / "metrics.jsonl"
    content = (run / "run" / "metrics.jsonl").read_bytes()

    def check(case):
        path.write_bytes(case)
        with fuzz.watched(len(case)):
            _cut(path, 180, 3)
        left = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert all(record["step"] <= 180 for record in left)
        return "read" if len(left) == 12 else "refused"

    hunt(100 * times, damaged(content), check)


# Tables, sounds, archives.


@fuzzed
def test_esc50_tables(times, tmp_path):
    entries = [
        (1, 0, "dog", "1", "A"),
        (4, 10, "rain", "2", "A"),
        (5, 0, "dog", "3", "A"),
        (5, 11, "sea", "4", "A"),
    ]
    root = write_esc50(tmp_path / "root", entries)
    table = root / "meta" / "esc50.csv"
    content = table.read_bytes()

    def check(case):
        table.write_bytes(case)

        def read():
            rows = read_layout(root, "environment")[1]
            for row in rows:
                assert (root / row.path).parent == root / "audio"
                assert row.split in ("train", "val", "test")
                assert "/" not in row.class_name

        return outcome(read, (DataError,), root, len(case))

    assert hunt(300 * times, st.one_of(damaged_table(content), damaged(content)), check)["read"] > 0


@fuzzed
def test_excerpts_of_a_report(times, run, tmp_path):
    folder = shutil.copytree(run / "run", tmp_path / "run")
    place = folder / "evaluation" / "audio" / "worst-1-mixture3"
    place.mkdir(parents=True)
    soundfile.write(place / "mixture.wav", fuzz.np_noise(200), 8000, subtype="FLOAT")
    content = (place / "mixture.wav").read_bytes()
    found = read_runs([folder])[0]

    def check(case):
        (place / "mixture.wav").write_bytes(case)

        def read():
            page("t", [], read_excerpts("label", found)).encode()

        return outcome(read, (ReportError,), place, len(case))

    assert hunt(100 * times, damaged(content), check)["read"] > 0


@fuzzed
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archives(times, tmp_path, kind):
    members = {"top/a.txt": b"a" * 500, "top/below/b.txt": fuzz.noise(600)}
    whole = tmp_path / ("a.zip" if kind == "zip" else "a.tar.gz")
    raw = gzip.decompress(tar(members)) if kind == "tar" else archive(members)

    def check(case):
        whole.write_bytes(gzip.compress(case, 1) if kind == "tar" else case)
        shutil.rmtree(tmp_path / "into", ignore_errors=True)
        (tmp_path / "into").mkdir()
        found = outcome(
            lambda: unpack(whole, tmp_path / "into", "/".join), (FetchError,), tmp_path, 10**6
        )
        assert {path.name for path in tmp_path.iterdir()} == {whole.name, "into"}
        return found

    assert hunt(150 * times, damaged(raw), check)["read"] > 0


@fuzzed
def test_sound_files(times, tmp_path):
    """In a process of its own: libsndfile is not Python, and its faults would end this one."""
    command = [
        sys.executable,
        str(ROOT / "tests" / "faults" / "sound_reader.py"),
        str(tmp_path),
        str(60 * times),
    ]
    here = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=3000, check=False, env=here
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(done.stdout)
