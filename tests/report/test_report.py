"""The report on finished runs through its command: grouping, numbers, files, mistakes."""

import csv
import dataclasses
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from slim import CORPORA, GROUPS, MIXTURES, NAMES, ROOT, edit, recipe, slim_run

from jaxsep.errors import ReportError
from jaxsep.evaluation.statistics import QUANTILES
from jaxsep.report import __main__ as report
from jaxsep.report import curves, figures, report_compare
from jaxsep.report import grouping as experiments
from jaxsep.report.markdown import markdown, table_text
from jaxsep.report.players import chosen_runs, read_excerpts
from jaxsep.report.report_sections import about
from jaxsep.report.runs import read_runs
from jaxsep.report.sections import Figure, Section, Table

UNIFORM = "weighting.name=uniform"
SMOKE = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def rows(path):
    """A CSV file as dicts."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def grouped(*folders):
    return experiments.group(read_runs(folders))


def labels(experiment):
    return [condition.label for condition in experiment.conditions]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report on eight runs of two experiments, in a process of its own, and the scores of the runs."""
    root = tmp_path_factory.mktemp("report")
    scores = {}
    for seed in (0, 1):
        scores["uniform", seed] = slim_run(
            root / f"uniform-{seed}", UNIFORM, seed=seed, val=[1, 2, 3, 3 + seed]
        )
        scores["biased", seed] = slim_run(
            root / f"biased-{seed}", seed=seed, shift=0.75, val=[1 + 2 * seed, 3, 4, 5]
        )
    for number, (seed, alpha, shift) in enumerate(
        [(0, 0.0, 0.0), (0, 0.1, -1.0), (0, 0.2, 0.0), (1, 0.2, 0.0)]
    ):
        arguments = {"config": "robust.py", "seed": seed, "shift": shift, "kind": "synthetic"}
        scores[alpha, seed] = slim_run(
            root / f"robust-{number}", f"weighting.alpha={alpha}", **arguments
        )
    names = [f"{name}-{seed}" for name in ("uniform", "biased") for seed in (0, 1)]
    folders = [str(root / name) for name in [*names, *(f"robust-{number}" for number in range(4))]]
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "jaxsep.report",
        *folders,
        "-o",
        str(root / "out"),
    ]
    environment = {**os.environ, **SMOKE}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=root, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    text = (root / "out" / "report.md").read_text(encoding="utf-8")
    return SimpleNamespace(root=root, out=root / "out", scores=scores, text=text, said=done.stdout)


def test_the_command_writes_what_it_says(made):
    assert sorted(path.name for path in made.out.iterdir()) == [
        "figures",
        "report.html",
        "report.md",
        "tables",
    ]
    assert (
        "Class bias: one speaker, one environmental sound: uniform (2); class bias γ speech=3"
        in made.said
    )
    assert (
        "Robustness: two environmental sounds [synthetic sound]: uniform (1); robust α=0.1 (1); robust α=0.2 (2)"
        in made.said
    )
    drawn = {path.stem for path in (made.out / "figures").glob("*.png")}
    assert drawn == {
        f"{slug}-{name}"
        for slug in ("class-bias", "robustness")
        for name in ("histogram", "validation", "input-snr", "ess")
    }
    assert drawn == {path.stem for path in (made.out / "figures").glob("*.svg")}
    assert all(f"(figures/{name}.png)" in made.text for name in drawn)
    assert (made.out / "report.html").read_text(encoding="utf-8")


def test_numbers_of_the_paper_s_first_table(made):
    line = next(
        row
        for row in rows(made.out / "tables" / "class-bias-distribution.csv")
        if row["condition"] == "uniform"
    )
    runs = [made.scores["uniform", seed] for seed in (0, 1)]
    means = [scores.mean() for scores in runs]  # the two evaluations are half a dB below and above
    assert float(line["mean_db"]) == pytest.approx(np.mean(means))
    assert float(line["mean_std_over_runs_db"]) == pytest.approx(np.std(means))
    assert float(line["std_db"]) == pytest.approx(np.mean([scores.std() for scores in runs]))
    for q in QUANTILES:
        assert float(line[f"q{q:02d}_db"]) == pytest.approx(
            np.mean([np.percentile(scores, q) for scores in runs])
        )
    assert (line["runs"], line["epochs"], line["sources"]) == ("2", "2", str(2 * MIXTURES))
    alone = next(
        row
        for row in rows(made.out / "tables" / "robustness-distribution.csv")
        if row["condition"] == "uniform"
    )
    assert alone["mean_std_over_runs_db"] == ""
    shown = f"| {np.mean(means):.2f} ± {np.std(means):.2f} |"
    assert any(shown in text for text in made.text.splitlines() if text.startswith("| uniform"))


