"""Every field of a configuration, once: type, default, bounds, unit and meaning.

One class for each section, then the rules that join fields, then `parse`, through which every
configuration comes. The defaults are the paper's values. Upper bounds are far beyond any use: they
are where memory, compilation or 32 bits end.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Annotated, Any, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from jaxsep import models
from jaxsep.data.audio import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from jaxsep.data.mixtures.sampler import CORPORA, SHORT_CLIPS, count_probabilities, slot_priors
from jaxsep.data.synthetic import LOWEST_RATE as LOWEST_SYNTHETIC_RATE
from jaxsep.errors import ConfigError, together
from jaxsep.objective.permutation import MAX_SOURCES

# What weighting.name may be; "product" multiplies the factors that weighting.factors names.
FACTORS = ("uniform", "robust", "curriculum", "class_bias", "cvar", "threshold", "group_dro")
MAX_STEPS = 2**31 - 1  # of a run, which JAX counts in 32 bits
MAX_EPOCHS = 10**6
MAX_BATCH = 65536
MAX_BATCH_SAMPLES = 2**28  # a gigabyte for each of mixture, sources and estimates
MAX_GAMMA = 1e30
MAX_PADDING = 4  # a network may pad a mixture to this many times its length
LARGEST_SEED = 2**32 - 1  # JAX would take a larger one for one of these


def field(
    default: Any,
    meaning: str,
    legal: tuple[float, float] | tuple[str, ...] | str = "",
    *,
    unit: str = "",
    may_change: bool = False,
) -> Any:
    """A field of a section.

    Args:
      default: the paper's value.
      meaning: what the field does, in one line.
      legal: the least and the largest number; the choices of a text, or of each text in a tuple;
        or what is legal in words, where the type or a validator decides.
      unit: such as "Hz".
      may_change: whether a run may go on in its folder with another value.
    """
    extra: dict[str, Any] = {"legal": legal, "unit": unit, "may_change": may_change}
    if isinstance(default, int | float) and isinstance(legal, tuple):
        bounds: dict[str, Any] = {"ge": legal[0], "le": legal[1]}
    else:
        bounds = {}
    return Field(default, description=meaning, json_schema_extra=extra, **bounds)


def about(info: FieldInfo) -> dict[str, Any]:
    """legal, unit and may_change of a field, as `field` was given them."""
    return cast(dict[str, Any], info.json_schema_extra or {})


def legal_values(info: FieldInfo) -> str:
    """What is legal in a field, in words, such as 'a number from 0 to 100'."""
    legal, kind = about(info)["legal"], info.annotation
    if legal and isinstance(legal, str):
        return legal
    if kind is int:
        return "a whole number from {} to {}".format(*legal)
    if kind is float:
        return "a number from {:g} to {:g}".format(*legal)
    if kind is bool:
        return "True or False"
    texts = " or ".join(map(repr, legal)) or "text"
    return texts if kind is str else f"a tuple of {texts}"


def _text(value: Any) -> str:
    # Not pydantic's own check, which refuses names of files that are not UTF-8.
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("it must be text")
    return value


def _name(value: Any) -> str:
    if not _text(value).strip():
        raise ValueError("the name is missing")
    return value


def _gamma_name(value: Any) -> str:
    if "." in _name(value):
        raise ValueError("a name with a dot cannot be a field; rename the class's folder")
    return value


Text = Annotated[str, PlainValidator(_text)]
Name = Annotated[str, PlainValidator(_name)]
Share = Annotated[float, Field(ge=0, le=1)]
Beta0 = Annotated[float, Field(ge=1e-6, le=1e6)]
Beta1 = Annotated[float, Field(ge=0, le=1e6)]
GammaName = Annotated[str, PlainValidator(_gamma_name)]
Gamma = Annotated[float, Field(ge=-MAX_GAMMA, le=MAX_GAMMA)]


class Section(BaseModel):
    """Frozen, without unknown fields; True is no number, and numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _is_a_choice(cls, value: Any, info: ValidationInfo) -> Any:
        legal = about(cls.model_fields[str(info.field_name)]).get("legal")
        values = value if isinstance(value, tuple) else (value,)
        texts = {item for item in values if isinstance(item, str)}
        if isinstance(legal, tuple) and not texts <= {*legal}:
            raise ValueError("it is not one of the choices")
        return value


