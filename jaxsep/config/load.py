"""A configuration from a file, the command line or a run's folder, and back to text."""

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxsep.config.schema import FIELDS, Config, about, closest, flatten, parse
from jaxsep.data.mixtures.sampler import CORPORA
from jaxsep.errors import ConfigError


def load(spec: str, overrides: Sequence[str] = ()) -> Config:
    """The configuration of `configs/robust.py` or `configs/robust.py:cpu`, with overrides.

    The file is Python and defines get_config([scale]) -> ConfigDict. The folder above its own is
    put on the import path.

    Args:
      spec: the file, and perhaps a scale after a colon.
      overrides: such as '--config.seed=3'; see `override`.

    Raises:
      ConfigError: no such file, no such scale, a file that fails or gives no ConfigDict; or all
        that is wrong with the fields, one line each.
    """
    path, *scale = spec.split(":", 1)
    file = Path(path)
    if not os.path.isfile(path):
        raise ConfigError(
            f"--config: {path} is no file; there are configs/class_bias.py, robust.py, "
            "curriculum.py and others"
        )
    parent = str(file.resolve().parent.parent)
    if parent not in sys.path:
        sys.path.insert(0, parent)
    module_spec = importlib.util.spec_from_file_location(f"jaxsep_config_{file.stem}", file)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError(f"--config: {path} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        config = module.get_config(*scale)
        content = config.to_dict() if isinstance(config, ConfigDict) else None
    except (Exception, SystemExit) as error:  # the user's own file may fail in any way
        raise ConfigError(
            f"--config: {spec}: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    if content is None:
        raise ConfigError(
            f"--config: {spec}: get_config gives a {type(config).__name__}, "
            "it must give a ConfigDict"
        )
    return _with_overrides(content, overrides)


def override(config: Config, overrides: Sequence[str]) -> Config:
    """config with '--config.section.field=value' applied.

    Only weighting.gamma takes names that it does not have yet. Text is read by ml_collections, as
    a value of the type that the field has.

    Raises:
      ConfigError: all unknown fields, values of the wrong type and whatever else is wrong with the
        result, one line each.
    """
    return _with_overrides(config.model_dump(), overrides)


def _with_overrides(content: dict[str, Any], overrides: Sequence[str]) -> Config:
    problems = []
    for argument in overrides:
        try:
            _apply(content, argument)
        except ConfigError as error:
            problems.append(str(error))
    return parse(content, problems=problems)


def _apply(content: dict[str, Any], argument: str) -> None:
    """Set one field of nested values as '--config.section.field=value' says."""
    name, equals, value = argument.removeprefix("--config.").partition("=")
    if not argument.startswith("--config.") or not equals:
        raise ConfigError(f"{argument}: not known; fields are set as --config.section.field=value")
    if name.startswith("weighting.gamma."):
        return _set_gamma(content, name.removeprefix("weighting.gamma."), value)
    fields = flatten(content)
    if name not in fields:
        raise ConfigError(f"--config.{name}: no such field{closest(name, fields)}")
    if isinstance(fields[name], dict):
        raise ConfigError(f"--config.{name}: it is set name by name, --config.{name}.NAME=VALUE")
    field = ConfigDict({"value": fields[name]})
    flag, arguments = flags.FlagValues(), ["jaxsep", f"--config.value={value}"]
    try:
        config_flags.DEFINE_config_dict(
            "config", field, flag_values=flag, lock_config=False, sys_argv=arguments
        )
        flag(arguments)
    except Exception as error:  # of literals, which Python itself reads, errors of many kinds
        reason = " ".join(str(error)[:500].split()) or type(error).__name__
        reason = reason.removeprefix(f"flag --config.value={value}: ")
        raise ConfigError(f"--config.{name}={value:.100}: {reason}") from error
    section, _, key = name.rpartition(".")
    (content[section] if section else content)[key] = field.value
    return None


def _set_gamma(content: dict[str, Any], name: str, value: str) -> None:
    try:
        number = float(value)
    except ValueError as error:
        raise ConfigError(f"weighting.gamma.{name} is {value!r}, it must be a number") from error
    gamma = flatten(content).get("weighting.gamma")
    if not isinstance(gamma, dict):
        raise ConfigError(f"weighting.gamma.{name}: there is no weighting.gamma to set it in")
    gamma[name] = number


def to_json(config: Config) -> str:
    """The configuration as it stands in a run's folder."""
    return json.dumps(config.model_dump(), indent=2) + "\n"


def from_json(text: str) -> Config:
    """The inverse of `to_json`.

    Raises:
      ConfigError: fields that are missing, unknown or illegal.
      ValueError: the text is no JSON, or not that of an object.
    """

    def tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: tuples(item) for name, item in value.items()}
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    try:
        content = tuples(json.loads(text))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not the fields of a configuration")
    return parse(content)


def differences(saved: Config, given: Config) -> list[str]:
    """'field: 3 now, 4 there' for each field that a run cannot change midway but that differs."""
    there, now = flatten(saved.model_dump()), flatten(given.model_dump())
    return [
        f"{name}: {now.get(name)!r} now, {there.get(name)!r} there"
        for name in sorted(there.keys() | now.keys())
        if now.get(name) != there.get(name)
        and not (name in FIELDS and about(FIELDS[name])["may_change"])
    ]


def toy_notice(spec: str, config: Config) -> str:
    """What a run at demo scale prints: the command for recordings. '' at other scales."""
    if config.scale != "demo":
        return ""
    roots = [
        f"--config.data.{corpus}_root=DIR"
        for corpus in CORPORA
        if any(corpus in slot for slot in config.data.slots)
    ]
    command = " ".join(["python -m jaxsep.main --config", spec.split(":")[0] + ":cpu", *roots])
    return f"demo is a toy scale; on your recordings: {command}"