def test_numbers_of_the_paper_s_second_table(made):
    line = rows(made.out / "tables" / "class-bias-corpora.csv")[0]
    corpus = np.array(CORPORA)[recipe(("speech", "environment"))["class_id"]]
    for name in ("speech", "environment"):
        means = [
            made.scores["uniform", seed][corpus == name].mean() + change
            for seed in (0, 1)
            for change in (-0.5, 0.5)
        ]
        assert float(line[f"{name}_db"]) == pytest.approx(np.mean(means))
        assert float(line[f"{name}_std_db"]) == pytest.approx(np.std(means))
    assert (line["runs"], line["evaluations"]) == ("2", "4")
    assert "| speech | environment | combined | runs | evaluations |" in re.sub(
        " +", " ", made.text
    )
    assert not (made.out / "tables" / "robustness-corpora.csv").exists(), "one corpus"


def test_differences_on_the_same_mixtures(made):
    found = {
        (row["condition"], row["statistic"]): row
        for row in rows(made.out / "tables" / "robustness-differences.csv")
    }
    shifted = found["robust α=0.1", "5 %"]  # the baseline's scores, 1 dB lower
    assert [
        float(shifted[name]) for name in ("difference_db", "low_db", "high_db")
    ] == pytest.approx([-1, -1, -1])
    assert (shifted["reference"], shifted["verdict"]) == ("uniform", "lower")
    assert found["robust α=0.1", "std"]["verdict"] == "–"
    assert float(shifted["reference_db"]) == pytest.approx(np.percentile(made.scores[0.0, 0], 5))
    seeds = found["robust α=0.2", "mean"]
    means = [made.scores[0.2, seed].mean() - made.scores[0.0, 0].mean() for seed in (0, 1)]
    assert float(seeds["difference_db"]) == pytest.approx(np.mean(means))
    assert float(seeds["low_db"]) < float(seeds["difference_db"]) < float(seeds["high_db"])
    assert "| -1.00 | [-1.00, -1.00] | lower |" in re.sub(" +", " ", made.text)
    assert "robust α=0.1 against uniform: lower: mean, 1 %, 5 %, 10 %" in made.text


def test_differences_seed_by_seed(made):
    """Student's t of the paired differences of the last epochs' means."""
    folders = [made.root / f"{name}-{seed}" for name in ("uniform", "biased") for seed in (0, 1)]
    (experiment,) = experiments.group(read_runs(folders))
    moved = tuple(
        dataclasses.replace(
            run,
            metrics={
                **run.metrics,
                "test": [
                    {**record, **{name: record[name] + change for name in ("speech", "combined")}}
                    for record in run.metrics["test"]
                ],
            },
        )
        for run, change in zip(experiment.reference.runs, (0.2, 0.4), strict=True)
    )
    other = dataclasses.replace(experiment.conditions[1], runs=moved)
    pair = dataclasses.replace(experiment, conditions=(experiment.reference, other))
    table, csv_file = report_compare.by_seed(pair)
    found = {row[1]: row[2:] for row in csv_file.rows}
    half = 12.706 * np.std([0.2, 0.4], ddof=1) / np.sqrt(2)
    assert found["speech"] == pytest.approx([2, 0.3, 0.3 - half, 0.3 + half])
    assert found["environment"] == pytest.approx([2, 0, 0, 0], abs=1e-9)
    assert table.rows[0][1] == f"+0.30 [{0.3 - half:.2f}, {0.3 + half:.2f}]"
    single = dataclasses.replace(other, runs=other.runs[:1])
    assert (
        report_compare.by_seed(dataclasses.replace(pair, conditions=(experiment.reference, single)))
        is None
    )