class Data(Section):
    """The recordings, and the mixtures made of them."""

    speech_root: Text = field("", "folder: WSJ0-2mix, or {train,val,test}/SPEAKER/*.wav|flac|ogg")
    environment_root: Text = field("", "folder: ESC-50, or {train,val,test}/CLASS/*.wav|flac|ogg")
    premixed_root: Text = field(
        "", "folder of ready mixtures (WSJ0-2mix, WHAM!, Libri2Mix), used instead of drawing them"
    )
    premixed_roles: tuple[Name, ...] = field(
        (),
        "its folders to use: the mixture's, then one per source; (): mix or mix_clean, s1, s2, …",
        "a tuple of names, such as ('mix_clean', 's1', 's2'), or ()",
    )
    synthetic: bool = field(False, "whether a corpus whose root is empty is generated sound")
    cache_dir: Text = field(
        "", "folder of packed corpora; '': $JAXSEP_CACHE, or else ~/.cache/jaxsep", may_change=True
    )
    sample_rate: int = field(
        8000, "to which recordings are resampled", (MIN_SAMPLE_RATE, MAX_SAMPLE_RATE), unit="Hz"
    )
    segment_seconds: float = field(4.0, "length of a drawn mixture", (0.01, 3600), unit="s")
    slots: Annotated[tuple[Name, ...], Field(min_length=1)] = field(
        ("speech", "environment"),
        "for each source a corpus, or a prior such as 'speech:0.3,environment:0.7'",
        "a tuple of corpora or priors, such as ('speech', 'environment')",
    )
    active_counts: tuple[Share, ...] = field(
        (),
        "probabilities of 1, 2, … N active sources; (): all are always active",
        "a tuple of probabilities, such as (0.2, 0.8), or ()",
    )
    max_snr_db: float = field(
        30.0,
        "the power of the first source over each other's is uniform in ± this",
        (0, 100),
        unit="dB",
    )
    short_clips: Text = field(
        "pad", "pad recordings that are shorter than a segment, or skip them", SHORT_CLIPS
    )
    mixtures_val: int = field(5000, "validation mixtures, each epoch", (1, 10**6))
    mixtures_test: int = field(3000, "test mixtures", (1, 10**6))
    eval_seed: int = field(
        1, "of validation and test mixtures, which do not depend on seed", (0, 2**64 - 1)
    )


