"""Every mistake in a configuration gets one line with field, value and what is legal."""

import copy
from pathlib import Path

import pytest
from pydantic import ValidationError

from jaxsep.config.load import field_table, load
from jaxsep.config.schema import FIELDS, MAY_CHANGE, Config, check_devices, legal_values, parse
from jaxsep.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Values of one or more fields of configs/class_bias.py, and the beginning of what is said of them.
MISTAKES = [
    # a field by itself, one for each kind of field
    ("weighting.name=cvr", "weighting.name is 'cvr', it must be 'uniform' or 'robust' or"),
    ("weighting.alpha=-0.1", "weighting.alpha is -0.1, it must be a number from 0 to"),
    ("weighting.beta=(0.0,0.5)", "weighting.beta is (0.0, 0.5), it must be (b0, b1), b0 from"),
    ("weighting.beta=(1.0,)", "weighting.beta is (1.0,), it must be (b0, b1), b0 from"),
    (
        "weighting.gamma.dog=1e31",
        "weighting.gamma is {'environment': 0.0, 'speech': 3.0, 'dog': 1e+31}, it must be a map",
    ),
    ("weighting.gamma=1", "weighting.gamma is 1, it must be a mapping from names to numbers"),
    ("weighting.factors=('robust','hard')", "weighting.factors is ('robust', 'hard'), it must be"),
    (
        "train.batchsize=3",
        "--config.train.batchsize: no such field; did you mean train.batch_size?",
    ),
    ("train.batch_size=many", "train.batch_size is 'many', it must be a whole number from 1 to"),
    ("train.batch_size=0", "train.batch_size is 0, it must be a whole number from 1 to 65536"),
    ("train.batch_size=3.0", "train.batch_size is 3.0, it must be a whole number from 1 to"),
    ("train.learning_rate=nan", "train.learning_rate is 'nan', it must be a number from 1e-37"),
    ("model.family=tasnet", "model.family is 'tasnet', it must be 'original', 'improved' or 'pack"),
    ("model.mine=3", "--config.model.mine: no such field"),
    ("data.segment_seconds=1e300", "data.segment_seconds is 1e+300, it must be a number from 0.01"),
    ("data.slots=()", "data.slots is (), it must be a tuple of names, such as"),
    ("data.active_counts=(2,)", "data.active_counts is (2,), it must be a tuple of probabilities"),
    ("seed=4294967296", "seed is 4294967296, it must be a whole number from 0 to 4294967295"),
    # fields that do not fit together
    ("train.batch_size=2000", "train.batch_size is 2000, it must be at most train.mixtures_per_"),
    ("train.micro_batch=17", "train.micro_batch is 17, it must be at most train.batch_size, 16"),
    ("train.warmup_epochs=2", "train.warmup_epochs is 2, it must be 0, which train.schedule"),
    (
        "train.schedule=cosine train.warmup_epochs=16",
        "train.warmup_epochs is 16, it must be below train.num_epochs, 16",
    ),
    ("train.batch_size=40000 train.mixtures_per_epoch=40000", "train.batch_size is 40000, it must"),
    ("evaluation.batch_size=40000", "evaluation.batch_size is 40000, it must be at most 33554"),
    (
        "data.sample_rate=3999",
        "data.sample_rate is 3999, it must be at least 4000 where data.synth",
    ),
    ("data.slots=('speech','music')", "data.slots: 'music' must be one of speech, environment"),
    (
        "data.slots=('speech:0.5,environment:0.4','speech')",
        "data.slots: 'speech:0.5,environment:0.4' must be",
    ),
    ("data.active_counts=(0.5,0.4)", "data.active_counts: is [0.5, 0.4]; must be 2 probabilities"),
    ("data.premixed_roles=('mix','s1')", "data.premixed_roles is ('mix', 's1'), it must be () wi"),
    ("model.num_sources=3", "model.num_sources is 3, it must be that of data.slots, 2"),
    ("weighting.name=product", "weighting.factors is (), it must be one or more weightings"),
    ("weighting.gamma={}", "weighting.gamma is {}, it must be a value for at least one class"),
    ("model.enc_num_basis=127", "model.enc_num_basis is 127; family 'original' needs an even"),
]


@pytest.mark.parametrize(("fields", "message"), MISTAKES, ids=[fields for fields, _ in MISTAKES])
def test_a_mistake_is_named_with_its_value_and_what_is_legal(fields, message):
    with pytest.raises(ConfigError) as raised:
        load(f"{CONFIGS}/class_bias.py", [f"--config.{field}" for field in fields.split(" ")])
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_all_problems_are_listed_at_once():
    """Unknown fields, types, values and rules; no rule speaks of a field that is wrong itself."""
    overrides = ("train.epochs=3", "train.batch_size=many", "seed=-1", "train.num_epochs=0")
    overrides += ("train.micro_batch=20", "train.warmup_epochs=0", "model.num_sources=3")
    with pytest.raises(ConfigError) as raised:
        load(f"{CONFIGS}/robust.py", [f"--config.{override}" for override in overrides])
    first, *problems = str(raised.value).split("\n")
    assert first == "5 problems in the configuration:"
    assert [problem.split(":")[0].split(" is ")[0] for problem in problems] == [
        "  --config.train.epochs",
        "  seed",
        "  train.batch_size",
        "  train.num_epochs",
        "  model.num_sources",
    ]