def test_differences_by_class_group_and_combination(made):
    found = {
        (row["kind"], row["name"]): row
        for row in rows(made.out / "tables" / "class-bias-classes.csv")
    }
    assert {name for kind, name in found if kind == "corpus"} == {"speech", "environment"}
    assert {name for kind, name in found if kind == "group"} == {"animals", "nature", "things"}
    assert {name for kind, name in found if kind == "class"} == set(NAMES)
    chosen = recipe(("speech", "environment"))["class_id"] == NAMES.index("dog")
    for kind, of_class in (("corpus", CORPORA), ("group", GROUPS)):
        counts = {
            name: int(row["sources"]) for (known, name), row in found.items() if known == kind
        }
        belongs = np.array(of_class)[recipe(("speech", "environment"))["class_id"]]
        assert counts == {
            name: np.sum(belongs == name)
            for name in set(of_class) - set(CORPORA if kind == "group" else ())
        }
    dog = found["class", "dog"]
    assert int(dog["sources"]) == chosen.sum()
    assert float(dog["difference_db"]) == pytest.approx(0.75)
    means = [made.scores["uniform", seed][chosen].mean() for seed in (0, 1)]
    assert float(dog["reference_mean_db"]) == pytest.approx(np.mean(means))
    mixed = {
        row["classes"]: row for row in rows(made.out / "tables" / "class-bias-combinations.csv")
    }
    ids = recipe(("speech", "environment"))["class_id"].reshape(-1, 2)
    both = np.repeat((ids == [NAMES.index("anna"), NAMES.index("rain")]).all(axis=1), 2)
    assert len(mixed) == 6
    assert int(mixed["anna + rain"]["sources"]) == both.sum()
    means = [made.scores["biased", seed][both].mean() for seed in (0, 1)]
    assert float(mixed["anna + rain"]["condition_mean_db"]) == pytest.approx(np.mean(means))


def test_epochs_to_the_baseline(made):
    found = {
        (row["condition"], row["run"]): row
        for row in rows(made.out / "tables" / "class-bias-epochs.csv")
    }
    biased = "class bias γ speech=3, environment=0"
    assert (
        float(found["uniform", "mean over runs"]["target_mean_db"]) == 3.5
    )  # after the last epoch: 3 and 4
    assert found[biased, "mean over runs"]["first_epoch"] == "3"  # 2, 3, 4, 5
    assert (
        found["uniform", "uniform-0"]["first_epoch"],
        found["uniform", "uniform-1"]["first_epoch"],
    ) == ("", "4")
    assert "4, not reached by 1 of 2" in made.text
    curve = [
        row
        for row in rows(made.out / "tables" / "class-bias-validation.csv")
        if row["condition"] == biased
    ]
    assert [float(row["mean_db"]) for row in curve] == [2, 3, 4, 5]
    assert [float(row["std_over_runs_db"]) for row in curve] == [1, 0, 0, 0]


def test_scores_by_input_snr(made):
    snr = recipe(("speech", "environment"))["input_snr"]
    pooled = np.stack([made.scores["uniform", seed] for seed in (0, 1)])
    found = [
        row
        for row in rows(made.out / "tables" / "class-bias-input-snr.csv")
        if row["condition"] == "uniform"
    ]
    assert sum(int(row["sources"]) for row in found) == snr.size
    for row in found:
        inside = (snr >= float(row["input_snr_from_db"])) & (snr < float(row["input_snr_to_db"]))
        assert float(row["median_si_sdri_db"]) == pytest.approx(np.median(pooled[:, inside]))


def test_what_the_weights_did(made):
    by_condition = {
        row["condition"]: row for row in rows(made.out / "tables" / "class-bias-weights.csv")
    }
    line = by_condition["class bias γ speech=3, environment=0"]
    assert (line["batch_size"], line["weights"], line["ess"], line["ess_share"]) == (
        "16",
        "32",
        "16.0",
        "0.5",
    )
    assert line["weight_entropy_nats"] == line["weight_speech"] == ""
    assert "–: not recorded" in made.text


def test_effective_sample_size_by_batch(made):
    losses = np.array([0.0, 0.0, 0.0, 10.0])
    sizes = (4, 64, 4096)
    np.testing.assert_allclose(curves.ess_by_batch(losses, 0.0, sizes), sizes)
    found = curves.ess_by_batch(losses, 0.2, sizes)
    powers = np.exp(0.2 * losses)
    assert found[2] / 4096 == pytest.approx(powers.mean() ** 2 / np.square(powers).mean(), rel=0.02)
    assert np.all(np.diff(found) > 0)
    table = rows(made.out / "tables" / "class-bias-ess-by-batch.csv")
    assert [(row["alpha"], row["batch_size"]) for row in table[:2]] == [
        ("1/15", "4"),
        ("1/15", "8"),
    ]
    assert len(table) == 3 * 8
    assert all(1 <= float(row["ess"]) <= int(row["batch_size"]) for row in table)
    assert "Effective sample size of robust weights by batch size" in made.text