class Train(Section):
    """The optimisation."""

    batch_size: int = field(
        28, "mixtures per step; the weights are a pmf over these", (1, MAX_BATCH)
    )
    micro_batch: int = field(
        0,
        "mixtures per pass of gradient accumulation, with the same result; 0: the whole batch",
        (0, MAX_BATCH),
        may_change=True,
    )
    mixtures_per_epoch: int = field(
        20000, "an epoch has floor(mixtures_per_epoch / batch_size) steps", (1, 10**9)
    )
    num_epochs: int = field(100, "epochs of the run", (1, MAX_EPOCHS), may_change=True)
    learning_rate: float = field(1e-3, "of Adam", (1e-37, 1))
    schedule: Text = field(
        "constant", "course of the learning rate", ("constant", "step", "cosine")
    )
    schedule_every: int = field(
        20, "step: the rate is divided after so many", (1, MAX_EPOCHS), unit="epochs"
    )
    schedule_divisor: float = field(3.0, "step: what the rate is divided by", (1, 1e6))
    warmup_epochs: int = field(
        0, "cosine: length of the linear warm-up", (0, MAX_EPOCHS), unit="epochs"
    )
    clip_norm: float = field(
        5.0,
        "largest global norm of the gradient; 0: no clipping",
        "0, or a number from 1e-06 to 1e+30",
    )
    ema_decay: float = field(
        0.0,
        "of a moving average of the parameters, which is evaluated in their place; 0: none",
        (0, 0.999999),
    )
    patience: int = field(
        0,
        "training stops after so many without a better best_metric; 0: never",
        (0, MAX_STEPS),
        unit="epochs",
    )
    best_metric: Text = field(
        "mean", "validation SI-SDRi of the best checkpoint: mean, q01 … q99, a corpus or a class"
    )
    init_from: Text = field("", "a run, model bundle or published .pt file to start from")
    checkpoint_minutes: float = field(
        10.0, "longest time between checkpoints", (1e-9, 1e6), unit="min", may_change=True
    )
    log_every: int = field(
        50,
        "from one line of metrics.jsonl to the next",
        (1, MAX_STEPS),
        unit="steps",
        may_change=True,
    )
    max_skipped: int = field(
        10,
        "the run ends after so many in a row with a non-finite loss or gradient",
        (1, MAX_STEPS),
        unit="steps",
        may_change=True,
    )
    workers: int = field(1, "threads that render mixtures", (1, 256), may_change=True)

    @field_validator("clip_norm")
    @classmethod
    def _clips(cls, value: float) -> float:
        if value != 0 and not 1e-6 <= value <= 1e30:
            raise ValueError("nothing would be learned, or nothing clipped")
        return value


class Weighting(Section):
    """The pmf over the batch: softmax(F), with logits F of each loss L, its class and the epoch."""

    name: Text = field(
        "uniform", "which pmf; the fields below say which they are of", (*FACTORS, "product")
    )
    granularity: Text = field(
        "example", "one weight per mixture, or one per source", ("example", "source")
    )
    alpha: float = field(
        0.1, "robust: F = α·L; the paper tries 1/15, 1/10, 1/5", (0, 1e6), unit="1/dB"
    )
    beta: tuple[Beta0, Beta1] = field(
        (10.0, 0.5),
        "curriculum: F = −L / (b0 + b1·κ), κ = floor(100·epoch/num_epochs)",
        "(b0, b1), b0 from 1e-06 to 1e+06 and b1 from 0 to 1e+06",
        unit="dB",
    )
    gamma: dict[GammaName, Gamma] = field(
        {},
        "class_bias: F by class, group or corpus name; the most specific wins, others are 0",
        f"a mapping from names to numbers within ±{MAX_GAMMA:g}",
    )
    fraction: float = field(
        0.25, "cvar: only the worst of a batch have weight, this share of them", (1e-6, 1)
    )
    threshold_db: float = field(
        15.0, "threshold: no weight from this SI-SDRi on", (-200, 200), unit="dB"
    )
    dro_step: float = field(
        0.01, "group_dro: how fast weight goes to the worst group", (1e-12, 1e6), unit="1/dB"
    )
    dro_groups: Text = field("class", "group_dro: what a group is", ("corpus", "group", "class"))
    factors: tuple[Text, ...] = field(
        (), "product: the pmfs to multiply, with the fields above", FACTORS
    )


class Loss(Section):
    """L = −SI-SDR(estimate, source) + SI-SDR(mixture, source) in dB, the best permutation's."""

    improvement: bool = field(True, "with the second term: what was gained, not what was given")
    zero_mean: bool = field(True, "remove each signal's mean before SI-SDR")


