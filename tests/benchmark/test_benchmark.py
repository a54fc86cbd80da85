"""The benchmark: real workers measured in turn, numbers that add up, mistakes reported first."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from runs import ROOT

from jaxsep import models
from jaxsep.benchmark import __main__ as benchmark
from jaxsep.benchmark import measure, peer, suites, worker
from jaxsep.benchmark.flops import frames, network_flops
from jaxsep.benchmark.measure import OURS, Bench
from jaxsep.benchmark.table import Row, summary, table
from jaxsep.config import load as settings
from jaxsep.errors import RunError
from jaxsep.training.state import init_params

SMALL = suites.PAPER | {"out_channels": 8, "in_channels": 16, "num_blocks": 1}
SMALL |= {"upsampling_depth": 1, "enc_num_basis": 16}
SHORT = {"seconds": 0.25, "long_seconds": 0.5, "loop_seconds": 0.25}
BATCHES = {"batch": 2, "large_batch": 3, "huge_batch": 5, "loop_batch": 2}
TINY = suites.Sizes(SMALL, SMALL, mixtures=8, loop_steps=6, hours=(1, 2), **SHORT, **BATCHES)
CASE = {"family": "original", "network": SMALL, "batch": 2, "seconds": 0.25, "sample_rate": 8000}


# --- the numbers ----------------------------------------------------------------------------------


class Canned(Bench):
    """Measures nothing: every quantity of a case is what `results` says of part and case."""

    def in_turn(self, cases):
        results = self.results[self.part.split(": ")[1]]
        assert cases.keys() == results.keys()
        self.cases = getattr(self, "cases", {}) | cases
        return {
            name: {quantity: np.array(values) for quantity, values in of_case.items()}
            for name, of_case in results.items()
        }

    afresh = in_turn


def rows_of(suite, results, tmp_path, **options):
    bench = Canned(repeats=3, folder=str(tmp_path), suite=suite, **{"peer": (), **options})
    bench.results = results
    suites.SUITES[suite](bench, TINY)
    assert not bench.failures
    for row in bench.rows:
        assert row.ours["min"] <= row.ours["median"] <= row.ours["max"], row
    return {(row.name, row.setting, row.unit): row for row in bench.rows}, bench.cases


def numbers(row):
    return tuple(row.ours.values())  # median, min, max


COMPILED = {"trace_seconds": [1.25], "compile_seconds": [8.0]}
AT, LARGE = "B=2, 0.25 s", "B=3, 0.25 s"


def test_rows_of_train(tmp_path):
    weightings = {
        f"robust {granularity}": [4e-6, 1e-6, 2e-6] for granularity in ("example", "source")
    }
    results = {
        "paper's network": {
            "ours": {**COMPILED, "seconds": [0.5, 0.25, 1.0]},
            "peer": {"seconds": [2.0, 1.5, 1.0]},
            "bfloat16": {"seconds": [0.25, 0.5, 0.2]},
            "products": {"flops": [6e9], "seconds": [0.5, 1.0, 0.25]},
        },
        "improved network": {"ours": {**COMPILED, "seconds": [1.0]}, "peer": {"seconds": [3.0]}},
        "lengths and batches": {
            "ours": {"seconds": [0.1, 0.2, 0.3]},
            "longer": {"seconds": [0.8, 0.7, 0.9]},
            "larger": {"seconds": [0.5, 0.4, 0.8]},
            "weightings": weightings | {"peak_bytes": [1.0]},
        },
    }
    rows, cases = rows_of("train", results, tmp_path, peer=["asteroid"])
    assert (len(rows), cases["bfloat16"]["network"]["dtype"]) == (11, "bfloat16")
    step = rows["step, paper's network", AT, "ms"]
    assert numbers(step) == (500.0, 250.0, 1000.0)
    assert tuple(step.peer.values()) == (1500.0, 1000.0, 2000.0)
    assert (step.ratio, step.note) == (3.0, "traced in 1.2 s, compiled in 8.0 s")
    half = rows["step, paper's network, bfloat16", AT, "ms"]
    assert (numbers(half), half.peer, half.ratio) == ((250.0, 200.0, 500.0), None, 2.0)
    flops = 1e-9 * network_flops("original", SMALL, batch=2, num_samples=2000, train=True)
    rates = numbers(rows["arithmetic of the step", AT, "GFLOP/s"])
    assert rates == pytest.approx((flops / 0.5, flops, flops / 0.25))
    # 0.25 s are 100 frames 20 samples apart, a multiple of what the blocks need; two examples.
    products = rows["arithmetic of float32 products", "[200,8]·[8,16] and its gradients", "GFLOP/s"]
    assert numbers(products) == (12.0, 6.0, 24.0)
    share = rows["step's share of the products'", AT, "%"]  # round by round: 12, 6 and 24 GFLOP/s
    assert share.ours["max"] == pytest.approx(100 * flops / 0.25 / 6)
    longer = rows["step per example and second", "B=2, 0.5 s", "ms/(example·s)"]
    assert (longer.ours["median"], longer.ratio) == pytest.approx((800.0, 2.0))
    row = rows["weighting robust, share of the step", "losses [3,2]", "%"]
    assert row.ours["median"] == pytest.approx(100 * 1e-6 / 0.4)  # of 8e-6, 2.5e-6, 2.5e-6
    assert row.note == "2 µs of a step with B=3, 0.25 s"


def test_rows_of_data_compile_and_memory(tmp_path):
    results = {
        "mixtures": {"ours": {"seconds": [0.5, 1.0, 2.0]}},
        "training loop": {"ours": {"seconds": [2.0, 4.0, 5.0], "waited": [0.0, 1.0, 2.5]}},
    }
    (drawn, waiting), _ = (list(part.values()) for part in rows_of("data", results, tmp_path))
    assert numbers(drawn) == (8.0, 4.0, 16.0)
    assert numbers(waiting) == (25.0, 0.0, 50.0)
    assert waiting.note == "3 × 2 steps of 2000 ms"

    cold = {"trace_seconds": [2.0, 3.0, 4.0], "compile_seconds": [8.0, 12.0, 9.0]}
    cached = {"trace_seconds": [3.0, 3.0, 2.0], "compile_seconds": [0.5, 1.0, 1.0]}
    results = {"training step": {"cold": cold, "cached": cached}}
    rows, _ = rows_of("compile", results, tmp_path)
    assert [(name, *numbers(row), row.ratio) for (name, _, _), row in rows.items()] == [
        ("trace, cold", 3.0, 2.0, 4.0, None),
        ("compile, cold", 9.0, 8.0, 12.0, None),
        ("trace, from the persistent cache", 3.0, 2.0, 3.0, 1.0),
        ("compile, from the persistent cache", 1.0, 0.5, 1.0, 9.0),
    ]

    remat = {"peak_bytes": [1e9, 2e9, 2e9], "seconds": [0.6, 0.9, 1.2]}
    plain = {"peak_bytes": [5e9], "seconds": [0.3, 0.6, 0.9]}
    for more, largest in (({}, 2.0), ({"device_bytes": [1e9, 3e9]}, 3.0)):
        results = {"remat": {"remat": remat | more, "plain": plain}}
        rows, cases = rows_of("memory", results, tmp_path)
        assert cases["remat"]["network"]["remat"]
        assert numbers(rows["step, paper's network, remat", LARGE, "GB"]) == (largest,) * 3
    row = rows["step, paper's network, remat", LARGE, "ms/example"]
    assert (*numbers(row), row.ratio) == pytest.approx((300.0, 200.0, 400.0, 1.5))


def test_rows_of_reach(tmp_path):
    seconds = {"seconds": [3.0, 1.5, 6.0]}
    opened = {"seconds": [0.1], "grown_bytes": [2e6], "recordings": [1200]}
    results = {
        "gradient accumulation": {name: {"peak_bytes": [1e9], **seconds} for name in ("3", "5")},
        "a node": {
            "ours": {"seconds": [0.5], "parameters": [2500]},
            "drawn": {"seconds": [0.004, 0.008, 0.016]},
        },
        "corpora": {"1 h": opened, "2 h": opened},
    }
    rows, cases = rows_of("reach", results, tmp_path)
    assert [cases[name]["micro_batch"] for name in ("3", "5")] == [2, 2]
    title, where = "accumulated step, paper's network", "B=5, 0.25 s, micro-batch 2"
    assert numbers(rows[title, where, "GB"]) == (1.0, 1.0, 1.0)
    assert numbers(rows[title, where, "ms/example"]) == pytest.approx((600.0, 300.0, 1200.0))
    needed = 8 * 20e12 / network_flops("original", SMALL, batch=1, num_samples=2000, train=True)
    for name, unit, median in (
        ("gradient summed over devices", "MB/step", 0.01),
        ("mixtures that a node needs", "1/s", needed),
        ("mixtures rendered by one core", "1/s", 1000.0),
        ("cores that render for a node", "cores", needed / 1000),
    ):
        assert rows[name, AT, unit].ours["median"] == pytest.approx(median)
    assert rows["packed corpus opened", "2 h", "s"].note == "1,200 recordings"
    assert rows["packed corpus in memory", "2 h", "GB"].ours["median"] == pytest.approx(0.002)
    # The packed corpora are real: they open, and their audio takes no space.
    _, facts = worker.open_corpus(cases["1 h"])
    assert facts["recordings"] == 600
    assert min(facts["grown_bytes"], facts["seconds"]) >= 0
    size = (tmp_path / "1-hours" / "audio.f32").stat()
    assert size.st_size == 3600 * 8000 * 4
    assert size.st_blocks * 512 < 1e6


def test_the_table_is_aligned():
    values = summary(np.array([0.5, 1.0, 12345.6]))
    rows = [
        Row("forward", "a", "B=1", "ms", values, summary(np.array([3.0, 1.0, 2.0])), 2.0, "note"),
        Row("forward", "longer", "B=10", "ms", summary(np.array([0.0123456, 0, 1.0]))),
    ]
    assert table(rows, "asteroid").splitlines() == [
        "what    setting  unit  ours: median     min    max"
        "  asteroid: median    min    max  ratio  note",
        "a       B=1      ms           1.000  0.5000  12346"
        "             2.000  1.000  3.000   2.00  note",
        "longer  B=10     ms         0.01235       0  1.000",
    ]


# --- the cases ------------------------------------------------------------------------------------


@pytest.fixture
def quickly():
    """Compile with less care: no time counts."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_a_step_is_timed_and_compiled_apart(quickly):
    repeat, facts = worker.train(CASE)
    assert facts.keys() == {"trace_seconds", "compile_seconds", "parameters"}
    module = models.create("original", **SMALL)
    assert facts["parameters"] == models.count_params(init_params(module, 2000, 0))
    assert repeat().keys() == repeat().keys() == {"seconds"}