def test_synthetic_sound_is_said_with_every_table_and_figure(made):
    sections = made.text.split("\n## ")[1:]
    robustness = [section for section in sections if section.startswith("Robustness")]
    assert len(robustness) == 5
    for section in robustness:
        shown = section.count("\n### ") + section.count("\n![")
        assert shown
        assert section.split("\n", 1)[0].endswith("[synthetic sound]")
        assert section.count("Synthetic sound.\n") == shown
        assert section.count("[synthetic sound]") == shown + 1
    others = [section for section in sections if section.startswith("Class bias")]
    assert len(others) == 5
    assert not any("ynthetic" in section for section in others)
    svg = (made.out / "figures" / "robustness-ess.svg").read_text(encoding="utf-8")
    assert "synthetic" in svg


def test_about_says_what_was_run_and_how_much(made):
    found = {row["run"]: row for row in rows(made.out / "tables" / "runs.csv")}
    assert len(found) == 8
    assert found["robust-3"]["weighting"] == "robust α=0.2"
    assert (found["robust-3"]["seed"], found["robust-3"]["epochs"], found["robust-3"]["steps"]) == (
        "1",
        "4",
        "240",
    )
    assert (found["uniform-0"]["training_min"], found["uniform-0"]["parameters"]) == ("1.5", "1234")
    assert "Here: 4 epochs of 960 mixtures of 1 s in batches of 16" in made.text
    assert "Without `evaluation/audio`: uniform-0" in made.text
    assert "8 finished runs of jaxsep 0.1.0." in made.text


def test_a_report_can_be_made_again_over_an_old_one(made, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(made.out, out)
    (out / ".report.partial").mkdir()  # of a report that was killed
    again = [str(made.root / name) for name in ("uniform-1", "uniform-0")]
    assert report.main([*again, "-o", str(out), "--audio", "none"]) == 0
    assert "4 figures, 9 tables as CSV, 0 excerpts" in capsys.readouterr().out
    assert {path.name.split("-")[0] for path in (out / "figures").iterdir()} == {"class"}
    assert not (out / ".report.partial").exists()
    assert "`--audio none`" in (out / "report.md").read_text(encoding="utf-8")
    first = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    assert report.main([*again, "-o", str(out), "--audio", "none"]) == 0
    capsys.readouterr()
    assert {path: path.read_bytes() for path in first} == first, "the same runs give the same files"


@pytest.mark.parametrize(
    ("override", "together"),
    [
        ("train.workers=3", True),
        ("train.log_every=7", True),
        ("model.remat=True", True),
        ("evaluation.last_epochs=1", True),
        ("train.learning_rate=0.01", False),
        ("loss.zero_mean=False", False),
        ("model.num_blocks=3", False),
        ("data.max_snr_db=7.0", False),
    ],
)
def test_what_separates_runs(tmp_path, override, together):
    slim_run(tmp_path / "a", UNIFORM)
    slim_run(tmp_path / "b", override)
    found = grouped(tmp_path / "a", tmp_path / "b")
    assert len(found) == (1 if together else 2)
    if not together:
        name, value = override.split("=")
        assert (
            f"({name}={float(value):g})" in found[1].title
            if value[0].isdigit()
            else name in found[1].title
        )
        assert [experiment.slug for experiment in found] == ["class-bias", "class-bias-2"]


def test_other_test_mixtures_separate(tmp_path):
    slim_run(tmp_path / "a", UNIFORM)
    slim_run(tmp_path / "b", eval_seed=2)
    slim_run(tmp_path / "c", seed=1)
    path = tmp_path / "c" / "evaluation" / "test.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    cells = lines[5].split(",")
    path.write_text(
        "\n".join(
            [*lines[:5], ",".join([*cells[:6], str(float(cells[6]) + 0.1), *cells[7:]]), *lines[6:]]
        )
    )
    found = grouped(*(tmp_path / name for name in "abc"))
    assert [len(experiment.runs) for experiment in found] == [1, 1, 1]
    assert len({experiment.title for experiment in found}) == 3
    slim_run(tmp_path / "d", UNIFORM, seed=1)
    edit(
        tmp_path / "d" / "summary.json",
        lambda summary: summary["data"].update(fingerprints=["c" * 64, "b" * 64]),
    )
    assert len(grouped(tmp_path / "a", tmp_path / "d")) == 2


def test_rendering_elsewhere_may_change_the_last_digit(tmp_path):
    slim_run(tmp_path / "a", UNIFORM)
    slim_run(tmp_path / "b", seed=1)
    path = tmp_path / "b" / "evaluation" / "test.csv"
    text = path.read_text(encoding="utf-8").splitlines()
    cells = text[3].split(",")
    cells[6] = f"{float(cells[6]) + 0.0001:.4f}"
    path.write_text(
        "\n".join([text[0], ",".join(cells), *text[1:3], *text[4:]])
    )  # and the order of the lines
    assert labels(*grouped(tmp_path / "a", tmp_path / "b"))[0] == "uniform"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": "uniform", "alpha": 0.3}, ()),
        ({"name": "robust", "alpha": 0.0}, ()),
        ({"name": "robust", "alpha": 0.1, "gamma": {"dog": 1}}, (("robust", (("alpha", 0.1),)),)),
        ({"name": "class_bias", "gamma": {"dog": 0.0, "speech": 0}}, ()),
        (
            {"name": "class_bias", "gamma": {"dog": 1.0}},
            (("class_bias", (("gamma", (("dog", 1.0),)),)),),
        ),
        ({"name": "curriculum", "beta": [10.0, 0.5]}, (("curriculum", (("beta", (10.0, 0.5)),)),)),
        ({"name": "cvar", "fraction": 0.25, "alpha": 0.1}, (("cvar", (("fraction", 0.25),)),)),
        ({"name": "product", "factors": ["uniform", "robust"], "alpha": 0}, ()),
        (
            {"name": "new", "granularity": "source", "alpha": 1, "k": [2]},
            (("new", (("alpha", 1), ("k", (2,)))),),
        ),
    ],
)
def test_weightings_in_one_form(fields, expected):
    assert experiments.weighting(fields) == expected