class Model(Section):
    """The network. One from outside jaxsep may have fields of its own beside these."""

    model_config = ConfigDict(extra="allow")

    family: Text = field(
        "original",
        "the network, or a Flax module from [B,T] to [B,N,T] that can be imported",
        f"{', '.join(map(repr, models.FAMILIES))} or 'package.module:Class'",
    )
    out_channels: int = field(128, "channels between blocks", models.BOUNDS["out_channels"])
    in_channels: int = field(512, "channels inside a block", models.BOUNDS["in_channels"])
    num_blocks: int = field(8, "blocks, one after another", models.BOUNDS["num_blocks"])
    upsampling_depth: int = field(
        5,
        "depthwise convolutions per block: one of stride 1, the others of stride 2",
        models.BOUNDS["upsampling_depth"],
    )
    enc_kernel_size: int = field(
        41, "of the encoder, whose stride is half", models.BOUNDS["enc_kernel_size"], unit="samples"
    )
    enc_num_basis: int = field(512, "filters of the encoder", models.BOUNDS["enc_num_basis"])
    num_sources: int = field(2, "as many as data.slots", (1, MAX_SOURCES))
    dtype: Text = field(
        "float32",
        "of what lies between layers; parameters, norms and loss are float32",
        models.DTYPES,
    )
    remat: bool = field(
        False, "make each block's inside again for the gradient, to save memory", may_change=True
    )

    @field_validator("family")
    @classmethod
    def _can_be_a_family(cls, value: str) -> str:
        if value not in models.FAMILIES and value.count(":") != 1:
            raise ValueError("it is no family")
        return value


class Evaluation(Section):
    """How validation and test mixtures are scored."""

    batch_size: int = field(
        28, "mixtures per step; does not change scores", (1, MAX_BATCH), may_change=True
    )
    last_epochs: int = field(
        5,
        "the test set is scored after each of the last, and the statistics averaged",
        (0, MAX_EPOCHS),
        unit="epochs",
    )
    pad_seconds: float = field(
        0.25,
        "premixed mixtures are zero-padded to a multiple, to compile few lengths",
        (1e-6, 3600),
        unit="s",
    )


class Config(Section):
    """A whole configuration."""

    seed: int = field(0, "of parameters and training mixtures", (0, LARGEST_SEED))
    scale: Text = field("paper", "a label: where the values are from", may_change=True)
    data: Data = Data()
    train: Train = Train()
    weighting: Weighting = Weighting()
    loss: Loss = Loss()
    model: Model = Model()
    evaluation: Evaluation = Evaluation()


# 'data' -> Data, and so on.
SECTIONS = {
    name: cast(type[Section], info.annotation)
    for name, info in Config.model_fields.items()
    if isinstance(info.default, Section)
}
# 'seed' or 'section.field' -> the field.
FIELDS = {name: info for name, info in Config.model_fields.items() if name not in SECTIONS} | {
    f"{section}.{name}": info
    for section, fields in SECTIONS.items()
    for name, info in fields.model_fields.items()
}


# --- rules that join fields -----------------------------------------------------------------------

Rule = Callable[[Config], None]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    """Add a function that raises ValueError for a combination of fields that cannot work.

    A rule that looks at a field which is illegal by itself has nothing to say, and ends there.
    """
    RULES.append(function)
    return function


