"""The portable model: a folder with params.safetensors and model.json.

A bundle may come from a stranger. Nothing in it is code, and what is read is checked here, once:
model.json by its schema, the parameters against their SHA-256 and the network's shapes.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import pydantic
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

import jaxsep
from jaxsep import models
from jaxsep.data.audio import MAX_SAMPLE_RATE
from jaxsep.errors import ModelError
from jaxsep.files import atomic_folder, display, read_json
from jaxsep.models import torch_import

PARAMS, DESCRIPTION = FILES = ("params.safetensors", "model.json")


class _Description(pydantic.BaseModel, strict=True):
    """What model.json must hold; other entries are for people."""

    format: Literal[1]
    family: str
    fields: dict[str, Any]
    sample_rate: int = pydantic.Field(ge=1, le=MAX_SAMPLE_RATE)
    params_sha256: str


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
      ModelError: it cannot be written, or the sample rate is none.
    """
    arrays = {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep="/").items()}
    content = safetensors.numpy.save(arrays)
    description = {
        "format": 1,
        "jaxsep": jaxsep.__version__,
        "family": family,
        "fields": fields,
        "sample_rate": sample_rate,
        "num_sources": fields["num_sources"],
        "normalisation": "mixture: zero mean, unit standard deviation",
        "params_sha256": hashlib.sha256(content).hexdigest(),
        **about,
    }
    _check(description, str(folder))
    _write(folder, content, (json.dumps(description, indent=2) + "\n").encode())


def _write(folder: Path, params: bytes, description: bytes) -> None:
    try:
        with atomic_folder(folder, replace=True) as partial:
            (partial / PARAMS).write_bytes(params)
            (partial / DESCRIPTION).write_bytes(description)
    except OSError as error:
        raise ModelError(f"{folder}: the model cannot be written: {error}") from error


def _check(description: Any, origin: str) -> None:
    """ModelError where a description does not fit the schema; names the field and its value."""
    try:
        _Description.model_validate(description)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        given = "missing" if problem["type"] == "missing" else f"{problem['input']!r:.80}"
        raise ModelError(
            f"{origin}: {'.'.join(map(str, problem['loc']))} is {given}: {problem['msg']} "
            f"(this is jaxsep {jaxsep.__version__})"
        ) from error


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
    origin, path = folder / DESCRIPTION, folder / PARAMS
    try:
        description = read_json(origin)
    except (OSError, ValueError) as error:
        raise ModelError(f"{origin}: cannot be read: {error}") from error
    _check(description, str(origin))
    family = description["family"]
    if family not in models.FAMILIES and family != trust:
        raise ModelError(
            f"{origin}: family is {family!r}, a network outside jaxsep, which loading would import "
            f"and run; --trust {family} (trust= in Python) allows it; "
            f"without, {' and '.join(models.FAMILIES)} are legal"
        )
    try:
        module = models.create(family, **description["fields"])
        mixture = np.zeros((1, 256), np.float32)
        expected = jax.eval_shape(module.init, jax.random.key(0), mixture)["params"]
    except Exception as error:  # fields that do not go together, a trusted network's own code
        raise ModelError(f"{origin}: fields make no network: {error!s:.500}") from error
    try:
        content = path.read_bytes()
        arrays = safetensors.numpy.load(content)
    except Exception as error:  # damaged bytes raise errors of many kinds
        raise ModelError(f"{path}: cannot be read: {error!r:.500}") from error
    if description["params_sha256"] != hashlib.sha256(content).hexdigest():
        raise ModelError(f"{path}: is damaged: its SHA-256 is not the one in model.json")
    check_params(arrays, expected, str(path))
    return module, unflatten_dict(arrays, sep="/"), description


def _find_bundle(folder: str | os.PathLike) -> Path:
    for place in (Path(folder), Path(folder) / "model"):
        if all(os.path.isfile(place / name) for name in FILES):
            return place
    raise ModelError(
        f"{folder}: no trained model here; model.json and params.safetensors must be in it "
        f"or in its model/, where a run that is finished has them"
    )


def check_params(params: Any, expected: Any, origin: str) -> None:
    """ModelError where params are not of the names, shapes and types of expected; names origin."""
    given, wanted = (
        {name: f"{leaf.dtype}{leaf.shape}" for name, leaf in flatten_dict(tree, sep="/").items()}
        for tree in (params, expected)
    )
    for name in sorted(given.keys() | wanted.keys()):
        if given.get(name) != wanted.get(name):
            raise ModelError(
                f"{origin}: parameter {name} is {given.get(name)}, "
                f"the network has {wanted.get(name)} (None: not there)"
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
    _write(folder, *((origin / name).read_bytes() for name in FILES))


def import_published(file: str | os.PathLike, folder: Path, *, sample_rate: int) -> None:
    """Make a bundle, which replaces folder, of a network in the authors' published form.

    Args:
      file: .pt, see `models.torch_import.from_file`.
      sample_rate: Hz, of the audio it was trained on; the file does not tell.

    Raises:
      ModelError: the file is no such network, the rate is none, or folder cannot be written.
    """
    if not 1 <= sample_rate <= MAX_SAMPLE_RATE:
        raise ModelError(
            f"sample_rate is {sample_rate}, it must be at least 1 Hz, at most {MAX_SAMPLE_RATE}"
        )
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
