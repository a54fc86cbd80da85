"""The benchmark: real workers measured in turn, numbers that add up, mistakes reported first."""

import inspect
import json
import os
import sys
from functools import partial
from itertools import chain

import jax
import numpy as np
import pytest
from runs import FIELDS, ROOT

from jaxsep import models
from jaxsep.benchmark import __main__ as benchmark
from jaxsep.benchmark import measure, peer, suites, worker
from jaxsep.benchmark.flops import network_flops
from jaxsep.benchmark.measure import Case, run, table
from jaxsep.benchmark.sparse_corpus import make_corpus
from jaxsep.benchmark.timing import seconds_each
from jaxsep.config import load as settings

SMALL = FIELDS | {"family": "original", "upsampling_depth": 1}
SIZE = {"network": SMALL, "batch": 2, "seconds": 0.25}


@pytest.fixture(scope="module", autouse=True)
def quickly():
    """Compile with less care: no time counts."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def cases(tmp_path, monkeypatch):
    """suite -> its cases."""
    monkeypatch.setattr(suites, "HOURS", (1, 2))
    places = {name: tmp_path / name for name in suites.SUITES}
    for place in places.values():
        place.mkdir()
    return {name: suite(places[name]) for name, suite in suites.SUITES.items()}


# --- cases and numbers ----------------------------------------------------------------------------


def test_cases_fit_the_workers_and_one_another(cases):
    for suite, of_suite in cases.items():
        names = [case.name for case in of_suite]
        assert len(set(names)) == len(names), suite
        for case in of_suite:
            assert case.to in ("", *names), case
            arguments = dict(case.arguments)
            kind = arguments.pop("kind")
            assert case.side == "jaxsep" or kind in ("train", "forward")
            inspect.signature(worker.KINDS[kind]).bind(**arguments)
    sides = [(case.name, case.to) for case in cases["forward"] if case.side == "asteroid"]
    assert sides[0] == ("paper's network, 1 × 4 s, asteroid", "paper's network, 1 × 4 s")


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("train", SIZE),
        ("forward", SIZE),
        ("products", SIZE),
        ("weigh", {"name": "class_bias", "batch": 3, "classes": 5}),
        ("mixtures", {"number": 8, "batch": 4, "seconds": 0.25}),
        ("demand", {"network": SMALL, "seconds": 0.25, "flops": 1e12}),
        pytest.param("loop", SIZE | {"steps": 2}, marks=pytest.mark.slow),
        pytest.param("compilation", SIZE | {"cold": False}, marks=pytest.mark.slow),
        ("open_corpus", {}),
    ],
)
def test_workers_give_the_numbers_of_their_cases(kind, arguments, cases, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "seconds_each", partial(seconds_each, least=0))
    arguments |= {"folder": str(tmp_path)} if kind in ("mixtures", "loop") else {}
    if kind == "open_corpus":
        make_corpus(tmp_path / "packed", 1, 8000)
        arguments |= {"path": str(tmp_path / "packed")}
    numbers = worker.KINDS[kind](**arguments)
    for case in chain(*cases.values()):
        if case.arguments["kind"] == kind:
            assert numbers.keys() >= set(case.units), case
    assert all(number >= 0 for number in numbers.values())
    if kind == "train":
        assert numbers["ms"] == pytest.approx(2 * numbers["ms/example"])
        assert numbers["ms"] == pytest.approx(2 * 0.25 * numbers["ms/(example·s)"])
        flops = network_flops(SMALL, batch=2, num_samples=2000, train=True)
        assert numbers["GFLOP/s"] * numbers["ms"] == pytest.approx(1e-6 * flops)
        assert numbers["GB"] > 0.05  # Python and JAX alone take more
    if kind == "demand":
        flops = network_flops(SMALL, batch=1, num_samples=2000, train=True)
        assert numbers["mixtures/s"] == pytest.approx(1e12 / flops)
    if kind == "loop":
        assert 0 < numbers["% waiting"] < 100
    if kind == "open_corpus":  # its audio takes no space
        size = (tmp_path / "packed" / "audio.f32").stat()
        assert (numbers["recordings"], size.st_size) == (600, 3600 * 8000 * 4)
        assert size.st_blocks * 512 < 1e6


def test_a_network_is_that_of_the_configs():
    config = settings.load(str(ROOT / "configs" / "default.py:cpu"), [])
    assert config.model.model_dump() == suites.CPU
    assert (config.train.batch_size, config.data.segment_seconds) == (16, 1.0)


def test_work_is_warmed_up_and_timed():
    calls = []
    assert 0 < seconds_each(lambda: calls.append(0), least=0) < 1
    assert len(calls) == 3
    assert seconds_each(lambda: calls.append(0), least=0.01) < 0.01


def test_rounds_become_rows_and_a_table():
    pair = [Case("a", {}), Case("b", {}, to="a")]
    rounds = [{"a": {"ms": a}, "b": {"ms": b}} for a, b in ((3.0, 6), (1.0, 5), (2.0, 12345.6))]
    rows = measure.summarise(pair, rounds)
    assert rows[0] == {"case": "a", "unit": "ms", "median": 2.0, "min": 1.0, "max": 3.0}
    assert (rows[1]["median"], rows[1]["ratio"], rows[1]["to"]) == (6.0, 3.0, "a")
    assert table(rows).splitlines() == [
        "case  unit  median  min  max    ratio  to",
        "a     ms    2       1    3",
        "b     ms    6       5    12350  3      a",
    ]


# --- float operations -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "channels", "masks", "decoder"),
    [
        ("original", 3, 3 * 2 * 6, 2 * 6 * 4),
        ("original", 6, 2 * (36 - 3 * 2), 2 * 6 * 4),  # the mask layer's maps are cheaper unmerged
        ("improved", 3, 3 * 2 * 6, (2 * 6) * (2 * 4)),
    ],
)
def test_flops_by_hand(family, channels, masks, decoder):
    # One block, two levels, filters of 4 samples 2 apart: 8 samples give 5 frames, padded to 6.
    network = SMALL | {"family": family, "out_channels": channels, "in_channels": 5}
    network |= {"upsampling_depth": 2, "enc_kernel_size": 4, "enc_num_basis": 6}
    encoder, bottleneck, block = 4 * 6, 6 * channels, 2 * 5 * channels
    forward = 6 * (encoder + bottleneck + block + masks + decoder) + 5 * 5 * (6 + 3)
    assert network_flops(network, batch=3, num_samples=8) == 3 * 2 * forward
    step = network_flops(network, batch=1, num_samples=8, train=True)
    assert step == 2 * (3 * forward - 6 * encoder)


@pytest.mark.parametrize(
    ("network", "largest"),
    # XLA counts element-wise work too, and of the original the product that merges the mask layer's
    # maps (2·128·512·1024 a batch) and the decoder's zeros (2·F·2·512·41 an example).
    [(suites.IMPROVED, 1.12), (suites.PAPER, 1.25)],
)
def test_flops_beside_those_that_xla_counts(network, largest):
    network = network | {"num_blocks": 2}
    module = models.create(**network)
    mixture = jax.ShapeDtypeStruct((4, 16000), np.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), mixture)
    counted = jax.jit(module.apply).lower(params, mixture).cost_analysis()["flops"]
    assert 1.0 < counted / network_flops(network, batch=4, num_samples=16000) < largest


# --- processes and the command --------------------------------------------------------------------


def test_asteroid_answers(tmp_path):
    if not (peer.folder() / "installed").is_file():
        pytest.skip("asteroid is not installed; `python -m jaxsep.benchmark --peer asteroid` does")
    for family, kind in (("original", "train"), ("improved", "forward")):
        network = SMALL | {"family": family, "in_channels": SMALL["enc_num_basis"]}
        case = Case(kind, SIZE | {"kind": kind, "network": network})
        assert run(case, peer.command(), tmp_path)["ms"] > 0


def test_the_command_measures_both_sides_and_keeps_what_succeeds(tmp_path, capsys, monkeypatch):
    ours = Case("products", {"kind": "products", **SIZE}, ("GFLOP/s",))
    theirs = Case("theirs", {}, ours.units, to="products", side="asteroid")
    broken = Case("broken", {"fault": "no such network"}, side="asteroid")
    monkeypatch.setitem(suites.SUITES, "forward", lambda folder: [ours, theirs])
    monkeypatch.setitem(suites.SUITES, "data", lambda folder: [broken])
    answer = """import sys; 'fault' in sys.argv[1] and sys.exit('out of luck')
