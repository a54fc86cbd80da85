"""The tables of a report on one experiment, and the numbers that tables and figures share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit  # not scipy.stats, whose import takes two seconds

from jaxsep.evaluation.statistics import QUANTILES
from jaxsep.report.bootstrap import LEAST_MIXTURES, STATISTICS, compare, verdict
from jaxsep.report.grouping import Experiment
from jaxsep.report.runs import Run

_ALPHAS = {"1/15": 1 / 15, "1/10": 1 / 10, "1/5": 1 / 5}
_BATCHES = (4, 8, 16, 28, 64, 256, 1024, 4096)
_DRAWS = 200  # batches of a size
_ENDS = 10  # combinations of classes shown at either end
_PAPER = (
    "The paper: 100 epochs of 20,000 mixtures of 4 s in batches of 28, of WSJ0 and ESC-50; "
    "averages over the last 10 epochs in its Table 1, 5 in its Table 2."
)


@dataclass(frozen=True)
class Table:
    """A table as it is shown, and the same numbers whole.

    Attributes:
      title: above it.
      cells: as they are shown; the first column names the row.
      note: a paragraph below it.
      name: of its CSV file, without suffix.
      numbers: what the CSV file holds; None: there is none.
    """

    title: str
    cells: pd.DataFrame
    note: str = ""
    name: str = ""
    numbers: pd.DataFrame | None = None


def number(value: float, form: str = ".2f") -> str:
    """A cell: two decimals, no minus at zero, '–' where there is no number.

    >>> number(-0.001), number(float("nan")), number(1.5, "+.2f")
    ('0.00', '–', '+1.50')
    """
    if not np.isfinite(value):
        return "–"
    shown = format(round(float(value), 6), form)
    return shown.lstrip("-") if float(shown) == 0 else shown


def change(value: float, low: float, high: float) -> str:
    """A difference with its interval and verdict in one cell.

    >>> change(0.5, 0.25, 0.75), change(0.5, -1.0, 2.0)
    ('+0.50 [0.25, 0.75] higher', '+0.50 [-1.00, 2.00]')
    """
    interval = f"[{number(low)}, {number(high)}]" if np.isfinite(low) else "–"
    return f"{number(value, '+.2f')} {interval} {verdict(low, high).strip('–')}".rstrip()


def spread(mean: float, std: float) -> str:
    """'mean ± std', the mean alone without a standard deviation.

    >>> spread(1.0, 3.0), spread(2.0, float("nan"))
    ('1.00 ± 3.00', '2.00')
    """
    return number(mean) + (f" ± {number(std)}" if np.isfinite(std) else "")


def _spreads(
    experiment: Experiment,
    values: pd.DataFrame,
    shown: Sequence[str],
    counts: Mapping[str, Sequence[object]],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean and standard deviation by condition of each column, shown under other names.

    A single value has no standard deviation. Returns cells and numbers, with counts of each
    condition in both.
    """
    groups = values.groupby(level="condition", sort=False)
    mean, std = groups.mean(), groups.std(ddof=0).where(groups.count() > 1)
    counts = {"runs": [len(condition.runs) for condition in experiment.conditions], **counts}
    cells = {"SI-SDRi (dB)": experiment.labels}
    numbers = {"condition": experiment.labels, **counts}
    for column, name in zip(values, shown, strict=True):
        cells[name] = list(map(spread, mean[column], std[column]))
        numbers |= {f"{column}_db": mean[column].to_numpy()}
        numbers |= {f"{column}_std_db": std[column].to_numpy()}
    return pd.DataFrame({**cells, **counts}), pd.DataFrame(numbers)


def _scale(experiment: Experiment) -> str:
    """How much was trained here and in the paper, in words."""
    config = experiment.runs[0].config
    return (
        f"Here: {config.train.num_epochs} epochs of {config.train.mixtures_per_epoch:,} mixtures "
        f"of {config.data.segment_seconds:g} s in batches of {config.train.batch_size}. {_PAPER}"
    )