@pytest.mark.slow
def test_a_loop_waits_for_its_batches(tmp_path, quickly):
    case = CASE | {"folder": str(tmp_path), "steps": 2}
    repeat, facts = worker.loop(case)
    times = repeat()
    assert 0 < times["waited"] < times["seconds"]
    assert "compile_seconds" in facts


def test_other_cases_are_timed(tmp_path, quickly):
    repeat, _ = worker.mixtures(CASE | {"folder": str(tmp_path), "mixtures": 8})
    assert repeat()["seconds"] > 0
    repeat, _ = worker.weightings({"batch": 3, "sources": 2, "classes": 5})
    assert len(repeat()) == 6
    assert min(repeat().values()) > 0
    repeat, facts = worker.forward(CASE)
    assert repeat()["seconds"] > 0
    assert facts.keys() == {"trace_seconds", "compile_seconds"}


@pytest.mark.parametrize(
    ("scale", "network", "batch", "seconds"),
    [
        (":cpu", suites.CPU, suites.FULL.loop_batch, suites.FULL.loop_seconds),
        ("", suites.PAPER, suites.FULL.large_batch, suites.FULL.seconds),
    ],
)
def test_networks_are_those_of_the_configs(scale, network, batch, seconds):
    config = settings.load(str(ROOT / "configs" / "default.py") + scale, [])
    assert {name: getattr(config.model, name) for name in network} == network
    assert (config.train.batch_size, config.data.segment_seconds) == (batch, seconds)


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
    network = SMALL | {"out_channels": channels, "in_channels": 5, "upsampling_depth": 2}
    network |= {"enc_kernel_size": 4, "enc_num_basis": 6}
    assert frames(family, network, 8) == 6
    encoder, bottleneck, block = 4 * 6, 6 * channels, 2 * 5 * channels
    forward = 6 * (encoder + bottleneck + block + masks + decoder) + 5 * 5 * (6 + 3)
    assert network_flops(family, network, batch=1, num_samples=8) == 2 * forward
    assert network_flops(family, network, batch=3, num_samples=8) == 3 * 2 * forward
    step = network_flops(family, network, batch=1, num_samples=8, train=True)
    assert step == 2 * (3 * forward - 6 * encoder)


