"""What is legal in a configuration, checked before anything is compiled: every value here, those that must fit together in
`combinations`.

Upper bounds are far beyond any use: they are where memory, compilation or 32 bits end.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxsep import models
from jaxsep.config.combinations import FACTORS, MAX_STEPS, crossed
from jaxsep.config.load import closest, fields
from jaxsep.data.mixtures.sampler import SHORT_CLIPS
from jaxsep.errors import ConfigError, together
from jaxsep.evaluation.statistics import quantile_names
from jaxsep.objective.permutation import MAX_SOURCES

Rule = tuple[Callable[[Any], bool], str]


def validate(config: ConfigDict, *, devices: int = 1) -> None:
    """Raise ConfigError with all `problems`."""
    if found := problems(config, devices=devices):
        raise ConfigError(together(found))


def problems(config: ConfigDict, *, devices: int = 1) -> list[str]:
    """What cannot work on so many devices, one line each: fields that are missing or unknown, values, combinations of values
    that are each legal."""
    flat = fields(config)
    section = config.get("weighting")
    gamma = section.get("gamma") if isinstance(section, ConfigDict) else None
    if not isinstance(gamma, ConfigDict):
        flat["weighting.gamma"] = gamma
    found = {name: message for name, message in _of_fields(flat) if message}
    good = {name: flat[name] for name in _RULES if name in flat and name not in found}
    if isinstance(gamma, ConfigDict):
        good["weighting.gamma"] = tuple(gamma)
    own_network = ":" in str(good.get("model.family", ""))  # it may have fields of its own
    for name in flat.keys() - _RULES.keys():
        if not name.startswith("weighting.gamma.") and not (
            own_network and name.startswith("model.")
        ):
            found[name] = f"{name}: no such field{closest(name, _RULES)}"
    return [*found.values(), *crossed(good, devices)]


def _of_fields(flat: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, (rule, legal) in _RULES.items():
        if name not in flat and name != "weighting.gamma":
            yield name, f"{name} is missing from the configuration"
        elif name in flat and not rule(flat[name]):
            yield name, f"{name} is {_shown(flat[name])}, it must be {legal}"
    for name, value in flat.items():
        if name.startswith("weighting.gamma.") and not _GAMMA[0](value):
            yield name, f"{name} is {_shown(value)}, it must be {_GAMMA[1]}"


def _shown(value: Any) -> str:
    """value on one line of a message."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # whole numbers of thousands of digits, objects of the user's own
        text = f"a {type(value).__name__}"
    return text if len(text) <= 120 else f"{text[:100]}…"


def gamma_problems(
    gamma: dict[str, float], names: Sequence[str], groups: Sequence[str], corpora: Sequence[str]
) -> list[str]:
    """One line for each name in gamma, with a value other than 0, that is no class, group or corpus of the data."""
    legal = sorted({*names, *groups, *corpora})
    return [
        f"weighting.gamma.{name}: no class, group or corpus of the data has this name"
        + (closest(str(name), legal) or f"; corpora here: {', '.join(sorted(set(corpora)))}")
        for name, value in gamma.items()
        if name not in legal and value
    ]


def gamma_vector(
    gamma: dict[str, float], names: Sequence[str], groups: Sequence[str], corpora: Sequence[str]
) -> np.ndarray:
    """[classes] float32: each class's value of γ, by its own name, else its group's, else its corpus's, else 0.

    Raises:
      ConfigError: all `gamma_problems`.
    """
    if found := gamma_problems(gamma, names, groups, corpora):
        raise ConfigError(together(found))
    values = [
        gamma.get(name, gamma.get(group, gamma.get(corpus, 0.0)))
        for name, group, corpus in zip(names, groups, corpora, strict=True)
    ]
    return np.array(values, np.float32)


def best_metric_names(names: Sequence[str], corpora: Sequence[str]) -> list[str]:
    """Legal values of train.best_metric: mean, quantiles, corpora, classes."""
    return ["mean", *quantile_names(), *sorted(set(corpora)), *names]


def _number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 2**1000 if isinstance(value, int) else math.isfinite(value)


def _whole(low: int, high: int = MAX_STEPS) -> Rule:
    return (
        lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high,
        f"a whole number of at least {low} and at most {high}",
    )


def _at_least(low: float, high: float) -> Rule:
    return (
        lambda v: _number(v) and low <= v <= high,
        f"a number of at least {low:g} and at most {high:g}",
    )


def _above_zero(low: float, high: float) -> Rule:
    return lambda v: _number(v) and low <= v <= high, f"a number above 0, from {low:g} to {high:g}"


def _one_of(*legal: str) -> Rule:
    return lambda v: isinstance(v, str) and v in legal, " or ".join(repr(name) for name in legal)


def _text() -> Rule:
    return lambda v: isinstance(v, str) and "\0" not in v, "text"


def _flag() -> Rule:
    return lambda v: isinstance(v, bool), "True or False"


