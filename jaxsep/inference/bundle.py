"""The portable model: a folder with params.safetensors and model.json.

A bundle may come from a stranger. Nothing in it is code, and what is read is checked here, once:
model.json for its fields, the parameters against their SHA-256 and the network's shapes.
"""

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
from flax.traverse_util import flatten_dict, unflatten_dict

import jaxsep
from jaxsep import models
from jaxsep.data.audio import MAX_SAMPLE_RATE
from jaxsep.errors import ModelError
from jaxsep.files import atomic_folder, display, read_json
from jaxsep.models import torch_import

FORMAT = 1
FILES = ("params.safetensors", "model.json")


def save_bundle(
    folder: Path,
    params: Any,
    *,
    family: str,
    fields: dict[str, Any],
    sample_rate: int,
    about: dict[str, Any],
) -> None:
    """Write a bundle, complete or not at all.

    Args:
      folder: replaced where it exists.
      params: nested dict of arrays.
      family, fields: what `jaxsep.models.create` takes.
      sample_rate: Hz, of the audio the model was trained on.
      about: JSON data for people: class names, training summary.

    Raises:
      ModelError: it cannot be written.
    """
    arrays = {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep="/").items()}
    content = safetensors.numpy.save(arrays)
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
    with _replaced(folder) as partial:
        (partial / "params.safetensors").write_bytes(content)
        text = json.dumps(description, indent=2) + "\n"
        (partial / "model.json").write_text(text, encoding="utf-8")


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A folder to write to, which takes the place of `folder` when all is in it."""
    try:
        with atomic_folder(folder, replace=True) as partial:
            yield partial
    except OSError as error:
        raise ModelError(f"{folder}: the model cannot be written: {error}") from error


def load_bundle(folder: str | os.PathLike, *, trust: str = "") -> tuple[Any, Any, dict[str, Any]]:
    """(module, params, description) of a bundle, or of the run's folder that holds one as model/.

    Args:
      folder: of the bundle or the run.
      trust: 'package.module:Class' of a network outside jaxsep that the bundle may name; importing
        it runs its code.

    Raises:
      ModelError: not such a folder, damaged, of a newer format, of a network outside jaxsep that is
        not trusted, or with parameters that are not the network's.
    """
    folder = _find_bundle(folder)
    origin = folder / "model.json"
    description = _read_description(origin)
    family = description["family"]
    if family not in models.FAMILIES and family != trust:
        raise ModelError(
            f"{origin}: family is {family!r}, a network outside jaxsep, which loading would import "
            f"and run; --trust {family} (trust= in Python) allows it; "
            f"without, {' and '.join(models.FAMILIES)} are legal"
        )
    try:
        module = models.create(family, **description["fields"])
    except (TypeError, ValueError) as error:
        raise ModelError(f"{origin}: {error}") from error
    try:
        mixture = np.zeros((1, 256), np.float32)
        expected = jax.eval_shape(module.init, jax.random.key(0), mixture)["params"]
    except Exception as error:  # fields that do not go together, a trusted network's own code
        raise ModelError(f"{origin}: fields make no network ({error!r:.500})") from error
    arrays = _read_params(folder / "params.safetensors", description.get("params_sha256"))
    check_params(arrays, expected, str(folder / "params.safetensors"))
    return module, unflatten_dict(arrays, sep="/"), description


def _find_bundle(folder: str | os.PathLike) -> Path:
    for place in (Path(folder), Path(folder) / "model"):
        if all(os.path.isfile(place / name) for name in FILES):
            return place
    raise ModelError(
        f"{folder}: no trained model here; model.json and params.safetensors must be in it "
        f"or in its model/, where a run that is finished has them"
    )


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    if not isinstance(description, dict):
        raise ModelError(f"{path}: is no JSON object")
    if description.get("format", FORMAT) != FORMAT:
        raise ModelError(
            f"{path}: format is {description['format']!r}, written by jaxsep "
            f"{description.get('jaxsep')}; this jaxsep, {jaxsep.__version__}, reads {FORMAT}"
        )
    needed = {"format": int, "family": str, "fields": dict, "sample_rate": int}
    if missing := [name for name in needed if name not in description]:
        raise ModelError(
            f"{path}: lacks {', '.join(missing)}, which every bundle of format {FORMAT} has"
        )
    for name, kind in needed.items():
        value = description[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ModelError(f"{path}: {name} is {value!r:.80}, it must be of type {kind.__name__}")
    _check_sample_rate(description["sample_rate"], f"{path}: ")
    return description


def _check_sample_rate(sample_rate: int, origin: str = "") -> None:
    if not 1 <= sample_rate <= MAX_SAMPLE_RATE:
        raise ModelError(
            f"{origin}sample_rate is {sample_rate!r:.80}, "
            f"it must be at least 1 Hz, at most {MAX_SAMPLE_RATE}"
        )


def _read_params(path: Path, digest: Any) -> dict[str, np.ndarray]:
    """The arrays by name; digest: SHA-256 of their file in hex, None in older bundles."""
    try:
        content = path.read_bytes()
        arrays = safetensors.numpy.load(content)
    except (
        Exception
    ) as error:  # damaged bytes make safetensors and NumPy raise errors of many kinds
        raise ModelError(f"{path}: cannot be read: {error!r:.500}") from error
    if digest is not None and digest != hashlib.sha256(content).hexdigest():
        raise ModelError(
            f"{path}: is damaged, it is not the file that model.json was written with (SHA-256)"
        )
    return _stack_blocks(arrays)


def _stack_blocks(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """block_0/NAME, block_1/NAME, … of bundles of older versions become blocks/NAME."""
    stacked: dict[str, np.ndarray] = {}
    blocks: dict[str, dict[int, np.ndarray]] = {}
    for name, array in arrays.items():
        if match := re.fullmatch(r"block_(0|[1-9][0-9]{0,3})/(.+)", name):
            blocks.setdefault(match[2], {})[int(match[1])] = array
        else:
            stacked[name] = array
    for name, by_number in blocks.items():
        shapes = {array.shape for array in by_number.values()}
        if sorted(by_number) == list(range(len(by_number))) and len(shapes) == 1:
            stacked[f"blocks/{name}"] = np.stack([by_number[n] for n in range(len(by_number))])
    return stacked


def check_params(params: Any, expected: Any, origin: str) -> None:
    """ModelError where params are not of the names, shapes and types of expected; names origin."""

    def facts(tree: Any) -> dict[str, tuple[Any, Any]]:
        flat = flatten_dict(tree, sep="/")
        return {name: (leaf.shape, leaf.dtype) for name, leaf in flat.items()}

    given, wanted = facts(params), facts(expected)
    for name in sorted(given.keys() | wanted.keys()):
        shape, kind = given.get(name, (None, None))
        right_shape, right_kind = wanted.get(name, (None, None))
        if shape != right_shape:
            raise ModelError(
                f"{origin}: parameter {name} has shape {shape}, "
                f"the network has {right_shape} (None: not there)"
            )
        if kind != right_kind:
            raise ModelError(
                f"{origin}: parameter {name} is of type {kind}, the network has {right_kind}"
            )


def export_bundle(source: str | os.PathLike, folder: Path, *, trust: str = "") -> None:
    """Copy the bundle of a run's folder, or a bundle, to folder, which it replaces.

    Raises:
      ModelError: see `load_bundle`; folder holds the source, or cannot be written.
    """
    load_bundle(source, trust=trust)
    origin = _find_bundle(source)
    if origin.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"{folder}: holds the model to be exported, {origin}; use another folder")
    with _replaced(folder) as partial:
        for name in FILES:
            shutil.copyfile(origin / name, partial / name)


def import_published(file: str | os.PathLike, folder: Path, *, sample_rate: int) -> None:
    """Make a bundle, which replaces folder, of a network in the authors' published form.

    Args:
      file: .pt, see `models.torch_import.from_file`.
      sample_rate: Hz, of the audio it was trained on; the file does not tell.

    Raises:
      ModelError: the file is no such network, or folder cannot be written.
    """
    _check_sample_rate(sample_rate)
    try:
        module, params = torch_import.from_file(file)
        digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror or error})") from error
    save_bundle(
        folder,
        params,
        family=next(name for name, kind in models.FAMILIES.items() if type(module) is kind),
        fields={name: getattr(module, name) for name in models.field_names(module)},
        sample_rate=sample_rate,
        about={"origin": {"file": Path(file).name, "sha256": digest}},
    )


def check_replaceable(folder: Path, *, force: bool) -> None:
    """ModelError where a model must not take the folder's place: see -o of `jaxsep.separate`."""
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if names - set(FILES):
        raise ModelError(
            f"-o {display(folder)} holds other things than a model; use another folder"
        )
    if names and not force:
        raise ModelError(f"-o {display(folder)} holds a model; --force replaces it")
