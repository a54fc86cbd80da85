"""The tables of a report on one experiment.

Every function gives the tables as they are shown, with two decimals, and the same numbers whole,
for a CSV file: `(tables, numbers)`. Cells without a number are None in the CSV and '–' on the page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit  # not scipy.stats, whose import takes two seconds

from jaxsep.evaluation.statistics import QUANTILES
from jaxsep.report import curves
from jaxsep.report.bootstrap import (
    LEAST_MIXTURES,
    STATISTICS,
    Design,
    difference,
    resample,
    verdict,
)
from jaxsep.report.grouping import Condition, Experiment

_ALPHAS = {"1/15": 1 / 15, "1/10": 1 / 10, "1/5": 1 / 5}
_BATCHES = (4, 8, 16, 28, 64, 256, 1024, 4096)
_ENDS = 10  # combinations of classes shown at either end
_PAPER = (
    "The paper: 100 epochs of 20,000 mixtures of 4 s in batches of 28, of WSJ0 and ESC-50; "
    "averages over the last 10 epochs in its Table 1, 5 in its Table 2."
)
_NO_BASELINE = (
    "There is no ordinary training among these runs: the first condition is the reference."
)


@dataclass(frozen=True)
class Table:
    """cells: as they are shown, the first column names the row; note: a paragraph below."""

    title: str
    cells: pd.DataFrame
    note: str = ""


Tables = tuple[list[Table], pd.DataFrame]


def frame(rows: Sequence[Any], columns: Any = None) -> pd.DataFrame:
    """A table of Python's values as they are: whole numbers stay whole, and None stays None."""
    return pd.DataFrame(rows, columns=columns, dtype=object)


def note(experiment: Experiment, *sentences: str) -> str:
    """A table's note or a figure's caption, which says where the sound was not recorded."""
    flag = experiment.flag.strip(" []").capitalize()
    return " ".join(filter(None, [*sentences, flag and f"{flag}."]))


def _table(experiment: Experiment, title: str, cells: pd.DataFrame, *notes: str) -> Table:
    return Table(title + experiment.flag, cells, note(experiment, *notes))


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


def interval(low: float, high: float) -> str:
    """'[low, high]', '–' where there is none."""
    return "–" if np.isnan(low) else f"[{number(low)}, {number(high)}]"


def change(value: float, low: float, high: float) -> str:
    """A difference with its interval and verdict in one cell.

    >>> change(0.5, 0.25, 0.75), change(0.5, -1.0, 2.0)
    ('+0.50 [0.25, 0.75] higher', '+0.50 [-1.00, 2.00]')
    """
    parts = [number(value, "+.2f"), interval(low, high), verdict(low, high).strip("–")]
    return " ".join(filter(None, parts))


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


def _spreads(columns: Mapping[str, Any], over: str) -> dict[str, float | None]:
    """Two columns of a CSV for each of `columns`: NAME_db and NAME_std_`over`_db."""
    whole: dict[str, float | None] = {}
    for name, values in columns.items():
        whole[f"{name}_db"], whole[f"{name}_std_{over}db"] = mean_and_std(values)
    return whole


def _scale_note(experiment: Experiment) -> str:
    """How much was trained here and in the paper, in words."""
    config = experiment.runs[0].config
    train, seconds = config["train"], config["data"]["segment_seconds"]
    return (
        f"Here: {train['num_epochs']} epochs of {train['mixtures_per_epoch']:,} mixtures of "
        f"{seconds:g} s in batches of {train['batch_size']}; averages over the epochs given. "
        f"{_PAPER}"
    )


def _without_average(experiment: Experiment) -> str:
    names = [run.name for run in experiment.runs if not run.epochs_averaged]
    said = f"No average over the last epochs, but the last epoch alone: {', '.join(names)}."
    return said if names else ""


def distribution(experiment: Experiment) -> Tables:
    """The form of the paper's Table 1: mean, standard deviation and quantiles of test SI-SDRi."""
    cells, numbers = [], []
    for condition in experiment.conditions:
        summaries = [run.last_scores["combined"] for run in condition.runs]
        columns = {name: [summary[name] for summary in summaries] for name in ("mean", "std")}
        for q in QUANTILES:
            columns[f"q{q:02d}"] = [summary["quantiles"][str(q)] for summary in summaries]
        averaged = [max(1, run.epochs_averaged) for run in condition.runs]
        counts = {
            "runs": len(summaries),
            "epochs": "–".join(map(str, dict.fromkeys([min(averaged), max(averaged)]))),
            "sources": summaries[0]["n"],
        }
        shown = dict(zip(STATISTICS, map(spread, columns.values()), strict=True))
        cells.append({"SI-SDRi (dB)": condition.label, **shown, **counts})
        numbers.append({"condition": condition.label, **counts, **_spreads(columns, "over_runs_")})
    several = any(len(condition.runs) > 1 for condition in experiment.conditions)
    table = _table(
        experiment,
        "Test SI-SDR improvement (dB)",
        frame(cells),
        "The form of the paper's Table 1: each number is averaged over the test evaluations after "
        "the last epochs of a run, then over the runs"
        + (" (± standard deviation over runs)." if several else "."),
        _without_average(experiment),
        _scale_note(experiment),
    )
    return [table], frame(numbers)


