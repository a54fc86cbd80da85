"""Every field of a configuration, once: type, bounds, default, meaning and unit.

One class for each section, then the rules that join fields, then `parse`, through which every
configuration comes. The defaults are the paper's values. Upper bounds are far beyond any use: they
are where memory, compilation or 32 bits end.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from operator import attrgetter
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic.fields import FieldInfo

from jaxsep import models
from jaxsep.data.audio import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from jaxsep.data.mixtures.sampler import CORPORA, count_probabilities, slot_priors
from jaxsep.data.synthetic import LOWEST_RATE as LOWEST_SYNTHETIC_RATE
from jaxsep.errors import ConfigError, together
from jaxsep.objective.permutation import MAX_SOURCES

MAX_STEPS = 2**31 - 1  # of a run, which JAX counts in 32 bits
MAX_EPOCHS = 10**5
MAX_BATCH_SAMPLES = 2**28  # a gigabyte for each of mixture, sources and estimates
LARGEST_SEED = 2**32 - 1  # JAX would take a larger one for one of these


def whole(least: int, most: int) -> Any:
    """Bounds of a whole number. The title of a type says in words what is legal."""
    return Field(ge=least, le=most, title=f"a whole number from {least} to {most}")


def number(least: float, most: float) -> Any:
    """Bounds of a number."""
    return Field(ge=least, le=most, title=f"a number from {least:g} to {most:g}")


def _text(value: Any) -> str:
    # Not pydantic's own check, which refuses names of files that are not UTF-8.
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value


Text = Annotated[str, PlainValidator(_text), Field(title="text")]
Names = Annotated[tuple[Text, ...], Field(title="a tuple of names, such as ('a', 'b')")]
Flag = Annotated[bool, Field(title="True or False")]
Batch = Annotated[int, whole(1, 65536)]
Epochs = Annotated[int, whole(0, MAX_EPOCHS)]
Steps = Annotated[int, whole(1, MAX_STEPS)]
Mixtures = Annotated[int, whole(1, 10**6)]
Share = Annotated[float, number(0, 1)]
Factor = Literal["uniform", "robust", "curriculum", "class_bias", "cvar", "threshold", "group_dro"]


class Section(BaseModel):
    """Frozen, without unknown fields; True is no number, and numbers are finite."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Data(Section):
    """The recordings, and the mixtures made of them."""

    speech_root: Text = ""
    """folder: WSJ0-2mix, or {train,val,test}/SPEAKER/*.wav|flac|ogg"""
    environment_root: Text = ""
    """folder: ESC-50, or {train,val,test}/CLASS/*.wav|flac|ogg"""
    premixed_root: Text = ""
    """folder of ready mixtures (WSJ0-2mix, WHAM!, Libri2Mix), used instead of drawing them"""
    premixed_roles: Names = ()
    """its folders to use: the mixture's, then one per source; (): mix or mix_clean, s1, s2, …"""
    synthetic: Flag = False
    """whether a corpus whose root is empty is generated sound"""
    cache_dir: Text = ""
    """folder of packed corpora; '': $JAXSEP_CACHE, or else ~/.cache/jaxsep"""
    sample_rate: Annotated[int, whole(MIN_SAMPLE_RATE, MAX_SAMPLE_RATE)] = 8000
    """Hz, to which recordings are resampled"""
    segment_seconds: Annotated[float, number(0.01, 3600)] = 4.0
    """length of a drawn mixture, in s"""
    slots: Annotated[Names, Field(min_length=1)] = ("speech", "environment")
    """for each source a corpus, or a prior such as 'speech:0.3,environment:0.7'"""
    active_counts: Annotated[tuple[Share, ...], Field(title="a tuple of probabilities")] = ()
    """probabilities of 1, 2, … N active sources; (): all are always active"""
    max_snr_db: Annotated[float, number(0, 100)] = 30.0
    """the power of the first source over each other's is uniform in ± this many dB"""
    short_clips: Literal["pad", "skip"] = "pad"
    """pad recordings that are shorter than a segment, or skip them"""
    mixtures_val: Mixtures = 5000
    """validation mixtures, each epoch"""
    mixtures_test: Mixtures = 3000
    """test mixtures"""
    eval_seed: Annotated[int, whole(0, 2**64 - 1)] = 1
    """of validation and test mixtures, which do not depend on seed"""


