"""The tables that compare the conditions of an experiment on the same test mixtures; the statistics are in `compare`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxsep.report.bootstrap import (
    LEAST_MIXTURES,
    STATISTICS,
    Design,
    Difference,
    Resampled,
    difference,
    resample,
)
from jaxsep.report.curves import last_test_means
from jaxsep.report.grouping import Condition, Experiment
from jaxsep.report.sections import Table
from jaxsep.report.tables import Csv, note, number, scores

_ENDS = 10  # combinations of classes shown at either end
# 97.5 % quantiles of Student's t with 1 to 20 degrees of freedom; more are given the last.
_T975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


@dataclass(frozen=True)
class Comparison:
    """Every condition but the reference against it.

    sets: (kind, name) of each set of sources whose mean is compared: corpora, groups, classes. sources: how many each has.
    resampled: of all conditions; differences: of all but the first from it.
    """

    experiment: Experiment
    sets: list[tuple[str, str]]
    sources: list[int]
    resampled: list[Resampled]
    differences: list[Difference]

    @property
    def others(self) -> tuple[Condition, ...]:
        return self.experiment.conditions[1:]


def compare(experiment: Experiment) -> Comparison:
    """The comparison of an experiment with at least two conditions."""
    rows = experiment.runs[0].rows
    sets = [("corpus", name) for name in experiment.corpora]
    groups = [str(name) for name in np.unique(rows["group"]) if name not in experiment.corpora]
    sets += [("group", name) for name in groups]
    sets += [("class", str(name)) for name in np.unique(rows["class"])]
    members = np.stack([rows[kind] == name for kind, name in sets], axis=1)
    design = Design(np.unique(rows["mixture"], return_inverse=True)[1], members)
    resampled = resample([scores(condition) for condition in experiment.conditions], design)
    differences = [difference(other, resampled[0], design) for other in resampled[1:]]
    return Comparison(
        experiment, sets, [int(count) for count in members.sum(axis=0)], resampled, differences
    )


def findings(comparison: Comparison) -> list[str]:
    """A sentence for every condition: which statistics are higher, which lower, which unclear."""
    sentences = []
    for condition, found in zip(comparison.others, comparison.differences, strict=True):
        verdicts = [found.verdict(k) for k in range(len(STATISTICS))]
        parts = []
        for verdict, word in (("higher", "higher"), ("lower", "lower"), ("–", "unclear")):
            names = [
                name for name, other in zip(STATISTICS, verdicts, strict=True) if other == verdict
            ]
            if names:
                parts.append(f"{word}: {', '.join(names)}")
        sentences.append(
            f"{condition.label} against {comparison.experiment.reference.label}: {'; '.join(parts)}."
        )
    return sentences


def _interval(found: Difference, k: int) -> str:
    return "–" if np.isnan(found.low[k]) else f"[{number(found.low[k])}, {number(found.high[k])}]"


def _basis(comparison: Comparison) -> str:
    experiment = comparison.experiment
    single = [condition.label for condition in experiment.conditions if len(condition.runs) == 1]
    return " ".join(
        [
            "Best epoch of each run, mean over runs; 95 % bootstrap intervals over test mixtures and runs.",
            f"One run only, so that the intervals leave out what another seed would change: {'; '.join(single)}."
            * bool(single),
            ""
            if experiment.has_baseline
            else "There is no ordinary training among these runs: the first condition is the reference.",
        ]
    ).strip()


def statistics(comparison: Comparison) -> tuple[list[Table], Csv]:
    """A table per condition: mean, standard deviation and quantiles, with interval and verdict."""
    experiment, reference = comparison.experiment, comparison.experiment.reference.label
    tables, raw = [], []
    against = comparison.resampled[0].observed
    for condition, own, found in zip(
        comparison.others, comparison.resampled[1:], comparison.differences, strict=True
    ):
        rows = []
        for k, name in enumerate(STATISTICS):
            shown = [number(against[k]), number(own.observed[k]), number(found.value[k], "+.2f")]
            rows.append([name, *shown, _interval(found, k), found.verdict(k)])
            numbers = (against[k], own.observed[k], found.value[k], found.low[k], found.high[k])
            raw.append([condition.label, reference, name, *map(float, numbers), found.verdict(k)])
        tables.append(
            Table(
                f"{condition.label} against {reference}{experiment.flag}",
                [
                    "test SI-SDRi (dB)",
                    reference,
                    condition.label,
                    "difference",
                    "95 % interval",
                    "verdict",
                ],
                rows,
                note(experiment, _basis(comparison), "–: the interval contains 0."),
            )
        )
    header = [
        "condition",
        "reference",
        "statistic",
        "reference_db",
        "condition_db",
        "difference_db",
        "low_db",
        "high_db",
    ]
    return tables, Csv(f"{experiment.slug}-differences", [*header, "verdict"], raw)


def classes(comparison: Comparison) -> tuple[Table, Csv]:
    """Differences of the mean by corpus, group and class."""
    experiment, reference = comparison.experiment, comparison.experiment.reference.label
    against = comparison.resampled[0].observed
    rows, raw = [], []
    for place, ((kind, name), count) in enumerate(
        zip(comparison.sets, comparison.sources, strict=True)
    ):
        k = len(STATISTICS) + place
        cells = []
        for condition, own, found in zip(
            comparison.others, comparison.resampled[1:], comparison.differences, strict=True
        ):
            verdict = found.verdict(k)
            cells.append(
                " ".join(
                    [
                        number(found.value[k], "+.2f"),
                        _interval(found, k),
                        verdict * (verdict != "–"),
                    ]
                ).strip()
            )
            bounds = [
                None if np.isnan(bound) else float(bound) for bound in (found.low[k], found.high[k])
            ]
            numbers = [float(against[k]), float(own.observed[k]), float(found.value[k]), *bounds]
            raw.append([condition.label, reference, kind, name, count, *numbers, verdict])
        rows.append(
            [
                name if kind == "class" else f"{name} ({kind})",
                str(count),
                number(against[k]),
                *cells,
            ]
        )
    header = [
        "condition",
        "reference",
        "kind",
        "name",
        "sources",
        "reference_mean_db",
        "condition_mean_db",
    ]
    return (
        Table(
            f"Differences of mean test SI-SDRi by kind of sound (dB){experiment.flag}",
            [
                "",
                "sources",
                f"{reference}: mean",
                *(f"{condition.label}: difference" for condition in comparison.others),
            ],
            rows,
            note(
                experiment,
                _basis(comparison),
                f"No interval for what is in fewer than {LEAST_MIXTURES} mixtures.",
            ),
        ),
        Csv(
            f"{experiment.slug}-classes",
            [*header, "difference_db", "low_db", "high_db", "verdict"],
            raw,
        ),
    )


def combinations(experiment: Experiment) -> tuple[list[Table], Csv]:
    """Differences of the mean by the classes that are mixed: the most improved and the worst of each condition."""
    rows = experiment.runs[0].rows
    mixtures, place = np.unique(rows["mixture"], return_inverse=True)
    names = [" + ".join(sorted(map(str, rows["class"][place == m]))) for m in range(mixtures.size)]
    pairs, pair_of_mixture = np.unique(names, return_inverse=True)
    pair = pair_of_mixture[place]  # of each source
    numbers = np.bincount(pair_of_mixture, minlength=pairs.size)
    sources = np.bincount(pair, minlength=pairs.size)
    means = [
        np.bincount(pair, scores(condition).mean(axis=0)) / sources
        for condition in experiment.conditions
    ]
    reference = experiment.reference.label
    tables, raw = [], []
    for condition, mean in zip(experiment.conditions[1:], means[1:], strict=True):
        change = mean - means[0]
        order = np.argsort(-change, kind="stable")
        counts = [[str(pairs[p]), int(numbers[p]), int(sources[p])] for p in order]
        values = [[float(means[0][p]), float(mean[p]), float(change[p])] for p in order]
        raw += [
            [condition.label, reference, *count, *value]
            for count, value in zip(counts, values, strict=True)
        ]
        often = [p for p in order if numbers[p] >= LEAST_MIXTURES]
        if often:
            shown = _ends(often)
            cells = [
                [
                    str(pairs[p]),
                    str(numbers[p]),
                    str(sources[p]),
                    number(means[0][p]),
                    number(mean[p]),
                    number(change[p], "+.2f"),
                ]
                for p in shown
            ]
            title = f"{condition.label} against {reference} by the classes mixed{experiment.flag}"
            header = [
                "mean test SI-SDRi (dB)",
                "mixtures",
                "sources",
                reference,
                condition.label,
                "difference",
            ]
            tables.append(
                Table(title, header, cells, note(experiment, _shown(len(shown), len(often))))
            )
    header = [
        "condition",
        "reference",
        "classes",
        "mixtures",
        "sources",
        "reference_mean_db",
        "condition_mean_db",
    ]
    return tables, Csv(f"{experiment.slug}-combinations", [*header, "difference_db"], raw)


def _ends(order: Sequence[int]) -> list[int]:
    return list(order) if len(order) <= 2 * _ENDS else [*order[:_ENDS], *order[-_ENDS:]]


def _shown(shown: int, total: int) -> str:
    which = f"The {_ENDS} most improved and the {_ENDS} worst of the" if shown < total else "The"
    return f"{which} {total} combinations of classes in at least {LEAST_MIXTURES} mixtures, the most improved first."


def by_seed(experiment: Experiment) -> tuple[Table, Csv] | None:
    """Differences of the means after the last epochs, runs of one seed paired, with Student's t over the seeds; None where no
    condition shares two seeds with the reference. What the choice of a best epoch adds to the noise is not in it."""
    names = [*experiment.corpora, "combined"] if len(experiment.corpora) > 1 else ["combined"]
    reference = {run.config["seed"]: run for run in experiment.reference.runs}
    rows, raw = [], []
    for condition in experiment.conditions[1:]:
        pairs = [
            (run, reference[run.config["seed"]])
            for run in condition.runs
            if run.config["seed"] in reference
        ]
        if len(pairs) < 2:
            continue
        found = np.array(
            [[last_test_means([run], names).mean(axis=0) for run in pair] for pair in pairs]
        )
        differences = found[:, 0] - found[:, 1]
        means = differences.mean(axis=0)
        half = (
            _T975[min(len(pairs) - 1, len(_T975)) - 1]
            * differences.std(axis=0, ddof=1)
            / np.sqrt(len(pairs))
        )
        cells = []
        for name, mean, width in zip(names, means, half, strict=True):
            verdict = "higher" if mean > width else "lower" if mean < -width else ""
            cells.append(
                f"{number(mean, '+.2f')} [{number(mean - width)}, {number(mean + width)}] {verdict}".strip()
            )
            raw.append(
                [
                    condition.label,
                    name,
                    len(pairs),
                    float(mean),
                    float(mean - width),
                    float(mean + width),
                ]
            )
        rows.append([condition.label, *cells, str(len(pairs))])
    if not rows:
        return None
    label = experiment.reference.label
    return (
        Table(
            f"Mean after the last epochs against {label}, seed by seed (dB){experiment.flag}",
            ["mean test SI-SDRi", *(f"{name}: difference" for name in names), "seeds"],
            rows,
            note(
                experiment,
                "Means over the test evaluations after the last epochs of a run, differences of runs with the same seed, and "
                "their 95 % interval by Student's t over the seeds.",
            ),
        ),
        Csv(
            f"{experiment.slug}-seeds",
            ["condition", "corpus", "seeds", "difference_db", "low_db", "high_db"],
            raw,
        ),
    )
