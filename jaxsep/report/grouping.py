"""Which runs may be compared: the same mixtures and training, under several weightings and seeds.

An *experiment* is a set of runs with the same test mixtures and the same configuration but for
`weighting` and `seed`; settings that cannot change a result (IGNORED) are not looked at. Its runs
of one weighting are a *condition*.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxsep.report.runs import Run

# Neither a result nor what it is compared on depends on these. The recordings are known by their
# fingerprints.
_IGNORED_BY_SECTION = {
    "data": ("speech_root", "environment_root", "premixed_root", "synthetic", "cache_dir"),
    "train": ("micro_batch", "workers", "log_every", "checkpoint_minutes"),
    "model": ("remat",),
    "evaluation": ("batch_size", "last_epochs"),
}
IGNORED = {"seed", "scale"} | {
    f"{section}.{field}" for section, fields in _IGNORED_BY_SECTION.items() for field in fields
}
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

    @property
    def scores(self) -> np.ndarray:
        """[runs, rows] dB: test SI-SDRi of every source, best epoch of each run."""
        return np.stack([run.rows["si_sdri"] for run in self.runs])


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
    def reference(self) -> Condition:
        """What the others are compared with."""
        return self.conditions[0]

    @property
    def has_baseline(self) -> bool:
        """Whether the reference is ordinary training."""
        return not self.reference.factors

    @property
    def runs(self) -> list[Run]:
        return [run for condition in self.conditions for run in condition.runs]

    @property
    def flag(self) -> str:
        """For titles, where sound was not recorded: ' [synthetic sound]'; '' for recordings."""
        kind = self.runs[0].summary["data"]["kind"]
        return "" if kind == "recordings" else f" [{kind} sound]"

    @property
    def corpora(self) -> list[str]:
        """Of the test mixtures, sorted so that 'speech' comes before 'environment'."""
        return sorted(self.runs[0].rows["corpus"].unique(), reverse=True)


def group(runs: Sequence[Run]) -> list[Experiment]:
    """Experiments in the order of their first run."""
    sets: list[list[Run]] = []
    for run in runs:
        for members in sets:
            if setting(members[0]) == setting(run) and same_mixtures(members[0], run):
                members.append(run)
                break
        else:
            sets.append([run])
    experiments: list[Experiment] = []
    names = [_title_and_slug(members[0]) for members in sets]
    for number, (members, (title, slug)) in enumerate(zip(sets, names, strict=True)):
        namesakes = [other[0] for other, name in zip(sets, names, strict=True) if name[0] == title]
        suffix = _suffix(members[0], namesakes)
        earlier = [name[1] for name in names[:number]].count(slug)
        slug += f"-{earlier + 1}" if earlier else ""
        experiments.append(Experiment(title + suffix, slug, *_conditions(members)))
    return experiments


def setting(run: Run) -> dict[str, Any]:
    """What runs must share to be compared, but for the test mixtures themselves."""
    fields = {
        name: value
        for name, value in flatten(run.config).items()
        if name not in IGNORED and not name.startswith("weighting.")
    }
    data = run.summary["data"]
    recordings = tuple(str(fingerprint)[:12] for fingerprint in data["fingerprints"])
    return {**fields, "sound": data["kind"], "recordings": recordings}


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
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def same_mixtures(run: Run, other: Run) -> bool:
    """Whether test.csv lists the same sources: mixture, slot, class, and input SNR to 0.01 dB."""
    exact = ["mixture", "slot", "class"]
    return run.rows[exact].equals(other.rows[exact]) and np.allclose(
        run.rows["input_snr"], other.rows["input_snr"], rtol=0, atol=_SNR_TOLERANCE
    )


def _title_and_slug(run: Run) -> tuple[str, str]:
    """By what the mixtures hold."""
    if run.config["data"].get("premixed_root"):
        return "Ready mixtures", "premixed"
    slots = tuple(map(str, run.config["data"]["slots"]))
    return _TITLES.get(tuple(sorted(slots)), (f"Mixtures of {' + '.join(slots)}", "mixtures"))


def _suffix(run: Run, namesakes: Sequence[Run]) -> str:
    """What tells an experiment from others of its title, up to three fields; '' where it is alone.

    Args:
      run, namesakes: the first run of this experiment, and of each that has its title, this too.
    """
    settings = [setting(other) for other in namesakes]
    fields = sorted({name for other in settings for name in other})
    differing = [
        name
        for name in fields
        if any(other.get(name) != settings[0].get(name) for other in settings)
    ]

    def text(values: dict[str, Any]) -> str:
        parts = [f"{name}={_value(values.get(name), 3)}" for name in differing[:3]]
        return ", ".join([*parts, *["…"] * (len(differing) > 3)])

    texts = [text(values) for values in settings]
    own = next(number for number, other in enumerate(namesakes) if other is run)
    parts = [texts[own]] if texts[own] else []
    if texts.count(texts[own]) > 1:
        parts.append(f"no. {texts[: own + 1].count(texts[own])}")
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
    names = fields.get("factors", []) if fields["name"] == "product" else [fields["name"]]
    every_field = tuple(set(fields) - {"name", "granularity", "factors"})
    ordinary = {
        "uniform": True,
        "robust": fields.get("alpha") == 0,
        "class_bias": not any((fields.get("gamma") or {}).values()),
    }
    return tuple(
        (name, tuple((f, _hashable(fields.get(f))) for f in sorted(READ.get(name, every_field))))
        for name in sorted(map(str, names))
        if not ordinary.get(name)
    )


def _conditions(runs: list[Run]) -> tuple[tuple[Condition, ...], tuple[tuple[Run, Run], ...]]:
    members: dict[tuple[Factors, str], list[Run]] = {}
    copies = []
    for run in sorted(runs, key=lambda run: run.config["seed"]):
        factors = weighting(run.config["weighting"])
        # It means nothing for ordinary training, which is one condition.
        granularity = run.config["weighting"]["granularity"] if factors else ""
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
    names = list(READ)
    ranks = [names.index(name) if name in names else len(names) for name, _ in condition.factors]
    # Of text and numbers in turn, so that 0.5 comes before 0.25·10 = 2.5 and after 0.05.
    parts = re.split(r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)", condition.label)
    return len(ranks), ranks, [float(part) if odd % 2 else part for odd, part in enumerate(parts)]


def make_labels(keys: Sequence[tuple[Factors, str]]) -> dict[tuple[Factors, str], str]:
    """A short name for each (factors, granularity) of an experiment, all different.

    'uniform', 'robust α=0.1', 'class bias γ speech=3, environment=0', 'robust α=0.1 × class bias
    γ speech=1'. Fields that are not a weighting's main one are shown where conditions differ in
    them, the granularity where both occur. Numbers have three digits, or as many as are needed.
    """
    values: dict[tuple[str, str], set[Any]] = {}
    for factors, _ in keys:
        for name, fields in factors:
            for field, value in fields:
                values.setdefault((name, field), set()).add(value)
    shown = {
        (name, field)
        for (name, field), different in values.items()
        if (field in _ALWAYS_SHOWN and name in READ) or len(different) > 1
    }
    both = len({granularity for factors, granularity in keys if factors}) > 1
    for digits in (3, 6, 17):
        labels = {}
        for factors, granularity in keys:
            parts = []
            for name, fields in factors:
                written = [
                    _FORMS.get(field, f"{field}={{}}").format(_value(value, digits))
                    for field, value in fields
                    if (name, field) in shown
                ]
                parts.append(" ".join([name.replace("_", " "), ", ".join(written)]).strip())
            suffix = f", per {granularity}" if both and factors else ""
            labels[factors, granularity] = " × ".join(parts) + suffix or "uniform"
        if len(set(labels.values())) == len(keys):
            break
    return labels


def _value(value: Any, digits: int) -> str:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return f"{value:.{digits}g}"
    if not isinstance(value, tuple):
        return str(value)
    if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):
        largest_first = sorted(
            value, key=lambda item: (-item[1] if isinstance(item[1], float | int) else 0, item[0])
        )
        return ", ".join(f"{name}={_value(item, digits)}" for name, item in largest_first)
    return f"({', '.join(_value(item, digits) for item in value)})"