class Train(Section):
    """The optimisation."""

    batch_size: Batch = 28
    """mixtures per step; the weights are a pmf over these"""
    micro_batch: Annotated[int, whole(0, 65536)] = 0
    """mixtures per pass of gradient accumulation, with the same result; 0: the whole batch"""
    mixtures_per_epoch: Annotated[int, whole(1, 10**9)] = 20000
    """an epoch has floor(mixtures_per_epoch / batch_size) steps"""
    num_epochs: Annotated[int, whole(1, MAX_EPOCHS)] = 100
    """epochs of the run"""
    learning_rate: Annotated[float, number(1e-37, 1)] = 1e-3
    """of Adam"""
    schedule: Literal["constant", "step", "cosine"] = "constant"
    """course of the learning rate"""
    schedule_every: Annotated[int, whole(1, MAX_EPOCHS)] = 20
    """step: the rate is divided after so many epochs"""
    schedule_divisor: Annotated[float, number(1, 1e6)] = 3.0
    """step: what the rate is divided by"""
    warmup_epochs: Epochs = 0
    """cosine: length of the linear warm-up, in epochs"""
    clip_norm: Annotated[float, number(0, 1e30)] = 5.0
    """largest global norm of the gradient; 0: no clipping"""
    ema_decay: Annotated[float, number(0, 0.999999)] = 0.0
    """of a moving average of the parameters, which is evaluated in their place; 0: none"""
    patience: Annotated[int, whole(0, MAX_STEPS)] = 0
    """training stops after so many epochs without a better best_metric; 0: never"""
    best_metric: Text = "mean"
    """validation SI-SDRi of the best checkpoint: mean, q01 … q99, a corpus or a class"""
    init_from: Text = ""
    """a run, model bundle or published .pt file to start from"""
    checkpoint_minutes: Annotated[float, number(1e-9, 1e6)] = 10.0
    """longest time between checkpoints"""
    log_every: Steps = 50
    """steps from one line of metrics.jsonl to the next"""
    max_skipped: Steps = 10
    """the run ends after so many steps in a row with a non-finite loss or gradient"""
    workers: Annotated[int, whole(1, 256)] = 1
    """threads that render mixtures"""


class Weighting(Section):
    """The pmf over the batch: softmax(F), with logits F of each loss L, its class and the epoch."""

    name: Literal[Factor, "product"] = "uniform"
    """which pmf; the fields below say which they are of"""
    granularity: Literal["example", "source"] = "example"
    """one weight per mixture, or one per source"""
    alpha: Annotated[float, number(0, 1e6)] = 0.1
    """robust: F = α·L, in 1/dB; the paper tries 1/15, 1/10, 1/5"""
    beta: Annotated[
        tuple[Annotated[float, number(1e-6, 1e6)], Annotated[float, number(0, 1e6)]],
        Field(title="(b0, b1), b0 from 1e-06 to 1e+06 and b1 from 0 to 1e+06"),
    ] = (10.0, 0.5)
    """curriculum: F = −L / (b0 + b1·κ), in dB, κ = floor(100·epoch/num_epochs)"""
    gamma: Annotated[
        dict[Text, Annotated[float, number(-1e30, 1e30)]],
        Field(title="a mapping from names to numbers within ±1e+30"),
    ] = {}
    """class_bias: F by class, group or corpus name; the most specific wins, others are 0"""
    fraction: Annotated[float, number(1e-6, 1)] = 0.25
    """cvar: only the worst of a batch have weight, this share of them"""
    threshold_db: Annotated[float, number(-200, 200)] = 15.0
    """threshold: no weight from this SI-SDRi on, in dB"""
    dro_step: Annotated[float, number(1e-12, 1e6)] = 0.01
    """group_dro: how fast weight goes to the worst group, in 1/dB"""
    dro_groups: Literal["corpus", "group", "class"] = "class"
    """group_dro: what a group is"""
    factors: Annotated[
        tuple[Factor, ...], Field(title=f"a tuple of {', '.join(get_args(Factor))}")
    ] = ()
    """product: the pmfs to multiply, with the fields above"""


