"""From a configuration to the parts of an experiment: everything that can be checked before anything is compiled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from jaxsep import models, rules
from jaxsep.data.batches import steps_per_epoch
from jaxsep.data.packing import default_cache
from jaxsep.inference.bundle import check_params, load_bundle
from jaxsep.models import torch_import
from jaxsep.objective import weighting as weightings
from jaxsep.settings import SettingsError
from jaxsep.training.accumulate import LossFn
from jaxsep.training.devices import Devices
from jaxsep.training.sets import Sets, open_sets
from jaxsep.training.state import TrainState, create_state, init_params, make_optimizer, make_schedule
from jaxsep.training.step import make_train_step, separation_loss_fn


@dataclass(frozen=True)
class Parts:
    """What a configuration is made into. fields: the model's; schedule: step -> learning rate."""

    config: ConfigDict
    sets: Sets
    module: Any
    fields: dict[str, Any]
    weighting: Any
    schedule: Callable[[int], Any]
    steps_per_epoch: int


def build(config: ConfigDict, *, devices: int = 1) -> Parts:
    """Settings, data, network and weighting of an experiment; devices: how many share each batch.

    Raises:
      SettingsError, DataError: what is wrong, with the field's or file's name.
    """
    rules.validate(config, devices=devices)
    module, fields = build_module(config)
    sets = build_sets(config)
    check_module(module, config)
    table, train = sets.table, config.train
    for split in ("val", "test"):
        if not sets.scored_classes(split):
            raise SettingsError(
                f"no mixture of {split} has two sources that sound, and SI-SDR improvement needs them: data.slots is "
                f"{config.data.slots}, data.active_counts {config.data.active_counts}, model.num_sources {sets.num_sources}"
            )
    scored = [table.names[i] for i in sets.scored_classes("val")]
    legal = rules.best_metric_names(scored, [table.corpora[i] for i in sets.scored_classes("val")])
    if train.best_metric not in legal:
        shown = ", ".join(legal[:14])
        raise SettingsError(
            f"train.best_metric is {train.best_metric!r}, it must be one of {shown}, or another class of val"
        )
    steps = steps_per_epoch(train.mixtures_per_epoch, train.batch_size)
    schedule = make_schedule(
        train.schedule,
        train.learning_rate,
        steps_per_epoch=steps,
        num_epochs=train.num_epochs,
        every=train.schedule_every,
        divisor=train.schedule_divisor,
        warmup=train.warmup_epochs,
    )
    return Parts(config, sets, module, fields, build_weighting(config, sets), schedule, steps)


def build_module(config: ConfigDict) -> tuple[Any, dict[str, Any]]:
    """The network and its fields."""
    fields = {name: value for name, value in config.model.items() if name != "family"}
    try:
        return models.create(config.model.family, **fields), fields
    except ValueError as error:
        raise SettingsError(str(error)) from error
    except TypeError as error:
        raise SettingsError(f"model.family {config.model.family}: {error}; its other fields need defaults") from error


def check_module(module: Any, config: ConfigDict) -> None:
    """Raise SettingsError unless the network maps [B, T] to [B, N, T]; nothing is computed."""
    mixture = jax.ShapeDtypeStruct((2, 800), np.float32)
    wanted = (2, config.model.num_sources, 800)
    try:
        found = jax.eval_shape(module.init_with_output, jax.random.key(0), mixture)[0].shape
    except Exception as error:  # the user's own network may fail in any way
        raise SettingsError(
            f"model.family {config.model.family} fails on a mixture {mixture.shape}: {error}"
        ) from error
    if found != wanted:
        raise SettingsError(
            f"model.family {config.model.family} gives {found} for {mixture.shape}, it must give {wanted}"
        )


def build_sets(config: ConfigDict, splits: Sequence[str] = ("train", "val", "test")) -> Sets:
    """The mixtures, checked against the model's number of sources."""
    data = config.data.to_dict()
    data["cache_dir"] = Path(data["cache_dir"] or default_cache())
    sets = open_sets(**data, pad_seconds=config.evaluation.pad_seconds, splits=splits)
    if sets.num_sources != config.model.num_sources:
        raise SettingsError(
            f"model.num_sources is {config.model.num_sources}, the mixtures have {sets.num_sources} sources"
        )
    return sets


