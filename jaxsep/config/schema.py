"""Every field of a configuration, once: type, default, bounds, unit and meaning.

One class for each section, then the rules that join fields, then `parse`, through which every
configuration comes. The defaults are the paper's values. Upper bounds are far beyond any use: they
are where memory, compilation or 32 bits end.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
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
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from jaxsep import models
from jaxsep.data.audio import LOWEST_RATE, MAX_SAMPLE_RATE
from jaxsep.data.mixtures.recipes import MAX_SNR_DB
from jaxsep.data.mixtures.sampler import CORPORA, SHORT_CLIPS, count_probabilities, slot_priors
from jaxsep.data.synthetic import LOWEST_RATE as LOWEST_SYNTHETIC_RATE
from jaxsep.errors import ConfigError, DataError, together
from jaxsep.objective.permutation import MAX_SOURCES

# What weighting.name may be; "product" multiplies the factors that weighting.factors names.
FACTORS = ("uniform", "robust", "curriculum", "class_bias", "cvar", "threshold", "group_dro")
MAX_STEPS = 2**31 - 1  # of a run, which JAX counts in 32 bits
MAX_BATCH = 65536
MAX_BATCH_SAMPLES = 2**28  # a gigabyte for each of mixture, sources and estimates
MAX_PADDING = 4  # a network may pad a mixture to this many times its length


def field(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    legal: str = "",
    choices: Iterable[str] = (),
    may_change: bool = False,
    **bounds: Any,
) -> Any:
    """A field of a section.

    Args:
      default: the paper's value.
      meaning: what the field does, in one line.
      unit: such as "Hz".
      legal: what is legal in words, where type, choices and bounds do not say it.
      choices: the legal values of a text, or of each text in a tuple.
      may_change: whether a run may go on in its folder with another value.
      bounds: ge, gt, le, lt, min_length and max_length, as of `pydantic.Field`.
    """
    extra: dict[str, Any] = {
        "unit": unit,
        "legal": legal,
        "choices": tuple(choices),
        "may_change": may_change,
    }
    return Field(default, description=meaning, json_schema_extra=extra, **bounds)


def about(info: FieldInfo) -> dict[str, Any]:
    """unit, legal, choices and may_change of a field."""
    return info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}


def _text(value: Any) -> str:
    # Not pydantic's own check, which refuses the names of files that are not UTF-8.
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("not text")
    return value


def _name(value: Any) -> str:
    if not _text(value).strip():
        raise ValueError("empty")
    return value


def _field_name(value: Any) -> str:
    if "." in _name(value):
        raise ValueError("a name with a dot cannot be a field; rename the class's folder")
    return value


Text = Annotated[str, PlainValidator(_text)]
Name = Annotated[str, PlainValidator(_name)]
FieldName = Annotated[str, PlainValidator(_field_name)]
Share = Annotated[float, Field(ge=0, le=1)]
Gamma = Annotated[float, Field(ge=-1e30, le=1e30)]


class Section(BaseModel):
    """Frozen, without unknown fields; True is no number, and numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _is_a_choice(cls, value: Any, info: ValidationInfo) -> Any:
        choices = about(cls.model_fields[str(info.field_name)]).get("choices")
        values = value if isinstance(value, tuple) else (value,)
        if choices and not set(values) <= set(choices):
            raise ValueError("not one of the choices")
        return value


