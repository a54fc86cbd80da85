"""What is legal in a configuration: every value and cross-field rule, checked before anything is compiled."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxsep import models
from jaxsep.data.pools import SHORT_CLIPS
from jaxsep.evaluation.statistics import quantile_names
from jaxsep.settings import SettingsError, fields

# Weightings that config.weighting.name may name; `product` multiplies those of config.weighting.factors.
FACTORS = ("uniform", "robust", "curriculum", "class_bias", "cvar", "threshold", "group_dro")


def validate(config: ConfigDict, *, devices: int = 1) -> None:
    """Raise SettingsError for the first value or combination of values that cannot work on so many devices."""
    flat = fields(config)
    for name, (rule, legal) in _RULES.items():
        if name not in flat:
            raise SettingsError(f"{name} is missing from the configuration")
        if not rule(flat[name]):
            raise SettingsError(f"{name} is {flat[name]!r}, it must be {legal}")
    for name, value in fields(config.weighting.gamma).items():
        if not _number(value):
            raise SettingsError(f"weighting.gamma.{name} is {value!r}, it must be a number")
    for name in ("train.batch_size", "train.micro_batch"):
        if flat[name] % devices:
            legal = f"a multiple of the {devices} devices that share it, such as {-(-flat[name] // devices) * devices}"
            raise SettingsError(f"{name} is {flat[name]}, it must be {legal}")
    for problem, message in _cross_field(config):
        if problem:
            raise SettingsError(message)


def _cross_field(config: ConfigDict) -> list[tuple[bool, str]]:
    data, train, weighting, model = config.data, config.train, config.weighting, config.model
    roles = len(data.premixed_roles) - 1 if data.premixed_roles else len(data.slots)
    return [
        (
            train.batch_size > train.mixtures_per_epoch,
            f"train.batch_size is {train.batch_size}, it must be at most train.mixtures_per_epoch, {train.mixtures_per_epoch}",
        ),
        (
            not data.premixed_root and model.num_sources != len(data.slots),
            f"model.num_sources is {model.num_sources}, it must be the number of data.slots, {len(data.slots)}",
        ),
        (
            bool(data.premixed_root and data.premixed_roles) and model.num_sources != roles,
            f"model.num_sources is {model.num_sources}, data.premixed_roles names {roles} sources",
        ),
        (
            weighting.name == "product" and not weighting.factors,
            f"weighting.factors is empty, it must name weightings to multiply: {', '.join(FACTORS)}",
        ),
        (
            "class_bias" in (weighting.name, *weighting.factors) and not weighting.gamma,
            "weighting.gamma is empty, it must give a value to at least one class, group or corpus",
        ),
    ]


def gamma_vector(
    gamma: dict[str, float], names: Sequence[str], groups: Sequence[str], corpora: Sequence[str]
) -> np.ndarray:
    """[classes] float32: each class's value of γ, by its own name, else its group's, else its corpus's, else 0.

    Raises:
      SettingsError: a name that is no class, group or corpus of the data, with a value other than 0.
    """
    legal = sorted({*names, *groups, *corpora})
    for name, value in gamma.items():
        if name not in legal and value:
            close = difflib.get_close_matches(name, legal, n=1)
            hint = f"did you mean {close[0]}?" if close else f"corpora here: {', '.join(sorted(set(corpora)))}"
            raise SettingsError(f"weighting.gamma.{name}: no class, group or corpus of the data has this name; {hint}")
    values = [
        gamma.get(name, gamma.get(group, gamma.get(corpus, 0.0)))
        for name, group, corpus in zip(names, groups, corpora, strict=True)
    ]
    return np.array(values, np.float32)


def best_metric_names(names: Sequence[str], corpora: Sequence[str]) -> list[str]:
    """Legal values of train.best_metric: mean, quantiles, corpora, classes."""
    return ["mean", *quantile_names(), *sorted(set(corpora)), *names]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _whole(low: int) -> tuple[Callable[[Any], bool], str]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= low, f"a whole number of at least {low}"


def _at_least(low: float) -> tuple[Callable[[Any], bool], str]:
    return lambda v: _number(v) and v >= low, f"a number of at least {low:g}"


def _above_zero() -> tuple[Callable[[Any], bool], str]:
    return lambda v: _number(v) and v > 0, "a number above 0"


def _one_of(*legal: str) -> tuple[Callable[[Any], bool], str]:
    return lambda v: v in legal, " or ".join(repr(name) for name in legal)


def _text() -> tuple[Callable[[Any], bool], str]:
    return lambda v: isinstance(v, str), "text"


def _flag() -> tuple[Callable[[Any], bool], str]:
    return lambda v: isinstance(v, bool), "True or False"


def _texts(least: int) -> tuple[Callable[[Any], bool], str]:
    return (
        lambda v: isinstance(v, tuple) and len(v) >= least and all(isinstance(item, str) and item for item in v),
        f"a tuple of at least {least} names, such as ('speech', 'environment')",
    )


def _family(value: Any) -> bool:
    return isinstance(value, str) and (value in models.FAMILIES or value.count(":") == 1)


def _beta(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(_number(v) and v >= 0 for v in value) and value[0] > 0


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": _whole(0),
    **dict.fromkeys(("data.speech_root", "data.environment_root", "data.premixed_root", "data.cache_dir"), _text()),
    "data.premixed_roles": _texts(0),
    "data.synthetic": _flag(),
    "data.sample_rate": _whole(1),
    "data.segment_seconds": _above_zero(),
    "data.slots": _texts(1),
    "data.active_counts": (
        lambda v: isinstance(v, tuple) and all(_number(p) and 0 <= p <= 1 for p in v),
        "a tuple of probabilities, such as (0.2, 0.8), or ()",
    ),
    "data.max_snr_db": _at_least(0),
    "data.short_clips": _one_of(*SHORT_CLIPS),
    **dict.fromkeys(("data.mixtures_val", "data.mixtures_test"), _whole(1)),
    "data.eval_seed": _whole(0),
    "train.batch_size": _whole(1),
    "train.micro_batch": _whole(0),
    **dict.fromkeys(("train.mixtures_per_epoch", "train.num_epochs"), _whole(1)),
    "train.learning_rate": _above_zero(),
    "train.schedule": _one_of("constant", "step", "cosine"),
    "train.schedule_every": _whole(1),
    "train.schedule_divisor": _above_zero(),
    "train.warmup_epochs": _whole(0),
    "train.clip_norm": _at_least(0),
    "train.ema_decay": (lambda v: _number(v) and 0 <= v < 1, "a number in [0, 1)"),
    "train.patience": _whole(0),
    "train.best_metric": _text(),
    "train.init_from": _text(),
    "train.checkpoint_minutes": _above_zero(),
    "train.log_every": _whole(1),
    "train.max_skipped": _whole(1),
    "train.workers": _whole(1),
    "weighting.name": _one_of(*FACTORS, "product"),
    "weighting.factors": (
        lambda v: isinstance(v, tuple) and all(name in FACTORS for name in v),
        f"a tuple of {', '.join(FACTORS)}, such as ('robust', 'class_bias'), or ()",
    ),
    "weighting.granularity": _one_of("example", "source"),
    "weighting.alpha": _at_least(0),
    "weighting.beta": (_beta, "(b0, b1) with b0 > 0 and b1 >= 0, such as (10.0, 0.5)"),
    "weighting.fraction": (lambda v: _number(v) and 0 < v <= 1, "a number in (0, 1]"),
    "weighting.threshold_db": (_number, "a number"),
    "weighting.dro_step": _above_zero(),
    "weighting.dro_groups": _one_of("corpus", "group", "class"),
    "loss.improvement": _flag(),
    "loss.zero_mean": _flag(),
    "model.family": (_family, f"{' or '.join(map(repr, models.FAMILIES))}, or 'package.module:Class'"),
    **dict.fromkeys(
        (
            "model.out_channels",
            "model.in_channels",
            "model.num_blocks",
            "model.upsampling_depth",
            "model.enc_kernel_size",
            "model.enc_num_basis",
            "model.num_sources",
        ),
        _whole(1),
    ),
    "model.dtype": _one_of(*models.DTYPES),
    "model.remat": _flag(),
    "evaluation.batch_size": _whole(1),
    "evaluation.last_epochs": _whole(0),
    "evaluation.pad_seconds": _above_zero(),
}
