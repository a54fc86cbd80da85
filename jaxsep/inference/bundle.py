"""The portable model: a folder with params.safetensors and model.json. Nothing in it is code; reading it runs none."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

import jaxsep
from jaxsep import models
from jaxsep.data.audio import MAX_SAMPLE_RATE
from jaxsep.errors import ModelError
from jaxsep.files import atomic_folder
from jaxsep.models import torch_import

FORMAT = 1


def save_bundle(
    folder: Path,
    params: Any,
    *,
    family: str,
    fields: dict[str, Any],
    sample_rate: int,
    about: dict[str, Any],
) -> None:
    """Write a bundle, complete or not at all; model.json holds the SHA-256 of params.safetensors, by which damage is found.

    Args:
      folder: replaced where it exists.
      params: nested dict of arrays.
      family, fields: what `jaxsep.models.create` takes.
      sample_rate: Hz, of the audio the model was trained on.
      about: JSON data for people: class names, training summary.
    """
    content = safetensors.numpy.save(
        {name: np.asarray(array) for name, array in flatten(params).items()}
    )
    description = {
        "format": FORMAT,
        "jaxsep": jaxsep.__version__,
        "family": family,
        "fields": fields,
        "sample_rate": sample_rate,
        "num_sources": fields["num_sources"],
        "normalisation": "mixture: zero mean, unit standard deviation",
        "params_sha256": hashlib.sha256(content).hexdigest(),
        **about,
    }
    with _written(folder) as partial:
        (partial / "params.safetensors").write_bytes(content)
        (partial / "model.json").write_text(
            json.dumps(description, indent=2) + "\n", encoding="utf-8"
        )


@contextmanager
def _written(folder: Path) -> Iterator[Path]:
    """A folder to write to, which takes the place of `folder` when all is in it."""
    try:
        with atomic_folder(folder, replace=True) as partial:
            yield partial
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"{folder}: the model cannot be written: {error}") from error


def flatten(tree: Any) -> dict[str, Any]:
    """Nested dict -> {'block/layer/kernel': leaf}."""
    return {
        "/".join(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def unflatten(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    params: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, leaf = name.split("/")
        place = params
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = array
    return params


def load_bundle(folder: str | os.PathLike, *, trust: str = "") -> tuple[Any, Any, dict[str, Any]]:
    """(module, params, description) of a bundle, or of the run's folder that holds one as model/.

    Args:
      folder: of the bundle or the run.
      trust: 'package.module:Class' of a network outside jaxsep that the bundle may name; importing it runs its code.

    Raises:
      ModelError: not such a folder, damaged, lacking something, of a newer format, of a network outside jaxsep that is
        not trusted, or with parameters that are not the network's.
    """
    folder = find_bundle(folder)
    description = _read_description(folder / "model.json")
    family = description["family"]
    if family not in models.FAMILIES and family != trust:
        raise ModelError(
            f"{folder}/model.json: family is {family!r}, a network outside jaxsep, which loading would import and run; "
            f"--trust {family} (trust= in Python) allows it; without, {' and '.join(models.FAMILIES)} are legal"
        )
    try:
        module = models.create(family, **description["fields"])
    except (TypeError, ValueError) as error:
        raise ModelError(f"{folder}/model.json: {error}") from error
    origin = folder / "params.safetensors"
    arrays = stack_blocks(_read_params(origin, description.get("params_sha256")))
    try:
        expected = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 256), np.float32))[
            "params"
        ]
    except Exception as error:  # fields that do not go together, a trusted network's own code
        raise ModelError(f"{folder}/model.json: fields make no network ({error!r:.500})") from error
    check_params(arrays, expected, str(origin))
    return module, unflatten(arrays), description


def _read_params(path: Path, digest: Any) -> dict[str, np.ndarray]:
    """The arrays by name; digest: SHA-256 (hex) that the file must have, None in bundles of older versions."""
    try:
        content = path.read_bytes()
        arrays = safetensors.numpy.load(content)
    except (
        Exception
    ) as error:  # damaged bytes make safetensors and NumPy raise errors of several kinds
        raise ModelError(f"{path}: cannot be read: {error!r:.500}") from error
    if digest is not None and digest != hashlib.sha256(content).hexdigest():
        raise ModelError(
            f"{path}: is damaged, it is not the file that model.json was written with (SHA-256)"
        )
    return arrays


def find_bundle(folder: str | os.PathLike) -> Path:
    """The folder that holds model.json and params.safetensors: folder, or model/ in it."""
    for place in (Path(folder), Path(folder) / "model"):
        if os.path.isfile(place / "model.json") and os.path.isfile(place / "params.safetensors"):
            return place
    raise ModelError(
        f"{folder}: no trained model here; model.json and params.safetensors must be in it or in its model/, where a run "
        f"that is finished has them"
    )


def _read_description(path: Path) -> dict[str, Any]:
    """model.json, checked."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    if not isinstance(description, dict):
        raise ModelError(f"{path}: is no JSON object")
    if description.get("format", FORMAT) != FORMAT:
        raise ModelError(
            f"{path}: format is {description['format']!r}, written by jaxsep {description.get('jaxsep')}; this jaxsep, "
            f"{jaxsep.__version__}, reads {FORMAT}"
        )
    needed = {"format": int, "family": str, "fields": dict, "sample_rate": int}
    missing = [name for name in needed if name not in description]
    if missing:
        raise ModelError(
            f"{path}: lacks {', '.join(missing)}, which every bundle of format {FORMAT} has"
        )
    for name, kind in needed.items():
        if not isinstance(description[name], kind) or isinstance(description[name], bool):
            raise ModelError(
                f"{path}: {name} is {description[name]!r:.80}, it must be of type {kind.__name__}"
            )
    _check_sample_rate(description["sample_rate"], f"{path}: ")
    return description