@pytest.mark.parametrize(
    ("family", "taps", "largest"),
    # XLA counts element-wise work too, and of the original the product that merges the mask layer's
    # maps (2·128·512·1024 a batch) and the decoder's zeros (2·F·2·512·41 an example).
    [("improved", 21, 1.12), ("original", 41, 1.25)],
)
def test_flops_beside_those_that_xla_counts(family, taps, largest):
    network = suites.PAPER | {"num_blocks": 2, "enc_kernel_size": taps}
    module = models.create(family, **network)
    mixture = jax.ShapeDtypeStruct((4, 16000), np.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), mixture)
    counted = jax.jit(module.apply).lower(params, mixture).cost_analysis()["flops"]
    assert 1.0 < counted / network_flops(family, network, batch=4, num_samples=16000) < largest


# --- worker processes -----------------------------------------------------------------------------


def script(build):
    """Command of a small worker whose build(case) is this text."""
    folder = str(ROOT / "jaxsep" / "benchmark")
    code = f"import os, sys; sys.path.insert(0, {folder!r})\nfrom protocol import serve\n"
    return [sys.executable, "-c", f"{code}def build(case):\n    {build}\nserve(build)"]


def test_the_turns_go_round_and_what_libraries_print_is_no_answer(tmp_path, monkeypatch):
    log = tmp_path / "log"
    command = script(
        "print('from Python'); os.write(1, b'from C\\n')\n"
        "    def repeat():\n"
        "        print('again')\n"
        f"        open({str(log)!r}, 'a').write(case['name'])\n"
        "        return {'seconds': 2.0}\n"
        "    return repeat, {'compile_seconds': 1.0}"
    )
    monkeypatch.setattr(measure, "OURS", command)
    results = Bench(3, (), "").in_turn({name: {"name": name} for name in "abc"})
    assert log.read_text() == "aabbcc" * 3  # each turn once untimed, once timed
    for values in results.values():
        assert values.keys() == {"compile_seconds", "seconds", "peak_bytes"}
        assert values["compile_seconds"].tolist() == [1.0]
        assert values["seconds"].tolist() == [2.0] * 3


