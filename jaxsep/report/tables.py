"""The tables of a report on one experiment: for the page with two decimals, for spreadsheets whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxsep.evaluation.statistics import QUANTILES
from jaxsep.report import curves
from jaxsep.report.grouping import Condition, Experiment
from jaxsep.report.runs import Run
from jaxsep.report.sections import Table

_ALPHAS = (("1/15", 1 / 15), ("1/10", 1 / 10), ("1/5", 1 / 5))
_BATCHES = (4, 8, 16, 28, 64, 256, 1024, 4096)
_PAPER = (
    "The paper: 100 epochs of 20,000 mixtures of 4 s in batches of 28, of WSJ0 and ESC-50; averages over the last 10 epochs in "
    "its Table 1, 5 in its Table 2."
)


@dataclass(frozen=True)
class Csv:
    """A file for spreadsheets: name without suffix, header with units, cells unrounded, None where there is no number."""

    name: str
    header: list[str]
    rows: list[list[Any]]


def number(value: float | None, form: str = ".2f") -> str:
    """A cell: two decimals, no minus at zero, '–' where there is no number.

    >>> number(-0.001), number(None), number(1.5, "+.2f")
    ('0.00', '–', '+1.50')
    """
    if value is None or not np.isfinite(value):
        return "–"
    rounded = round(float(value), 6)
    shown = f"{rounded:{form}}"
    return shown.replace("-", "") if float(shown) == 0 and shown.startswith("-") else shown


def mean_and_std(values: Sequence[float] | np.ndarray) -> tuple[float, float | None]:
    """Mean and population standard deviation; None of a single value.

    >>> mean_and_std([1.0, 3.0])
    (2.0, 1.0)
    """
    return float(np.mean(values)), float(np.std(values)) if len(values) > 1 else None


def spread(values: Sequence[float] | np.ndarray) -> str:
    """'mean ± std', the mean alone of a single value.

    >>> spread([1.0, 3.0]), spread([2.0])
    ('2.00 ± 1.00', '2.00')
    """
    mean, std = mean_and_std(values)
    return number(mean) + ("" if std is None else f" ± {number(std)}")


def note(experiment: Experiment, *sentences: str) -> str:
    """A table's note or a figure's caption, which says where the sound was not recorded."""
    return " ".join(
        [
            *filter(None, sentences),
            experiment.flag.strip(" []").capitalize() + "." * bool(experiment.flag),
        ]
    ).strip()


def scores(condition: Condition) -> np.ndarray:
    """[runs, rows] dB: test SI-SDRi of every source, best epoch of each run."""
    return np.stack([run.rows["si_sdri"] for run in condition.runs])


def scale_note(experiment: Experiment) -> str:
    """How much was trained here and in the paper, in words."""
    config = experiment.runs[0].config
    train, seconds = config["train"], config["data"]["segment_seconds"]
    return (
        f"Here: {train['num_epochs']} epochs of {train['mixtures_per_epoch']:,} mixtures of {seconds:g} s in batches of "
        f"{train['batch_size']}; averages over the epochs given. {_PAPER}"
    )


def _averaged(condition: Condition) -> str:
    counts = sorted({max(1, run.epochs_averaged) for run in condition.runs})
    return "–".join(map(str, [counts[0], counts[-1]][: len(counts)]))


def _without_average(experiment: Experiment) -> str:
    names = [run.name for run in experiment.runs if not run.epochs_averaged]
    return (
        f"No average over the last epochs, but the last epoch alone: {', '.join(names)}."
        if names
        else ""
    )


def distribution(experiment: Experiment) -> tuple[Table, Csv]:
    """The form of the paper's Table 1: mean, standard deviation and quantiles of test SI-SDRi."""
    rows, raw = [], []
    for condition in experiment.conditions:
        summaries = [run.last_scores["combined"] for run in condition.runs]
        columns = [[s["mean"] for s in summaries], [s["std"] for s in summaries]]
        columns += [[s["quantiles"][str(q)] for s in summaries] for q in QUANTILES]
        counts: list[Any] = [len(summaries), _averaged(condition), summaries[0]["n"]]
        rows.append([condition.label, *map(spread, columns), *map(str, counts)])
        raw.append(
            [
                condition.label,
                *counts,
                *(value for column in columns for value in mean_and_std(column)),
            ]
        )
    names = ["mean", "std", *(f"q{q:02d}" for q in QUANTILES)]
    units = [f"{name}_{what}" for name in names for what in ("db", "std_over_runs_db")]
    several = any(len(condition.runs) > 1 for condition in experiment.conditions)
    return (
        Table(
            f"Test SI-SDR improvement (dB){experiment.flag}",
            [
                "SI-SDRi (dB)",
                "mean",
                "std",
                *(f"{q} %" for q in QUANTILES),
                "runs",
                "epochs",
                "sources",
            ],
            rows,
            note(
                experiment,
                "The form of the paper's Table 1: each number is averaged over the test evaluations after the last epochs of a "
                "run, then over the runs"
                + (" (± standard deviation over runs)." if several else "."),
                _without_average(experiment),
                scale_note(experiment),
            ),
        ),
        Csv(
            f"{experiment.slug}-distribution",
            ["condition", "runs", "epochs", "sources", *units],
            raw,
        ),
    )


