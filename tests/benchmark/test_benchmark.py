"""The benchmark: real workers measured in turn, numbers that add up, mistakes told before anything is measured."""

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
from jaxsep.benchmark import peer, processes, worker
from jaxsep.benchmark import suites as cases
from jaxsep.benchmark.flops import frames, network_flops
from jaxsep.benchmark.machine import machine
from jaxsep.benchmark.processes import OURS, Worker, WorkerError, measure_afresh, measure_in_turn
from jaxsep.benchmark.rows import peer_rows
from jaxsep.benchmark.table import Row, Summary, table
from jaxsep.config import load as settings
from jaxsep.training.state import init_params

FOLDER = ROOT / "jaxsep" / "benchmark"


TINY, AT = cases.TINY, "B=2, 0.25 s"


@pytest.fixture
def quickly(monkeypatch):
    """Compile with less care, in this process and in workers, which may also use what was compiled before: no time counts."""
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def groups(suite, **options):
    return cases.suite(suite, TINY, **({"repeats": 3, "peer": False, "folder": ""} | options))


def by_name(rows):
    """The rows, each with the minimum, the median and the maximum in order."""
    for row in rows:
        for side in filter(None, (row.ours, row.peer)):
            assert 0 <= side.min <= side.median <= side.max, row
    return {(row.name, row.setting, row.unit): row for row in rows}


def of(row):
    return (row.ours.median, row.ours.min, row.ours.max)


# --- the numbers -------------------------------------------------------------------------------------------------------


def test_rows_of_the_step_and_its_arithmetic():
    group = groups("train", peer=True)[0]
    assert list(group.members) == ["ours", "peer", "bfloat16", "products"]
    rows = by_name(
        group.rows(
            {
                "ours": {
                    "trace_seconds": [1.25],
                    "compile_seconds": [8.0],
                    "seconds": [0.5, 0.25, 1.0],
                },
                "peer": {"seconds": [2.0, 1.5, 1.0]},
                "bfloat16": {"seconds": [0.25, 0.5, 0.2]},
                "products": {"flops": [6e9], "seconds": [0.5, 1.0, 0.25]},
            }
        )
    )
    step = rows["step, paper's network", AT, "ms"]
    assert of(step) == (500.0, 250.0, 1000.0)
    assert (step.peer, step.ratio) == (Summary(1500.0, 1000.0, 2000.0), 3.0)
    assert step.note == "traced in 1.2 s, compiled in 8.0 s"
    small = rows["step, paper's network, bfloat16", AT, "ms"]
    assert (of(small), small.peer, small.ratio) == ((250.0, 200.0, 500.0), None, 2.0)
    flops = 1e-9 * network_flops("original", TINY.original, batch=2, num_samples=2000, train=True)
    assert of(rows["arithmetic of the step", AT, "GFLOP/s"]) == pytest.approx(
        (flops / 0.5, flops, flops / 0.25)
    )
    # 0.25 s are 100 frames 20 samples apart, a multiple of what the blocks need; two examples.
    products = rows["arithmetic of float32 products", "[200,8]·[8,16] and its gradients", "GFLOP/s"]
    assert of(products) == (12.0, 6.0, 24.0)
    share = rows["step's share of the products'", AT, "%"]
    assert of(share) == pytest.approx(
        (100 * flops / 0.5 / 12, 100 * flops / 24, 100 * flops / 0.25 / 6)
    )
    assert len(rows) == 5


def test_rows_of_lengths_and_weightings():
    group = groups("train")[2]
    grains = ("example", "source")
    weightings = {
        f"{w} {g}": [4e-6, 1e-6, 2e-6]
        for w in ("robust", "curriculum", "class_bias")
        for g in grains
    }
    rows = by_name(
        group.rows(
            {
                "ours": {"seconds": [0.1, 0.2, 0.3]},
                "longer": {"seconds": [0.8, 0.7, 0.9]},
                "larger": {"seconds": [0.5, 0.4, 0.8]},
                "weightings": {**weightings, "peak_bytes": [1.0]},
            }
        )
    )
    for setting, median, ratio in (
        (AT, 400.0, 1.0),
        ("B=2, 0.5 s", 800.0, 2.0),
        ("B=3, 0.25 s", 2000 / 3, 5 / 3),
    ):
        row = rows["step per example and second", setting, "ms/(example·s)"]
        assert (row.ours.median, row.ratio) == pytest.approx((median, ratio))
    for name in ("robust", "curriculum", "class_bias"):
        for shape in ("[3]", "[3,2]"):
            row = rows[f"weighting {name}, share of the step", f"losses {shape}", "%"]
            assert of(row) == pytest.approx((100 * 2e-6 / 0.5, 100 * 1e-6 / 0.4, 100 * 4e-6 / 0.5))
            assert row.note == "2 µs of a step with B=3, 0.25 s"
    assert len(rows) == 3 + 6


