"""The report on finished runs through its command: numbers, files, excerpts."""

import json
import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from slim import CORPORA, GROUPS, MIXTURES, NAMES, add_audio, edit, recipe, slim_run

from jaxsep.evaluation.statistics import QUANTILES
from jaxsep.report import __main__ as report
from jaxsep.report import figures, tables
from jaxsep.report.build import build
from jaxsep.report.excerpts import chosen_runs
from jaxsep.report.grouping import group
from jaxsep.report.runs import read_runs

UNIFORM = "weighting.name=uniform"
BIASED = "class bias γ speech=3, environment=0"
MIXED = recipe(("speech", "environment"))  # what the runs of class_bias.py are scored on


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report on eight runs of two experiments, and the scores of the runs."""
    root, scores = tmp_path_factory.mktemp("report"), {}
    for seed in (0, 1):
        folder = root / f"uniform-{seed}"
        scores["uniform", seed] = slim_run(folder, UNIFORM, seed=seed, val=[1, 2, 3, 3 + seed])
        folder, val = root / f"biased-{seed}", [1 + 2 * seed, 3, 4, 5]
        scores["biased", seed] = slim_run(folder, seed=seed, shift=0.75, val=val)
    for number, (seed, alpha, shift) in enumerate(
        [(0, 0.0, 0.0), (0, 0.1, -1.0), (0, 0.2, 0.0), (1, 0.2, 0.0)]
    ):
        options = {"config": "robust.py", "seed": seed, "shift": shift, "kind": "synthetic"}
        folder = root / f"robust-{number}"
        scores[alpha, seed] = slim_run(folder, f"weighting.alpha={alpha}", **options)
    folders = [root / f"{name}-{seed}" for name in ("uniform", "biased") for seed in (0, 1)]
    folders += [root / f"robust-{number}" for number in range(4)]
    assert report.main([*map(str, folders), "-o", str(root / "out")]) == 0
    text = (root / "out" / "report.md").read_text(encoding="utf-8")
    csvs = {
        path.stem: pd.read_csv(path, keep_default_na=False)
        for path in (root / "out" / "tables").iterdir()
    }
    return SimpleNamespace(
        root=root,
        out=root / "out",
        scores=scores,
        text=text,
        squeezed=re.sub(" +", " ", text),
        csvs=csvs,
    )


def pick(table, **values):
    """The one row, or the rows, with these values."""
    for name, value in values.items():
        table = table[table[name] == value]
    return table.iloc[0] if len(table) == 1 else table


def test_the_files(made):
    names = {"figures", "report.html", "report.md", "tables"}
    assert {path.name for path in made.out.iterdir()} == names
    stems = {
        f"{slug}-{name}"
        for slug in ("class-bias", "robustness")
        for name in ("histogram", "validation", "input-snr", "ess")
    }
    for kind in ("png", "svg"):
        assert {path.stem for path in (made.out / "figures").glob(f"*.{kind}")} == stems
    assert all(f"(figures/{name}.png)" in made.text for name in stems)
    assert (made.out / "figures" / "robustness-ess.png").read_bytes().startswith(b"\x89PNG")
    assert (made.out / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_numbers_of_the_paper_s_first_table(made):
    line = pick(made.csvs["class-bias-distribution"], condition="uniform")
    runs = [made.scores["uniform", seed] for seed in (0, 1)]
    means = [scores.mean() for scores in runs]  # the evaluations are half a dB below and above
    assert line["mean_db"] == pytest.approx(np.mean(means))
    assert line["mean_std_db"] == pytest.approx(np.std(means))
    assert line["std_db"] == pytest.approx(np.mean([scores.std() for scores in runs]))
    for q in QUANTILES:
        expected = np.mean([np.percentile(scores, q) for scores in runs])
        assert line[f"q{q:02d}_db"] == pytest.approx(expected)
    assert (line["runs"], line["epochs"]) == (2, 2)
    alone = pick(made.csvs["robustness-distribution"], condition="uniform")
    assert alone["mean_std_db"] == ""
    assert f"| uniform | {np.mean(means):.2f} ± {np.std(means):.2f} |" in made.squeezed


def test_numbers_of_the_paper_s_second_table(made):
    line = pick(made.csvs["class-bias-corpora"], condition="uniform")
    corpus = np.array(CORPORA)[MIXED["class_id"]]
    for name in ("speech", "environment"):
        own = [made.scores["uniform", seed][corpus == name].mean() for seed in (0, 1)]
        means = [mean + change for mean in own for change in (-0.5, 0.5)]
        assert line[f"{name}_db"] == pytest.approx(np.mean(means))
        assert line[f"{name}_std_db"] == pytest.approx(np.std(means))
    assert (line["runs"], line["evaluations"]) == (2, 4)
    assert "| speech | environment | combined | runs | evaluations |" in made.squeezed
    assert "robustness-corpora" not in made.csvs, "one corpus"


def test_differences_on_the_same_mixtures(made):
    table = made.csvs["robustness-differences"]
    shifted = pick(table, condition="robust α=0.1", name="5 %")  # the scores less 1 dB
    assert list(shifted[["difference_db", "low_db", "high_db"]]) == pytest.approx([-1, -1, -1])
    assert (shifted["reference"], shifted["verdict"]) == ("uniform", "lower")
    assert pick(table, condition="robust α=0.1", name="std")["verdict"] == "–"
    assert shifted["reference_db"] == pytest.approx(np.percentile(made.scores[0.0, 0], 5))
    seeds = pick(table, condition="robust α=0.2", name="mean")
    means = [made.scores[0.2, seed].mean() - made.scores[0.0, 0].mean() for seed in (0, 1)]
    assert seeds["difference_db"] == pytest.approx(np.mean(means))
    assert seeds["low_db"] < seeds["difference_db"] < seeds["high_db"]
    assert "| -1.00 [-1.00, -1.00] lower |" in made.squeezed


def test_differences_seed_by_seed(made):
    """Student's t of the paired differences of the last epochs' means."""
    folders = [made.root / f"{name}-{seed}" for name in ("uniform", "biased") for seed in (0, 1)]
    (experiment,) = group(read_runs(folders))
    own, others = (condition.runs for condition in experiment.conditions)
    for run, other, change in zip(own, others, (0.2, 0.4), strict=True):
        raised = run.metrics["test"].copy()
        raised[["speech", "combined"]] += change
        other.metrics["test"] = raised
    (table,) = tables.by_seed(experiment)
    half = 12.7062 * np.std([0.2, 0.4], ddof=1) / np.sqrt(2)  # Student's t, 97.5 %, 1 degree
    for corpus, mean, width in (("speech", 0.3, half), ("environment", 0, 0)):
        line = pick(table.numbers, corpus=corpus)
        bounds = [line["difference_db"], line["low_db"], line["high_db"]]
        assert bounds == pytest.approx([mean, mean - width, mean + width], abs=1e-5)
    assert table.cells["speech"][0] == f"+0.30 [{0.3 - half:.2f}, {0.3 + half:.2f}]"


def test_differences_by_class_group_and_combination(made):
    table = made.csvs["class-bias-differences"]
    ids = MIXED["class_id"]
    for kind, of_class in {"corpus": CORPORA, "group": GROUPS, "class": NAMES}.items():
        belongs = np.array(of_class)[ids]
        names = set(of_class) - (set(CORPORA) if kind == "group" else set())
        sources = pick(table, kind=kind).set_index("name")["sources"].to_dict()
        assert sources == {name: np.sum(belongs == name) for name in names}
    dog = pick(table, kind="class", name="dog")
    chosen = ids == NAMES.index("dog")
    means = [made.scores["uniform", seed][chosen].mean() for seed in (0, 1)]
    assert dog["difference_db"] == pytest.approx(0.75)
    assert dog["reference_db"] == pytest.approx(np.mean(means))
    mixed = pick(table, kind="combination")
    pairs = ids.reshape(-1, 2) == [NAMES.index("anna"), NAMES.index("rain")]
    both = np.repeat(pairs.all(axis=1), 2)
    line = pick(mixed, name="anna + rain")
    means = [made.scores["biased", seed][both].mean() for seed in (0, 1)]
    assert (len(mixed), line["sources"]) == (6, both.sum())
    assert line["condition_db"] == pytest.approx(np.mean(means))
    assert line["difference_db"] == pytest.approx(0.75)


def test_epochs_to_the_baseline(made):
    table = made.csvs["class-bias-epochs"]
    own = pick(table, run="mean over runs", condition="uniform")
    assert own["target_mean_db"] == 3.5  # after the last epoch: 3 and 4
    assert pick(table, run="mean over runs", condition=BIASED)["first_epoch"] == "3"  # 2, 3, 4, 5
    assert [pick(table, run=f"uniform-{n}")["first_epoch"] for n in (0, 1)] == ["", "4"]
    assert "| –, 4 |" in made.squeezed
    curve = pick(made.csvs["class-bias-validation"], condition=BIASED)
    assert list(curve["mean_db"]) == [2, 3, 4, 5]
    assert list(curve["std_over_runs_db"].astype(float)) == [1, 0, 0, 0]


def test_scores_by_input_snr(made):
    pooled = np.stack([made.scores["uniform", seed] for seed in (0, 1)])
    lines = pick(made.csvs["class-bias-input-snr"], condition="uniform")
    assert lines["sources"].sum() == 2 * MIXTURES
    for _, line in lines.iterrows():
        snr = MIXED["input_snr"]
        inside = (snr >= line["input_snr_from_db"]) & (snr < line["input_snr_to_db"])
        assert line["median_si_sdri_db"] == pytest.approx(np.median(pooled[:, inside]))


def test_what_the_weights_did(made):
    line = pick(made.csvs["class-bias-weights"], condition=BIASED)
    assert list(line[["weights", "ess", "ess_share"]]) == [32, 16.0, 0.5]
    assert line["weight_entropy"] == line["weight_speech"] == ""
    assert "–: not recorded" in made.text
    table = made.csvs["class-bias-ess-by-batch"]
    assert len(table) == 3 * 8
    assert ((table["ess"] >= 1) & (table["ess"] <= table["batch_size"])).all()


def test_synthetic_sound_is_said_with_every_table_and_figure(made):
    sections = made.text.split("\n## ")[1:]
    robustness = [section for section in sections if section.startswith("Robustness")]
    others = [section for section in sections if section.startswith("Class bias")]
    assert (len(robustness), len(others)) == (5, 5)
    for section in robustness:
        shown = section.count("\n### ") + section.count("\n![")
        assert shown
        assert section.split("\n", 1)[0].endswith("[synthetic sound]")
        assert section.count("Synthetic sound.\n") == shown
        assert section.count("[synthetic sound]") == shown + 1
    assert not any("ynthetic" in section for section in others)
    svg = (made.out / "figures" / "robustness-ess.svg").read_text(encoding="utf-8")
    assert "synthetic" in svg


def test_about_says_what_was_run_and_how_much(made):
    table = made.csvs["runs"]
    line = pick(table, run="robust-3")
    assert len(table) == 8
    assert list(line[["weighting", "seed", "epochs", "steps"]]) == ["robust α=0.2", 1, 4, 240]
    assert list(line[["training_min", "parameters"]]) == [1.5, 1234]
    assert "Here: 4 epochs of 960 mixtures of 1 s in batches of 16" in made.text
    assert "8 finished runs of jaxsep 0.1.0." in made.text


def test_a_report_can_be_made_again_over_an_old_one(made, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(made.out, out)
    (out / ".report.tmp-1-a").mkdir()  # of a report that was killed
    (out / "notes.txt").write_text("mine")
    again = [str(made.root / name) for name in ("uniform-1", "uniform-0")]
    assert report.main([*again, "-o", str(out), "--audio", "none"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Class bias: one speaker, one environmental sound: uniform (2)\n")
    assert "4 figures, 9 tables as CSV, 0 excerpts" in said
    assert {path.name.split("-")[0] for path in (out / "figures").iterdir()} == {"class"}
    assert "`--audio none`" in (out / "report.md").read_text(encoding="utf-8")


def test_folder_names_of_any_bytes_and_runs_without_metrics(tmp_path, capsys):
    folder, out = (tmp_path / os.fsdecode(name) for name in (b"r\xe9sultat", b"\xe9"))
    slim_run(folder)
    edit(folder / "summary.json", lambda summary: summary.pop("test_last_epochs"))
    (folder / "metrics.jsonl").write_text("")
    assert report.main([str(folder), "-o", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{tmp_path}/\\xe9: report.md")
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "| r\\xe9sultat |" in text
    assert "over the epochs" not in text
    assert not (out / "figures" / "class-bias-ess.png").exists()
    assert "compared with" not in text


def test_excerpts_come_with_their_scores(tmp_path):
    scores = slim_run(tmp_path / "a", UNIFORM)
    slim_run(tmp_path / "b", UNIFORM, seed=1)
    classes = add_audio(tmp_path / "a")
    add_audio(tmp_path / "b")
    experiments = group(read_runs([tmp_path / name for name in "ba"]))
    sections, excerpts = build(experiments, "first")
    heard = {a: [run.name for _, run in chosen_runs(experiments, a)] for a in ("all", "none")}
    assert heard == {"all": ["a", "b"], "none": []}
    assert sections[-1].text[-1].endswith("(`--audio first`): a.")
    places = [(excerpt.run, excerpt.place, excerpt.number) for excerpt in excerpts]
    assert places == [("uniform (a)", "worst", 7), ("uniform (a)", "best", 8)]
    worst, own = excerpts[0], scores.reshape(-1, 2)[7]
    assert worst.score == pytest.approx(own.mean())
    assert worst.input_snr == pytest.approx(MIXED["input_snr"].reshape(-1, 2)[7, 0], abs=1e-4)
    assert worst.classes == [source.name for source in worst.sources] == classes[7]
    assert [source.si_sdri for source in worst.sources] == pytest.approx(list(own))
    second = worst.sources[1].source
    assert (second.samples.tolist(), second.sample_rate) == (pytest.approx([0.3] * 20), 4000)


def test_a_condition_looks_the_same_everywhere():
    names = [f"robust α={k}" for k in range(9)]
    style = figures.styles(["robust α=0", "uniform", *names])
    assert style["uniform"]["color"] == "#000000"
    assert len({json.dumps(look) for look in style.values()}) == 10
    assert style["robust α=0"] == figures.styles(names)["robust α=0"]


def test_labels_with_dollars_are_drawn_as_they_are():
    label = "class bias γ $x=1, a_$=2"

    def fill(panels):
        panels[0].plot([1, 2], label=figures.plain(label))

    figure = figures.Figure("a $ b", "", "n", fill)
    svg, png = figures.draw(figure)
    assert label in svg
    assert figures.draw(figure) == (svg, png), "equal numbers give equal files"