def illegal(name: str, value: Any, legal: str) -> ValueError:
    """The error that says 'train.batch_size is 0, it must be a whole number from 1 to 65536'."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # whole numbers of thousands of digits, objects of the user's own
        text = f"of type {type(value).__name__}"
    shown = text if len(text) <= 120 else f"{text[:100]}…"
    return ValueError(f"{name} is {shown}, it must be {legal}")


@rule
def _batch_size(config: Config) -> None:
    size, total = config.train.batch_size, config.train.mixtures_per_epoch
    if size > total:
        raise illegal("train.batch_size", size, f"at most train.mixtures_per_epoch, {total}")


@rule
def _micro_batch(config: Config) -> None:
    part, size = config.train.micro_batch, config.train.batch_size
    if part > size:
        legal = f"at most train.batch_size, {size}, or 0 for the whole batch"
        raise illegal("train.micro_batch", part, legal)


@rule
def _warmup(config: Config) -> None:
    schedule, warmup = config.train.schedule, config.train.warmup_epochs
    if schedule != "cosine" and warmup:
        legal = f"0: train.schedule {schedule!r} has no warm-up"
        raise illegal("train.warmup_epochs", warmup, legal)
    if schedule == "cosine" and warmup >= config.train.num_epochs:
        legal = f"below train.num_epochs, {config.train.num_epochs}"
        raise illegal("train.warmup_epochs", warmup, legal)


@rule
def _steps(config: Config) -> None:
    per_epoch = max(1, config.train.mixtures_per_epoch // config.train.batch_size)
    legal = f"at most {MAX_STEPS // per_epoch}: {per_epoch} steps an epoch, {MAX_STEPS} in all"
    for name in ("num_epochs", "schedule_every", "warmup_epochs"):
        if getattr(config.train, name) * per_epoch > MAX_STEPS:
            raise illegal(f"train.{name}", getattr(config.train, name), legal)


@rule
def _training_memory(config: Config) -> None:
    _batch_memory("train.batch_size", config.train.batch_size, config.data)


@rule
def _evaluation_memory(config: Config) -> None:
    _batch_memory("evaluation.batch_size", config.evaluation.batch_size, config.data)


def _batch_memory(name: str, size: int, data: Data) -> None:
    most = int(MAX_BATCH_SAMPLES / (data.segment_seconds * data.sample_rate))
    if size > most:
        mixture = f"data.segment_seconds {data.segment_seconds:g} at {data.sample_rate} Hz"
        legal = f"at most {most} with {mixture}: {MAX_BATCH_SAMPLES} samples"
        raise illegal(name, size, legal)


@rule
def _pad_seconds(config: Config) -> None:
    pad, rate = config.evaluation.pad_seconds, config.data.sample_rate
    if pad * rate < 1:
        legal = f"at least one sample, {1 / rate:g} s at {rate} Hz"
        raise illegal("evaluation.pad_seconds", pad, legal)


@rule
def _synthetic_rate(config: Config) -> None:
    data, least = config.data, LOWEST_SYNTHETIC_RATE
    if data.synthetic and not data.premixed_root and data.sample_rate < least:
        legal = f"at least {least} where data.synthetic is True"
        raise illegal("data.sample_rate", data.sample_rate, legal)


@rule
def _slots(config: Config) -> None:
    if not config.data.premixed_root:
        slot_priors(config.data.slots, CORPORA)


@rule
def _active_counts(config: Config) -> None:
    if not config.data.premixed_root:
        count_probabilities(config.data.active_counts, len(config.data.slots))


@rule
def _num_sources(config: Config) -> None:
    sources, roles = config.model.num_sources, config.data.premixed_roles
    if not config.data.premixed_root and sources != len(config.data.slots):
        legal = f"the number of data.slots, {len(config.data.slots)}"
        raise illegal("model.num_sources", sources, legal)
    if config.data.premixed_root and roles and sources != len(roles) - 1:
        legal = f"the number of sources in data.premixed_roles, {len(roles) - 1}"
        raise illegal("model.num_sources", sources, legal)


@rule
def _premixed_roles(config: Config) -> None:
    roles = config.data.premixed_roles
    if roles and not config.data.premixed_root:
        raise illegal("data.premixed_roles", roles, "() where data.premixed_root is empty")


@rule
def _factors(config: Config) -> None:
    if config.weighting.name == "product" and not config.weighting.factors:
        legal = f"one or more weightings to multiply: {', '.join(FACTORS)}"
        raise illegal("weighting.factors", (), legal)


@rule
def _gamma(config: Config) -> None:
    name, gamma = config.weighting.name, config.weighting.gamma
    factors = config.weighting.factors if name == "product" else (name,)
    if "class_bias" in factors and not gamma:
        legal = "a value for at least one class, group or corpus, for weighting class_bias"
        raise illegal("weighting.gamma", gamma, legal)


@rule
def _network(config: Config) -> None:
    if config.model.family not in models.FAMILIES:
        return
    network = models.create(**vars(config.model))
    depth, kernel = config.model.upsampling_depth, config.model.enc_kernel_size
    samples = round(config.data.segment_seconds * config.data.sample_rate)
    if (padded := network.padded(samples)) > MAX_PADDING * samples:
        legal = (
            f"less: with model.enc_kernel_size {kernel} it pads the {samples} samples of "
            f"data.segment_seconds to {padded}, more than {MAX_PADDING} times as many"
        )
        raise illegal("model.upsampling_depth", depth, legal)


def check_devices(config: Config, devices: int) -> None:
    """Raise ConfigError unless so many devices can share every batch equally."""
    problems = []
    for name in ("batch_size", "micro_batch"):
        if (size := getattr(config.train, name)) % devices:
            shared = -(-size // devices) * devices
            legal = f"a multiple of the {devices} devices that share it, such as {shared}"
            problems.append(str(illegal(f"train.{name}", size, legal)))
    if problems:
        raise ConfigError(together(problems))


# --- from values to a configuration ---------------------------------------------------------------


def parse(content: dict[str, Any], *, problems: Iterable[str] = ()) -> Config:
    """The configuration that has these values; no field may be left out.

    Args:
      content: {"seed": 0, "train": {"batch_size": 28, …}, …}, one dict for each section.
      problems: what is wrong already, to be named with the rest.

    Raises:
      ConfigError: all fields that are missing, unknown or illegal, and all rules that the others
        break, one line each.
    """
    flat = flatten(content)
    holders = [name for name, value in content.items() if isinstance(value, Mapping)]
    wrong = {
        name: f"{name} is missing from the configuration"
        for name in (*SECTIONS, *FIELDS)
        if name.rpartition(".")[0] in ("", *holders) and name not in {*content, *flat}
    }
    if ":" not in str(flat.get("model.family")):  # a network of jaxsep's
        extras = [name for name in flat if name.startswith("model.") and name not in FIELDS]
        wrong |= {name: _unknown(name) for name in extras}
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            name, message = _in_words(detail, flat)
            wrong.setdefault(name, message)
    legal = {name: flat[name] for name in FIELDS if name in flat and name not in wrong}
    lines = [*problems, *wrong.values(), *_broken_rules(legal)]
    if lines:
        raise ConfigError(together(lines))
    return config


def flatten(content: Mapping[str, Any]) -> dict[str, Any]:
    """{'section.field': value} of nested values; weighting.gamma is one value."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": item for key, item in value.items()}
        else:
            flat[name] = value
    return flat