def test_rows_of_memory():
    (group,) = groups("memory")
    results = {
        "remat": {"peak_bytes": [2e9], "seconds": [0.6, 0.9, 1.2]},
        "plain": {"peak_bytes": [5e9], "seconds": [0.3, 0.6, 0.9]},
    }
    rows, at = by_name(group.rows(results)), "B=3, 0.25 s"
    remat, plain = "step, paper's network, remat", "step, paper's network"
    assert of(rows[remat, at, "GB"]) == (2.0, 2.0, 2.0)
    assert of(rows[plain, at, "GB"]) == (5.0, 5.0, 5.0)
    assert of(rows[remat, at, "ms/example"]) == pytest.approx((300.0, 200.0, 400.0))
    assert of(rows[plain, at, "ms/example"]) == pytest.approx((200.0, 100.0, 300.0))
    assert [rows[name, at, "ms/example"].ratio for name in (remat, plain)] == [
        pytest.approx(1.5),
        1.0,
    ]
    for values in results.values():
        values["device_bytes"] = [1e9, 3e9]
    assert of(by_name(group.rows(results))[plain, at, "GB"]) == (3.0, 3.0, 3.0)


def test_rows_of_reach(tmp_path):
    parts, node, corpora = groups("reach", folder=str(tmp_path))
    assert [case["micro_batch"] for case in parts.members.values()] == [2, 2]
    rows = by_name(
        parts.rows({name: {"peak_bytes": [1e9], "seconds": [3.0, 1.5, 6.0]} for name in ("3", "5")})
    )
    step = "step in parts, paper's network"
    assert of(rows[step, "B=3, 0.25 s, parts of 2", "GB"]) == (1.0, 1.0, 1.0)
    assert of(rows[step, "B=5, 0.25 s, parts of 2", "ms/example"]) == pytest.approx(
        (600.0, 300.0, 1200.0)
    )
    rows = by_name(
        node.rows(
            {
                "ours": {"seconds": [0.5], "parameters": [2500]},
                "drawn": {"seconds": [0.004, 0.008, 0.016]},
            }
        )
    )
    assert of(rows["gradient summed over devices", AT, "MB/step"])[0] == pytest.approx(0.01)
    flops = network_flops("original", cases.SMALL, batch=1, num_samples=2000, train=True)
    needed = 8 * 20e12 / flops
    assert rows["mixtures that a node needs", AT, "1/s"].ours.median == pytest.approx(needed)
    assert of(rows["mixtures rendered by one core", AT, "1/s"]) == pytest.approx(
        (1000.0, 500.0, 2000.0)
    )
    assert rows["cores that render for a node", AT, "cores"].ours.median == pytest.approx(
        needed / 1000
    )
    rows = by_name(
        corpora.rows({name: {"seconds": [0.1], "grown_bytes": [2e6]} for name in ("1", "2")})
    )
    assert rows["packed corpus opened", "2 h", "s"].note == "1,200 recordings"
    assert rows["packed corpus in memory", "2 h", "GB"].ours.median == pytest.approx(0.002)


def test_a_corpus_of_many_hours_is_opened_and_drawn_from(tmp_path):
    (_, case), _ = groups("reach", folder=str(tmp_path))[2].members.items()
    repeat, facts = worker.build(case)
    assert repeat() == {"recordings": 600}
    assert facts["grown_bytes"] >= 0
    assert facts["seconds"] > 0
    size = (tmp_path / "1-hours" / "audio.f32").stat()
    assert size.st_size == 3600 * 8000 * 4
    assert size.st_blocks * 512 < 1e6, "the audio is a hole"