class Loss(Section):
    """L = −SI-SDR(estimate, source) + SI-SDR(mixture, source) in dB, the best permutation's."""

    improvement: Flag = True
    """with the second term: what was gained, not what was given"""
    zero_mean: Flag = True
    """remove each signal's mean before SI-SDR"""


class Model(Section):
    """The network. One from outside jaxsep may have fields of its own beside these."""

    model_config = ConfigDict(extra="allow")

    family: Annotated[
        str,
        Field(
            pattern=f"^({'|'.join(models.FAMILIES)}|[^:]+:[^:]+)$",
            title=f"{', '.join(map(repr, models.FAMILIES))} or 'package.module:Class'",
        ),
    ] = "original"
    """the network, or a Flax module from [B,T] to [B,N,T] that can be imported"""
    out_channels: Annotated[int, whole(*models.BOUNDS["out_channels"])] = 128
    """channels between blocks"""
    in_channels: Annotated[int, whole(*models.BOUNDS["in_channels"])] = 512
    """channels inside a block"""
    num_blocks: Annotated[int, whole(*models.BOUNDS["num_blocks"])] = 8
    """blocks, one after another"""
    upsampling_depth: Annotated[int, whole(*models.BOUNDS["upsampling_depth"])] = 5
    """depthwise convolutions per block: one of stride 1, the others of stride 2"""
    enc_kernel_size: Annotated[int, whole(*models.BOUNDS["enc_kernel_size"])] = 41
    """samples of the encoder's kernel, whose stride is half"""
    enc_num_basis: Annotated[int, whole(*models.BOUNDS["enc_num_basis"])] = 512
    """filters of the encoder"""
    num_sources: Annotated[int, whole(1, MAX_SOURCES)] = 2
    """as many as data.slots"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of what lies between layers; parameters, norms and loss are float32"""
    remat: Flag = False
    """make each block's inside again for the gradient, to save memory"""


class Evaluation(Section):
    """How validation and test mixtures are scored."""

    batch_size: Batch = 28
    """mixtures per step; does not change scores"""
    last_epochs: Epochs = 5
    """the test set is scored after each of so many last epochs, and the statistics averaged"""
    pad_seconds: Annotated[float, number(1e-6, 3600)] = 0.25
    """premixed mixtures are zero-padded to a multiple of so many s, to compile few lengths"""


class Config(Section):
    """A whole configuration."""

    seed: Annotated[int, whole(0, LARGEST_SEED)] = 0
    """of parameters and training mixtures"""
    scale: Text = "paper"
    """a label: where the values are from"""
    data: Data = Data()
    train: Train = Train()
    weighting: Weighting = Weighting()
    loss: Loss = Loss()
    model: Model = Model()
    evaluation: Evaluation = Evaluation()


# Fields of which a run may take another value when it goes on in its folder.
MAY_CHANGE = {
    *("scale", "data.cache_dir", "evaluation.batch_size", "model.remat"),
    *("train.micro_batch", "train.num_epochs", "train.checkpoint_minutes"),
    *("train.log_every", "train.max_skipped", "train.workers"),
}
SECTIONS = {name: type(section) for name, section in Config() if isinstance(section, Section)}
# 'seed' or 'section.field' -> the field.
FIELDS = {name: info for name, info in Config.model_fields.items() if name not in SECTIONS} | {
    f"{section}.{name}": info
    for section, fields in SECTIONS.items()
    for name, info in fields.model_fields.items()
}


def legal_values(info: FieldInfo) -> str:
    """What is legal in a field, in words, such as 'a number from 0 to 100'."""
    return info.title or " or ".join(map(repr, get_args(info.annotation)))


def illegal(name: str, value: Any, legal: str) -> str:
    """'train.batch_size is 0, it must be a whole number from 1 to 65536'."""
    try:
        shown = " ".join(repr(value).split())
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        shown = "a number of very many digits"
    return f"{name} is {shown:.100}, it must be {legal}"


def unknown(name: str) -> str:
    """'seeds: no such field; did you mean seed?'."""
    return f"{name}: no such field{closest(name, FIELDS)}"


def closest(name: str, legal: Iterable[str]) -> str:
    """'; did you mean …?', or '' where nothing legal is like name."""
    return "".join(f"; did you mean {near}?" for near in difflib.get_close_matches(name, legal, 1))