def changed(**changes):
    """The default values with changes: field=value at the top, section=dict within a section."""
    content = Config().model_dump()
    for name, value in changes.items():
        if isinstance(value, dict):
            content.setdefault(name, {}).update(value)
        else:
            content[name] = value
    return content


CONTENT = [
    ({"seed": True}, ["seed is True, it must be a whole number"]),
    ({"seed": 10**400}, ["seed is 1000000"]),
    ({"seed": 10**5000}, ["seed is a number of very many digits, it must be a whole number"]),
    ({"e": 1, "model": {"num_sources": 3}}, ["e: no such field", "model.num_sources is 3"]),
    ({"seeds": 1}, ["seeds: no such field; did you mean seed?"]),
    (
        {"loss": 3},
        [
            "loss.improvement is missing from the configuration",
            "loss.zero_mean is missing from the configuration",
            "loss is 3, it must be a section with fields",
        ],
    ),
    ({"extra": {"x": 1}}, ["extra: no such field"]),
    ({"train": {"clip_norm": False}}, ["train.clip_norm is False, it must be a number from 0"]),
    ({"train": {"learning_rate": float("nan")}}, ["train.learning_rate is nan, it must be a"]),
    ({"data": {"speech_root": "a\0b"}}, ["data.speech_root is 'a\\x00b', it must be text"]),
    ({"data": {"slots": ["speech"]}}, ["data.slots is ['speech'], it must be a tuple of names"]),
    ({"data": {"slots": ("x" * 500, 1)}}, ["data.slots is ('xxx"]),
    ({"model": {"mine": 3}}, ["model.mine: no such field"]),
    ({"weighting": {"gamma": {"a": {"b": 1}, "c": True}}}, ["weighting.gamma is {'a': {'b': 1"]),
]


@pytest.mark.parametrize(("changes", "messages"), CONTENT)
def test_values_of_the_wrong_type_and_unknown_fields_are_named(changes, messages):
    with pytest.raises(ConfigError) as raised:
        parse(changed(**changes))
    lines = str(raised.value).split("\n")
    if len(messages) > 1:
        assert lines.pop(0) == f"{len(messages)} problems in the configuration:"
    for line, message in zip(lines, messages, strict=True):
        assert line.strip().startswith(message)
        assert len(line) < 300


def test_fields_and_sections_that_are_missing_are_named():
    content = changed()
    del content["train"]["num_epochs"], content["seed"], content["loss"]
    with pytest.raises(ConfigError) as raised:
        parse(content)
    assert str(raised.value).split("\n")[1:] == [
        f"  {name} is missing from the configuration"
        for name in ("seed", "train.num_epochs", "loss.improvement", "loss.zero_mean")
    ]


def test_a_network_of_ones_own_may_have_fields_of_its_own():
    content = changed(model={"family": "my.package:Net", "mine": 3})
    config = parse(copy.deepcopy(content))
    assert config.model_dump() == content
    with pytest.raises(ConfigError, match=r"^train\.mine: no such field"):
        parse(changed(model=content["model"], train={"mine": 3}))


def test_a_configuration_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Config().train.batch_size = 3


def test_names_of_folders_need_not_be_unicode():
    assert parse(changed(data={"speech_root": "\udcff"})).data.speech_root == "\udcff"


def test_a_batch_that_devices_cannot_share_is_named_with_one_that_they_can():
    config = parse(changed(train={"batch_size": 12, "micro_batch": 4}))
    check_devices(config, 4)
    with pytest.raises(ConfigError) as raised:
        check_devices(config, 8)
    assert str(raised.value).split("\n")[1:] == [
        f"  train.{field} it must be a multiple of the 8 devices that share it, such as {multiple}"
        for field, multiple in (("batch_size is 12,", 16), ("micro_batch is 4,", 8))
    ]


def test_the_table_says_of_every_field_its_value_and_what_it_means_and_may_be():
    lines = field_table(load(f"{CONFIGS}/robust.py:cpu")).split("\n")
    assert len(lines) == 2 * len(FIELDS)
    row = next(line for line in lines if line.startswith("data.segment_seconds "))
    assert " ".join(row.split()) == "data.segment_seconds 1.0 a number from 0.01 to 3600"
    assert lines[lines.index(row) + 1] == "    length of a drawn mixture, in s"
    assert all(info.description and legal_values(info) for info in FIELDS.values())
    assert FIELDS.keys() >= MAY_CHANGE