def made_label(*fields, granularity="example"):
    return list(
        experiments.label([(experiments.weighting(one), granularity) for one in fields]).values()
    )


def test_labels_say_what_differs_and_no_more():
    gamma = {"environment": 0.0, "speech": 3.0}
    product = {"name": "product", "factors": ["robust", "class_bias"], "alpha": 0.1, "gamma": gamma}
    assert made_label({"name": "uniform"}, {"name": "robust", "alpha": 0.1}, product) == [
        "uniform",
        "robust α=0.1",
        "class bias γ speech=3, environment=0 × robust α=0.1",
    ]
    curricula = [{"name": "curriculum", "beta": [10.0, slope]} for slope in (0.5, 1.0)]
    assert made_label(curricula[0]) == ["curriculum"]
    assert made_label(*curricula) == ["curriculum β=(10, 0.5)", "curriculum β=(10, 1)"]
    assert made_label(*({"name": "robust", "alpha": alpha} for alpha in (0.1, 0.10001))) == [
        "robust α=0.1",
        "robust α=0.10001",
    ]
    assert made_label({"name": "threshold", "threshold_db": 15.0}) == ["threshold 15 dB"]
    assert made_label(*({"name": "new_one", "k": k, "j": 0} for k in (1, 2))) == [
        "new one k=1",
        "new one k=2",
    ]
    factors = experiments.weighting({"name": "robust", "alpha": 0.1})
    both = experiments.label([(factors, "source"), (factors, "example"), ((), "")])
    assert list(both.values()) == [
        "robust α=0.1, per source",
        "robust α=0.1, per example",
        "uniform",
    ]


def test_conditions_are_ordered_and_ordinary_training_is_one(tmp_path):
    alphas = [0.2, 0.0, 0.0667, 0.1]
    for number, alpha in enumerate(alphas):
        slim_run(
            tmp_path / str(number), f"weighting.alpha={alpha}", config="robust.py", seed=number
        )
    slim_run(tmp_path / "4", UNIFORM, "weighting.granularity=source", config="robust.py", seed=4)
    (found,) = grouped(*(tmp_path / str(number) for number in range(5)))
    assert labels(found) == ["uniform", "robust α=0.0667", "robust α=0.1", "robust α=0.2"]
    assert [run.config["seed"] for run in found.reference.runs] == [1, 4]
    assert found.has_baseline
    assert not grouped(tmp_path / "0", tmp_path / "3")[0].has_baseline