def test_rows_of_data_and_compilation():
    drawn, fed = groups("data")
    assert of(*drawn.rows({"ours": {"seconds": [0.5, 1.0, 2.0]}})) == (8.0, 4.0, 16.0)
    (row,) = fed.rows({"ours": {"seconds": [2.0, 4.0, 5.0], "waited": [0.0, 1.0, 2.5]}})
    assert of(row) == (25.0, 0.0, 50.0)
    assert row.note == "3 × 2 steps of 2000 ms"
    (group,) = groups("compile")
    cold = {"trace_seconds": [2.0, 3.0, 4.0], "compile_seconds": [8.0, 12.0, 9.0]}
    cached = {"trace_seconds": [3.0, 3.0, 2.0], "compile_seconds": [0.5, 1.0, 1.0]}
    rows = by_name(group.rows({"cold": cold, "cached": cached}))
    assert [(name, *of(row), row.ratio) for (name, _, _), row in rows.items()] == [
        ("trace, cold", 3.0, 2.0, 4.0, None),
        ("compile, cold", 9.0, 8.0, 12.0, None),
        ("trace, from the persistent cache", 3.0, 2.0, 3.0, 1.0),
        ("compile, from the persistent cache", 1.0, 0.5, 1.0, 9.0),
    ]


def test_the_table_is_aligned():
    rows = [
        Row(
            "forward",
            "a",
            "B=1",
            "ms",
            Summary(1.0, 0.5, 12345.6),
            Summary(2.0, 1.0, 3.0),
            2.0,
            "a note",
        ),
        Row("forward", "longer", "B=10", "ms", Summary(0.0123456, 0.0, 1.0)),
    ]
    assert table(rows, "asteroid").splitlines() == [
        "what    setting  unit  ours: median     min    max  asteroid: median    min    max  ratio  note",
        "a       B=1      ms           1.000  0.5000  12346             2.000  1.000  3.000   2.00  a note",
        "longer  B=10     ms         0.01235       0  1.000",
    ]


# --- the work ----------------------------------------------------------------------------------------------------------


def test_a_step_of_any_network_is_timed_and_compiled_apart(quickly):
    network = {**TINY.original, "dtype": "bfloat16", "remat": True}
    repeat, facts = worker.build(cases.case("train", "original", network, 2, 0.25))
    assert facts.keys() == {"trace_seconds", "compile_seconds", "parameters"}
    module = models.create("original", **network)
    assert facts["parameters"] == models.count_params(init_params(module, 2000, 0))
    assert repeat().keys() == repeat().keys() == {"seconds"}


def test_mixtures_are_drawn_and_a_loop_fed_with_them(tmp_path, quickly):
    drawn, fed = groups("data", folder=str(tmp_path))
    repeat, _ = worker.build(drawn.members["ours"])
    assert repeat()["seconds"] > 0
    repeat, facts = worker.build(fed.members["ours"])
    times = repeat()
    assert 0 < times["waited"] < times["seconds"]
    assert "compile_seconds" in facts


def test_weightings_and_products_are_timed():
    repeat, _ = worker.build(groups("train")[2].members["weightings"])
    assert len(repeat()) == 6
    assert min(repeat().values()) > 0
    repeat, facts = worker.build(groups("train")[0].members["products"])
    assert facts == {"flops": 10 * 3 * 2 * 200 * 8 * 16}
    assert repeat()["seconds"] > 0


def test_the_loop_that_waits_for_data_is_that_of_the_cpu_scale():
    config = settings.load(str(ROOT / "configs" / "default.py") + ":cpu", [])
    assert {name: getattr(config.model, name) for name in cases.CPU} == cases.CPU
    assert (config.train.batch_size, config.data.segment_seconds) == (
        cases.FULL.loop_batch,
        cases.FULL.loop_seconds,
    )


def test_the_paper_network_is_that_of_the_paper_scale():
    config = settings.load(str(ROOT / "configs" / "default.py"), [])
    assert {name: getattr(config.model, name) for name in cases.PAPER} == cases.PAPER
    assert (config.train.batch_size, config.data.segment_seconds) == (
        cases.FULL.large_batch,
        cases.FULL.seconds,
    )


# --- float operations --------------------------------------------------------------------------------------------------