def _check_sample_rate(sample_rate: int, origin: str = "") -> None:
    if not 1 <= sample_rate <= MAX_SAMPLE_RATE:
        raise ModelError(
            f"{origin}sample_rate is {sample_rate!r:.80}, it must be at least 1 Hz, at most {MAX_SAMPLE_RATE}"
        )


def stack_blocks(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by name as the networks have them now: block_0/NAME, block_1/NAME, … of older bundles become blocks/NAME."""
    found: dict[str, dict[int, np.ndarray]] = {}
    result = {}
    for name, array in arrays.items():
        if match := re.fullmatch(r"block_(0|[1-9][0-9]{0,3})/(.+)", name):
            found.setdefault(match[2], {})[int(match[1])] = array
        else:
            result[name] = array
    for name, blocks in found.items():
        if (
            sorted(blocks) == list(range(len(blocks)))
            and len({array.shape for array in blocks.values()}) == 1
        ):
            result[f"blocks/{name}"] = np.stack([blocks[number] for number in range(len(blocks))])
    return result


def export_bundle(source: str | os.PathLike, folder: Path, *, trust: str = "") -> None:
    """Copy the bundle of a run's folder, or a bundle, to folder, which it replaces; it is loaded first.

    Raises:
      ModelError: see `load_bundle`; folder holds the source or cannot be written.
    """
    load_bundle(source, trust=trust)
    origin = find_bundle(source)
    if origin.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"{folder}: holds the model to be exported, {origin}; use another folder")
    with _written(folder) as partial:
        for name in ("params.safetensors", "model.json"):
            shutil.copyfile(origin / name, partial / name)


def import_published(file: str | os.PathLike, folder: Path, *, sample_rate: int) -> None:
    """Make a bundle, which replaces folder, of a trained network in the authors' published form.

    Args:
      file: .pt, see `models.torch_import.from_file`: read without torch, without running code from it.
      sample_rate: Hz, of the audio it was trained on; the file does not tell.

    Raises:
      ModelError: the file is no such network, or folder cannot be written.
    """
    _check_sample_rate(sample_rate)
    try:
        module, params = torch_import.from_file(file)
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ModelError(str(error) if str(file) in str(error) else f"{file}: {error}") from error
    family = next(name for name, kind in models.FAMILIES.items() if type(module) is kind)
    fields = {
        f.name: getattr(module, f.name)
        for f in dataclasses.fields(module)
        if f.name not in ("parent", "name")
    }
    about = {
        "origin": {
            "file": Path(file).name,
            "sha256": hashlib.sha256(Path(file).read_bytes()).hexdigest(),
        }
    }
    save_bundle(folder, params, family=family, fields=fields, sample_rate=sample_rate, about=about)


def check_params(params: Any, expected: Any, origin: str) -> None:
    """Raise ModelError where params are not of the names, shapes and types of expected."""
    found = {name: (leaf.shape, leaf.dtype) for name, leaf in flatten(params).items()}
    wanted = {name: (leaf.shape, leaf.dtype) for name, leaf in flatten(expected).items()}
    for name in sorted(found.keys() | wanted.keys()):
        (shape, kind), (right, right_kind) = (
            found.get(name, (None, None)),
            wanted.get(name, (None, None)),
        )
        if shape != right:
            raise ModelError(
                f"{origin}: parameter {name} has shape {shape}, the network has {right} (None: not there)"
            )
        if kind != right_kind:
            raise ModelError(
                f"{origin}: parameter {name} is of type {kind}, the network has {right_kind}"
            )