def distribution(experiment: Experiment) -> Table:
    """The form of the paper's Table 1: mean, standard deviation and quantiles of test SI-SDRi."""

    def scores(run: Run) -> pd.DataFrame:
        combined = run.summary.last.si_sdri.combined
        quantiles = {f"q{q:02d}": combined.quantiles.get(str(q), np.nan) for q in QUANTILES}
        return pd.DataFrame([{"mean": combined.mean, "std": combined.std, **quantiles}])

    averaged = [
        sorted({run.summary.last.si_sdri.combined.epochs for run in condition.runs})
        for condition in experiment.conditions
    ]
    counts = {"epochs": [", ".join(map(str, epochs)) for epochs in averaged]}
    cells, numbers = _spreads(experiment, experiment.by_run(scores), STATISTICS, counts)
    note = (
        "The form of the paper's Table 1: averaged over the test evaluations after the last epochs "
        "of a run, as many as are given, then over the runs (± standard deviation over runs). "
    )
    title = "Test SI-SDR improvement (dB)"
    return Table(title, cells, note + _scale(experiment), "distribution", numbers)


def last_evaluations(experiment: Experiment) -> pd.DataFrame:
    """Mean test SI-SDRi (dB) of each of several corpora and 'combined' after the last epochs.

    See `Experiment.by_run`. A run whose metrics do not hold them has one row, its summary's.
    """
    several = experiment.corpora if len(experiment.corpora) > 1 else []
    names = list(dict.fromkeys([*several, "combined"]))

    def means(run: Run) -> pd.DataFrame:
        last = dict(run.summary.last.si_sdri)
        first = run.summary.training.epochs - last["combined"].epochs
        test = run.metrics["test"]
        records = test[test["epoch"] >= first].reindex(columns=names).dropna()
        average = {name: last[name].mean if name in last else np.nan for name in names}
        return records if len(records) else pd.DataFrame([average])

    return experiment.by_run(means)


def corpora(experiment: Experiment) -> Table:
    """The form of the paper's Table 2: mean SI-SDRi by corpus."""
    means = last_evaluations(experiment)
    counts = {"evaluations": means.groupby(level="condition", sort=False).size().to_numpy()}
    cells, numbers = _spreads(experiment, means, list(means), counts)
    title = "Mean test SI-SDR improvement by corpus (dB)"
    note = (
        "The form of the paper's Table 2: mean ± standard deviation over the test evaluations "
        "after the last epochs of all runs. "
    )
    return Table(title, cells, note + _scale(experiment), "corpora", numbers)


def validation(runs: Sequence[Run]) -> pd.DataFrame:
    """Mean validation SI-SDRi (dB) at the epochs, counted from 1, that every run validated.

    A row for each epoch, a column for each run.
    """
    curves = []
    for run in runs:
        curve = run.metrics["val"].drop_duplicates("epoch", keep="last").set_index("epoch")
        curves.append(curve["combined"].set_axis(curve.index + 1))
    return pd.concat(curves, axis=1, join="inner").dropna().sort_index()


def first_epoch_at(curve: pd.Series, target: float) -> float:
    """The first epoch, of the index, at which a curve is at or above target; NaN: it never is.

    >>> first_epoch_at(pd.Series({1: 0.0, 2: 5.0, 3: 4.0}), 4.5)
    2.0
    """
    return float((curve >= target).idxmax()) if (curve >= target).any() else np.nan