# One block, two levels, filters of 4 samples 2 apart, so that 8 samples give 5 frames, padded to 6 for the level below.
SMALL = {
    "out_channels": 3,
    "in_channels": 5,
    "num_blocks": 1,
    "upsampling_depth": 2,
    "enc_kernel_size": 4,
    "enc_num_basis": 6,
    "num_sources": 2,
}


@pytest.mark.parametrize(
    ("family", "masks", "decoder"),
    # original: merged 3·2·6 = 36 against 3·6 + 2·(36 − 3·2) = 78 apart; improved: one decoder of (2·6)·(2·4)
    [("original", 36, 2 * 6 * 4), ("improved", 36, 12 * 8)],
)
def test_flops_by_hand(family, masks, decoder):
    assert frames(family, SMALL, 8) == 6
    encoder, bottleneck, expand, project = 4 * 6, 6 * 3, 3 * 5, 5 * 3
    per_frame = encoder + bottleneck + expand + project + masks + decoder
    forward = 6 * per_frame + 5 * 5 * (6 + 3)
    assert network_flops(family, SMALL, batch=1, num_samples=8) == 2 * forward
    assert network_flops(family, SMALL, batch=3, num_samples=8) == 3 * 2 * forward
    assert network_flops(family, SMALL, batch=1, num_samples=8, train=True) == 2 * (
        3 * forward - 6 * encoder
    )


def test_flops_of_the_mask_layer_where_it_is_cheaper_unmerged():
    # With as many channels as bases nothing comes before the filters: 2 · (36 − 3·2) = 60 a frame against 2·6·6 = 72.
    wide = {**SMALL, "out_channels": 6}
    improved = network_flops("improved", wide, batch=1, num_samples=8)
    assert improved - network_flops("original", wide, batch=1, num_samples=8) == 2 * 6 * (
        72 - 60 + 96 - 48
    )


@pytest.mark.parametrize(
    ("family", "largest"),
    # XLA counts element-wise work too: 6 % here; of the original also the product that merges the mask layer's maps
    # (2·128·512·1024 a batch) and the decoder's zeros (2·F·2·512·41 an example).
    [("improved", 1.12), ("original", 1.25)],
)
def test_flops_beside_those_that_xla_counts(family, largest):
    network = {**(cases.PAPER if family == "original" else cases.IMPROVED), "num_blocks": 2}
    module = models.create(family, **network)
    mixture = jax.ShapeDtypeStruct((4, 16000), np.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), mixture)
    counted = jax.jit(module.apply).lower(params, mixture).cost_analysis()["flops"]
    assert 1.0 < counted / network_flops(family, network, batch=4, num_samples=16000) < largest


# --- worker processes --------------------------------------------------------------------------------------------------


def test_two_workers_are_measured_in_turn_and_the_peer_has_its_columns():
    products = groups("train")[0].members["products"]
    results = measure_in_turn(
        "products", cases.sides(products, True), 3, peer=OURS
    )  # our worker stands in for the peer
    for values in results.values():
        assert len(values["seconds"]) == 3
        assert values["peak_bytes"][0] > 5e7  # Python and JAX alone take more
    results["ours"] |= {"trace_seconds": [0.0], "compile_seconds": [0.0]}
    (row,) = peer_rows("train", "products", {"batch": 1, "seconds": 1}, results)
    by_name([row])
    assert row.peer.median == pytest.approx(1e3 * np.median(results["peer"]["seconds"]))
    assert row.ratio == pytest.approx(row.peer.median / row.ours.median)


def test_each_round_has_a_cache_of_its_own_that_its_workers_share(monkeypatch):
    # A worker says how many programs it found: each adds one.
    command = script(
        "def build(case):\n"
        "    folder = os.environ['JAX_COMPILATION_CACHE_DIR']\n"
        "    open(os.path.join(folder, case['name']), 'w').close()\n"
        "    assert os.environ['JAX_ENABLE_COMPILATION_CACHE'] == 'true'\n"
        "    return dict, {'found': len(os.listdir(folder)) - 1}"
    )
    monkeypatch.setattr(processes, "OURS", command)
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")
    results = measure_afresh(
        "rounds", {name: {"side": "ours", "name": name} for name in ("cold", "cached")}, 2
    )
    assert results == {"cold": {"found": [0, 0]}, "cached": {"found": [1, 1]}}