class Data(Section):
    """The recordings, and the mixtures drawn from them."""

    speech_root: Text = field(
        "", "folder: WSJ0-2mix, or {train,val,test}/SPEAKER/*.wav, *.flac or *.ogg"
    )
    environment_root: Text = field(
        "", "folder: ESC-50, or {train,val,test}/CLASS/*.wav, *.flac or *.ogg"
    )
    premixed_root: Text = field(
        "", "folder of mixtures (WSJ0-2mix, WHAM!, Libri2Mix) that are used instead of drawn ones"
    )
    premixed_roles: tuple[Name, ...] = field(
        (),
        "folders of premixed_root to use: the mixture's, then one per source; (): mix or "
        "mix_clean, s1, s2, …",
        legal="a tuple of names, such as ('mix_clean', 's1', 's2'), or ()",
    )
    synthetic: bool = field(False, "generate the sound of a corpus whose root is empty")
    cache_dir: Text = field(
        "",
        "folder of the packed corpora; empty: $JAXSEP_CACHE, or else ~/.cache/jaxsep",
        may_change=True,
    )
    sample_rate: int = field(
        8000,
        "recordings at another rate are resampled to this one",
        unit="Hz",
        ge=LOWEST_RATE,
        le=MAX_SAMPLE_RATE,
    )
    segment_seconds: float = field(4.0, "length of a drawn mixture", unit="s", ge=0.01, le=3600)
    slots: tuple[Name, ...] = field(
        ("speech", "environment"),
        "for each source a corpus, or a prior such as 'speech:0.3,environment:0.7'",
        legal="a tuple of at least 1 corpus or prior, such as ('speech', 'environment')",
        min_length=1,
    )
    active_counts: tuple[Share, ...] = field(
        (),
        "probabilities of 1, 2, … N active sources; (): all are always active",
        legal="a tuple of probabilities, such as (0.2, 0.8), or ()",
    )
    max_snr_db: float = field(
        30.0,
        "the power of the first source over that of each other is uniform in ± this",
        unit="dB",
        ge=0,
        le=MAX_SNR_DB,
    )
    short_clips: Text = field(
        "pad",
        "recordings shorter than a segment: pad them at a random position, or skip them",
        choices=SHORT_CLIPS,
    )
    mixtures_val: int = field(5000, "validation mixtures, scored after every epoch", ge=1, le=10**6)
    mixtures_test: int = field(3000, "test mixtures", ge=1, le=10**6)
    eval_seed: int = field(
        1, "of the validation and test mixtures, which do not depend on seed", ge=0, le=2**64 - 1
    )


class Train(Section):
    """The optimisation."""

    batch_size: int = field(
        28, "mixtures per step; the weights are a pmf over these", ge=1, le=MAX_BATCH
    )
    micro_batch: int = field(
        0,
        "mixtures per pass of gradient accumulation, with the same result; 0: the whole batch",
        may_change=True,
        ge=0,
        le=MAX_BATCH,
    )
    mixtures_per_epoch: int = field(
        20000, "an epoch has floor(mixtures_per_epoch / batch_size) steps", ge=1, le=10**9
    )
    num_epochs: int = field(
        100, "training ends after so many epochs", may_change=True, ge=1, le=10**6
    )
    learning_rate: float = field(1e-3, "of Adam", ge=1e-37, le=1)
    schedule: Text = field(
        "constant",
        "of the learning rate: constant, divided every so many epochs, or cosine",
        choices=("constant", "step", "cosine"),
    )
    schedule_every: int = field(
        20, "schedule 'step': divide the rate after so many", unit="epochs", ge=1, le=10**6
    )
    schedule_divisor: float = field(
        3.0, "schedule 'step': what the rate is divided by", ge=1, le=1e6
    )
    warmup_epochs: int = field(
        0, "schedule 'cosine': length of the linear warm-up", unit="epochs", ge=0, le=10**6
    )
    clip_norm: float = field(
        5.0,
        "largest global norm of the gradient; 0: no clipping",
        legal="0, or a number from 1e-06 to 1e+30",
        ge=0,
        le=1e30,
    )
    ema_decay: float = field(
        0.0,
        "of a moving average of the parameters, which is evaluated in their place; 0: none",
        ge=0,
        lt=1,
    )
    patience: int = field(
        0,
        "training stops after so many without a better best_metric; 0: never",
        unit="epochs",
        ge=0,
        le=MAX_STEPS,
    )
    best_metric: Text = field(
        "mean",
        "validation SI-SDRi that picks the best checkpoint: mean, q01 … q99, a corpus or a class",
    )
    init_from: Text = field(
        "", "start from the parameters of a run, a model bundle or a published .pt file"
    )
    checkpoint_minutes: float = field(
        10.0, "longest time between checkpoints", unit="min", may_change=True, ge=1e-9, le=1e6
    )
    log_every: int = field(
        50,
        "from one line of metrics.jsonl to the next",
        unit="steps",
        may_change=True,
        ge=1,
        le=MAX_STEPS,
    )
    max_skipped: int = field(
        10,
        "the run stops after so many in a row were skipped for a non-finite loss or gradient",
        unit="steps",
        may_change=True,
        ge=1,
        le=MAX_STEPS,
    )
    workers: int = field(1, "threads that render mixtures", may_change=True, ge=1, le=256)

    @field_validator("clip_norm")
    @classmethod
    def _clips_sensibly(cls, value: float) -> float:
        if 0 < value < 1e-6:
            raise ValueError("too small")
        return value