def build_weighting(config: ConfigDict, sets: Sets) -> Any:
    """The weighting that config.weighting names."""
    chosen = config.weighting
    if chosen.name == "product":
        return weightings.product(*(_factor(name, config, sets) for name in chosen.factors))
    return _factor(chosen.name, config, sets)


def _factor(name: str, config: ConfigDict, sets: Sets) -> Any:
    chosen, table = config.weighting, sets.table
    if name == "class_bias":
        gamma = rules.gamma_vector(chosen.gamma.to_dict(), table.names, table.groups, table.corpora)
        if chosen.granularity == "example" and sets.same_in_every_mixture(gamma):
            raise SettingsError(
                "weighting.granularity is 'example', but by data.slots every mixture holds the same classes as far as "
                "weighting.gamma tells them apart, so that all weights would be equal; it must be 'source'"
            )
        return weightings.class_bias(gamma)
    if name == "group_dro":
        names = {"class": table.names, "group": table.groups, "corpus": table.corpora}[chosen.dro_groups]
        return weightings.group_dro(np.unique(names, return_inverse=True)[1], step_size=chosen.dro_step)
    start, slope = chosen.beta
    made: dict[str, Callable[[], Callable[..., Any]]] = {
        "uniform": weightings.uniform,
        "robust": lambda: weightings.robust(chosen.alpha),
        "curriculum": lambda: weightings.curriculum(
            weightings.paper_beta(config.train.num_epochs, start=start, slope=slope)
        ),
        "cvar": lambda: weightings.cvar(chosen.fraction),
        "threshold": lambda: weightings.threshold(chosen.threshold_db),
    }
    return made[name]()


def build_step(parts: Parts, devices: Devices) -> tuple[optax.GradientTransformation, Callable[..., Any]]:
    """The optimiser, and (state, batch, epoch) -> (state, metrics), not yet jitted."""
    config, corpora = parts.config, parts.sets.table.corpora
    # What is frozen is what a loss free of the mean cannot see.
    frozen = getattr(parts.module, "FROZEN", ()) if config.loss.zero_mean else ()
    tx = make_optimizer(parts.schedule, clip_norm=config.train.clip_norm, frozen=frozen)
    step = make_train_step(
        build_loss(parts),
        parts.weighting,
        tx,
        has_aux=True,
        ema_decay=config.train.ema_decay,
        micro_batch=config.train.micro_batch // devices.count,
        axis=devices.axis,
        members={name: np.array(corpora) == name for name in set(corpora)},
    )
    return tx, step


def build_loss(parts: Parts) -> LossFn:
    """(params, batch) -> (losses, metrics)."""
    config = parts.config
    return separation_loss_fn(
        parts.module.apply,
        granularity=config.weighting.granularity,
        improvement=config.loss.improvement,
        zero_mean=config.loss.zero_mean,
    )


def fresh_state(parts: Parts, tx: optax.GradientTransformation, params: Any = None) -> TrainState:
    """The state at step 0, from params, or from those that config.seed gives."""
    start = fresh_params(parts) if params is None else params
    return create_state(start, tx, weighting=parts.weighting, ema=parts.config.train.ema_decay > 0)


def fresh_params(parts: Parts) -> Any:
    """Parameters drawn from config.seed."""
    return init_params(parts.module, parts.sets.num_samples, parts.config.seed)


def params_to_start_from(parts: Parts) -> Any:
    """The parameters of train.init_from, or None where it is empty.

    Raises:
      SettingsError: train.init_from cannot be read, or its parameters are not the network's.
    """
    config, origin = parts.config, parts.config.train.init_from
    if not origin:
        return None
    try:
        if origin.endswith((".pt", ".pth")):
            _, params = torch_import.from_file(origin)
        else:
            _, params, _ = load_bundle(origin, trust=config.model.family)
        expected = jax.eval_shape(parts.module.init, jax.random.key(0), np.zeros((1, 256), np.float32))["params"]
        check_params(params, expected, origin)
    except (OSError, ValueError) as error:
        raise SettingsError(f"train.init_from: {error}") from error
    for path, leaf in jax.tree.leaves_with_path(params):
        if not np.isfinite(leaf).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise SettingsError(f"train.init_from: {origin}: {name} holds NaN or infinite numbers; all must be finite")
    return params