def flatten(content: Mapping[str, Any]) -> dict[str, Any]:
    """{'section.field': value} of nested values; weighting.gamma is one value."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": item for key, item in value.items()}
        else:
            flat[name] = value
    return flat


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
    wrong = {
        name: f"{name} is missing from the configuration" for name in FIELDS if name not in flat
    }
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            name = ".".join(map(str, detail["loc"][:2]))
            if detail["type"] == "extra_forbidden":
                wrong[name] = unknown(name)
            elif name in SECTIONS:
                wrong[name] = illegal(name, detail["input"], "a section with fields")
            else:
                wrong.setdefault(name, illegal(name, flat.get(name), legal_values(FIELDS[name])))
    legal: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in flat.items():
        section, _, key = name.partition(".")
        if name not in wrong and section in legal:
            legal[section][key] = value
    sections: dict[str, Any] = {
        name: kind.model_construct(**legal[name]) for name, kind in SECTIONS.items()
    }
    # Defaults stand in place of values that are wrong, and no rule shall speak of these.
    conflicts = _conflicts(Config.model_construct(**sections))
    others = [line for line in conflicts if not wrong.keys() & set(re.findall(r"[\w.]+\b", line))]
    if lines := [*problems, *wrong.values(), *others]:
        raise ConfigError(together(lines))
    return config


def _conflicts(config: Config) -> Iterator[str]:
    """What is wrong between fields that are legal by themselves; a line names all of them."""
    data, train, weighting, model = config.data, config.train, config.weighting, config.model
    size, mixtures, warmup = train.batch_size, train.mixtures_per_epoch, train.warmup_epochs
    seconds, rate = data.segment_seconds, data.sample_rate
    largest = int(MAX_BATCH_SAMPLES / (seconds * rate))
    memory = f"at most {largest} with data.segment_seconds {seconds:g} at data.sample_rate {rate}"
    factors = weighting.factors if weighting.name == "product" else (weighting.name,)
    # Whether a rule is broken, by which field, and what would be legal there.
    rules = [
        (size > mixtures, "train.batch_size", f"at most train.mixtures_per_epoch, {mixtures}"),
        (train.micro_batch > size, "train.micro_batch", f"at most train.batch_size, {size}, or 0"),
        (size > largest, "train.batch_size", memory),
        (config.evaluation.batch_size > largest, "evaluation.batch_size", memory),
        (not factors, "weighting.factors", "one or more weightings to multiply"),
        (
            "class_bias" in factors and not weighting.gamma,
            "weighting.gamma",
            "a value for at least one class, group or corpus",
        ),
    ]
    if train.schedule == "cosine":
        legal = f"below train.num_epochs, {train.num_epochs}"
        rules.append((warmup >= train.num_epochs, "train.warmup_epochs", legal))
    else:
        legal = f"0, which train.schedule {train.schedule!r} needs"
        rules.append((warmup > 0, "train.warmup_epochs", legal))
    checks: list[Callable[[], Any]] = []
    if not data.premixed_root:
        slots, lowest = len(data.slots), LOWEST_SYNTHETIC_RATE
        checks.append(partial(slot_priors, data.slots, CORPORA))
        checks.append(partial(count_probabilities, data.active_counts, slots))
        rules += [
            (data.premixed_roles != (), "data.premixed_roles", "() without data.premixed_root"),
            (model.num_sources != slots, "model.num_sources", f"that of data.slots, {slots}"),
            (
                data.synthetic and rate < lowest,
                "data.sample_rate",
                f"at least {lowest} where data.synthetic is True",
            ),
        ]
    if model.family in models.FAMILIES:
        yield from (unknown(f"model.{name}") for name in model.model_extra or ())
        checks.append(partial(models.create, **vars(model)))
    yield from (illegal(name, attrgetter(name)(config), legal) for bad, name, legal in rules if bad)
    for check in checks:
        try:
            check()
        except ValueError as error:
            yield str(error)


def check_devices(config: Config, devices: int) -> None:
    """Raise ConfigError unless so many devices can share every batch equally."""
    problems = []
    for name in ("batch_size", "micro_batch"):
        if (size := getattr(config.train, name)) % devices:
            shared = -(-size // devices) * devices
            legal = f"a multiple of the {devices} devices that share it, such as {shared}"
            problems.append(illegal(f"train.{name}", size, legal))
    if problems:
        raise ConfigError(together(problems))