def corpora(experiment: Experiment) -> Tables:
    """The form of the paper's Table 2: mean SI-SDRi by corpus."""
    names = [*experiment.corpora, "combined"]
    cells, numbers = [], []
    for condition in experiment.conditions:
        means = curves.last_test_means(condition.runs, names)
        columns = dict(zip(names, means.T, strict=True))
        counts = {"runs": len(condition.runs), "evaluations": len(means)}
        cells.append([condition.label, *map(spread, means.T), *counts.values()])
        numbers.append({"condition": condition.label, **counts, **_spreads(columns, "")})
    table = _table(
        experiment,
        "Mean test SI-SDR improvement by corpus (dB)",
        frame(cells, ["mean SI-SDRi (dB)", *names, "runs", "evaluations"]),
        "The form of the paper's Table 2: mean ± standard deviation over the test evaluations "
        "after the last epochs of all runs.",
        _without_average(experiment),
        _scale_note(experiment),
    )
    return [table], frame(numbers)


def epochs_to_reference(experiment: Experiment) -> Tables:
    """Epochs until the validation mean is where the reference ends.

    Every condition must have an epoch that all its runs validated.
    """
    validated = [curves.validation(condition.runs) for condition in experiment.conditions]
    target = float(validated[0].iloc[-1].mean())
    cells, numbers = [], []
    for condition, scores in zip(experiment.conditions, validated, strict=True):
        names = ["mean over runs", *(run.name for run in condition.runs)]
        seeds = [None, *(run.config["seed"] for run in condition.runs)]
        lines = [scores.mean(axis=1), *(scores[run] for run in scores)]
        first, *each = [curves.first_epoch_at(line, target) for line in lines]
        cells.append(
            {
                "weighting": condition.label,
                "last epoch (dB)": spread(scores.iloc[-1]),
                f"first epoch at {target:.2f} dB": "not reached" if first is None else first,
                "of each run": _epochs(each),
                "runs": len(each),
            }
        )
        numbers += [
            [condition.label, name, seed, float(line.iloc[-1]), target, epoch]
            for name, seed, line, epoch in zip(names, seeds, lines, [first, *each], strict=True)
        ]
    reference = experiment.reference.label
    table = _table(
        experiment,
        f"Epochs to the final validation score of {reference}",
        frame(cells),
        f"{target:.2f} dB: mean validation SI-SDRi of {reference} after its last epoch, mean over "
        "runs. The first epoch at which the curve averaged over runs is there, and the earliest "
        "and latest among the runs.",
        "" if experiment.has_baseline else _NO_BASELINE,
    )
    columns = ["condition", "run", "seed", "last_epoch_mean_db", "target_mean_db", "first_epoch"]
    return [table], frame(numbers, columns)


def _epochs(each: Sequence[int | None]) -> str:
    reached = [epoch for epoch in each if epoch is not None]
    if not reached:
        return "not reached"
    ends = "…".join(map(str, dict.fromkeys([min(reached), max(reached)])))
    missed = len(each) - len(reached)
    return ends + (f", not reached by {missed} of {len(each)}" if missed else "")


def input_snr(experiment: Experiment) -> Tables:
    """Median SI-SDRi by input SNR."""
    snr = experiment.runs[0].rows["input_snr"]
    medians = [curves.medians_by_snr(snr, condition.scores) for condition in experiment.conditions]
    labels = [condition.label for condition in experiment.conditions]
    cells = [
        [f"{low:g} to {high:g}", sources, *(number(table["median"][row]) for table in medians)]
        for row, low, high, sources, _ in medians[0].itertuples()
    ]
    table = _table(
        experiment,
        "Median test SI-SDR improvement by input SNR (dB)",
        frame(cells, ["input SNR (dB)", "sources", *labels]),
        "Input SNR: power of a source over that of the rest of its mixture; a bin holds its lower "
        "bound, not its upper one. Best epoch of each run, pooled over runs.",
    )
    numbers = pd.concat(medians, keys=labels, names=["condition"]).reset_index(level=0)
    names = {"low": "input_snr_from_db", "high": "input_snr_to_db", "median": "median_si_sdri_db"}
    return [table], numbers.rename(columns=names)