print('from a library'); print('{"GFLOP/s": 2.0}')"""
    monkeypatch.setattr(peer, "command", lambda: [sys.executable, "-c", answer])
    output = tmp_path / "new" / "out.json"
    arguments = ["--suite", "forward,data", "--peer", "asteroid", "--repeats", "1"]
    assert benchmark.main([*arguments, "-o", str(output)]) == 1
    printed, content = capsys.readouterr(), json.loads(output.read_text())
    assert content["jaxsep"]["jax"] == jax.__version__
    assert f"jax {jax.__version__}" in printed.out
    first, second = content["rows"]
    assert second["ratio"] == 2.0 / first["median"]
    assert printed.out.endswith(f"\nforward\n{table(content['rows'])}\n")
    assert "error: broken: exit status 1\nout of luck\n" in printed.err
    assert "forward: products" in printed.err, "its progress"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "speed"], "--suite: 'speed' is no suite; it must be train, forward, data,"),
        (["--suite", "train,"], "--suite: '' is no suite"),
        (["--peer", "nussl"], "--peer: invalid choice: 'nussl'"),
        (["--repeats", "0"], "--repeats is 0, it must be at least 1"),
        (["--repeats", "many"], "--repeats: invalid int value: 'many'"),
        (["-o", "/dev/null/x.json"], "error: [Errno 17] File exists: '/dev/null'"),
    ],
)
def test_mistakes_in_the_command(arguments, message, capfd, monkeypatch):
    monkeypatch.setattr(benchmark, "run", lambda *_: {})
    with pytest.raises(SystemExit) as ended:
        sys.exit(benchmark.main(arguments))
    assert ended.value.code == 2
    assert message in capfd.readouterr().err


def test_a_peer_is_installed_once(capfd, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no torch >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(python))
    assert benchmark.main(["--peer", "asteroid"]) == 2
    progress, words, error = capfd.readouterr().err.splitlines()
    assert (str(peer.folder()) in progress, words) == (True, "no torch")
    assert error.startswith("error: --peer asteroid: cannot be installed: ")

    peer.folder().mkdir(parents=True)
    (peer.folder() / "installed").touch()
    assert os.path.dirname(peer.command()[0]) == str(peer.folder() / "bin")  # would fail again