def test_each_round_has_a_cache_of_its_own_that_its_workers_share(monkeypatch):
    # A worker says how many programs there were: each adds one.
    command = script(
        "folder = os.environ['JAX_COMPILATION_CACHE_DIR']\n"
        "    open(os.path.join(folder, case['name']), 'w').close()\n"
        "    assert os.environ['JAX_ENABLE_COMPILATION_CACHE'] == 'true'\n"
        "    return dict, {'cached': len(os.listdir(folder)) - 1}"
    )
    monkeypatch.setattr(measure, "OURS", command)
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")
    results = Bench(2, (), "").afresh({name: {"name": name} for name in ("first", "second")})
    assert results["first"]["cached"].tolist() == [0, 0]
    assert results["second"]["cached"].tolist() == [1, 1]


def test_peak_memory_is_the_worker_s_own():
    held = np.ones(300_000_000, np.uint8)  # of this process, not of the worker's
    for build, low, high in (
        ("return dict, {}", 1e6, held.nbytes),
        ("case['held'] = b'1' * 200_000_000; return lambda: case and {}, {}", 2e8, 5e8),
    ):
        with measure.worker("peer", {}, script(build)) as (_, go):
            assert low < go()["peak_bytes"] < high


@pytest.mark.parametrize(
    ("build", "message"),
    [
        ("raise ValueError('no such network')", "peer: ValueError: no such network"),
        (
            "print('out of luck', file=sys.stderr, flush=True); os._exit(9)",
            "peer: a worker died with exit status 9\n    out of luck",
        ),
        ("return lambda: os._exit(3), {}", "peer: a worker died with exit status 3"),
        ("return lambda: {}['x'], {}", "peer: KeyError: 'x'"),
    ],
)
def test_a_worker_that_fails_is_reported_with_its_words(build, message):
    with pytest.raises(RunError) as caught:
        Bench(1, script(build), "").in_turn({"peer": {}})
    assert message in str(caught.value)