def script(build):
    """Command of a small worker whose build(case) is this text."""
    code = f"import os, sys; sys.path.insert(0, {str(FOLDER)!r})\nfrom protocol import serve\n{build}\nserve(build)"
    return [sys.executable, "-c", code]


def test_the_turns_go_round_and_what_libraries_print_is_no_answer(tmp_path):
    log = tmp_path / "log"
    command = script(
        "def build(case):\n"
        "    print('from Python'); os.write(1, b'from C\\n')\n"
        "    def repeat():\n"
        "        print('again')\n"
        f"        open({str(log)!r}, 'a').write(case['name'])\n"
        "        return {'seconds': 2.0}\n"
        "    return repeat, {'compile_seconds': 1.0, 'device': 'cpu'}"
    )
    members = {name: {"side": "peer", "name": name} for name in "abc"}
    results = measure_in_turn("turns", members, 3, peer=command)
    assert log.read_text() == "aabbcc" * 3  # each turn once unheeded, once timed
    for values in results.values():
        assert values.keys() == {"compile_seconds", "seconds", "peak_bytes"}
        assert (values["compile_seconds"], values["seconds"]) == ([1.0], [2.0] * 3)


def test_peak_memory_is_the_worker_s_own():
    held = np.ones(300_000_000, np.uint8)  # of this process, not of the worker's
    command = script("def build(case):\n    return dict, {}")
    with Worker(command, {}, {}) as small:
        peak = small.stop()["peak_bytes"]
    assert 1e6 < peak < held.nbytes
    command = script("def build(case):\n    held = b'1' * 200_000_000\n    return dict, {}")
    with Worker(command, {}, {}) as large:
        assert large.stop()["peak_bytes"] > 2e8


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            "def build(case):\n    raise ValueError('no such network')",
            "one: ValueError: no such network",
        ),
        (
            "def build(case):\n    print('out of luck', file=sys.stderr, flush=True); os._exit(9)",
            "died with exit status 9\n    out of luck",
        ),
        (
            "def build(case):\n    return lambda: os._exit(3), {}",
            "one: a worker died with exit status 3",
        ),
        ("def build(case):\n    return lambda: {}['x'], {}", "one: KeyError: 'x'"),
    ],
)
def test_a_worker_that_fails_is_reported_with_its_words(build, message):
    with pytest.raises(WorkerError) as caught:
        measure_in_turn("failing", {"one": {"side": "peer"}}, 1, peer=script(build))
    assert message in str(caught.value)


def test_asteroid_answers():
    if not (peer.folder("asteroid") / peer.STAMP).is_file():
        pytest.skip(
            "asteroid is not installed; python -m jaxsep.benchmark --peer asteroid does that"
        )
    for suite in ("train", "forward"):
        (case,) = [
            group.members["peer"] for group in groups(suite, peer=True) if "improved" in group.title
        ]
        with processes.start(case, peer.command("asteroid")) as running:
            assert running.go()["seconds"] > 0


# --- the command -------------------------------------------------------------------------------------------------------