def test_copies_of_a_run_are_counted_once(tmp_path):
    for name in ("x/run", "y/run", "z"):
        slim_run(tmp_path / name, UNIFORM, seed=int(name == "z"))
    (found,) = grouped(tmp_path / "x" / "run", tmp_path / "y" / "run", tmp_path / "z")
    assert [run.name for run in found.reference.runs] == ["x/run", "z"]
    lines = about([found], "none").csvs[0].rows
    assert [line[2] for line in lines] == [
        "uniform",
        "uniform",
        "uniform (scores of x/run: not counted again)",
    ]


def test_folder_names_of_any_bytes(tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"r\xe9sultat")
    slim_run(folder)
    assert report.main([str(folder), "-o", str(tmp_path / os.fsdecode(b"\xe9"))]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{tmp_path}/\\xe9: report.md")
    text = (tmp_path / os.fsdecode(b"\xe9") / "report.md").read_text(encoding="utf-8")
    assert "| r\\xe9sultat |" in text


def test_experiments_of_other_mixtures_have_titles_too(tmp_path):
    slim_run(tmp_path / "a", config="curriculum.py")
    slim_run(tmp_path / "b", config="class_bias.py")
    edit(
        tmp_path / "b" / "config.json",
        lambda config: config["data"].update(slots=["speech:0.5,environment:0.5", "speech"]),
    )
    titles = [experiment.title for experiment in grouped(tmp_path / "a", tmp_path / "b")]
    assert titles == ["Curriculum: two speakers", "Mixtures of speech:0.5,environment:0.5 + speech"]


def test_runs_without_averages_or_validation(tmp_path, capsys):
    folder = tmp_path / "run"
    slim_run(folder)
    edit(folder / "summary.json", lambda summary: summary.pop("test_last_epochs"))
    (folder / "metrics.jsonl").write_text("")
    assert report.main([str(folder), "-o", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "the last epoch alone: run." in text
    assert "No epoch has a validation record" in text
    assert not (tmp_path / "out" / "figures" / "class-bias-ess.png").exists()
    assert "compared with" not in text


def add_audio(folder, *, index=7, rate=4000):
    """One excerpt of the mixture `index`, worst, and one that is best."""
    class_ids = recipe(("speech", "environment"))["class_id"].reshape(-1, 2)
    for name, mixture in {"best-1": index + 1, "worst-1": index}.items():
        target = folder / "evaluation" / "audio" / f"{name}-mixture{mixture}"
        target.mkdir(parents=True)
        kinds = [NAMES[class_id] for class_id in class_ids[mixture]]
        for number, stem in enumerate(
            ("mixture", f"source1-{kinds[0]}", "estimate1", f"source2-{kinds[1]}", "estimate2")
        ):
            soundfile.write(
                target / f"{stem}.wav", np.full(20, 0.1 * number, np.float32), rate, subtype="FLOAT"
            )
    return class_ids


def test_excerpts_come_with_their_scores(tmp_path, capsys, monkeypatch):
    scores = slim_run(tmp_path / "a", UNIFORM)
    slim_run(tmp_path / "b", UNIFORM, seed=1)
    class_ids = add_audio(tmp_path / "a")
    add_audio(tmp_path / "b")
    given = []
    monkeypatch.setattr(
        report.page, "page", lambda title, sections, excerpts: given.append(excerpts) or "page"
    )
    folders = [tmp_path / name for name in "ba"]
    assert report.main([*map(str, folders), "-o", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    (first,) = given
    assert [(excerpt.run, excerpt.place, excerpt.mixture) for excerpt in first] == [
        ("uniform (a)", "worst", 7),
        ("uniform (a)", "best", 8),
    ]
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert (
        "first seed of each weighting; `--audio all` takes every run), on the HTML page: a." in text
    )
    heard = {
        audio: [run.name for _, run in chosen_runs(grouped(*folders), audio)]
        for audio in ("all", "none")
    }
    assert heard == {"all": ["a", "b"], "none": []}
    worst = first[0]
    own = scores.reshape(-1, 2)[7]
    snr = recipe(("speech", "environment"))["input_snr"].reshape(-1, 2)[7]
    assert worst.score == pytest.approx(own.mean())
    assert worst.input_snr == pytest.approx(snr[0], abs=1e-4)
    names = [NAMES[class_id] for class_id in class_ids[7]]
    assert worst.classes == names
    assert [(player.name, player.kind) for player in worst.players] == [
        ("mixture", "mixture"),
        *((name, kind) for name in names for kind in ("source", "estimate")),
    ]
    assert [player.si_sdri for player in worst.players] == pytest.approx(
        [None, None, own[0], None, own[1]]
    )
    assert worst.players[3].samples == pytest.approx(np.full(20, 0.3), abs=1e-6)
    assert {player.sample_rate for player in worst.players} == {4000}


def damage(name, text):
    return lambda run: (run / name).write_text(text)


def change(name, function):
    return lambda run: edit(run / name, function)


def without_sound(run):
    add_audio(run)
    (run / "evaluation" / "audio" / "best-1-mixture8" / "estimate2.wav").unlink()


def bad_cell(column, value):
    def write(run):
        path = run / "evaluation" / "test.csv"
        lines = [line.split(",") for line in path.read_text().splitlines()]
        lines[2][lines[0].index(column)] = value
        path.write_text("\n".join(map(",".join, lines)))

    return write


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "run: no such folder"),
        (lambda run: (run / "config.json").unlink(), "not a run's folder, config.json missing"),
        (lambda run: (run / "summary.json").unlink(), "not a finished run, summary.json missing"),
        (
            lambda run: shutil.rmtree(run / "evaluation"),
            "not a finished run, evaluation/test.csv missing",
        ),
        (
            change("summary.json", lambda s: s.update(num_epochs=3)),
            "summary.json is of 3 epochs and config.json asks for 4",
        ),
        (damage("config.json", '{"seed": 0'), "config.json: is damaged, not JSON"),
        (damage("summary.json", "[]"), "summary.json: jaxsep is missing"),
        (
            lambda run: (run / "summary.json").write_bytes(b"\xff\xfe\x00"),
            "summary.json: cannot be read",
        ),
        (
            change("config.json", lambda c: c["data"].pop("slots")),
            "config.json: data.slots is missing",
        ),
        (
            change("config.json", lambda c: c.update(seed="x")),
            "config.json: seed is 'x', it must be a whole number",
        ),
        (
            change(
                "summary.json",
                lambda s: s["test_last_epochs"]["si_sdri"]["combined"]["quantiles"].update(
                    {"5": None}
                ),
            ),
            "test_last_epochs.si_sdri.combined.quantiles.5 is None, it must be a finite number",
        ),
        (
            change("summary.json", lambda s: s["test"]["si_sdri"]["combined"].update(mean=0.0)),
            "test.si_sdri.combined.mean is 0.0000 dB, that of evaluation/test.csv is",
        ),
        (
            damage("metrics.jsonl", '{"kind": "val", "st'),
            "metrics.jsonl line 1: is damaged, not JSON",
        ),
        (
            damage("metrics.jsonl", '{"kind": "val", "step": 1, "epoch": 0}'),
            "metrics.jsonl line 1: combined is missing",
        ),
        (
            damage("metrics.jsonl", '{"kind": "train", "step": 1, "epoch": 0, "ess": NaN}'),
            "line 1: ess is nan",
        ),
        (
            damage("evaluation/test.csv", "mixture,slot\n0,0\n"),
            "test.csv: the column class is missing",
        ),
        (
            lambda run: damage("evaluation/test.csv", header(run))(run),
            "test.csv: holds no scored source",
        ),
        (
            bad_cell("si_sdri_db", "nan"),
            "test.csv line 3: si_sdri_db is 'nan', it must be a finite number",
        ),
        (bad_cell("slot", "one"), "test.csv line 3: slot is 'one', it must be a whole number"),
        (without_sound, "estimate2.wav: cannot be read as sound (no such file)"),
    ],
)
def test_runs_that_cannot_be_used(tmp_path, capsys, spoil, message):
    slim_run(tmp_path / "good", UNIFORM, seed=1)
    slim_run(tmp_path / "run")
    spoil(tmp_path / "run")
    assert_refused(capsys, [tmp_path / "good", tmp_path / "run"], tmp_path / "out", message)
    assert not (tmp_path / "out").exists()


def header(run):
    return (run / "evaluation" / "test.csv").read_text().splitlines()[0] + "\n"


def assert_refused(capsys, runs, out, message):
    """The command ends with status 2 and one line."""
    assert report.main([*map(str, runs), "-o", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said


def test_sound_of_another_run_is_refused(tmp_path, capsys):
    slim_run(tmp_path / "run")
    add_audio(tmp_path / "run")
    folder = tmp_path / "run" / "evaluation" / "audio"
    (folder / "best-1-mixture8").rename(folder / "best-1-mixture800")
    assert_refused(
        capsys, [tmp_path / "run"], tmp_path / "out", "mixture 800 is not in evaluation/test.csv"
    )
    shutil.rmtree(folder)
    (folder / "notes").mkdir(parents=True)
    assert read_excerpts("uniform", *read_runs([tmp_path / "run"])) == []


def test_a_run_given_twice_is_refused(tmp_path, capsys):
    slim_run(tmp_path / "run")
    assert_refused(
        capsys, [tmp_path / "run", tmp_path / "run" / ".." / "run"], tmp_path / "out", "given twice"
    )


def test_output_folders_with_something_else_are_left_alone(tmp_path, capsys):
    slim_run(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    assert_refused(
        capsys, [tmp_path / "run"], tmp_path / "run", "run: holds config.json and no earlier report"
    )
    assert_refused(
        capsys, [tmp_path / "run"], tmp_path / "run" / "config.json", "config.json is no folder"
    )
    assert_refused(
        capsys,
        [tmp_path / "run"],
        tmp_path / "run" / "config.json" / "out",
        "config.json is no folder",
    )
    assert sorted(tmp_path.rglob("*")) == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "report.md").write_text("# My own report\n")
    assert_refused(
        capsys, [tmp_path / "run"], other, "other: holds report.md and no earlier report"
    )


def test_a_disk_that_is_full_leaves_the_earlier_report(tmp_path, monkeypatch):
    files = {"figures/a.png": b"1", "tables/a.csv": b"2", "report.md": b"3"}
    report.write(tmp_path, files)
    monkeypatch.setattr(
        report.Path,
        "write_bytes",
        lambda path, content: (_ for _ in ()).throw(OSError(28, "No space")),
    )
    with pytest.raises(ReportError, match=r"cannot be written \(No space\)"):
        report.write(tmp_path, {**files, "report.md": b"4"})
    assert {
        str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*.*")
    } == files


def test_without_matplotlib_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    slim_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert_refused(
        capsys,
        [tmp_path / "run"],
        tmp_path / "out",
        "matplotlib is missing, and draws the figures: pip install",
    )


def test_mistakes_in_a_real_process(tmp_path):
    command = [
        sys.executable,
        "-m",
        "jaxsep.report",
        str(tmp_path / "none"),
        "-o",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, **SMOKE},
        cwd=tmp_path,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path / 'none'}: no such folder; it must be a run's\n"


def test_a_condition_looks_the_same_everywhere():
    names = [f"robust α={k}" for k in range(9)]
    style = figures.styles(["robust α=0", "uniform", *names])
    assert style["uniform"].colour == "#000000"
    assert len(set(style.values())) == 10
    assert style["robust α=0"] == figures.styles(names)["robust α=0"]


def test_labels_with_dollars_are_drawn_as_they_are():
    curve = figures.Line(
        "class bias γ $x=1, a_$=2", np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.array([0.1, 0.1])
    )
    drawing = figures.lines(
        "n", "a $ b", "", [curve], figures.styles([curve.label]), xlabel="x", ylabel="y"
    )
    assert "class bias γ $x=1, a_$=2" in drawing.figure.svg
    assert drawing.png.startswith(b"\x89PNG")


def test_markdown_escapes_what_is_no_text():
    table = Table("a|b", ["", "x|y"], [["<b>", "*"]], "")
    assert table_text(table).splitlines() == [
        "|        | x\\|y |",
        "| ------ | ---: |",
        "| &lt;b> |   \\* |",
    ]
    text = markdown(
        "t", [Section("s", ["5 < 6"], [table], [Figure("f", "name", "<svg/>", "below")])]
    )
    assert "5 &lt; 6" in text
    assert "![f](figures/name.png)\n\nbelow\n" in text