def epochs_to_reference(experiment: Experiment) -> Table:
    """Epochs until the validation mean is where the reference ends.

    Every condition must have an epoch that all its runs validated.
    """
    validated = [validation(condition.runs) for condition in experiment.conditions]
    target = float(validated[0].iloc[-1].mean())
    lines, cells = [], []
    for condition, scores in zip(experiment.conditions, validated, strict=True):
        names = ["mean over runs", *(run.name for run in condition.runs)]
        curves = [scores.mean(axis=1), *(scores.iloc[:, n] for n in range(len(condition.runs)))]
        firsts = [first_epoch_at(curve, target) for curve in curves]
        for name, curve, first in zip(names, curves, firsts, strict=True):
            lines.append((condition.label, name, curve.iloc[-1], target, first))
        last, several = scores.iloc[-1], len(condition.runs) > 1
        score = spread(last.mean(), last.std(ddof=0) if several else np.nan)
        mean, *each = [number(first, ".0f") for first in firsts]
        cells.append((condition.label, score, mean, ", ".join(each)))
    reached = f"first epoch at {target:.2f} dB"
    columns = ["condition", "run", "last_epoch_mean_db", "target_mean_db", "first_epoch"]
    reference = experiment.labels[0]
    return Table(
        f"Epochs to the final validation score of {reference}",
        pd.DataFrame(cells, columns=["weighting", "last epoch (dB)", reached, "of each run"]),
        f"{target:.2f} dB: mean validation SI-SDRi of {reference} after its last epoch, mean over "
        "runs. The first epoch at which the curve averaged over runs is there, then that of each "
        "run; –: it never is.",
        "epochs",
        pd.DataFrame(lines, columns=columns),
    )


def number_of_weights(run: Run) -> int:
    """How many weights sum to 1 in a step: the batch, or its sources where each has its own."""
    by_source = run.config.weighting.granularity == "source"
    return run.config.train.batch_size * (run.config.model.num_sources if by_source else 1)


def weights(experiment: Experiment) -> Table:
    """What the weights were over the last quarter of training."""

    def late(run: Run) -> pd.DataFrame:
        train = run.metrics["train"]
        train = train[train["step"] > 0.75 * train["step"].max()]
        recorded = sorted(name for name in train if name.startswith("weight_"))
        first = ["ess", "weight_entropy", "weight_max", *by_corpus]
        means = train.reindex(columns=list(dict.fromkeys([*first, *recorded]))).mean(skipna=False)
        share = means["ess"] / number_of_weights(run)
        return pd.DataFrame([{"ess_share": share, "weights": number_of_weights(run), **means}])

    by_corpus = [f"weight_{corpus}" for corpus in experiment.corpora]
    groups = experiment.by_run(late).groupby(level="condition", sort=False)
    numbers = groups.agg(lambda values: values.mean(skipna=False))  # none where a run has none
    numbers.insert(0, "runs", groups.size())
    cells = {
        "weighting": experiment.labels,
        "weights": numbers["weights"].map("{:g}".format),
        "ESS": numbers["ess"].map(number),
        "of all": (100 * numbers["ess_share"]).map(lambda share: number(share, ".0f") + " %"),
        "entropy (nats)": numbers["weight_entropy"].map(number),
        "largest": numbers["weight_max"].map(lambda value: number(value, ".3f")),
    }
    others = [name for name in numbers if name.startswith("weight_")]
    for name in [name for name in others if name not in ("weight_entropy", "weight_max")]:
        cells[f"mean weight, {name[7:]}"] = numbers[name].map(number)
    return Table(
        "Weights over the last quarter of training",
        pd.DataFrame(cells),
        "Means over steps and runs. Weights: how many sum to 1 in a step. ESS: effective sample "
        "size 1 / Σ p², as many as there are weights in ordinary training. Mean weight of a "
        "corpus: times the number of weights, 1 in ordinary training. –: not recorded.",
        "weights",
        numbers.reset_index(),
    )


def ess_by_batch(losses: np.ndarray, alpha: float, sizes: Sequence[int]) -> list[float]:
    """Effective sample size 1/Σ p² of robust weights p = softmax(α·L) for batches of some sizes.

    Means over _DRAWS batches of each size, drawn from losses [any] dB with replacement, from a
    generator of seed 0. As a batch grows, its share tends to E[exp(α·L)]² / E[exp(2α·L)]: a number
    of examples that few large losses set, not the batch.
    """
    rng = np.random.default_rng(0)
    sample_sizes = []
    for size in sizes:
        logits = alpha * rng.choice(losses, (_DRAWS, size))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        ess = powers.sum(axis=1) ** 2 / np.square(powers).sum(axis=1)
        sample_sizes.append(float(np.mean(ess)))
    return sample_sizes


