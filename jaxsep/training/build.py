"""From a configuration to the components of a run, with all checks that come before compiling."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from jaxsep import models
from jaxsep.config.names import gamma_problems, gamma_vector
from jaxsep.config.schema import Config, check_devices
from jaxsep.data.mixtures.dynamic import draw
from jaxsep.errors import ConfigError, together
from jaxsep.evaluation.statistics import quantile_names
from jaxsep.inference.bundle import check_params, load_bundle
from jaxsep.models import torch_import
from jaxsep.objective import weighting as weightings
from jaxsep.training.devices import Devices
from jaxsep.training.gradients import LossFn
from jaxsep.training.input_pipeline import InputPipeline, open_pipeline
from jaxsep.training.state import (
    TrainState,
    create_state,
    init_params,
    make_optimizer,
    make_schedule,
)
from jaxsep.training.step import make_train_step, separation_loss_fn

MAX_PARAMETERS = 2**30  # a training state holds three copies, and the gradient


@dataclass(frozen=True)
class Components:
    """What a configuration is made into.

    model_fields: those that `module` was made of. loss_fn: (params, batch) -> (losses, metrics).
    schedule: step -> learning rate, of `tx`.
    """

    config: Config
    pipeline: InputPipeline
    module: Any
    model_fields: dict[str, Any]
    loss_fn: LossFn
    weighting: weightings.Weighting
    schedule: Callable[[int], Any]
    tx: optax.GradientTransformation
    steps_per_epoch: int


def build(config: Config, *, devices: int = 1) -> Components:
    """The components of a run on so many devices.

    Raises:
      ConfigError, DataError: what is wrong, with the name of the field or file.
    """
    check_devices(config, devices)
    module, fields = build_module(config)
    pipeline = build_pipeline(config)
    if problems := data_problems(config, pipeline):
        raise ConfigError(together(problems))
    train = config.train
    steps = train.mixtures_per_epoch // train.batch_size
    schedule = make_schedule(
        train.schedule,
        train.learning_rate,
        steps_per_epoch=steps,
        num_epochs=train.num_epochs,
        every=train.schedule_every,
        divisor=train.schedule_divisor,
        warmup=train.warmup_epochs,
    )
    # Frozen parameters are those that a loss with means removed cannot see.
    frozen = getattr(module, "FROZEN", ()) if config.loss.zero_mean else ()
    tx = make_optimizer(schedule, clip_norm=train.clip_norm, frozen=frozen)
    loss_fn = separation_loss_fn(
        module.apply, granularity=config.weighting.granularity, **config.loss.model_dump()
    )
    weighting = build_weighting(config, pipeline)
    return Components(config, pipeline, module, fields, loss_fn, weighting, schedule, tx, steps)


def build_module(config: Config) -> tuple[Any, dict[str, Any]]:
    """The network and its fields, once its shapes alone were traced: nothing is computed.

    Raises:
      ConfigError: it does not map [B, T] to [B, N, T], or does not fit in memory.
    """
    family, mixture = config.model.family, jax.ShapeDtypeStruct((2, 800), np.float32)
    fields = config.model.model_dump(exclude={"family"})
    try:
        module = models.create(family, **fields)
        estimates, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), mixture)
        shape, parameters = estimates.shape, models.count_params(variables["params"])
    except Exception as error:  # the user's own network may fail in any way
        reason = " ".join(str(error).split())
        raise ConfigError(f"model.family {family} makes no network: {reason}") from error
    wanted = (2, config.model.num_sources, 800)
    if shape != wanted:
        raise ConfigError(f"model.family {family} gives {shape} for (2, 800), must give {wanted}")
    if parameters > MAX_PARAMETERS:
        raise ConfigError(
            f"model.family {family} has {parameters:,} parameters, "
            f"it must have at most {MAX_PARAMETERS:,}"
        )
    return module, fields


def data_problems(config: Config, pipeline: InputPipeline) -> list[str]:
    """What in the configuration does not fit the recordings."""
    chosen, table, best = config.weighting, pipeline.table, config.train.best_metric
    scored = pipeline.scored_classes("val")
    corpora = sorted({table.corpora[i] for i in scored})
    legal = ["mean", *quantile_names(), *corpora, *(table.names[i] for i in scored)]
    problems = []
    if best not in legal:
        problems.append(
            f"train.best_metric is {best!r}, it must be one of {', '.join(legal[:14])}, "
            "or another class of val"
        )
    if "class_bias" not in _named(config):
        return problems
    if unknown := gamma_problems(chosen.gamma, table):
        return problems + unknown
    if chosen.granularity == "example":
        recipes = draw(pipeline.pools["train"], config.seed, 0, np.arange(1000))
        active = recipes["active"]
        gamma = np.where(active, _gamma(config, pipeline)[recipes["class_ids"]], 0.0)
        means = gamma.sum(axis=1) / active.sum(axis=1)
        if np.allclose(means, means[0]):
            problems.append(
                "weighting.granularity is 'example', but weighting.gamma gives every mixture the "
                "same mean over its sources, so that all weights would be equal; it must be "
                "'source'"
            )
    return problems


def _named(config: Config) -> tuple[str, ...]:
    name, factors = config.weighting.name, config.weighting.factors
    return factors if name == "product" else (name,)


def _gamma(config: Config, pipeline: InputPipeline) -> np.ndarray:
    return gamma_vector(config.weighting.gamma, pipeline.table)


def build_pipeline(
    config: Config, splits: Sequence[str] = ("train", "val", "test")
) -> InputPipeline:
    """The mixtures, checked against the model's number of sources."""
    pipeline = open_pipeline(config.data, pad_seconds=config.evaluation.pad_seconds, splits=splits)
    sources = pipeline.pools["test"].num_sources
    if sources != config.model.num_sources:  # of premixed sets; the schema knows data.slots
        raise ConfigError(
            f"model.num_sources is {config.model.num_sources}, the mixtures have {sources} sources"
        )
    return pipeline


