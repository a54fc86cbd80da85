"""Which runs may be compared: the same mixtures and training under several weightings, and the seeds of each.

An *experiment* is a set of runs with the same test mixtures and the same configuration but for `weighting` and `seed`; settings
that cannot change a result (IGNORED) are not looked at. Its runs of one weighting are a *condition*.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxsep.report.runs import Run

# Neither a result nor what it is compared on depends on these. The recordings are known by their fingerprints.
IGNORED = frozenset(
    {
        "seed",
        "scale",
        *(
            f"data.{name}"
            for name in (
                "speech_root",
                "environment_root",
                "premixed_root",
                "synthetic",
                "cache_dir",
            )
        ),
        *(
            f"train.{name}"
            for name in ("micro_batch", "workers", "log_every", "checkpoint_minutes")
        ),
        "model.remat",
        "evaluation.batch_size",
        "evaluation.last_epochs",
    }
)
# Weighting -> the fields of config.weighting that it reads. One that is not here is taken to read all of them.
READ = {
    "robust": ("alpha",),
    "curriculum": ("beta",),
    "class_bias": ("gamma",),
    "cvar": ("fraction",),
    "threshold": ("threshold_db",),
    "group_dro": ("dro_step", "dro_groups"),
}
# How labels write a field; others as FIELD=VALUE.
_SHOWN = {"alpha": "α={}", "beta": "β={}", "gamma": "γ {}", "threshold_db": "{} dB"}
_ALWAYS_SHOWN = (
    "alpha",
    "gamma",
    "fraction",
    "threshold_db",
)  # the others where conditions differ in them
_TITLES: dict[tuple[str, ...], tuple[str, str]] = {
    ("environment", "environment"): ("Robustness: two environmental sounds", "robustness"),
    ("speech", "speech"): ("Curriculum: two speakers", "curriculum"),
    ("environment", "speech"): ("Class bias: one speaker, one environmental sound", "class-bias"),
}
_SNR_TOLERANCE = 0.01  # dB: the same recipes rendered on another machine

# The factors of a weighting, sorted by name: ((name, ((field, value), …)), …); () is ordinary training.
Factors = tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]


@dataclass(frozen=True)
class Condition:
    """Runs of one weighting, sorted by seed. factors: () for ordinary training; granularity: '' there, as it means nothing."""

    label: str
    factors: Factors
    granularity: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Experiment:
    """Comparable runs.

    title, slug: for people and for file names, different for every experiment. conditions: ordinary training first, where
    there is one. copies: runs whose scores are those of an earlier run of their condition, and are not counted again.
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
        """What titles and notes say of sound that is not recorded, such as ' [synthetic sound]'; '' of recordings."""
        kind = self.runs[0].summary["data"]["kind"]
        return "" if kind == "recordings" else f" [{kind} sound]"

    @property
    def corpora(self) -> list[str]:
        """Of the test mixtures, sorted so that 'speech' comes before 'environment'."""
        return sorted(set(map(str, self.runs[0].rows["corpus"])), reverse=True)


def group(runs: Sequence[Run]) -> list[Experiment]:
    """Experiments in the order of their first run."""
    sets: list[list[Run]] = []
    for run in runs:
        same = [
            known
            for known in sets
            if setting(known[0]) == setting(run) and same_mixtures(known[0], run)
        ]
        if same:
            same[0].append(run)
        else:
            sets.append([run])
    names = [_titles(members[0]) for members in sets]
    suffixes = _suffixes(sets, names)
    made = []
    for number, members in enumerate(sets):
        earlier = sum(other == names[number] for other in names[:number])
        slug = names[number][1] + (f"-{earlier + 1}" if earlier else "")
        made.append(Experiment(names[number][0] + suffixes[number], slug, *_conditions(members)))
    return made


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
            flat[prefix + name] = _frozen(value)
    return flat


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(sorted((name, _frozen(item)) for name, item in value.items()))
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def setting(run: Run) -> dict[str, Any]:
    """What runs must share to be compared, but for the test mixtures themselves."""
    fields = {
        name: value
        for name, value in flatten(run.config).items()
        if not name.startswith("weighting.")
    }
    recordings = tuple(str(fingerprint)[:12] for fingerprint in run.summary["data"]["fingerprints"])
    return {
        **{name: value for name, value in fields.items() if name not in IGNORED},
        "sound": run.summary["data"]["kind"],
        "recordings": recordings,
    }


def same_mixtures(run: Run, other: Run) -> bool:
    """Whether test.csv lists the same sources: mixture, slot and class equal, input SNR within 0.01 dB."""
    exact = all(
        np.array_equal(run.rows[name], other.rows[name]) for name in ("mixture", "slot", "class")
    )
    return exact and bool(
        np.allclose(run.rows["input_snr"], other.rows["input_snr"], rtol=0, atol=_SNR_TOLERANCE)
    )


def weighting(fields: dict[str, Any]) -> Factors:
    """The weighting that config.weighting stands for, in one form for all settings that are the same.

    Ordinary training is () under whatever name: uniform, robust with α = 0, class_bias with γ = 0 for every class. Factors of
    a product that are ordinary training are left out, and a product of one factor is that factor.

    >>> weighting({"name": "robust", "alpha": 0.0, "gamma": {}})
    ()
    >>> weighting({"name": "product", "factors": ["robust", "uniform"], "alpha": 0.1})
    (('robust', (('alpha', 0.1),)),)
    """
    names = fields.get("factors", []) if fields["name"] == "product" else [fields["name"]]
    factors = []
    for name in sorted(map(str, names)):
        gamma = fields.get("gamma") or {}
        if (
            name == "uniform"
            or (name == "robust" and fields.get("alpha") == 0)
            or (name == "class_bias" and not any(gamma.values()))
        ):
            continue
        read = READ.get(
            name,
            tuple(field for field in fields if field not in ("name", "granularity", "factors")),
        )
        factors.append((name, tuple((field, _frozen(fields.get(field))) for field in sorted(read))))
    return tuple(factors)