class Weighting(Section):
    """The pmf over the batch: a softmax of logits F(L, class, epoch), with L the losses in dB."""

    name: Text = field("uniform", "which pmf", choices=(*FACTORS, "product"))
    granularity: Text = field(
        "example", "one weight per mixture, or one per source", choices=("example", "source")
    )
    alpha: float = field(
        0.1, "robust: logits α·L; the paper tries 1/15, 1/10, 1/5", unit="1/dB", ge=0, le=1e6
    )
    beta: tuple[Annotated[float, Field(ge=1e-6, le=1e6)], Annotated[float, Field(ge=0, le=1e6)]] = (
        field(
            (10.0, 0.5),
            "curriculum: logits −L / (b0 + b1·κ), κ = floor(100·epoch/num_epochs)",
            unit="dB",
            legal="(b0, b1), b0 a number from 1e-06 to 1e+06 and b1 from 0 to 1e+06",
        )
    )
    gamma: dict[FieldName, Gamma] = field(
        {},
        "class_bias: logits by class, group or corpus name; the most specific wins, others are 0",
        legal="a mapping from names of classes, groups or corpora to numbers within ±1e30",
    )
    fraction: float = field(
        0.25, "cvar: only this share of a batch, the worst, has weight", ge=1e-6, le=1
    )
    threshold_db: float = field(
        15.0, "threshold: SI-SDRi from which on a loss has no weight", unit="dB", ge=-200, le=200
    )
    dro_step: float = field(
        0.01, "group_dro: how fast weight moves to the worst group", unit="1/dB", ge=1e-12, le=1e6
    )
    dro_groups: Text = field(
        "class", "group_dro: what a group is", choices=("corpus", "group", "class")
    )
    factors: tuple[Text, ...] = field(
        (),
        "product: the pmfs to multiply, each with its fields above",
        legal=f"a tuple of at most 16 of {', '.join(FACTORS)}, such as ('robust', 'class_bias')",
        choices=FACTORS,
        max_length=16,
    )


class Loss(Section):
    """L = −SI-SDR(estimate, source) + SI-SDR(mixture, source), after the best permutation."""

    improvement: bool = field(
        True, "with the second term: weights see what was gained, not what was given"
    )
    zero_mean: bool = field(True, "remove each signal's mean before SI-SDR")


def _size(name: str) -> int:
    return models.LARGEST.get(name, models.LARGEST_SIZE)


class Model(Section):
    """The network. One outside jaxsep may have fields of its own beside these."""

    model_config = ConfigDict(extra="allow")

    family: Text = field(
        "original",
        "a family of jaxsep, or a Flax module from [B,T] to [B,N,T] that can be imported",
        legal=f"{', '.join(map(repr, models.FAMILIES))} or 'package.module:Class'",
    )
    out_channels: int = field(128, "channels between blocks", ge=1, le=_size("out_channels"))
    in_channels: int = field(512, "channels inside a block", ge=1, le=_size("in_channels"))
    num_blocks: int = field(8, "blocks in a row", ge=1, le=_size("num_blocks"))
    upsampling_depth: int = field(
        5,
        "depthwise convolutions per block: the first keeps the frame rate, the others halve it",
        ge=1,
        le=_size("upsampling_depth"),
    )
    enc_kernel_size: int = field(
        41,
        "of the encoder, whose stride is half of it",
        unit="samples",
        ge=2,
        le=_size("enc_kernel_size"),
    )
    enc_num_basis: int = field(512, "filters of the encoder", ge=1, le=_size("enc_num_basis"))
    num_sources: int = field(2, "as many as data.slots", ge=1, le=MAX_SOURCES)
    dtype: Text = field(
        "float32",
        "of what lies between layers; parameters, norms and loss are float32",
        choices=models.DTYPES,
    )
    remat: bool = field(
        False,
        "compute the inside of each block again for the gradient, to save memory",
        may_change=True,
    )

    @field_validator("family")
    @classmethod
    def _is_a_family(cls, value: str) -> str:
        if value not in models.FAMILIES and value.count(":") != 1:
            raise ValueError("no family")
        return value

    @model_validator(mode="after")
    def _only_other_networks_have_other_fields(self) -> "Model":
        if self.model_extra and self.family in models.FAMILIES:
            raise ValueError(f"no such fields: {', '.join(self.model_extra)}")
        return self


