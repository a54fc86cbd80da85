"""From a configuration to the components of a run, with all checks that come before compiling."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from jaxsep import models
from jaxsep.config.names import gamma_problems, gamma_vector
from jaxsep.config.schema import Config, Weighting, check_devices
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

    model_fields: those that `module` was made of. schedule: step -> learning rate.
    """

    config: Config
    pipeline: InputPipeline
    module: Any
    model_fields: dict[str, Any]
    weighting: Any
    schedule: Callable[[int], Any]
    steps_per_epoch: int


def build(config: Config, *, devices: int = 1) -> Components:
    """The components of a run on so many devices.

    Raises:
      ConfigError, DataError: what is wrong, with the name of the field or file.
    """
    check_devices(config, devices)
    module, fields = build_module(config)
    pipeline = build_pipeline(config)
    if problems := [*module_problems(module, config), *data_problems(config, pipeline)]:
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
    weighting = build_weighting(config, pipeline)
    return Components(config, pipeline, module, fields, weighting, schedule, steps)


def build_module(config: Config) -> tuple[Any, dict[str, Any]]:
    """The network and its fields."""
    fields = {name: value for name, value in config.model.model_dump().items() if name != "family"}
    try:
        return models.create(config.model.family, **fields), fields
    except ValueError as error:
        raise ConfigError(str(error)) from error
    except TypeError as error:
        raise ConfigError(
            f"model.family {config.model.family}: {error}; its other fields need defaults"
        ) from error


def module_problems(module: Any, config: Config) -> list[str]:
    """Why the network does not map [B, T] to [B, N, T] or does not fit in memory.

    Shapes alone are traced: nothing is computed.
    """
    mixture = jax.ShapeDtypeStruct((2, 800), np.float32)
    wanted, family = (2, config.model.num_sources, 800), config.model.family
    try:
        estimates, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), mixture)
        shape, parameters = estimates.shape, models.count_params(variables["params"])
    except Exception as error:  # the user's own network may fail in any way
        reason = " ".join(str(error).split())
        return [f"model.family {family} fails on a mixture {mixture.shape}: {reason}"]
    problems = []
    if shape != wanted:
        problems.append(
            f"model.family {family} gives {shape} for {mixture.shape}, it must give {wanted}"
        )
    if parameters > MAX_PARAMETERS:
        problems.append(
            f"model.family {family} has {parameters:,} parameters, "
            f"it must have at most {MAX_PARAMETERS:,}"
        )
    return problems


def data_problems(config: Config, pipeline: InputPipeline) -> list[str]:
    """What in the configuration does not fit the recordings."""
    data, train, chosen, table = config.data, config.train, config.weighting, pipeline.table
    lacking = [split for split in ("val", "test") if not pipeline.scored_classes(split)]
    problems = [
        f"no mixture of {split} has two sources that sound, and SI-SDR improvement needs them: "
        f"data.slots is {data.slots}, data.active_counts {data.active_counts}, "
        f"model.num_sources {pipeline.num_sources}"
        for split in lacking[:1]  # it is the same for the other
    ]
    scored = pipeline.scored_classes("val")
    corpora = sorted({table.corpora[i] for i in scored})
    legal = ["mean", *quantile_names(), *corpora, *(table.names[i] for i in scored)]
    if scored and train.best_metric not in legal:
        problems.append(
            f"train.best_metric is {train.best_metric!r}, it must be one of "
            f"{', '.join(legal[:14])}, or another class of val"
        )
    if "class_bias" in _named(chosen):
        unknown = gamma_problems(chosen.gamma, table.names, table.groups, table.corpora)
        per_mixture = chosen.granularity == "example"
        if not unknown and per_mixture and pipeline.same_in_every_mixture(_gamma(config, pipeline)):
            problems.append(
                "weighting.granularity is 'example', but by data.slots every mixture holds the "
                "same classes as far as weighting.gamma tells them apart, so that all weights "
                "would be equal; it must be 'source'"
            )
        problems += unknown
    return problems


