"""Which runs may be compared: the same mixtures and training, under several weightings and seeds.

An *experiment* is a set of runs with the same test mixtures and the same configuration but for
`weighting` and `seed`; settings that cannot change a result (IGNORED) are not looked at. Its runs
of one weighting are a *condition*.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jaxsep.report.runs import Run

# Neither a result nor what it is compared on depends on these. The recordings are known by their
# fingerprints.
IGNORED = {"seed", "scale", "model.remat", "evaluation.batch_size", "evaluation.last_epochs"}
IGNORED |= {f"data.{root}_root" for root in ("speech", "environment", "premixed")}
IGNORED |= {"data.synthetic", "data.cache_dir", "train.micro_batch", "train.workers"}
IGNORED |= {"train.log_every", "train.checkpoint_minutes"}
# Weighting -> the fields of config.weighting that it reads. One that is not in this table is taken
# to read all of them.
READ = {
    "robust": ("alpha",),
    "curriculum": ("beta",),
    "class_bias": ("gamma",),
    "cvar": ("fraction",),
    "threshold": ("threshold_db",),
    "group_dro": ("dro_step", "dro_groups"),
}
# How labels write a field; others as FIELD=VALUE.
_FORMS = {"alpha": "α={}", "beta": "β={}", "gamma": "γ {}", "threshold_db": "{} dB"}
# Labels always show these, the others where conditions differ in them.
_ALWAYS_SHOWN = ("alpha", "gamma", "fraction", "threshold_db")
_TITLES: dict[tuple[str, ...], tuple[str, str]] = {
    ("environment", "environment"): ("Robustness: two environmental sounds", "robustness"),
    ("speech", "speech"): ("Curriculum: two speakers", "curriculum"),
    ("environment", "speech"): ("Class bias: one speaker, one environmental sound", "class-bias"),
}
_SNR_TOLERANCE = 0.01  # dB: the same recipes rendered on another machine

# The factors of a weighting, sorted by name: ((name, ((field, value), …)), …).
Factors = tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]


@dataclass(frozen=True)
class Condition:
    """Runs of one weighting, sorted by seed.

    Attributes:
      label: for people, different for every condition of an experiment.
      factors: of the weighting; () for ordinary training.
      runs: at least one.
    """

    label: str
    factors: Factors
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Experiment:
    """Comparable runs.

    Attributes:
      title, slug: for people and for file names, different for every experiment.
      conditions: ordinary training first, where there is one.
      copies: (run, earlier run) where the scores are those of an earlier run of the condition,
        so that the run is not counted again.
    """

    title: str
    slug: str
    conditions: tuple[Condition, ...]
    copies: tuple[tuple[Run, Run], ...]

    @property
    def labels(self) -> list[str]:
        return [condition.label for condition in self.conditions]

    @property
    def runs(self) -> list[Run]:
        return [run for condition in self.conditions for run in condition.runs]

    @property
    def rows(self) -> pd.DataFrame:
        """The test sources that all runs were scored on."""
        return self.runs[0].rows

    @property
    def flag(self) -> str:
        """For titles, where sound was not recorded: ' [synthetic sound]'; '' for recordings."""
        kind = self.runs[0].summary.data.kind
        return "" if kind == "recordings" else f" [{kind} sound]"

    @property
    def corpora(self) -> list[str]:
        """The corpora of the test sources, speech before environment."""
        return sorted(self.rows["corpus"].unique(), reverse=True)

    def by_run(self, table: Callable[[Run], pd.DataFrame]) -> pd.DataFrame:
        """A table of each run, one below the other; the index begins with condition, run, seed."""
        names = [(c.label, run.name, run.config.seed) for c in self.conditions for run in c.runs]
        tables = map(table, self.runs)
        return pd.concat(list(tables), keys=names, names=["condition", "run", "seed"])

    @property
    def scores(self) -> pd.DataFrame:
        """`rows` with the scores of every run at its best epoch; see `by_run`."""
        return self.by_run(lambda run: self.rows.assign(si_sdri=run.rows["si_sdri"]))


def group(runs: Sequence[Run]) -> list[Experiment]:
    """Experiments in the order of their first run."""
    sets: list[list[Run]] = []
    for run in runs:
        same = (s for s in sets if setting(s[0]) == setting(run) and same_mixtures(s[0], run))
        members = next(same, None)
        if members is None:
            sets.append(members := [])
        members.append(run)
    names = [_title_and_slug(members[0]) for members in sets]
    experiments = []
    for number, (members, (title, slug)) in enumerate(zip(sets, names, strict=True)):
        namesakes = [other[0] for other, name in zip(sets, names, strict=True) if name[0] == title]
        earlier = [name[1] for name in names[:number]].count(slug)
        slug += f"-{earlier + 1}" if earlier else ""
        title += _suffix(members[0], namesakes)
        experiments.append(Experiment(title, slug, *_conditions(members)))
    return experiments


def setting(run: Run) -> dict[str, Any]:
    """What runs must share to be compared, but for the test mixtures themselves."""
    config = run.config.model_dump(exclude={"weighting"})
    fields = {name: value for name, value in flatten(config).items() if name not in IGNORED}
    data = run.summary.data
    recordings = tuple(fingerprint[:12] for fingerprint in data.fingerprints)
    return {**fields, "sound": data.kind, "recordings": recordings}


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'section.field': value}, lists as tuples.

    >>> flatten({"seed": 0, "data": {"slots": ["speech"]}})
    {'seed': 0, 'data.slots': ('speech',)}
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = _hashable(value)
    return flat


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(sorted((name, _hashable(item)) for name, item in value.items()))
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def same_mixtures(run: Run, other: Run) -> bool:
    """Whether test.csv lists the same sources: mixture, slot, class, and input SNR to 0.01 dB."""
    exact = ["mixture", "slot", "class"]
    return run.rows[exact].equals(other.rows[exact]) and np.allclose(
        run.rows["input_snr"], other.rows["input_snr"], rtol=0, atol=_SNR_TOLERANCE
    )


def _title_and_slug(run: Run) -> tuple[str, str]:
    """By what the mixtures hold."""
    slots = run.config.data.slots
    if run.config.data.premixed_root:
        return "Ready mixtures", "premixed"
    return _TITLES.get(tuple(sorted(slots)), (f"Mixtures of {' + '.join(slots)}", "mixtures"))


def _suffix(run: Run, namesakes: Sequence[Run]) -> str:
    """What tells an experiment from others of its title, up to three fields; '' where it is alone.

    Args:
      run, namesakes: the first run of this experiment, and of each that has its title, this too.
    """
    settings = {other.name: setting(other) for other in namesakes}
    fields = sorted({name for values in settings.values() for name in values})
    differing = [f for f in fields if len({repr(v.get(f)) for v in settings.values()}) > 1]
    texts = {
        name: ", ".join(f"{f}={_value(values.get(f))}" for f in differing[:3])
        for name, values in settings.items()
    }
    parts = [texts[run.name]] * bool(differing) + ["…"] * (len(differing) > 3)
    same = [name for name, text in texts.items() if text == texts[run.name]]
    parts += [f"no. {same.index(run.name) + 1}"] * (len(same) > 1)
    return f" ({', '.join(parts)})" if parts else ""


def weighting(fields: dict[str, Any]) -> Factors:
    """The weighting of config.weighting, in one form for all settings that mean the same.

    Ordinary training is () under whatever name: uniform, robust with α = 0, class_bias with γ = 0
    for every class. Factors of a product that are ordinary training are left out, and a product of
    one factor is that factor.

    >>> weighting({"name": "robust", "alpha": 0.0, "gamma": {}})
    ()
    >>> weighting({"name": "product", "factors": ["robust", "uniform"], "alpha": 0.1})
    (('robust', (('alpha', 0.1),)),)
    """
    names = fields.get("factors") or [] if fields["name"] == "product" else [fields["name"]]
    gamma = sorted((fields.get("gamma") or {}).items(), key=lambda item: (-item[1], item[0]))
    fields = fields | {"gamma": gamma} if gamma else fields
    every_field = tuple(set(fields) - {"name", "granularity", "factors"})
    ordinary = {
        "uniform": True,
        "robust": fields.get("alpha") == 0,
        "class_bias": not any(value for _, value in gamma),
    }
    return tuple(
        (name, tuple((f, _hashable(fields.get(f))) for f in sorted(READ.get(name, every_field))))
        for name in sorted(names)
        if not ordinary.get(name)
    )


def _conditions(runs: list[Run]) -> tuple[tuple[Condition, ...], tuple[tuple[Run, Run], ...]]:
    members: dict[tuple[Factors, str], list[Run]] = {}
    copies = []
    for run in sorted(runs, key=lambda run: run.config.seed):
        factors = weighting(run.config.weighting.model_dump())
        # It means nothing for ordinary training, which is one condition.
        granularity = run.config.weighting.granularity if factors else ""
        others = members.setdefault((factors, granularity), [])
        same = [other for other in others if other.rows["si_sdri"].equals(run.rows["si_sdri"])]
        if same:
            copies.append((run, same[0]))
        else:
            others.append(run)
    labels = make_labels(list(members))
    conditions = [Condition(labels[key], key[0], tuple(runs)) for key, runs in members.items()]
    return tuple(sorted(conditions, key=_place)), tuple(copies)


def _place(condition: Condition) -> tuple[Any, ...]:
    """Ordinary training, then by name as in READ, then by numbers in the label, products last."""
    names = [*READ, *(name for name, _ in condition.factors)]
    ranks = [names.index(name) for name, _ in condition.factors]
    # Of text and numbers in turn, so that 0.5 comes before 0.25·10 = 2.5 and after 0.05.
    parts = re.split(r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)", condition.label)
    return len(ranks), ranks, [float(part) if odd % 2 else part for odd, part in enumerate(parts)]


def make_labels(keys: Sequence[tuple[Factors, str]]) -> dict[tuple[Factors, str], str]:
    """A short name for each (factors, granularity) of an experiment, all different.

    'uniform', 'robust α=0.1', 'class bias γ speech=3, environment=0', 'robust α=0.1 × class bias
    γ speech=1'. Fields that are not a weighting's main one are shown where conditions differ in
    them, the granularity where both occur. Numbers have three digits, or as many as are needed.
    """
    fields = {(name, *item) for factors, _ in keys for name, items in factors for item in items}
    both = len({granularity for factors, granularity in keys if factors}) > 1

    def label(factors: Factors, granularity: str, form: str) -> str:
        parts = []
        for name, items in factors:
            written = [
                _FORMS.get(field, f"{field}={{}}").format(_value(value, form))
                for field, value in items
                if (field in _ALWAYS_SHOWN and name in READ)
                or len([f for f in fields if f[:2] == (name, field)]) > 1
            ]
            parts.append(" ".join([name.replace("_", " "), ", ".join(written)]).strip())
        suffix = f", per {granularity}" if both and factors else ""
        return " × ".join(parts) + suffix or "uniform"

    short = {key: label(*key, ".3g") for key in keys}
    distinct = len(set(short.values())) == len(keys)
    return short if distinct else {key: label(*key, "") for key in keys}


def _value(value: Any, form: str = ".3g") -> str:
    if isinstance(value, float):
        return format(value, form)
    if not isinstance(value, tuple):
        return str(value)
    if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):  # a dict's
        items = [(name, _value(item, form)) for name, item in value]
        return ", ".join(f"{name}={item}" for name, item in items)
    return f"({', '.join(_value(item, form) for item in value)})"