def closest(name: str, legal: Iterable[str]) -> str:
    """'; did you mean …?', or '' where nothing legal is like name."""
    close = difflib.get_close_matches(name, legal, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _unknown(name: str) -> str:
    return f"{name}: no such field{closest(name, FIELDS)}"


def _in_words(detail: ErrorDetails, flat: Mapping[str, Any]) -> tuple[str, str]:
    """(field, message) of one of pydantic's errors."""
    place, value = detail["loc"], detail["input"]
    name = ".".join(map(str, place[:2]))
    if detail["type"] == "extra_forbidden":
        return name, _unknown(name)
    if name in SECTIONS:
        return name, str(illegal(name, value, "a section with fields"))
    if name == "weighting.gamma" and len(place) > 2:
        name = f"{name}.{place[2]}"
        if place[-1] == "[key]":
            return name, f"{name}: {detail['msg'].removeprefix('Value error, ')}"
        return name, str(illegal(name, value, f"a number within ±{MAX_GAMMA:g}"))
    return name, str(illegal(name, flat.get(name), legal_values(FIELDS[name])))


class _NotLegal(Exception):
    """A rule looked at a field that is illegal by itself."""


class _Legal(SimpleNamespace):
    """The legal fields of a configuration or section, as attributes."""

    def __getattr__(self, name: str) -> Any:
        raise _NotLegal(name)


def _broken_rules(legal: Mapping[str, Any]) -> Iterator[str]:
    """What the rules say of fields, 'section.field' -> value, that are legal by themselves."""
    config = _Legal(**{section: _Legal() for section in SECTIONS})
    for name, value in legal.items():
        section, _, key = name.rpartition(".")
        setattr(getattr(config, section) if section else config, key, value)
    for check in RULES:
        try:
            check(cast(Config, config))
        except _NotLegal:
            continue
        except ValueError as error:
            yield str(error)