def test_the_command_prints_what_it_writes(tmp_path, quickly):
    output = tmp_path / "new" / "out.json"
    arguments = ["--suite", "forward", "--tiny", "--repeats", "2", "-o", str(output)]
    done = subprocess.run(
        [sys.executable, "-m", "jaxsep.benchmark", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    content = json.loads(output.read_text())
    assert (content["tiny"], content["repeats"], content["failures"]) == (True, 2, [])
    described = content["sides"]["jaxsep"]
    assert described["versions"]["jax"] == jax.__version__
    assert content["machine"]["cpu"] in done.stdout
    assert f"jax {jax.__version__}" in done.stdout
    summaries = [
        {side: row[side] and Summary(**row[side]) for side in ("ours", "peer")}
        for row in content["rows"]
    ]
    rows = [Row(**{**row, **sides}) for row, sides in zip(content["rows"], summaries, strict=True)]
    by_name(rows)
    assert [row.setting for row in rows] == ["B=1, 0.25 s", "B=2, 0.25 s", "B=2, 0.25 s"]
    assert done.stdout.endswith(f"\nforward\n{table(rows, '')}\n")
    assert "forward: improved network" in done.stderr


def test_what_fails_is_told_and_the_rest_is_kept(tmp_path, capsys, monkeypatch):
    def rows(results):
        return [Row("forward", "fine", "here", "s", Summary(*3 * results["one"]["seconds"]))]

    builds = {
        "fine": "return lambda: {'seconds': 1.5}, {}",
        "broken": "raise MemoryError('no room')",
    }
    command = script(
        "def build(case):\n    "
        + "\n    ".join(f"if case['name'] == '{n}': {b}" for n, b in builds.items())
    )
    chosen = [
        cases.Group(f"forward: {name}", {"one": {"side": "peer", "name": name}}, rows)
        for name in builds
    ]
    monkeypatch.setattr(cases, "SUITES", {"forward": lambda *_: chosen[::-1]})
    monkeypatch.setattr(peer, "command", lambda name: command)
    monkeypatch.setattr(peer, "prepare", lambda name: None)
    facts = {"versions": {"python": "3"}, "device": "cpu", "threads": 2}
    monkeypatch.setattr(
        benchmark, "describe", lambda *_: {"machine": machine(), "sides": {"jaxsep": facts}}
    )
    arguments = [
        "--suite",
        "forward",
        "--peer",
        "asteroid",
        "--repeats",
        "1",
        "-o",
        str(tmp_path / "out.json"),
    ]
    assert benchmark.main(arguments) == 1
    printed = capsys.readouterr()
    content = json.loads((tmp_path / "out.json").read_text())
    assert [row["name"] for row in content["rows"]] == ["fine"]
    assert "fine" in printed.out
    message = "forward: broken: one: MemoryError: no room"
    assert content["failures"][0].startswith(message)
    assert f"error: {message}" in printed.err


@pytest.fixture
def refused(capfd, monkeypatch):
    """Run the command with a mistake; gives back the last line of standard error."""

    def started(*_, **__):
        pytest.fail("a worker was started before the mistake was found")

    monkeypatch.setattr(processes, "Worker", started)

    def run(*arguments):
        assert benchmark.main(arguments) == 2
        printed = capfd.readouterr()
        assert printed.out == ""
        return printed.err.splitlines()

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--suite", "speed"],
            "--suite: 'speed' is no suite; it must be train, forward, data, compile, memory,",
        ),
        (["--suite", "train,"], "--suite: '' is no suite"),
        (["--peer", "nussl"], "--peer: 'nussl' is not known; it must be asteroid"),
        (["--repeats", "0"], "--repeats: is 0; it must be a whole number of at least 1"),
        (["--repeats", "many"], "--repeats: is many; it must be a whole number"),
        (["-o", "numbers.txt"], "-o: numbers.txt must end in .json"),
        (["-o", "/dev/null/x.json"], "-o: /dev/null/x.json cannot be written: "),
    ],
)
def test_mistakes_in_the_command(refused, arguments, message):
    (line,) = refused(*arguments)
    assert line.startswith(f"error: {message}")


def test_a_folder_is_no_output(refused, tmp_path):
    (tmp_path / "out.json").mkdir()
    (line,) = refused("-o", str(tmp_path / "out.json"))
    assert "is a folder" in line


def test_a_peer_that_cannot_be_installed(refused, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\necho collecting\necho 'ERROR: no torch for you' >&2\necho a notice >&2\nexit 1\n"
    )
    python.chmod(0o755)
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(python))
    *progress, line = refused("--suite", "forward", "--peer", "asteroid")
    assert line == "error: --peer asteroid cannot be installed: ERROR: no torch for you"
    assert "asteroid==0.7.0" in progress[0]
    assert progress[1:] == ["collecting"]
    assert not (peer.folder("asteroid") / peer.STAMP).exists()


def test_a_peer_that_has_no_place(refused, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path / "file"))
    *_, line = refused("--peer", "asteroid")
    assert line.startswith("error: --peer asteroid: ")
    assert line.endswith("cannot be made: Not a directory")


def test_a_peer_that_is_there_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path))
    monkeypatch.setattr(peer, "_run", lambda *_: pytest.fail("something was installed"))
    target = tmp_path / "peers" / "asteroid-0.7.0"
    target.mkdir(parents=True)
    (target / peer.STAMP).touch()
    peer.prepare("asteroid")
    assert peer.command("asteroid")[0] == str(target / "bin" / "python") or os.name == "nt"
