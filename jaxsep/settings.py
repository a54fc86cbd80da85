"""The configuration: from file and command line, every value and cross-field rule checked before anything is compiled."""

import difflib
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxsep import models
from jaxsep.data.pools import SHORT_CLIPS
from jaxsep.evaluation.statistics import quantile_names

# A run goes on in its folder when only these differ from the configuration it was started with.
MAY_CHANGE = (
    "scale",
    "data.cache_dir",
    "train.num_epochs",
    "train.micro_batch",
    "train.checkpoint_minutes",
    "train.log_every",
    "train.workers",
    "model.remat",
    "evaluation.batch_size",
)


class SettingsError(ValueError):
    """A value of the configuration that cannot work; the message names the field, the value and what would be right."""


def load(spec: str, overrides: Sequence[str]) -> ConfigDict:
    """The configuration of `configs/robust.py` or `configs/robust.py:cpu` with overrides like '--config.seed=3'.

    The file is Python and defines get_config([scale]) -> ConfigDict; the folder above its own is put on the import path.

    Raises:
      SettingsError: no such file, no such scale, an unknown field or a value of the wrong type.
    """
    path, *scale = spec.split(":", 1)
    file = Path(path)
    if not file.is_file():
        raise SettingsError(
            f"--config: {path} is no file; there are configs/class_bias.py, robust.py and curriculum.py"
        )
    parent = str(file.resolve().parent.parent)
    if parent not in sys.path:
        sys.path.insert(0, parent)
    found = importlib.util.spec_from_file_location(f"jaxsep_config_{file.stem}", file)
    if found is None or found.loader is None:
        raise SettingsError(f"--config: {path} is not a Python file")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
        config = module.get_config(*scale)
    except Exception as error:  # the user's own file may fail in any way
        raise SettingsError(f"--config: {spec}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    return override(config, overrides)


def override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """config with '--config.section.field=value' applied; only weighting.gamma takes names that it does not have yet."""
    known = fields(config)
    for argument in overrides:
        name = argument.removeprefix("--config.").split("=", 1)[0]
        if not argument.startswith("--config.") or "=" not in argument:
            raise SettingsError(f"{argument}: not known; fields are set as --config.section.field=value")
        if name not in known and not name.startswith("weighting.gamma."):
            close = difflib.get_close_matches(name, known, n=1)
            raise SettingsError(f"--config.{name}: no such field" + (f"; did you mean {close[0]}?" if close else ""))
        if name.startswith("weighting.gamma."):
            _set_gamma(config, name.removeprefix("weighting.gamma."), argument.split("=", 1)[1])
    rest = [argument for argument in overrides if not argument.startswith("--config.weighting.gamma.")]
    values = flags.FlagValues()
    argv = ["jaxsep", *rest]
    holder = config_flags.DEFINE_config_dict("config", config, flag_values=values, lock_config=False, sys_argv=argv)
    try:
        values(argv)
    except (flags.Error, ValueError, TypeError) as error:
        raise SettingsError(" ".join(str(error).split())) from error
    return holder.value


def _set_gamma(config: ConfigDict, name: str, value: str) -> None:
    if "." in name:
        raise SettingsError(f"weighting.gamma.{name}: a name with a dot cannot be a field; rename the class's folder")
    try:
        number = float(value)
    except ValueError as error:
        raise SettingsError(f"weighting.gamma.{name} is {value!r}, it must be a number") from error
    with config.weighting.gamma.ignore_type():
        config.weighting.gamma[name] = number


def fields(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """{'section.field': value} of a nested configuration."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= fields(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def to_json(config: ConfigDict) -> str:
    """The configuration as it stands in a run's folder."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text: str) -> ConfigDict:
    """The inverse of `to_json`; lists come back as the tuples they were."""

    def tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: tuples(item) for name, item in value.items()}
        return tuple(value) if isinstance(value, list) else value

    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not the fields of a configuration")
    return ConfigDict(tuples(content))


def differences(saved: ConfigDict, config: ConfigDict) -> list[str]:
    """Lines 'field: 3 here, 4 in the folder' for the fields that a run cannot change midway."""
    there, here = fields(saved), fields(config)
    return [
        f"{name}: {here.get(name)!r} now, {there.get(name)!r} there"
        for name in sorted(there.keys() | here.keys())
        if name not in MAY_CHANGE and here.get(name) != there.get(name)
    ]


def validate(config: ConfigDict) -> None:
    """Raise SettingsError for the first value or combination of values that cannot work."""
    flat = fields(config)
    for name, (rule, legal) in _RULES.items():
        if name not in flat:
            raise SettingsError(f"{name} is missing from the configuration")
        if not rule(flat[name]):
            raise SettingsError(f"{name} is {flat[name]!r}, it must be {legal}")
    for name, value in fields(config.weighting.gamma).items():
        if not _number(value):
            raise SettingsError(f"weighting.gamma.{name} is {value!r}, it must be a number")
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
            train.micro_batch > 0 and train.batch_size % max(train.micro_batch, 1) > 0,
            f"train.micro_batch is {train.micro_batch}, it must divide train.batch_size, {train.batch_size}",
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
            weighting.name == "class_bias" and not weighting.gamma,
            "weighting.gamma is empty, it must give a value to at least one class, group or corpus",
        ),
    ]


def toy_notice(spec: str, config: ConfigDict) -> str:
    """The line that a run at demo scale prints: what it is, and which command is not that; '' at other scales."""
    if config.scale != "demo":
        return ""
    roots = [name for name in ("environment", "speech") if any(name in slot for slot in config.data.slots)]
    command = f"--config {spec.split(':')[0]}:cpu " + " ".join(f"--config.data.{name}_root=DIR" for name in roots)
    return f"demo is a toy scale; on your recordings: python -m jaxsep.main {command}"


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
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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
    "train.workers": _whole(1),
    "weighting.name": _one_of("uniform", "robust", "curriculum", "class_bias"),
    "weighting.granularity": _one_of("example", "source"),
    "weighting.alpha": _at_least(0),
    "weighting.beta": (_beta, "(b0, b1) with b0 > 0 and b1 >= 0, such as (10.0, 0.5)"),
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