def build_weighting(config: Config, pipeline: InputPipeline) -> weightings.Weighting:
    """The weighting that config.weighting names."""
    chosen, table = config.weighting, pipeline.table

    def curriculum() -> weightings.Weighting:
        start, slope = chosen.beta
        beta = weightings.paper_beta(config.train.num_epochs, start=start, slope=slope)
        return weightings.curriculum(beta)

    def group_dro() -> weightings.Weighting:
        labels = {"class": table.names, "group": table.groups, "corpus": table.corpora}
        groups = np.unique(labels[chosen.dro_groups], return_inverse=True)[1]
        return weightings.group_dro(groups, step_size=chosen.dro_step)

    makers: dict[str, Callable[[], weightings.Weighting]] = {
        "uniform": weightings.uniform,
        "robust": lambda: weightings.robust(chosen.alpha),
        "curriculum": curriculum,
        "class_bias": lambda: weightings.class_bias(_gamma(config, pipeline)),
        "cvar": lambda: weightings.cvar(chosen.fraction),
        "threshold": lambda: weightings.threshold(chosen.threshold_db),
        "group_dro": group_dro,
    }
    factors = [makers[name]() for name in _named(config)]
    return factors[0] if chosen.name != "product" else weightings.product(*factors)


def build_step(components: Components, devices: Devices) -> Callable[..., Any]:
    """(state, batch, epoch) -> (state, metrics), not yet jitted."""
    config, corpora = components.config, components.pipeline.table.corpora
    return make_train_step(
        components.loss_fn,
        components.weighting,
        components.tx,
        has_aux=True,
        ema_decay=config.train.ema_decay,
        micro_batch=config.train.micro_batch // devices.count,
        axis=devices.axis,
        members={name: np.array(corpora) == name for name in set(corpora)},
    )


def fresh_state(components: Components, params: Any = None) -> TrainState:
    """The state at step 0, from params, or from fresh ones by config.seed."""
    config, num_samples = components.config, components.pipeline.pools["train"].num_samples
    if params is None:
        params = init_params(components.module, num_samples, config.seed)
    ema = config.train.ema_decay > 0
    return create_state(params, components.tx, weighting=components.weighting, ema=ema)


def params_to_start_from(components: Components) -> Any:
    """The parameters of train.init_from, or None where it is empty.

    Raises:
      ConfigError: they cannot be read, or are not the network's.
    """
    config, origin = components.config, components.config.train.init_from
    if not origin:
        return None
    try:
        if origin.endswith((".pt", ".pth")):
            _, params = torch_import.from_file(origin)
        else:
            _, params, _ = load_bundle(origin, trust=config.model.family)
        mixture = np.zeros((1, 256), np.float32)
        expected = jax.eval_shape(components.module.init, jax.random.key(0), mixture)
        check_params(params, expected["params"], origin)
    except (OSError, ValueError) as error:
        raise ConfigError(f"train.init_from: {error}") from error
    return params
