"""The portable model: a folder with params.safetensors and model.json. Nothing in it is code; reading it runs none."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
import soxr

import jaxsep
from jaxsep import models

FORMAT = 1


class BundleError(ValueError):
    """A model folder that cannot be read; the message names the path and what is wrong."""


def save_bundle(
    folder: Path, params: Any, *, family: str, fields: dict[str, Any], sample_rate: int, about: dict[str, Any]
) -> None:
    """Write a bundle, complete or not at all.

    Args:
      folder: replaced where it exists.
      params: nested dict of arrays.
      family, fields: what `jaxsep.models.create` takes.
      sample_rate: Hz, of the audio the model was trained on.
      about: JSON data for people: class names, training summary.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    description = {
        "format": FORMAT,
        "jaxsep": jaxsep.__version__,
        "family": family,
        "fields": fields,
        "sample_rate": sample_rate,
        "num_sources": fields["num_sources"],
        "normalisation": "mixture: zero mean, unit standard deviation",
        **about,
    }
    arrays = {name: np.asarray(array) for name, array in flatten(params).items()}
    safetensors.numpy.save_file(arrays, partial / "params.safetensors")
    (partial / "model.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    if folder.exists():
        retired = folder.with_name(folder.name + ".retired")
        shutil.rmtree(retired, ignore_errors=True)
        os.replace(folder, retired)
        os.replace(partial, folder)
        shutil.rmtree(retired)
    else:
        os.replace(partial, folder)


def flatten(tree: Any) -> dict[str, Any]:
    """Nested dict -> {'block/layer/kernel': leaf}."""
    return {"/".join(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


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
      BundleError: not such a folder, damaged, of a newer format, of a network outside jaxsep that is not trusted,
        or with parameters that are not the network's.
    """
    folder = Path(folder)
    if not (folder / "model.json").is_file():
        folder = folder / "model"
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        arrays = safetensors.numpy.load_file(folder / "params.safetensors")
        version, family = description["format"], description["family"]
        fields, _ = dict(description["fields"]), int(description["sample_rate"])
    except FileNotFoundError as error:
        raise BundleError(f"{folder.parent}: no trained model here, {error.filename} is missing") from error
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise BundleError(f"{folder}: the model cannot be read: {error!r}") from error
    if version != FORMAT:
        raise BundleError(f"{folder}/model.json: format is {version!r}, this jaxsep reads {FORMAT}")
    if family not in models.FAMILIES and family != trust:
        raise BundleError(
            f"{folder}/model.json: family is {family!r}, a network outside jaxsep, which loading would import; "
            f"legal without trust: {', '.join(models.FAMILIES)}"
        )
    try:
        module = models.create(family, **fields)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{folder}/model.json: {error}") from error
    expected = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 256), np.float32))["params"]
    params = unflatten(arrays)
    check_params(params, expected, str(folder / "params.safetensors"))
    return module, params, description


def check_params(params: Any, expected: Any, origin: str) -> None:
    """Raise BundleError where params are not of the names and shapes of expected."""
    found = {name: leaf.shape for name, leaf in flatten(params).items()}
    wanted = {name: leaf.shape for name, leaf in flatten(expected).items()}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise BundleError(
                f"{origin}: parameter {name} has shape {found.get(name)}, the network has {wanted.get(name)} "
                f"(None: not there)"
            )


def load(folder: str | os.PathLike) -> Callable[[np.ndarray, int], np.ndarray]:
    """A separator from a run's folder or a model bundle.

    Returns:
      separator(audio, sample_rate) -> [N, T] float32: the sources at the audio's own rate and length, scaled to the mixture.
      audio: [T], or [T, channels], whose channels are averaged; sample_rate in Hz. The whole recording is taken at once, and
      each new length compiles the network anew.

    Raises:
      BundleError: see `load_bundle`. The separator raises ValueError for audio that is empty, not finite or not [T] or
      [T, channels].
    """
    module, params, description = load_bundle(folder)
    model_rate = int(description["sample_rate"])
    apply_fn = jax.jit(module.apply)

    def separator(audio: np.ndarray, sample_rate: int) -> np.ndarray:
        audio = np.asarray(audio, np.float32)
        if audio.ndim not in (1, 2) or audio.size == 0 or not np.all(np.isfinite(audio)):
            raise ValueError(f"audio must be finite, [T] or [T, channels] and not empty, got shape {audio.shape}")
        if sample_rate <= 0:
            raise ValueError(f"sample_rate must be positive, got {sample_rate}")
        mono = audio if audio.ndim == 1 else audio.mean(axis=1)
        mixture = soxr.resample(mono, sample_rate, model_rate) if sample_rate != model_rate else mono
        mean, deviation = mixture.mean(), mixture.std()
        scale = deviation if deviation > 0 else np.float32(1)
        estimates = np.asarray(apply_fn({"params": params}, ((mixture - mean) / scale)[None]))[0] * scale
        if sample_rate == model_rate:
            return estimates
        resampled = soxr.resample(estimates.T, model_rate, sample_rate).T
        missing = max(0, len(mono) - resampled.shape[1])
        return np.pad(resampled, ((0, 0), (0, missing)))[:, : len(mono)]

    return separator