def test_asteroid_answers():
    if not (peer.folder() / peer.STAMP).is_file():
        pytest.skip("asteroid is not installed; `python -m jaxsep.benchmark --peer asteroid` does")
    case = CASE | {"family": "improved", "network": SMALL | {"enc_kernel_size": 21}}
    for kind in ("train", "forward"):
        with measure.worker("peer", case | {"kind": kind}, peer.command()) as (_, go):
            assert go()["seconds"] > 0


# --- the command ----------------------------------------------------------------------------------


def test_the_command_measures_both_sides_and_keeps_what_succeeds(tmp_path, capsys, monkeypatch):
    def suite(bench, sizes):
        products = {"kind": "products", "rows": 40, "narrow": 8, "wide": 16}
        with bench.measuring("broken"):
            bench.in_turn({"ours": {"kind": "products"}})
            bench.add("never", "", "", 0.0)
        with bench.measuring("products"):
            results = bench.in_turn({"ours": products, "peer": products})
            assert results["ours"]["flops"] == 10 * 3 * 2 * 40 * 8 * 16
            assert min(results["ours"]["peak_bytes"]) > 5e7  # Python and JAX alone take more
            bench.add("products", "40", "s", *(results[side]["seconds"] for side in results))

    monkeypatch.setitem(suites.SUITES, "forward", suite)
    monkeypatch.setattr(peer, "command", lambda: list(OURS))  # our worker stands in for the peer
    monkeypatch.setattr(peer, "prepare", lambda: None)
    output = tmp_path / "new" / "out.json"
    arguments = ["--suite", "forward", "--peer", "asteroid", "--repeats", "2", "-o", str(output)]
    assert benchmark.main(arguments) == 1
    printed, content = capsys.readouterr(), json.loads(output.read_text())
    assert content["jaxsep"]["jax"] == content["asteroid"]["jax"] == jax.__version__
    assert f"jax {jax.__version__}" in printed.out
    assert content["machine"]["cpu"] in printed.out
    (row,) = (Row(**row) for row in content["rows"])
    assert row.ratio == pytest.approx(row.peer["median"] / row.ours["median"])
    assert printed.out.endswith(f"\nforward\n{table([row], 'asteroid')}\n")
    assert content["failures"][0].startswith("forward: broken: ours: KeyError: 'rows'")
    assert "error: forward: broken: ours: KeyError" in printed.err
    assert "forward: products" in printed.err, "its progress"


@pytest.fixture
def refused(capfd, monkeypatch):
    """Run the command with a mistake; gives the last lines of standard error."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a worker was started"))

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            sys.exit(benchmark.main(arguments))
        printed = capfd.readouterr()
        assert (ended.value.code, printed.out) == (2, "")
        return printed.err

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "speed"], "--suite: 'speed' is no suite; it must be train, forward, data,"),
        (["--suite", "train,"], "--suite: '' is no suite"),
        (["--peer", "nussl"], "--peer: invalid choice: 'nussl'"),
        (["--repeats", "0"], "--repeats: is 0; it must be a whole number of at least 1"),
        (["--repeats", "many"], "--repeats: is many; it must be a whole number"),
        (["-o", "numbers.txt"], "numbers.txt must be a file that ends in .json"),
        (["-o", "folder.json"], "folder.json must be a file that ends in .json"),
        (["-o", "/dev/null/x.json"], "/dev/null/x.json cannot be written: "),
    ],
)
def test_mistakes_in_the_command(refused, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.json").mkdir()
    assert message in refused(*arguments)


def test_a_peer_that_has_no_place(refused, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path / "file"))
    assert "cannot be made: Not a directory" in refused("--peer", "asteroid")


def test_a_peer_is_installed_once(capfd, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\necho collecting\necho 'ERROR: no torch' >&2\necho bye >&2\nexit 1\n"
    )
    python.chmod(0o755)
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(python))
    assert benchmark.main(["--peer", "asteroid"]) == 2
    progress, collecting, error = capfd.readouterr().err.splitlines()
    assert error == "error: --peer asteroid: cannot be installed: ERROR: no torch"
    assert (str(peer.folder()) in progress, collecting) == (True, "collecting")
    assert not (peer.folder() / peer.STAMP).exists()

    peer.folder().mkdir(parents=True, exist_ok=True)
    (peer.folder() / peer.STAMP).touch()
    peer.prepare()  # would fail again
    assert os.path.dirname(peer.command()[0]) == str(peer.folder() / "bin")