def _texts(least: int) -> Rule:
    return (
        lambda v: (
            isinstance(v, tuple)
            and len(v) >= least
            and all(isinstance(item, str) and item and "\0" not in item for item in v)
        ),
        f"a tuple of at least {least} names, such as ('speech', 'environment')",
    )


def _family(value: Any) -> bool:
    return isinstance(value, str) and (value in models.FAMILIES or value.count(":") == 1)


def _beta(value: Any) -> bool:
    if not isinstance(value, tuple) or len(value) != 2 or not all(map(_number, value)):
        return False
    return 1e-6 <= value[0] <= 1e6 and 0 <= value[1] <= 1e6


_GAMMA = (lambda v: _number(v) and abs(v) <= 1e30, "a number within ±1e30")
_RULES: dict[str, Rule] = {
    "scale": _text(),
    "seed": _whole(0, 2**32 - 1),  # JAX would take another seed for the same
    **dict.fromkeys(
        ("data.speech_root", "data.environment_root", "data.premixed_root", "data.cache_dir"),
        _text(),
    ),
    "data.premixed_roles": _texts(0),
    "data.synthetic": _flag(),
    "data.sample_rate": _whole(1000, 384000),
    "data.segment_seconds": _above_zero(0.01, 3600),
    "data.slots": _texts(1),
    "data.active_counts": (
        lambda v: isinstance(v, tuple) and all(_number(p) and 0 <= p <= 1 for p in v),
        "a tuple of probabilities, such as (0.2, 0.8), or ()",
    ),
    "data.max_snr_db": _at_least(0, 100),
    "data.short_clips": _one_of(*SHORT_CLIPS),
    **dict.fromkeys(("data.mixtures_val", "data.mixtures_test"), _whole(1, 10**6)),
    "data.eval_seed": _whole(0, 2**64 - 1),
    "train.batch_size": _whole(1, 65536),
    "train.micro_batch": _whole(0, 65536),
    "train.mixtures_per_epoch": _whole(1, 10**9),
    "train.num_epochs": _whole(1, 10**6),
    "train.learning_rate": _above_zero(1e-37, 1),
    "train.schedule": _one_of("constant", "step", "cosine"),
    "train.schedule_every": _whole(1, 10**6),
    "train.schedule_divisor": _at_least(1, 1e6),
    "train.warmup_epochs": _whole(0, 10**6),
    "train.clip_norm": (
        lambda v: _number(v) and (v == 0 or 1e-6 <= v <= 1e30),
        "0, or a number from 1e-6 to 1e30",
    ),
    "train.ema_decay": (lambda v: _number(v) and 0 <= v < 1, "a number in [0, 1)"),
    "train.patience": _whole(0),
    "train.best_metric": _text(),
    "train.init_from": _text(),
    "train.checkpoint_minutes": _above_zero(1e-9, 1e6),
    "train.log_every": _whole(1),
    "train.max_skipped": _whole(1),
    "train.workers": _whole(1, 256),
    "weighting.name": _one_of(*FACTORS, "product"),
    "weighting.factors": (
        lambda v: (
            isinstance(v, tuple)
            and len(v) <= 16
            and all(isinstance(f, str) and f in FACTORS for f in v)
        ),
        f"a tuple of {', '.join(FACTORS)}, such as ('robust', 'class_bias'), or ()",
    ),
    "weighting.granularity": _one_of("example", "source"),
    "weighting.alpha": _at_least(0, 1e6),
    "weighting.beta": (
        _beta,
        "(b0, b1) with b0 > 0 and b1 >= 0, such as (10.0, 0.5), from 1e-6 to 1e6 where not 0",
    ),
    "weighting.gamma": (
        lambda v: False,
        "a ConfigDict from names of classes, groups or corpora to numbers",
    ),
    "weighting.fraction": (
        lambda v: _number(v) and 1e-6 <= v <= 1,
        "a number in (0, 1], at least 1e-6",
    ),
    "weighting.threshold_db": _at_least(-200, 200),
    "weighting.dro_step": _above_zero(1e-12, 1e6),
    "weighting.dro_groups": _one_of("corpus", "group", "class"),
    "loss.improvement": _flag(),
    "loss.zero_mean": _flag(),
    "model.family": (
        _family,
        f"{' or '.join(map(repr, models.FAMILIES))}, or 'package.module:Class'",
    ),
    **dict.fromkeys(
        ("model.out_channels", "model.in_channels", "model.enc_num_basis"), _whole(1, 4096)
    ),
    "model.num_blocks": _whole(1, 128),
    "model.upsampling_depth": _whole(1, 12),
    "model.enc_kernel_size": _whole(2, 4096),
    "model.num_sources": _whole(1, MAX_SOURCES),
    "model.dtype": _one_of(*models.DTYPES),
    "model.remat": _flag(),
    "evaluation.batch_size": _whole(1, 65536),
    "evaluation.last_epochs": _whole(0, 10**6),
    "evaluation.pad_seconds": _above_zero(1e-6, 3600),
}