def batch_sizes(experiment: Experiment) -> Table:
    """How many of a batch's mixtures robust weights leave, by batch size.

    For the losses of the best epochs of the reference.
    """
    reference = experiment.conditions[0]
    means = [run.rows.groupby("mixture")["si_sdri"].mean() for run in reference.runs]
    losses = -np.concatenate(means)
    sizes = {alpha: ess_by_batch(losses, value, _BATCHES) for alpha, value in _ALPHAS.items()}
    cells = {"batch": [f"{batch:,}" for batch in _BATCHES]}
    for alpha, ess in sizes.items():
        pairs = zip(ess, _BATCHES, strict=True)
        cells[f"α = {alpha}"] = [f"{n:.1f} = {100 * n / batch:.0f} %" for n, batch in pairs]
    return Table(
        "Effective sample size of robust weights by batch size",
        pd.DataFrame(cells),
        "1 / Σ p² of p = softmax(α·L), as a number of mixtures and as a share of the batch. "
        f"Batches drawn from the test losses of {reference.label}, mean over a mixture's sources.",
        "ess-by-batch",
        pd.DataFrame({"batch_size": _BATCHES, **sizes}).melt("batch_size", sizes, "alpha", "ess"),
    )


def compare_with_reference(experiment: Experiment) -> pd.DataFrame:
    """Every condition but the reference against it, on the same test mixtures.

    Returns:
      A row for each condition and each of: STATISTICS (kind 'statistic'), then the mean of each
      corpus, group and class, and of each combination of classes that is in LEAST_MIXTURES
      mixtures. Columns: condition, reference, kind, name, sources, those of `bootstrap.compare`,
      verdict.
    """
    rows = experiment.rows
    mixed = rows.groupby("mixture")["class"].agg(lambda names: " + ".join(sorted(names)))
    often = mixed.value_counts() >= LEAST_MIXTURES
    rows = rows.assign(combination=rows["mixture"].map(mixed))
    sets = [("corpus", name) for name in experiment.corpora]
    sets += [("group", name) for name in sorted(set(rows["group"]) - set(experiment.corpora))]
    sets += [("class", name) for name in sorted(set(rows["class"]))]
    sets += [("combination", name) for name in sorted(often.index[often])]
    members = np.stack([rows[kind] == name for kind, name in sets], axis=1)
    subjects = pd.DataFrame([("statistic", name) for name in STATISTICS] + sets)
    subjects = subjects.set_axis(["kind", "name"], axis=1).assign(
        sources=[len(rows)] * len(STATISTICS) + members.sum(axis=0).tolist()
    )
    compared = compare(
        [np.stack([run.rows["si_sdri"] for run in c.runs]) for c in experiment.conditions],
        np.unique(rows["mixture"], return_inverse=True)[1],
        members,
    )
    reference, *others = experiment.labels
    numbers = pd.concat(
        [pd.concat([subjects, table], axis=1) for table in compared],
        keys=[(label, reference) for label in others],
        names=["condition", "reference", None],
    ).reset_index(["condition", "reference"])
    return numbers.assign(verdict=list(map(verdict, numbers["low_db"], numbers["high_db"])))


def differences(experiment: Experiment) -> list[Table]:
    """Tables of statistics; of means by corpus, group and class; by the classes that are mixed."""
    numbers = compare_with_reference(experiment)
    parts = dict(list(numbers.groupby("kind", sort=False)))
    tables = [
        _changes(
            f"Differences from {experiment.labels[0]} (dB)",
            parts["statistic"],
            "–: the interval contains 0.",
            "differences",
            numbers,
        ),
        _changes(
            "Differences of the mean by kind of sound (dB)",
            pd.concat([parts["corpus"], parts.get("group"), parts["class"]]),
            f"No interval for what is in fewer than {LEAST_MIXTURES} mixtures.",
        ),
    ]
    if "combination" in parts:
        combinations = parts["combination"].set_index("name", drop=False)
        means = combinations.groupby(level=0)["difference_db"].mean()
        order = means.sort_values(ascending=False).index
        ends = [*order[:_ENDS], *order[_ENDS:][-_ENDS:]]
        note = (
            f"Of the {len(order)} combinations of classes in at least {LEAST_MIXTURES} mixtures "
            f"the {_ENDS} most improved and the {_ENDS} worst, by the mean over weightings."
        )
        title = "Differences of the mean by the classes mixed (dB)"
        tables.append(_changes(title, combinations.loc[ends], note))
    return tables