def _conditions(runs: list[Run]) -> tuple[tuple[Condition, ...], tuple[tuple[Run, Run], ...]]:
    members: dict[tuple[Factors, str], list[Run]] = {}
    copies = []
    for run in sorted(runs, key=lambda run: run.config["seed"]):
        factors = weighting(run.config["weighting"])
        known = members.setdefault(
            (factors, run.config["weighting"]["granularity"] if factors else ""), []
        )
        same = [
            other for other in known if np.array_equal(other.rows["si_sdri"], run.rows["si_sdri"])
        ]
        if same:
            copies.append((run, same[0]))
        else:
            known.append(run)
    labels = label(list(members))
    conditions = [Condition(labels[key], *key, tuple(chosen)) for key, chosen in members.items()]
    return tuple(sorted(conditions, key=_place)), tuple(copies)


def _place(condition: Condition) -> tuple[Any, ...]:
    """Ordinary training, then by name as in READ, then by the numbers in the label, products last."""
    known = list(READ)
    ranks = [known.index(name) if name in known else len(known) for name, _ in condition.factors]
    # Of text and numbers in turn, so that 0.5 comes before 0.25·10 = 2.5 and after 0.05.
    parts = re.split(r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)", condition.label)
    return len(ranks), ranks, [float(part) if odd % 2 else part for odd, part in enumerate(parts)]


def label(keys: Sequence[tuple[Factors, str]]) -> dict[tuple[Factors, str], str]:
    """A short name for each (factors, granularity) of an experiment, all different.

    'uniform', 'robust α=0.1', 'class bias γ speech=3, environment=0', 'robust α=0.1 × class bias γ speech=1'; fields that are
    not a weighting's main one are shown where conditions differ in them, the granularity where both occur. Numbers have three
    digits, or as many as tell the conditions apart.
    """
    values: dict[tuple[str, str], set[Any]] = {}
    for factors, _ in keys:
        for name, fields in factors:
            for field, value in fields:
                values.setdefault((name, field), set()).add(value)
    shown = {
        place
        for place, found in values.items()
        if (place[1] in _ALWAYS_SHOWN and place[0] in READ) or len(found) > 1
    }
    both = len({granularity for factors, granularity in keys if factors}) > 1
    for digits in (3, 6, 17):
        labels = {}
        for factors, granularity in keys:
            parts = [
                _factor_label(name, [f for f in fields if (name, f[0]) in shown], digits)
                for name, fields in factors
            ]
            labels[factors, granularity] = " × ".join(parts) + (
                f", per {granularity}" if both and factors else ""
            )
            labels[factors, granularity] = labels[factors, granularity] or "uniform"
        if len(set(labels.values())) == len(keys):
            break
    return labels


def _factor_label(name: str, fields: list[tuple[str, Any]], digits: int) -> str:
    written = [
        _SHOWN.get(field, f"{field}={{}}").format(_value(value, digits)) for field, value in fields
    ]
    return " ".join([name.replace("_", " "), ", ".join(written)]).strip()


def _value(value: Any, digits: int) -> str:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return f"{value:.{digits}g}"
    if (
        isinstance(value, tuple)
        and value
        and all(isinstance(item, tuple) and len(item) == 2 for item in value)
    ):
        by_value = sorted(
            value, key=lambda item: (-item[1] if isinstance(item[1], float | int) else 0, item[0])
        )
        return ", ".join(f"{name}={_value(item, digits)}" for name, item in by_value)
    return (
        f"({', '.join(_value(item, digits) for item in value)})"
        if isinstance(value, tuple)
        else str(value)
    )


def _titles(run: Run) -> tuple[str, str]:
    """Title and slug by what the mixtures hold."""
    if run.config["data"].get("premixed_root"):
        return "Ready mixtures", "premixed"
    slots = tuple(map(str, run.config["data"]["slots"]))
    return _TITLES.get(tuple(sorted(slots)), (f"Mixtures of {' + '.join(slots)}", "mixtures"))


def differences(number: int, sets: Sequence[Sequence[Run]], names: Sequence[Any]) -> dict[str, Any]:
    """Fields in which an experiment differs from the others of its name, with its values."""
    rivals = [
        setting(other[0]) for other, name in zip(sets, names, strict=True) if name == names[number]
    ]
    own = setting(sets[number][0])
    fields = sorted(
        {
            field
            for rival in rivals
            for field in rival.keys() | own.keys()
            if rival.get(field) != own.get(field)
        }
    )
    return {field: own.get(field) for field in fields}


def _suffixes(sets: Sequence[Sequence[Run]], names: Sequence[Any]) -> list[str]:
    """What tells each experiment from the others of its name, for its title; '' where it is the only one."""
    found = []
    for number in range(len(sets)):
        fields = [
            f"{field}={_value(value, 3)}"
            for field, value in differences(number, sets, names).items()
        ]
        found.append(", ".join(fields[:3]) + (", …" if len(fields) > 3 else ""))
    suffixes = []
    for number, text in enumerate(found):
        same = [
            other
            for other in range(len(sets))
            if (names[other], found[other]) == (names[number], text)
        ]
        parts = [text] * bool(text) + [f"no. {same.index(number) + 1}"] * (len(same) > 1)
        suffixes.append(f" ({', '.join(parts)})" if parts else "")
    return suffixes
