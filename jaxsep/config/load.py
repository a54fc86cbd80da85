"""A configuration from a file, the command line or a run's folder, and back to text."""

import ast
import json
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxsep.config.schema import (
    FIELDS,
    MAY_CHANGE,
    Config,
    closest,
    flatten,
    legal_values,
    parse,
)
from jaxsep.errors import ConfigError


def load(spec: str, overrides: Sequence[str] = ()) -> Config:
    """The configuration of `configs/robust.py` or `configs/robust.py:cpu`, with overrides.

    The file is Python and defines get_config([scale]) -> ConfigDict. The folder above its own is
    put on the import path.

    Args:
      spec: the file, and perhaps a scale after a colon.
      overrides: such as '--config.seed=3'; see `override`.

    Raises:
      ConfigError: a file that is missing, fails or gives no ConfigDict; or all that is wrong with
        the fields, one line each.
    """
    path, *scale = spec.split(":", 1)
    if not Path(path).is_file():
        raise ConfigError(
            f"--config: {path} is no file; it must be a Python file such as configs/class_bias.py"
        )
    try:
        parent = str(Path(path).resolve().parent.parent)
        if parent not in sys.path:
            sys.path.insert(0, parent)
        module = runpy.run_path(path)
        if "get_config" not in module:
            raise ValueError("it must define get_config([scale]) -> ConfigDict")
        config = module["get_config"](*scale)
        if not isinstance(config, ConfigDict):
            raise ValueError(f"get_config gives {config!r:.80}, it must give a ConfigDict")
    except (Exception, SystemExit) as error:  # the user's own file may fail in any way
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"--config: {spec}: {reason}") from error
    return _with_overrides(config.to_dict(), overrides)


def override(config: Config, overrides: Sequence[str]) -> Config:
    """config with '--config.section.field=value' applied.

    Numbers, tuples, True and False are read as in Python; text needs no quotes. Only
    weighting.gamma takes names that it does not have yet.

    Raises:
      ConfigError: all unknown fields, values of the wrong type and whatever else is wrong with the
        result, one line each.
    """
    return _with_overrides(config.model_dump(), overrides)


def _with_overrides(content: dict[str, Any], overrides: Sequence[str]) -> Config:
    problems, fields = [], flatten(content)
    gamma = fields.get("weighting.gamma")
    for argument in overrides:
        name, equals, text = argument.removeprefix("--config.").partition("=")
        section, _, key = name.partition(".")
        if not argument.startswith("--config.") or not equals:
            legal = "fields are set as --config.section.field=value"
            problems.append(f"{argument}: not known; {legal}")
        elif name.startswith("weighting.gamma.") and isinstance(gamma, dict):
            gamma[key.removeprefix("gamma.")] = _value(text)
        elif name not in fields:
            problems.append(f"--config.{name}: no such field{closest(name, fields)}")
        else:
            value, is_text = _value(text), isinstance(fields[name], str)
            right = value if isinstance(value, str) or not is_text else text
            (content[section] if key else content)[key or section] = right
    return parse(content, problems=problems)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {"true": True, "false": False}.get(text, text)


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

    content = tuples(json.loads(text))
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not the fields of a configuration")
    return parse(content)


def differences(saved: Config, given: Config) -> list[str]:
    """'field: 3 now, 4 there' for each field that a run cannot change midway but that differs."""
    there, now = flatten(saved.model_dump()), flatten(given.model_dump())
    return [
        f"{name}: {now.get(name)!r} now, {there.get(name)!r} there"
        for name in sorted((there.keys() | now.keys()) - MAY_CHANGE)
        if now.get(name) != there.get(name)
    ]


def field_table(config: Config) -> str:
    """Every field on a line with its value in config and what is legal; its meaning below."""
    values = flatten(config.model_dump())
    return "\n".join(
        f"{name:<26} {values[name]!r:<26} {legal_values(info)}\n    {info.description}"
        for name, info in FIELDS.items()
    )