def _changes(title: str, numbers: pd.DataFrame, note: str, *csv: Any) -> Table:
    """A row for each (kind, name), a column for each condition."""
    lines = [
        {
            "SI-SDRi (dB)": f"{name} ({kind})" if kind in ("corpus", "group") else name,
            "sources": own["sources"].iloc[0],
            own["reference"].iloc[0]: number(own["reference_db"].iloc[0]),
            **dict(
                zip(
                    own["condition"],
                    map(change, own["difference_db"], own["low_db"], own["high_db"]),
                    strict=True,
                )
            ),
        }
        for (kind, name), own in numbers.reset_index(drop=True).groupby(
            ["kind", "name"], sort=False
        )
    ]
    return Table(title, pd.DataFrame(lines), note, *csv)


def by_seed(experiment: Experiment) -> list[Table]:
    """Differences of the means after the last epochs, runs of one seed paired.

    The intervals are of Student's t over the seeds; what the choice of a best epoch adds to the
    noise is not in them. No table where no condition shares two seeds with the reference.
    """
    means = last_evaluations(experiment).groupby(level=["condition", "seed"], sort=False).mean()
    reference, *others = experiment.labels
    lines, cells = [], []
    for label in others:
        changes = (means.loc[label] - means.loc[reference]).dropna()
        seeds, mean = len(changes), changes.mean()
        if seeds < 2:
            continue
        half = stdtrit(seeds - 1, 0.975) * changes.std() / np.sqrt(seeds)
        bounds = list(zip(mean, mean - half, mean + half, strict=True))
        lines += [(label, name, seeds, *b) for name, b in zip(mean.index, bounds, strict=True)]
        cells.append((label, *(change(*b) for b in bounds), seeds))
    if not cells:
        return []
    columns = ["condition", "corpus", "seeds", "difference_db", "low_db", "high_db"]
    note = (
        "Means over the test evaluations after the last epochs of a run, differences of runs with "
        "the same seed, and their 95 % interval by Student's t over the seeds."
    )
    title = f"Mean after the last epochs against {reference}, seed by seed (dB)"
    shown = pd.DataFrame(cells, columns=["SI-SDRi (dB)", *means.columns, "seeds"])
    return [Table(title, shown, note, "seeds", pd.DataFrame(lines, columns=columns))]


def runs(experiments: Sequence[Experiment]) -> Table:
    """Every run that was given, with what it cost."""
    lines = []
    for experiment in experiments:
        for condition in experiment.conditions:
            copies = [(run, kept) for run, kept in experiment.copies if kept in condition.runs]
            for run, kept in [*((run, None) for run in condition.runs), *copies]:
                again = f" (scores of {kept.name}: not counted again)" if kept else ""
                training = run.summary.training
                lines.append(
                    {
                        "run": run.name,
                        "experiment": experiment.title,
                        "weighting": condition.label + again,
                        "seed": run.config.seed,
                        "epochs": training.epochs,
                        "steps": training.steps,
                        "training_min": training.seconds / 60,
                        "parameters": training.parameters,
                        "jaxsep": run.summary.jaxsep,
                        "sound": run.summary.data.kind,
                    }
                )
    numbers = pd.DataFrame(lines)
    cells = numbers.assign(training_min=numbers["training_min"].map("{:.1f}".format))
    return Table("Runs", cells, "", "runs", numbers)