def _named(weighting: Weighting) -> tuple[str, ...]:
    return weighting.factors if weighting.name == "product" else (weighting.name,)


def _gamma(config: Config, pipeline: InputPipeline) -> np.ndarray:
    table = pipeline.table
    return gamma_vector(config.weighting.gamma, table.names, table.groups, table.corpora)


def build_pipeline(
    config: Config, splits: Sequence[str] = ("train", "val", "test")
) -> InputPipeline:
    """The mixtures, checked against the model's number of sources."""
    pipeline = open_pipeline(config.data, pad_seconds=config.evaluation.pad_seconds, splits=splits)
    if pipeline.num_sources != config.model.num_sources:
        raise ConfigError(
            f"model.num_sources is {config.model.num_sources}, "
            f"the mixtures have {pipeline.num_sources} sources"
        )
    return pipeline


def build_weighting(config: Config, pipeline: InputPipeline) -> Any:
    """The weighting that config.weighting names."""
    factors = [_factor(name, config, pipeline) for name in _named(config.weighting)]
    return factors[0] if config.weighting.name != "product" else weightings.product(*factors)


def _factor(name: str, config: Config, pipeline: InputPipeline) -> Any:
    chosen, table = config.weighting, pipeline.table
    match name:
        case "uniform":
            return weightings.uniform()
        case "robust":
            return weightings.robust(chosen.alpha)
        case "curriculum":
            start, slope = chosen.beta
            epochs = config.train.num_epochs
            return weightings.curriculum(weightings.paper_beta(epochs, start=start, slope=slope))
        case "class_bias":
            return weightings.class_bias(_gamma(config, pipeline))
        case "cvar":
            return weightings.cvar(chosen.fraction)
        case "threshold":
            return weightings.threshold(chosen.threshold_db)
        case "group_dro":
            labels = {"class": table.names, "group": table.groups, "corpus": table.corpora}
            groups = np.unique(labels[chosen.dro_groups], return_inverse=True)[1]
            return weightings.group_dro(groups, step_size=chosen.dro_step)
    raise ConfigError(f"weighting.name is {name!r}, which is no weighting")


def build_step(
    components: Components, devices: Devices
) -> tuple[optax.GradientTransformation, Callable[..., Any]]:
    """The optimiser, and (state, batch, epoch) -> (state, metrics), not yet jitted."""
    config, corpora = components.config, components.pipeline.table.corpora
    # Frozen parameters are those that a loss with means removed cannot see.
    frozen = getattr(components.module, "FROZEN", ()) if config.loss.zero_mean else ()
    tx = make_optimizer(components.schedule, clip_norm=config.train.clip_norm, frozen=frozen)
    step = make_train_step(
        build_loss(components),
        components.weighting,
        tx,
        has_aux=True,
        ema_decay=config.train.ema_decay,
        micro_batch=config.train.micro_batch // devices.count,
        axis=devices.axis,
        members={name: np.array(corpora) == name for name in set(corpora)},
    )
    return tx, step


def build_loss(components: Components) -> LossFn:
    """(params, batch) -> (losses, metrics)."""
    config = components.config
    return separation_loss_fn(
        components.module.apply,
        granularity=config.weighting.granularity,
        improvement=config.loss.improvement,
        zero_mean=config.loss.zero_mean,
    )


def fresh_state(
    components: Components, tx: optax.GradientTransformation, params: Any = None
) -> TrainState:
    """The state at step 0, from params, or from fresh ones by config.seed."""
    config = components.config
    if params is None:
        params = init_params(components.module, components.pipeline.num_samples, config.seed)
    ema = config.train.ema_decay > 0
    return create_state(params, tx, weighting=components.weighting, ema=ema)


def params_to_start_from(components: Components) -> Any:
    """The parameters of train.init_from, or None where it is empty.

    Raises:
      ConfigError: they cannot be read, are not finite, or are not the network's.
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
    for path, leaf in jax.tree.leaves_with_path(params):
        if not np.isfinite(leaf).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ConfigError(
                f"train.init_from: {origin}: {name} holds NaN or infinity; all must be finite"
            )
    return params