class Evaluation(Section):
    """How the validation and test mixtures are scored."""

    batch_size: int = field(
        28,
        "mixtures per step; of no influence on the scores",
        may_change=True,
        ge=1,
        le=MAX_BATCH,
    )
    last_epochs: int = field(
        5,
        "the test set is scored after each of the last epochs, and the statistics averaged",
        unit="epochs",
        ge=0,
        le=10**6,
    )
    pad_seconds: float = field(
        0.25,
        "premixed mixtures are zero-padded to a multiple of this, to compile few lengths",
        unit="s",
        ge=1e-6,
        le=3600,
    )


class Config(Section):
    """A whole configuration."""

    seed: int = field(
        0, "of the initial parameters and the training mixtures", ge=0, le=2**32 - 1
    )  # beyond, JAX would take another seed for the same
    scale: Text = field("paper", "which scale the values came from, a label", may_change=True)
    data: Data = Data()
    train: Train = Train()
    weighting: Weighting = Weighting()
    loss: Loss = Loss()
    model: Model = Model()
    evaluation: Evaluation = Evaluation()


SECTIONS: dict[str, type[Section]] = {
    name: info.annotation
    for name, info in Config.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, Section)
}
# 'seed' or 'section.field' -> the field
FIELDS: dict[str, FieldInfo] = {
    name: info for name, info in Config.model_fields.items() if name not in SECTIONS
} | {
    f"{section}.{name}": info
    for section, fields in SECTIONS.items()
    for name, info in fields.model_fields.items()
}


def legal_values(info: FieldInfo) -> str:
    """What is legal in a field, in words: 'a number from 0 to 100'."""
    extra, kind = about(info), info.annotation
    if extra["legal"]:
        return extra["legal"]
    if kind is bool:
        return "True or False"
    if kind is str:
        return " or ".join(map(repr, extra["choices"])) or "text"
    bounds = {
        name: getattr(bound, name)
        for bound in info.metadata
        for name in ("ge", "le", "lt")
        if hasattr(bound, name)
    }
    low, high = bounds["ge"], bounds.get("le", bounds.get("lt"))
    if kind is int:
        return f"a whole number from {low} to {high}"
    return f"a number from {low:g} to {'below ' if 'lt' in bounds else ''}{high:g}"


# --- rules that join fields -----------------------------------------------------------------------

RULES: list[Callable[[Config], Iterable[str]]] = []


def rule(function: Callable[[Config], Iterable[str]]) -> Callable[[Config], Iterable[str]]:
    """Add a function that yields one line for each combination of fields that cannot work.

    Where it looks at a field that is illegal by itself, the rule ends there without a word.
    """
    RULES.append(function)
    return function


@rule
def _batch_size(config: Config) -> Iterator[str]:
    size, total = config.train.batch_size, config.train.mixtures_per_epoch
    if size > total:
        yield f"train.batch_size is {size}, it must be at most train.mixtures_per_epoch, {total}"


@rule
def _micro_batch(config: Config) -> Iterator[str]:
    micro_batch, size = config.train.micro_batch, config.train.batch_size
    if micro_batch > size:
        yield (
            f"train.micro_batch is {micro_batch}, it must be at most train.batch_size, {size}, "
            "or 0 for the whole batch"
        )


@rule
def _warmup(config: Config) -> Iterator[str]:
    warmup, schedule = config.train.warmup_epochs, config.train.schedule
    if schedule != "cosine":
        if warmup:
            yield (
                f"train.warmup_epochs is {warmup}, it must be 0: "
                f"train.schedule {schedule!r} has no warm-up"
            )
    elif warmup >= config.train.num_epochs:
        yield (
            f"train.warmup_epochs is {warmup}, "
            f"it must be below train.num_epochs, {config.train.num_epochs}"
        )