def weights(experiment: Experiment) -> Tables:
    """What the weights were over the last quarter of training."""
    per_run = [
        {
            "condition": condition.label,
            "batch_size": run.config["train"]["batch_size"],
            "weights": curves.number_of_weights(run),
            **curves.weight_means(run),
        }
        for condition in experiment.conditions
        for run in condition.runs
    ]
    first = ["ess", "ess_share", "weight_entropy", "weight_max"]
    recorded = sorted({name for run in per_run for name in run if name.startswith("weight_")})
    by_corpus = [f"weight_{corpus}" for corpus in experiment.corpora]
    names = list(dict.fromkeys([*first, *by_corpus, *recorded]))
    cells, numbers = [], []
    for condition in experiment.conditions:
        runs = pd.DataFrame([run for run in per_run if run["condition"] == condition.label])
        counts = "/".join(map(str, sorted(set(runs["weights"]))))
        runs = runs.reindex(columns=[*runs.columns, *(name for name in names if name not in runs)])
        runs["ess_share"] = runs["ess"] / runs["weights"].astype(float)
        means = runs[names].astype(float).mean(skipna=False)  # none where a run did not record it
        batch, share = runs["batch_size"][0], means["ess_share"]
        cells.append(
            {
                "weighting": condition.label,
                "batch": batch,
                "weights": counts,
                "ESS": number(means["ess"]),
                "of all": "–" if np.isnan(share) else f"{100 * share:.0f} %",
                "entropy (nats)": number(means["weight_entropy"]),
                "largest": number(means["weight_max"], ".3f"),
                **{f"mean weight, {name[7:]}": number(means[name]) for name in names[4:]},
                "runs": len(runs),
            }
        )
        numbers.append([condition.label, len(runs), batch, counts, *means])
    table = _table(
        experiment,
        "Weights over the last quarter of training",
        frame(cells),
        "Means over steps and runs. Weights: how many sum to 1 in a step. ESS: effective sample "
        "size 1 / Σ p², as many as there are weights in ordinary training. Mean weight of a "
        "corpus: times the number of weights, 1 in ordinary training. –: not recorded.",
    )
    whole = frame(numbers, ["condition", "runs", "batch_size", "weights", *names])
    return [table], whole.rename(columns={"weight_entropy": "weight_entropy_nats"})


def batch_sizes(experiment: Experiment) -> Tables:
    """How many of a batch's mixtures robust weights leave, by batch size.

    For the losses of the best epochs of the reference.
    """
    rows = [run.rows.groupby("mixture")["si_sdri"].mean() for run in experiment.reference.runs]
    losses = -np.concatenate(rows)
    sizes = {a: curves.ess_by_batch(losses, value, _BATCHES) for a, value in _ALPHAS.items()}
    cells = [
        [f"{batch:,}", *(f"{ess[n]:.1f} = {100 * ess[n] / batch:.0f} %" for ess in sizes.values())]
        for n, batch in enumerate(_BATCHES)
    ]
    table = _table(
        experiment,
        "Effective sample size of robust weights by batch size",
        frame(cells, ["batch", *(f"α = {alpha}" for alpha in sizes)]),
        "1 / Σ p² of p = softmax(α·L), as a number of mixtures and as a share of the batch. "
        f"Batches drawn from the test losses of {experiment.reference.label}, mean over a "
        "mixture's sources.",
    )
    numbers = pd.DataFrame(sizes, index=list(_BATCHES)).unstack().reset_index()
    return [table], numbers.set_axis(["alpha", "batch_size", "ess"], axis=1)


