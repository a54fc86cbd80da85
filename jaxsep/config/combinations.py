"""Fields of a configuration that must fit together, each of them legal by itself (see `rules`)."""

from collections.abc import Callable, Iterator
from typing import Any

from jaxsep import models
from jaxsep.data.mixtures.sampler import CORPORA, count_probabilities, slot_priors
from jaxsep.data.synthetic import LOWEST_RATE
from jaxsep.errors import DataError

# Weightings that config.weighting.name may name; `product` multiplies those of config.weighting.factors.
FACTORS = ("uniform", "robust", "curriculum", "class_bias", "cvar", "threshold", "group_dro")
MAX_SAMPLES = 2**28  # in one batch: a gigabyte for each of mixture, sources and estimates
MAX_STEPS = 2**31 - 1  # of a run, counted in 32 bits

Answer = str | bool  # what is wrong, or False


def crossed(good: dict[str, Any], devices: int) -> list[str]:
    """One line for each combination that cannot work on so many devices.

    good: 'section.field' -> value, those that are legal by themselves; weighting.gamma as the names in it. A rule is asked
    where all of its fields are there.
    """
    asked = [
        rule(*(good[name] for name in names))
        for names, rule in _CROSS_FIELD
        if all(n in good for n in names)
    ]
    return [
        *(found for found in asked if isinstance(found, str)),
        *_network(good),
        *_shares(good, devices),
    ]


def _network(good: dict[str, Any]) -> Iterator[str]:
    """What the family's own networks cannot be made of, or would make of a segment."""
    model = {
        name.removeprefix("model."): value
        for name, value in good.items()
        if name.startswith("model.")
    }
    family = model.pop("family", None)
    if family not in models.FAMILIES:
        return
    try:
        network = models.create(family, **model)
    except ValueError as error:
        yield str(error)
        return
    if {
        "model.upsampling_depth",
        "model.enc_kernel_size",
        "data.segment_seconds",
        "data.sample_rate",
    } <= good.keys():
        samples = round(good["data.segment_seconds"] * good["data.sample_rate"])
        if network.padded(samples) > 4 * samples:
            yield (
                f"model.upsampling_depth is {network.upsampling_depth}, which with model.enc_kernel_size "
                f"{network.enc_kernel_size} pads the {samples} samples of data.segment_seconds to "
                f"{network.padded(samples)}; it must be one that at most quadruples them"
            )