@rule
def _steps(config: Config) -> Iterator[str]:
    train = config.train
    a_epoch = train.mixtures_per_epoch // train.batch_size
    most = MAX_STEPS // max(1, a_epoch)
    for name in ("num_epochs", "schedule_every", "warmup_epochs"):
        if getattr(train, name) > most:
            yield (
                f"train.{name} is {getattr(train, name)}, it must be at most {most}: "
                f"{a_epoch} steps an epoch, {MAX_STEPS} in all"
            )


@rule
def _train_samples(config: Config) -> Iterator[str]:
    yield from _batch_samples("train.batch_size", config.train.batch_size, config.data)


@rule
def _evaluation_samples(config: Config) -> Iterator[str]:
    yield from _batch_samples("evaluation.batch_size", config.evaluation.batch_size, config.data)


def _batch_samples(name: str, size: int, data: Data) -> Iterator[str]:
    samples = size * data.segment_seconds * data.sample_rate
    if samples > MAX_BATCH_SAMPLES:
        yield (
            f"{name} is {size}, {samples:.3g} samples with data.segment_seconds "
            f"{data.segment_seconds:g} at {data.sample_rate} Hz, "
            f"it must be at most {MAX_BATCH_SAMPLES} samples"
        )


@rule
def _pad_seconds(config: Config) -> Iterator[str]:
    pad, rate = config.evaluation.pad_seconds, config.data.sample_rate
    if pad * rate < 1:
        yield (
            f"evaluation.pad_seconds is {pad:g}, it must be at least one sample, "
            f"{1 / rate:g} s at {rate} Hz"
        )


@rule
def _synthetic_rate(config: Config) -> Iterator[str]:
    data = config.data
    if data.synthetic and not data.premixed_root and data.sample_rate < LOWEST_SYNTHETIC_RATE:
        yield (
            f"data.sample_rate is {data.sample_rate}, it must be at least "
            f"{LOWEST_SYNTHETIC_RATE} where data.synthetic is True"
        )


@rule
def _slots(config: Config) -> Iterator[str]:
    if not config.data.premixed_root:
        try:
            slot_priors(config.data.slots, CORPORA)
        except DataError as error:
            yield str(error)


@rule
def _active_counts(config: Config) -> Iterator[str]:
    if not config.data.premixed_root:
        try:
            count_probabilities(config.data.active_counts, len(config.data.slots))
        except DataError as error:
            yield str(error)


@rule
def _num_sources(config: Config) -> Iterator[str]:
    data, sources = config.data, config.model.num_sources
    if not data.premixed_root:
        if sources != len(data.slots):
            yield (
                f"model.num_sources is {sources}, "
                f"it must be the number of data.slots, {len(data.slots)}"
            )
    elif data.premixed_roles and sources != len(data.premixed_roles) - 1:
        yield (
            f"model.num_sources is {sources}, "
            f"data.premixed_roles names {len(data.premixed_roles) - 1} sources"
        )


@rule
def _premixed_roles(config: Config) -> Iterator[str]:
    if config.data.premixed_roles and not config.data.premixed_root:
        yield (
            f"data.premixed_roles is {config.data.premixed_roles}, "
            "it must be () where data.premixed_root is empty"
        )


@rule
def _factors(config: Config) -> Iterator[str]:
    if config.weighting.name == "product" and not config.weighting.factors:
        yield (
            f"weighting.factors is empty, it must name weightings to multiply: {', '.join(FACTORS)}"
        )


@rule
def _gamma(config: Config) -> Iterator[str]:
    weighting = config.weighting
    factors = weighting.factors if weighting.name == "product" else (weighting.name,)
    if "class_bias" in factors and not weighting.gamma:
        yield (
            "weighting.gamma is empty, it must give a value to at least one class, group or corpus"
        )


@rule
def _network(config: Config) -> Iterator[str]:
    if config.model.family not in models.FAMILIES:
        return
    fields = {name: value for name, value in vars(config.model).items() if name != "family"}
    try:
        network = models.create(config.model.family, **fields)
    except ValueError as error:
        yield str(error)
        return
    depth, kernel = config.model.upsampling_depth, config.model.enc_kernel_size
    samples = round(config.data.segment_seconds * config.data.sample_rate)
    if network.padded(samples) > MAX_PADDING * samples:
        yield (
            f"model.upsampling_depth is {depth}, which with model.enc_kernel_size {kernel} pads "
            f"the {samples} samples of data.segment_seconds to {network.padded(samples)}; "
            f"it must be one that pads them to at most {MAX_PADDING} times as many"
        )