def compare(experiment: Experiment) -> pd.DataFrame:
    """Every condition but the reference against it, on the same test mixtures.

    Returns:
      A row for each condition and each of: STATISTICS (kind 'statistic'), then the mean of each
      corpus, group and class (kind 'corpus', 'group', 'class'). Columns: condition, reference,
      kind, name, sources, reference_db, condition_db, difference_db, low_db, high_db (NaN: no
      interval), verdict.
    """
    rows = experiment.runs[0].rows
    sets = [("corpus", name) for name in experiment.corpora]
    sets += [("group", name) for name in sorted(set(rows["group"]) - set(experiment.corpora))]
    sets += [("class", name) for name in sorted(set(rows["class"]))]
    members = np.stack([rows[kind] == name for kind, name in sets], axis=1)
    design = Design(np.unique(rows["mixture"], return_inverse=True)[1], members)
    reference, *others = resample([c.scores for c in experiment.conditions], design)
    subjects = pd.DataFrame([("statistic", name) for name in STATISTICS] + sets)
    parts = []
    for condition, own in zip(experiment.conditions[1:], others, strict=True):
        compared = difference(own, reference, design)
        columns = {
            "condition": condition.label,
            "reference": experiment.reference.label,
            "kind": subjects[0],
            "name": subjects[1],
            "sources": [len(rows)] * len(STATISTICS) + members.sum(axis=0).tolist(),
            "reference_db": reference.observed,
            "condition_db": own.observed,
            "difference_db": compared.value,
            "low_db": compared.low,
            "high_db": compared.high,
            "verdict": list(map(verdict, compared.low, compared.high)),
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def findings(comparison: pd.DataFrame) -> list[str]:
    """A sentence for every condition: which statistics are higher, which lower, which unclear."""
    sentences = []
    statistics = comparison[comparison["kind"] == "statistic"]
    for (condition, reference), lines in statistics.groupby(["condition", "reference"], sort=False):
        parts = []
        for sign, word in {"higher": "higher", "lower": "lower", "–": "unclear"}.items():
            names = lines["name"][lines["verdict"] == sign]
            parts += [f"{word}: {', '.join(names)}"] * bool(len(names))
        sentences.append(f"{condition} against {reference}: {'; '.join(parts)}.")
    return sentences


def _basis(experiment: Experiment) -> str:
    single = "; ".join(c.label for c in experiment.conditions if len(c.runs) == 1)
    sentences = [
        "Best epoch of each run, mean over runs; 95 % bootstrap intervals over test mixtures and "
        "runs.",
        single
        and "One run only, so that the intervals leave out what another seed would change: "
        f"{single}.",
        "" if experiment.has_baseline else _NO_BASELINE,
    ]
    return " ".join(filter(None, sentences))


def differences(experiment: Experiment, comparison: pd.DataFrame) -> Tables:
    """A table per condition: mean, standard deviation and quantiles, with interval and verdict."""
    numbers = comparison[comparison["kind"] == "statistic"].drop(columns=["kind", "sources"])
    reference = experiment.reference.label
    tables = []
    for condition in experiment.conditions[1:]:
        lines = numbers[numbers["condition"] == condition.label].drop(columns="condition")
        cells = [
            [
                line.name,
                number(line.reference_db),
                number(line.condition_db),
                number(line.difference_db, "+.2f"),
                interval(line.low_db, line.high_db),
                line.verdict,
            ]
            for line in lines.itertuples()
        ]
        header = ["test SI-SDRi (dB)", reference, condition.label]
        header += ["difference", "95 % interval", "verdict"]
        title = f"{condition.label} against {reference}"
        notes = (_basis(experiment), "–: the interval contains 0.")
        tables.append(_table(experiment, title, frame(cells, header), *notes))
    return tables, numbers.rename(columns={"name": "statistic"})


def classes(experiment: Experiment, comparison: pd.DataFrame) -> Tables:
    """Differences of the mean by corpus, group and class."""
    numbers = comparison[comparison["kind"] != "statistic"]
    cells = []
    for (kind, name), lines in numbers.groupby(["kind", "name"], sort=False):
        cells.append(
            [
                name if kind == "class" else f"{name} ({kind})",
                lines["sources"].iloc[0],
                number(lines["reference_db"].iloc[0]),
                *map(change, lines["difference_db"], lines["low_db"], lines["high_db"]),
            ]
        )
    header = ["sound", "sources", f"{experiment.reference.label}: mean"]
    header += [f"{condition.label}: difference" for condition in experiment.conditions[1:]]
    table = _table(
        experiment,
        "Differences of mean test SI-SDRi by kind of sound (dB)",
        frame(cells, header),
        _basis(experiment),
        f"No interval for what is in fewer than {LEAST_MIXTURES} mixtures.",
    )
    names = {"reference_db": "reference_mean_db", "condition_db": "condition_mean_db"}
    return [table], numbers.rename(columns=names)


def combinations(experiment: Experiment) -> Tables:
    """Differences of the mean by the classes that are mixed, the most improved first.

    A table for each condition that shows both ends; none where no combination is mixed in at least
    LEAST_MIXTURES mixtures.
    """
    rows, reference = experiment.runs[0].rows, experiment.reference.label
    mixed = rows.groupby("mixture")["class"].agg(lambda names: " + ".join(sorted(names)))
    classes = rows["mixture"].map(mixed).to_numpy()
    means = [
        pd.Series(condition.scores.mean(axis=0)).groupby(classes).mean()
        for condition in experiment.conditions
    ]
    counts = {"mixtures": mixed.value_counts(), "sources": pd.Series(classes).value_counts()}
    tables, parts = [], []
    for condition, mean in zip(experiment.conditions[1:], means[1:], strict=True):
        scores = {"reference_mean_db": means[0], "condition_mean_db": mean}
        lines = pd.DataFrame({**counts, **scores, "difference_db": mean - means[0]})
        lines = lines.sort_index().sort_values("difference_db", ascending=False, kind="stable")
        lines = lines.rename_axis("classes").reset_index()
        parts.append(lines)
        often = lines[lines["mixtures"] >= LEAST_MIXTURES]
        all_shown = len(often) <= 2 * _ENDS
        ends = often if all_shown else pd.concat([often[:_ENDS], often[-_ENDS:]])
        cells = [
            [*line[:3], number(line[3]), number(line[4]), number(line[5], "+.2f")]
            for line in ends.itertuples(index=False)
        ]
        header = ["mean test SI-SDRi (dB)", "mixtures", "sources", reference, condition.label]
        which = f"The {_ENDS} most improved and the {_ENDS} worst of the"
        title = f"{condition.label} against {reference} by the classes mixed"
        shown = (
            f"{'The' if all_shown else which} {len(often)} combinations of classes in at least "
            f"{LEAST_MIXTURES} mixtures, the most improved first."
        )
        if cells:
            tables.append(_table(experiment, title, frame(cells, [*header, "difference"]), shown))
    labels = [(condition.label, reference) for condition in experiment.conditions[1:]]
    numbers = pd.concat(parts, keys=labels, names=["condition", "reference"])
    return tables, numbers.reset_index(level=["condition", "reference"])


def by_seed(experiment: Experiment) -> Tables:
    """Differences of the means after the last epochs, runs of one seed paired.

    The intervals are of Student's t over the seeds; what the choice of a best epoch adds to the
    noise is not in them. No table where no condition shares two seeds with the reference.
    """
    names = [*experiment.corpora, "combined"] if len(experiment.corpora) > 1 else ["combined"]

    def means(condition: Condition) -> dict[int, np.ndarray]:
        return {
            run.config["seed"]: curves.last_test_means([run], names).mean(axis=0)
            for run in condition.runs
        }

    reference = means(experiment.reference)
    cells, numbers = [], []
    for condition in experiment.conditions[1:]:
        own = means(condition)
        changes = np.array([own[seed] - reference[seed] for seed in own if seed in reference])
        seeds = len(changes)
        if seeds < 2:
            continue
        mean = changes.mean(axis=0)
        half = stdtrit(seeds - 1, 0.975) * changes.std(axis=0, ddof=1) / np.sqrt(seeds)
        cells.append([condition.label, *map(change, mean, mean - half, mean + half), seeds])
        numbers += [
            [condition.label, name, seeds, *map(float, values)]
            for name, *values in zip(names, mean, mean - half, mean + half, strict=True)
        ]
    if not cells:
        return [], frame([])
    table = _table(
        experiment,
        f"Mean after the last epochs against {experiment.reference.label}, seed by seed (dB)",
        frame(cells, ["mean test SI-SDRi", *(f"{name}: difference" for name in names), "seeds"]),
        "Means over the test evaluations after the last epochs of a run, differences of runs with "
        "the same seed, and their 95 % interval by Student's t over the seeds.",
    )
    columns = ["condition", "corpus", "seeds", "difference_db", "low_db", "high_db"]
    return [table], frame(numbers, columns)


def runs(experiments: Sequence[Experiment]) -> Tables:
    """Every run that was given, with what it cost."""
    lines = []
    for experiment in experiments:
        for condition in experiment.conditions:
            copies = [(copy, kept) for copy, kept in experiment.copies if kept in condition.runs]
            for run, kept in [*((run, None) for run in condition.runs), *copies]:
                training = run.summary["training"]
                again = f" (scores of {kept.name}: not counted again)" if kept else ""
                lines.append(
                    {
                        "run": run.name,
                        "experiment": experiment.title,
                        "weighting": condition.label + again,
                        "seed": run.config["seed"],
                        "epochs": training["epochs"],
                        "steps": training["steps"],
                        "training_min": training["seconds"] / 60,
                        "parameters": training["parameters"],
                        "jaxsep": run.summary["jaxsep"],
                        "sound": run.summary["data"]["kind"],
                    }
                )
    numbers = frame(lines)
    shown = numbers.assign(training_min=[f"{minutes:.1f}" for minutes in numbers["training_min"]])
    return [Table("Runs", shown.rename(columns={"training_min": "minutes"}))], numbers