def corpora(experiment: Experiment) -> tuple[Table, Csv] | None:
    """The form of the paper's Table 2: mean SI-SDRi by corpus; None where there is one corpus."""
    names = [*experiment.corpora, "combined"]
    if len(names) < 3:
        return None
    rows, raw = [], []
    for condition in experiment.conditions:
        means = curves.last_test_means(condition.runs, names)
        counts = [len(condition.runs), len(means)]
        rows.append([condition.label, *map(spread, means.T), *map(str, counts)])
        raw.append(
            [
                condition.label,
                *counts,
                *(value for column in means.T for value in mean_and_std(column)),
            ]
        )
    units = [f"{name}_{what}" for name in names for what in ("db", "std_db")]
    return (
        Table(
            f"Mean test SI-SDR improvement by corpus (dB){experiment.flag}",
            ["mean SI-SDRi (dB)", *names, "runs", "evaluations"],
            rows,
            note(
                experiment,
                "The form of the paper's Table 2: mean ± standard deviation over the test evaluations after the last epochs of "
                "all runs.",
                _without_average(experiment),
                scale_note(experiment),
            ),
        ),
        Csv(f"{experiment.slug}-corpora", ["condition", "runs", "evaluations", *units], raw),
    )


def epochs_to_reference(experiment: Experiment) -> tuple[Table, Csv]:
    """Epochs until the validation mean is where the reference ends; every condition must have validated an epoch."""
    found = [curves.validation(condition.runs) for condition in experiment.conditions]
    target = float(found[0][1].mean(axis=0)[-1])
    rows, raw = [], []
    for condition, (epochs, values) in zip(experiment.conditions, found, strict=True):
        mean = values.mean(axis=0)
        first = curves.first_at_least(epochs, mean, target)
        each = [curves.first_at_least(epochs, curve, target) for curve in values]
        rows.append(
            [condition.label, spread(values[:, -1]), _epoch(first), _epochs(each), str(len(each))]
        )
        raw.append([condition.label, "mean over runs", None, float(mean[-1]), target, first])
        for run, curve, epoch in zip(condition.runs, values, each, strict=True):
            raw.append(
                [condition.label, run.name, run.config["seed"], float(curve[-1]), target, epoch]
            )
    reference = experiment.reference.label
    return (
        Table(
            f"Epochs to the final validation score of {reference}{experiment.flag}",
            ["", "last epoch (dB)", f"first epoch at {target:.2f} dB", "of each run", "runs"],
            rows,
            note(
                experiment,
                f"{target:.2f} dB: mean validation SI-SDRi of {reference} after its last epoch, mean over runs. The first "
                "epoch at which the curve averaged over runs is there, and the earliest and latest among the runs.",
                ""
                if experiment.has_baseline
                else "There is no ordinary training among these runs: the first condition is the reference.",
            ),
        ),
        Csv(
            f"{experiment.slug}-epochs",
            ["condition", "run", "seed", "last_epoch_mean_db", "target_mean_db", "first_epoch"],
            raw,
        ),
    )


def _epoch(epoch: int | None) -> str:
    return "not reached" if epoch is None else str(epoch)


def _epochs(each: Sequence[int | None]) -> str:
    reached = [epoch for epoch in each if epoch is not None]
    if not reached:
        return "not reached"
    low, high = min(reached), max(reached)
    text = str(low) if low == high else f"{low}…{high}"
    missed = len(each) - len(reached)
    return text + (f", not reached by {missed} of {len(each)}" if missed else "")