def check_devices(config: Config, devices: int) -> None:
    """Raise ConfigError unless so many devices can share every batch equally."""
    sizes = {
        "train.batch_size": config.train.batch_size,
        "train.micro_batch": config.train.micro_batch,
    }
    problems = [
        f"{name} is {size}, it must be a multiple of the {devices} devices that share it, "
        f"such as {-(-size // devices) * devices}"
        for name, size in sizes.items()
        if size % devices
    ]
    if problems:
        raise ConfigError(together(problems))


# --- from values to a configuration ---------------------------------------------------------------


def parse(content: dict[str, Any], *, problems: Iterable[str] = ()) -> Config:
    """The configuration that has these values; no field may be left out.

    Args:
      content: {"seed": 0, "train": {"batch_size": 28, …}, …}, one mapping for each section.
      problems: what is wrong already, to be named with the rest.

    Raises:
      ConfigError: all fields that are missing, unknown or illegal, and all rules that the others
        break, one line each.
    """
    flat = flatten(content)
    wrong = {
        name: f"{name} is missing from the configuration"
        for name in (*SECTIONS, *FIELDS)
        if name.rpartition(".")[0] in ("", *content) and name not in {**content, **flat}
    }
    if ":" not in str(flat.get("model.family")):
        extras = [name for name in flat if name.startswith("model.") and name not in FIELDS]
        wrong |= {name: _no_such_field(name) for name in extras}
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            name, message = _in_words(detail, flat)
            wrong.setdefault(name, message)
    legal = {name: value for name, value in flat.items() if name not in wrong}
    lines = [*problems, *wrong.values(), *_broken_rules(legal)]
    if lines:
        raise ConfigError(together(lines))
    return config


def flatten(content: Mapping[str, Any]) -> dict[str, Any]:
    """{'section.field': value} of nested values; weighting.gamma is one value."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{field}": item for field, item in value.items()}
        else:
            flat[name] = value
    return flat


def closest(name: str, legal: Iterable[str]) -> str:
    """'; did you mean …?', or '' where nothing legal is like name."""
    close = difflib.get_close_matches(name, legal, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _no_such_field(name: str) -> str:
    return f"{name}: no such field{closest(name, FIELDS)}"


def _in_words(detail: ErrorDetails, flat: Mapping[str, Any]) -> tuple[str, str]:
    """(field, message) of one of pydantic's errors."""
    parts, value = detail["loc"], detail["input"]
    name = ".".join(
        map(str, parts[:1] if parts[0] in Config.model_fields.keys() - SECTIONS else parts[:2])
    )
    if detail["type"] == "extra_forbidden":
        return name, _no_such_field(name)
    if name in SECTIONS:
        return name, f"{name} is {_shown(value)}, it must hold the fields of a section"
    if name == "weighting.gamma" and len(parts) > 2:
        entry = f"{name}.{parts[2]}"
        if parts[-1] == "[key]":
            return entry, f"{entry}: {detail['msg'].removeprefix('Value error, ')}"
        return entry, f"{entry} is {_shown(value)}, it must be a number within ±1e30"
    return (
        name,
        f"{name} is {_shown(flat.get(name, value))}, it must be {legal_values(FIELDS[name])}",
    )


def _shown(value: Any) -> str:
    """A value in one line of a message."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # whole numbers of thousands of digits, objects of the user's own
        text = f"a {type(value).__name__}"
    return text if len(text) <= 120 else f"{text[:100]}…"


class _NotLegal(Exception):
    """A rule looked at a field that is illegal by itself."""


class _Legal(SimpleNamespace):
    """The legal fields of a configuration or section, as attributes."""

    def __getattr__(self, name: str) -> Any:
        raise _NotLegal(name)


def _broken_rules(legal: Mapping[str, Any]) -> Iterator[str]:
    """What the rules say of the fields that are legal by themselves."""
    config = _Legal(**{section: _Legal() for section in SECTIONS})
    for name, value in legal.items():
        section, _, field_name = name.rpartition(".")
        setattr(getattr(config, section) if section else config, field_name, value)
    for broken in RULES:
        with suppress(_NotLegal):
            yield from broken(cast(Config, config))
