"""The configuration, from file and command line, and as it stands in a run's folder. What is legal in it: `rules`."""

import difflib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxsep.errors import ConfigError, together

# A run goes on in its folder when only these differ from the configuration it was started with.
MAY_CHANGE = (
    "scale",
    "data.cache_dir",
    "train.num_epochs",
    "train.micro_batch",
    "train.checkpoint_minutes",
    "train.log_every",
    "train.max_skipped",
    "train.workers",
    "model.remat",
    "evaluation.batch_size",
)


Check = Callable[[ConfigDict], Sequence[str]]


def nothing_more(config: ConfigDict) -> Sequence[str]:
    """A check that finds no problem."""
    return ()


def load(spec: str, overrides: Sequence[str], check: Check = nothing_more) -> ConfigDict:
    """The configuration of `configs/robust.py` or `configs/robust.py:cpu` with overrides like '--config.seed=3'.

    The file is Python and defines get_config([scale]) -> ConfigDict; the folder above its own is put on the import path.

    Args:
      check: as `override`.

    Raises:
      ConfigError: no such file, no such scale, a file that fails or gives no ConfigDict; all problems of `override`.
    """
    path, *scale = spec.split(":", 1)
    file = Path(path)
    if not os.path.isfile(path):
        raise ConfigError(
            f"--config: {path} is no file; there are configs/class_bias.py, robust.py and curriculum.py"
        )
    parent = str(file.resolve().parent.parent)
    if parent not in sys.path:
        sys.path.insert(0, parent)
    found = importlib.util.spec_from_file_location(f"jaxsep_config_{file.stem}", file)
    if found is None or found.loader is None:
        raise ConfigError(f"--config: {path} is not a Python file")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
        config = module.get_config(*scale)
    except (Exception, SystemExit) as error:  # the user's own file may fail in any way
        raise ConfigError(
            f"--config: {spec}: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"--config: {spec}: get_config gives a {type(config).__name__}, it must give a ConfigDict"
        )
    return override(config, overrides, check)


def override(
    config: ConfigDict, overrides: Sequence[str], check: Check = nothing_more
) -> ConfigDict:
    """config with '--config.section.field=value' applied; only weighting.gamma takes names that it does not have yet.

    Args:
      check: finds what else is wrong with the result, such as `rules.problems`, to be named with the rest.

    Raises:
      ConfigError: all unknown fields and values of the wrong type, and what `check` finds, together.
    """
    problems = []
    for argument in overrides:
        try:
            _apply(config, argument)
        except ConfigError as error:
            problems.append(str(error))
    problems += check(config)
    if problems:
        raise ConfigError(together(problems))
    return config


def _apply(config: ConfigDict, argument: str) -> None:
    name, equals, value = argument.removeprefix("--config.").partition("=")
    if not argument.startswith("--config.") or not equals:
        raise ConfigError(f"{argument}: not known; fields are set as --config.section.field=value")
    if name.startswith("weighting.gamma."):
        return _set_gamma(config, name.removeprefix("weighting.gamma."), value)
    known = fields(config)
    if name not in known:
        raise ConfigError(f"--config.{name}: no such field{closest(name, known)}")
    values, argv = flags.FlagValues(), ["jaxsep", argument]
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, lock_config=False, sys_argv=argv
        )
        values(argv)
    except Exception as error:  # of literals, which Python itself reads, errors of many kinds
        reason = " ".join(str(error)[:500].split()) or type(error).__name__
        raise ConfigError(reason if name in reason else f"--config.{name}: {reason}") from error
    return None


def closest(name: str, known: Iterable[str]) -> str:
    """'; did you mean …?', or '' where nothing known is like name."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _set_gamma(config: ConfigDict, name: str, value: str) -> None:
    if "." in name:
        raise ConfigError(
            f"weighting.gamma.{name}: a name with a dot cannot be a field; rename the class's folder"
        )
    if not name.strip():
        raise ConfigError(
            "--config.weighting.gamma.: the name of a class, group or corpus is missing"
        )
    try:
        number = float(value)
    except ValueError as error:
        raise ConfigError(f"weighting.gamma.{name} is {value!r}, it must be a number") from error
    if not isinstance(config.get("weighting", {}).get("gamma"), ConfigDict):
        raise ConfigError(
            f"weighting.gamma.{name}: there is no weighting.gamma that could have names"
        )
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
    """The inverse of `to_json`; lists come back as the tuples they were. ValueError where the text is no configuration."""

    def tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: tuples(item) for name, item in value.items()}
        return tuple(value) if isinstance(value, list) else value

    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError(
                f"it holds a {type(content).__name__}, not the fields of a configuration"
            )
        return ConfigDict(tuples(content))
    except (
        RecursionError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:  # names or values that no field can have
        raise ValueError(f"it holds no configuration: {type(error).__name__}: {error}") from error


def differences(saved: ConfigDict, config: ConfigDict) -> list[str]:
    """Lines 'field: 3 here, 4 in the folder' for the fields that a run cannot change midway."""
    there, here = fields(saved), fields(config)
    return [
        f"{name}: {here.get(name)!r} now, {there.get(name)!r} there"
        for name in sorted(there.keys() | here.keys())
        if name not in MAY_CHANGE and here.get(name) != there.get(name)
    ]


def toy_notice(spec: str, config: ConfigDict) -> str:
    """The line that a run at demo scale prints: what it is, and which command is not that; '' at other scales."""
    if config.scale != "demo":
        return ""
    roots = [
        name
        for name in ("environment", "speech")
        if any(name in slot for slot in config.data.slots)
    ]
    command = f"--config {spec.split(':')[0]}:cpu " + " ".join(
        f"--config.data.{name}_root=DIR" for name in roots
    )
    return f"demo is a toy scale; on your recordings: python -m jaxsep.main {command}"