def input_snr(experiment: Experiment) -> tuple[Table, Csv]:
    """Median SI-SDRi by input SNR."""
    snr = experiment.runs[0].rows["input_snr"]
    found = [curves.medians_by_snr(snr, scores(condition)) for condition in experiment.conditions]
    lows, counts, _ = found[0]
    width, labels = curves.SNR_BIN, [condition.label for condition in experiment.conditions]
    rows = [
        [
            f"{low:g} to {low + width:g}",
            str(count),
            *(number(medians[place]) for _, _, medians in found),
        ]
        for place, (low, count) in enumerate(zip(lows, counts, strict=True))
    ]
    raw = [
        [label, float(low), float(low + width), int(count), float(median)]
        for label, (_, _, medians) in zip(labels, found, strict=True)
        for low, count, median in zip(lows, counts, medians, strict=True)
    ]
    return (
        Table(
            f"Median test SI-SDR improvement by input SNR (dB){experiment.flag}",
            ["input SNR (dB)", "sources", *labels],
            rows,
            note(
                experiment,
                "Input SNR: power of a source over that of the rest of its mixture; a bin holds its lower bound, not its "
                "upper one. Best epoch of each run, pooled over runs.",
            ),
        ),
        Csv(
            f"{experiment.slug}-input-snr",
            ["condition", "input_snr_from_db", "input_snr_to_db", "sources", "median_si_sdri_db"],
            raw,
        ),
    )


def weights(experiment: Experiment) -> tuple[Table, Csv]:
    """What the weights were over the last quarter of training."""
    every = {
        condition.label: [curves.weight_means(run) for run in condition.runs]
        for condition in experiment.conditions
    }
    told = {name for means in every.values() for run in means for name in run}
    first = ["weight_entropy", "weight_max", *(f"weight_{corpus}" for corpus in experiment.corpora)]
    names = ["ess", *first, *sorted(told - {"ess", *first})]
    rows, raw = [], []
    for condition in experiment.conditions:
        means, sizes = (
            every[condition.label],
            [curves.number_of_weights(run) for run in condition.runs],
        )
        batch = condition.runs[0].config["train"]["batch_size"]
        values: list[float | None] = [
            float(np.mean([run[name] for run in means]))
            if all(name in run for run in means)
            else None
            for name in names
        ]
        share = None
        if values[0] is not None:
            share = float(
                np.mean([run["ess"] / size for run, size in zip(means, sizes, strict=True)])
            )
        count = "/".join(map(str, sorted(set(sizes))))
        cells = [
            number(value, ".3f" if name == "weight_max" else ".2f")
            for name, value in zip(names, values, strict=True)
        ]
        percent = "–" if share is None else f"{100 * share:.0f} %"
        rows.append(
            [condition.label, str(batch), count, cells[0], percent, *cells[1:], str(len(means))]
        )
        raw.append([condition.label, len(means), batch, count, values[0], share, *values[1:]])
    shown = [f"mean weight, {name.removeprefix('weight_')}" for name in names[3:]]
    return (
        Table(
            f"Weights over the last quarter of training{experiment.flag}",
            ["", "batch", "weights", "ESS", "of all", "entropy (nats)", "largest", *shown, "runs"],
            rows,
            note(
                experiment,
                "Means over steps and runs. Weights: how many sum to 1 in a step. ESS: effective sample size 1 / Σ p², as many "
                "as there are weights in ordinary training. Mean weight of a corpus: times the number of weights, 1 in "
                "ordinary training. –: not recorded.",
            ),
        ),
        Csv(
            f"{experiment.slug}-weights",
            [
                "condition",
                "runs",
                "batch_size",
                "weights",
                "ess",
                "ess_share",
                "weight_entropy_nats",
                *names[2:],
            ],
            raw,
        ),
    )


def batch_sizes(experiment: Experiment) -> tuple[Table, Csv]:
    """How many of a batch's mixtures robust weights leave, by batch size, for the losses of the reference's best epochs."""
    losses = np.concatenate([-mixture_means(run) for run in experiment.reference.runs])
    found = {name: curves.ess_by_batch(losses, alpha, _BATCHES) for name, alpha in _ALPHAS}
    rows = [
        [f"{size:,}", *(f"{ess[n]:.1f} = {100 * ess[n] / size:.0f} %" for ess in found.values())]
        for n, size in enumerate(_BATCHES)
    ]
    raw = [[name, size, ess[n]] for name, ess in found.items() for n, size in enumerate(_BATCHES)]
    return (
        Table(
            f"Effective sample size of robust weights by batch size{experiment.flag}",
            ["batch", *(f"α = {name}" for name in found)],
            rows,
            note(
                experiment,
                "1 / Σ p² of p = softmax(α·L), as a number of mixtures and as a share of the batch. Batches drawn from "
                f"the test losses of {experiment.reference.label}, mean over a mixture's sources.",
            ),
        ),
        Csv(f"{experiment.slug}-ess-by-batch", ["alpha", "batch_size", "ess"], raw),
    )


def mixture_means(run: Run) -> np.ndarray:
    """The mean SI-SDRi (dB) of each mixture's sources."""
    _, inverse = np.unique(run.rows["mixture"], return_inverse=True)
    return np.bincount(inverse, run.rows["si_sdri"]) / np.bincount(inverse)