def _shares(good: dict[str, Any], devices: int) -> Iterator[str]:
    for name in ("train.batch_size", "train.micro_batch"):
        if good.get(name, 0) % devices:
            share = -(-good[name] // devices) * devices
            yield f"{name} is {good[name]}, it must be a multiple of the {devices} devices that share it, such as {share}"


def _slots(premixed: str, slots: tuple[str, ...]) -> Answer:
    if premixed:
        return False
    if unknown := sorted(
        {part.split(":")[0].strip() for slot in slots for part in slot.split(",")} - {*CORPORA}
    ):
        return (
            f"data.slots is {slots}: {unknown[0]!r} is no corpus; there are {' and '.join(CORPORA)}"
        )
    return _said(slot_priors, slots, CORPORA)


def _said(check: Callable[..., Any], *arguments: Any) -> Answer:
    """The message of the DataError that check raises."""
    try:
        check(*arguments)
    except DataError as error:
        return str(error)
    return False


def _warmup(schedule: str, warmup: int, epochs: int) -> Answer:
    if schedule != "cosine":
        return (
            warmup > 0
            and f"train.warmup_epochs is {warmup}, it must be 0: train.schedule {schedule!r} has no warm-up"
        )
    return (
        warmup >= epochs
        and f"train.warmup_epochs is {warmup}, it must be below train.num_epochs, {epochs}"
    )


def _steps(size: int, total: int, epochs: int, every: int, warmup: int) -> Answer:
    counts = {"num_epochs": epochs, "schedule_every": every, "warmup_epochs": warmup}
    name = max(counts, key=lambda name: counts[name])
    most = MAX_STEPS // max(1, total // size)
    return counts[name] > most and (
        f"train.{name} is {counts[name]}, it must be at most {most}: {total // size} steps an epoch, {MAX_STEPS} in all"
    )


def _batch_samples(field: str) -> Callable[..., Answer]:
    def rule(size: int, seconds: float, rate: int) -> Answer:
        return size * seconds * rate > MAX_SAMPLES and (
            f"{field} is {size}, {size * seconds * rate:.3g} samples with data.segment_seconds {seconds:g} at {rate} Hz, "
            f"it must be at most {MAX_SAMPLES} samples"
        )

    return rule


def _demo_rate(synthetic: bool, premixed: str, rate: int) -> Answer:
    return (synthetic and not premixed and rate < LOWEST_RATE) and (
        f"data.sample_rate is {rate}, it must be at least {LOWEST_RATE} where data.synthetic is True"
    )


# Fields, and a rule of their values that gives a message where they do not fit; asked where each of the fields is legal.
_CROSS_FIELD: list[tuple[tuple[str, ...], Callable[..., Answer]]] = [
    (
        ("train.batch_size", "train.mixtures_per_epoch"),
        lambda size, total: (
            size > total
            and f"train.batch_size is {size}, it must be at most train.mixtures_per_epoch, {total}"
        ),
    ),
    (
        ("train.micro_batch", "train.batch_size"),
        lambda part, size: (
            part > size
            and f"train.micro_batch is {part}, it must be at most train.batch_size, {size}, or 0 for the whole batch"
        ),
    ),
    (("data.premixed_root", "data.slots"), _slots),
    (
        ("data.premixed_root", "model.num_sources", "data.slots"),
        lambda premixed, sources, slots: (
            not premixed
            and sources != len(slots)
            and f"model.num_sources is {sources}, it must be the number of data.slots, {len(slots)}"
        ),
    ),
    (
        ("data.premixed_root", "model.num_sources", "data.premixed_roles"),
        lambda premixed, sources, roles: (
            bool(premixed and roles)
            and sources != len(roles) - 1
            and f"model.num_sources is {sources}, data.premixed_roles names {len(roles) - 1} sources"
        ),
    ),
    (
        ("data.premixed_root", "data.premixed_roles"),
        lambda premixed, roles: (
            bool(roles)
            and not premixed
            and f"data.premixed_roles is {roles}, it must be () where data.premixed_root is empty"
        ),
    ),
    (
        ("data.premixed_root", "data.active_counts", "data.slots"),
        lambda premixed, counts, slots: (
            not premixed and _said(count_probabilities, counts, len(slots))
        ),
    ),
    (("data.synthetic", "data.premixed_root", "data.sample_rate"), _demo_rate),
    (
        ("train.batch_size", "data.segment_seconds", "data.sample_rate"),
        _batch_samples("train.batch_size"),
    ),
    (
        ("evaluation.batch_size", "data.segment_seconds", "data.sample_rate"),
        _batch_samples("evaluation.batch_size"),
    ),
    (
        ("evaluation.pad_seconds", "data.sample_rate"),
        lambda pad, rate: (
            pad * rate < 1
            and f"evaluation.pad_seconds is {pad:g}, it must be at least one sample, {1 / rate:g} s at {rate} Hz"
        ),
    ),
    (("train.schedule", "train.warmup_epochs", "train.num_epochs"), _warmup),
    (
        tuple(
            f"train.{name}"
            for name in (
                "batch_size",
                "mixtures_per_epoch",
                "num_epochs",
                "schedule_every",
                "warmup_epochs",
            )
        ),
        _steps,
    ),
    (
        ("weighting.name", "weighting.factors"),
        lambda name, factors: (
            name == "product"
            and not factors
            and f"weighting.factors is empty, it must name weightings to multiply: {', '.join(FACTORS)}"
        ),
    ),
    (
        ("weighting.name", "weighting.factors", "weighting.gamma"),
        lambda name, factors, gamma: (
            (name == "class_bias" or (name == "product" and "class_bias" in factors))
            and not gamma
            and "weighting.gamma is empty, it must give a value to at least one class, group or corpus"
        ),
    ),
]
