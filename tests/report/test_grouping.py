"""Which runs are compared, under which names and in which order."""

import csv

import pytest
from slim import edit, slim_run

from jaxsep.report.grouping import group, make_labels, weighting
from jaxsep.report.runs import read_runs
from jaxsep.report.tables import runs as table_of_runs

UNIFORM = "weighting.name=uniform"


def grouped(root, names):
    return group(read_runs([root / name for name in names]))


def labels(experiment):
    return experiment.labels


@pytest.mark.parametrize(
    ("override", "together"),
    [
        *((same, True) for same in ("train.workers=3", "model.remat=True")),
        ("evaluation.last_epochs=1", True),
        ("train.learning_rate=0.01", False),
        ("loss.zero_mean=False", False),
        ("data.max_snr_db=7.0", False),
    ],
)
def test_what_separates_runs(tmp_path, override, together):
    slim_run(tmp_path / "a", UNIFORM)
    slim_run(tmp_path / "b", override)
    experiments = grouped(tmp_path, "ab")
    assert len(experiments) == (1 if together else 2)
    if not together:
        name, value = override.split("=")
        value = f"{float(value):g}" if value[0].isdigit() else value
        assert f"({name}={value})" in experiments[1].title
        assert [experiment.slug for experiment in experiments] == ["class-bias", "class-bias-2"]


def edit_cell(path, line, column, function):
    with open(path, newline="") as file:
        lines = list(csv.reader(file))
    lines[line][column] = function(lines[line][column])
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(lines)


def test_other_test_mixtures_and_recordings_separate(tmp_path):
    slim_run(tmp_path / "a", UNIFORM)
    slim_run(tmp_path / "b", eval_seed=2)
    slim_run(tmp_path / "c", seed=1)
    edit_cell(tmp_path / "c" / "evaluation" / "test.csv", 5, 6, lambda snr: float(snr) + 0.1)
    experiments = grouped(tmp_path, "abc")
    assert [len(experiment.runs) for experiment in experiments] == [1, 1, 1]
    assert len({experiment.title for experiment in experiments}) == 3
    slim_run(tmp_path / "d", UNIFORM, seed=1)
    edit(tmp_path / "d" / "summary.json", lambda s: s["data"].update(fingerprints=["c" * 64]))
    assert len(grouped(tmp_path, "ad")) == 2


def test_rendering_elsewhere_may_change_the_last_digit_and_the_order_of_lines(tmp_path):
    slim_run(tmp_path / "a", UNIFORM)
    slim_run(tmp_path / "b", seed=1)
    path = tmp_path / "b" / "evaluation" / "test.csv"
    edit_cell(path, 3, 6, lambda snr: f"{float(snr) + 0.0001:.4f}")
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header, lines[2], *lines[:2], *lines[3:]]))
    assert len(grouped(tmp_path, "ab")) == 1


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
        ({"name": "product", "factors": ["uniform", "robust"], "alpha": 0}, ()),
        (
            {"name": "new", "granularity": "source", "alpha": 1, "k": [2]},
            (("new", (("alpha", 1), ("k", (2,)))),),
        ),
    ],
)
def test_weightings_in_one_form(fields, expected):
    assert weighting(fields) == expected


GAMMA = {"environment": 0.0, "speech": 3.0}
PRODUCT = {"name": "product", "factors": ["robust", "class_bias"], "alpha": 0.1, "gamma": GAMMA}


@pytest.mark.parametrize(
    ("weightings", "expected"),
    [
        (
            [{"name": "uniform"}, {"name": "robust", "alpha": 0.1}, PRODUCT],
            ["uniform", "robust α=0.1", "class bias γ speech=3, environment=0 × robust α=0.1"],
        ),
        ([{"name": "curriculum", "beta": [10.0, 0.5]}], ["curriculum"]),
        (
            [{"name": "curriculum", "beta": [10.0, slope]} for slope in (0.5, 1.0)],
            ["curriculum β=(10, 0.5)", "curriculum β=(10, 1)"],
        ),
        (
            [{"name": "robust", "alpha": alpha} for alpha in (0.1, 0.10001)],
            ["robust α=0.1", "robust α=0.10001"],
        ),
        ([{"name": "threshold", "threshold_db": 15.0}], ["threshold 15 dB"]),
        ([{"name": "new_one", "k": k, "j": 0} for k in (1, 2)], ["new one k=1", "new one k=2"]),
    ],
)
def test_labels_say_what_differs_and_no_more(weightings, expected):
    labels = make_labels([(weighting(fields), "example") for fields in weightings])
    assert list(labels.values()) == expected


def test_labels_show_the_granularity_where_both_occur():
    factors = weighting({"name": "robust", "alpha": 0.1})
    labels = make_labels([(factors, "source"), (factors, "example"), ((), "")])
    expected = ["robust α=0.1, per source", "robust α=0.1, per example", "uniform"]
    assert list(labels.values()) == expected


def test_conditions_are_ordered_and_ordinary_training_is_one(tmp_path):
    for seed, alpha in enumerate([0.2, 0.0, 0.0667, 0.1]):
        slim_run(tmp_path / str(seed), f"weighting.alpha={alpha}", config="robust.py", seed=seed)
    slim_run(tmp_path / "4", UNIFORM, "weighting.granularity=source", config="robust.py", seed=4)
    (experiment,) = grouped(tmp_path, "01234")
    assert labels(experiment) == ["uniform", "robust α=0.0667", "robust α=0.1", "robust α=0.2"]
    assert [run.config.seed for run in experiment.conditions[0].runs] == [1, 4]


def test_copies_of_a_run_are_counted_once(tmp_path):
    names = ["x/run", "y/run", "z"]
    for name in names:
        slim_run(tmp_path / name, UNIFORM, seed=int(name == "z"))
    (experiment,) = grouped(tmp_path, names)
    assert [run.name for run in experiment.conditions[0].runs] == ["x/run", "z"]
    copy = "uniform (scores of x/run: not counted again)"
    assert list(table_of_runs([experiment]).cells["weighting"]) == ["uniform", "uniform", copy]


def test_experiments_of_other_mixtures_have_names_of_their_own(tmp_path):
    slim_run(tmp_path / "a", config="curriculum.py")
    for name, slots in {"b": ["speech:0.5,environment:0.5", "speech"], "c": ["speech"] * 3}.items():
        slim_run(tmp_path / name, config="class_bias.py")
        edit(tmp_path / name / "config.json", lambda c, slots=slots: c["data"].update(slots=slots))
    experiments = grouped(tmp_path, "abc")
    assert [experiment.title for experiment in experiments] == [
        "Curriculum: two speakers",
        "Mixtures of speech:0.5,environment:0.5 + speech",
        "Mixtures of speech + speech + speech",
    ]
    slugs = [experiment.slug for experiment in experiments]
    assert slugs == ["curriculum", "mixtures", "mixtures-2"]
