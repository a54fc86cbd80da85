"""Every mistake in a configuration gets one line with field, value and what is legal."""

import copy
from pathlib import Path

import pytest
from pydantic import ValidationError

from jaxsep.config.load import load
from jaxsep.config.schema import FIELDS, Config, check_devices, legal_values, parse
from jaxsep.config.table import field_table
from jaxsep.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Values of one or more fields of configs/class_bias.py, and the beginning of what is said of them.
MISTAKES = [
    # a field by itself
    ("weighting.name=cvr", "weighting.name is 'cvr', it must be 'uniform' or 'robust' or"),
    ("weighting.granularity=batch", "weighting.granularity is 'batch', it must be 'example' or"),
    ("weighting.alpha=-0.1", "weighting.alpha is -0.1, it must be a number from 0 to"),
    ("weighting.alpha=inf", "weighting.alpha is inf, it must be a number from 0 to"),
    ("weighting.beta=(0.0,0.5)", "weighting.beta is (0.0, 0.5), it must be (b0, b1), b0 from"),
    ("weighting.beta=(1.0,)", "weighting.beta is (1.0,), it must be (b0, b1), b0 from"),
    ("weighting.gamma.dog=1e31", "weighting.gamma.dog is 1e+31, it must be a number within ±1e+30"),
    ("weighting.gamma.dog=nan", "weighting.gamma.dog is nan, it must be a number within"),
    ("weighting.gamma.dog=much", "weighting.gamma.dog is 'much', it must be a number"),
    ("weighting.gamma.a.b=1", "weighting.gamma.a.b: a name with a dot cannot be a field; rename"),
    ("weighting.gamma.=1", "weighting.gamma.: the name is missing"),
    ("weighting.gamma=1", "--config.weighting.gamma: it is set name by name"),
    ("weighting.fraction=0.0", "weighting.fraction is 0.0, it must be a number from 1e-06 to 1"),
    ("weighting.threshold_db=nan", "weighting.threshold_db is nan, it must be a number from"),
    ("weighting.dro_groups=x", "weighting.dro_groups is 'x', it must be 'corpus' or 'group' or"),
    ("weighting.factors=('robust','hard')", "weighting.factors is ('robust', 'hard'), it must be"),
    (
        "train.batchsize=3",
        "--config.train.batchsize: no such field; did you mean train.batch_size?",
    ),
    ("train.batch_size=many", "--config.train.batch_size=many: invalid literal for int()"),
    ("train.batch_size=0", "train.batch_size is 0, it must be a whole number from 1 to 65536"),
    ("train.learning_rate=nan", "train.learning_rate is nan, it must be a number from 1e-37 to 1"),
    ("train.schedule=linear", "train.schedule is 'linear', it must be 'constant' or 'step' or"),
    ("train.clip_norm=1e-30", "train.clip_norm is 1e-30, it must be 0, or a number from 1e-06"),
    ("train.ema_decay=1.0", "train.ema_decay is 1.0, it must be a number from 0 to 0.999999"),
    ("model.family=tasnet", "model.family is 'tasnet', it must be 'original', 'improved' or 'pack"),
    ("model.mine=3", "--config.model.mine: no such field"),
    ("model.enc_kernel_size=1", "model.enc_kernel_size is 1, it must be a whole number from 2 to"),
    ("model.num_sources=9", "model.num_sources is 9, it must be a whole number from 1 to 8"),
    ("data.slots=()", "data.slots is (), it must be a tuple of corpora or priors, such as"),
    ("data.sample_rate=0", "data.sample_rate is 0, it must be a whole number from 1000 to 1000000"),
    ("data.segment_seconds=1e300", "data.segment_seconds is 1e+300, it must be a number from 0.01"),
    ("data.short_clips=drop", "data.short_clips is 'drop', it must be 'pad' or 'skip'"),
    ("data.eval_seed=18446744073709551616", "data.eval_seed is 18446744073709551616, it must be"),
    ("seed=4294967296", "seed is 4294967296, it must be a whole number from 0 to 4294967295"),
    # fields that do not fit together
    ("train.batch_size=2000", "train.batch_size is 2000, it must be at most train.mixtures_per_"),
    (
        "train.micro_batch=17",
        "train.micro_batch is 17, it must be at most train.batch_size, 16, or",
    ),
    ("train.warmup_epochs=2", "train.warmup_epochs is 2, it must be 0: train.schedule 'constant'"),
    (
        "train.schedule=cosine train.warmup_epochs=16",
        "train.warmup_epochs is 16, it must be below train.num_epochs, 16",
    ),
    (
        "train.num_epochs=1000000 train.mixtures_per_epoch=100000000",
        "train.num_epochs is 1000000, it must be at most 343: 6250000 steps an epoch, 2147483647",
    ),
    ("train.batch_size=40000 train.mixtures_per_epoch=40000", "train.batch_size is 40000, it must"),
    ("evaluation.batch_size=40000", "evaluation.batch_size is 40000, it must be at most 33554"),
    ("evaluation.pad_seconds=1e-5", "evaluation.pad_seconds is 1e-05, it must be at least one"),
    (
        "data.sample_rate=3999",
        "data.sample_rate is 3999, it must be at least 4000 where data.synth",
    ),
    ("data.slots=('speech','music')", "data.slots: 'music' must be one of speech, environment"),
    ("data.slots=('speech:0.5,environment:0.4','speech')", "data.slots: 'speech:0.5,environment:0.4' must be"),
    ("data.active_counts=(0.5,0.4)", "data.active_counts: is [0.5, 0.4]; must be 2 probabilities"),
    ("data.premixed_roles=('mix','s1')", "data.premixed_roles is ('mix', 's1'), it must be () wh"),
    ("model.num_sources=3", "model.num_sources is 3, it must be the number of data.slots, 2"),
    (
        "data.premixed_root=x data.premixed_roles=('mix','s1','s2','s3')",
        "model.num_sources is 2, it must be the number of sources in data.premixed_roles, 3",
    ),
    ("weighting.name=product", "weighting.factors is (), it must be one or more weightings"),
    ("model.enc_num_basis=127", "model.enc_num_basis is 127; family 'original' needs an even"),
    (
        "model.upsampling_depth=12",
        "model.upsampling_depth is 12, it must be less: with model.enc_k",
    ),
]


@pytest.mark.parametrize(("fields", "message"), MISTAKES, ids=[fields for fields, _ in MISTAKES])
def test_a_mistake_is_named_with_its_value_and_what_is_legal(fields, message):
    with pytest.raises(ConfigError) as raised:
        load(f"{CONFIGS}/class_bias.py", [f"--config.{field}" for field in fields.split(" ")])
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_class_bias_needs_a_gamma():
    with pytest.raises(ConfigError, match=r"^weighting\.gamma is \{\}, it must be a value"):
        load(f"{CONFIGS}/robust.py", ["--config.weighting.name=class_bias"])


def test_all_problems_are_listed_at_once():
    """Unknown fields, types, values and rules; no rule speaks of a field that is wrong itself."""
    overrides = ("train.epochs=3", "train.batch_size=many", "seed=-1", "train.num_epochs=0")
    overrides += ("train.micro_batch=20", "train.schedule=cosine", "train.warmup_epochs=9")
    with pytest.raises(ConfigError) as raised:
        load(f"{CONFIGS}/robust.py", [f"--config.{override}" for override in overrides])
    first, *problems = str(raised.value).split("\n")
    assert first == "5 problems in the configuration:"
    assert [problem.split(":")[0].split(" is ")[0] for problem in problems] == [
        "  --config.train.epochs",
        "  --config.train.batch_size=many",
        "  seed",
        "  train.num_epochs",
        "  train.micro_batch",
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
    ({"seed": 1.0}, ["seed is 1.0, it must be a whole number"]),
    ({"seed": 10**5000}, ["seed is of type int, it must be a whole number"]),
    ({"seeds": 1}, ["seeds: no such field; did you mean seed?"]),
    ({"loss": 3}, ["loss is 3, it must be a section with fields"]),
    ({"extra": {"x": 1}}, ["extra: no such field"]),
    ({"train": {"learning_rate": "x"}}, ["train.learning_rate is 'x', it must be a number from"]),
    ({"train": {"clip_norm": False}}, ["train.clip_norm is False, it must be 0, or a number"]),
    ({"data": {"speech_root": "a\0b"}}, ["data.speech_root is 'a\\x00b', it must be text"]),
    ({"data": {"slots": ["speech"]}}, ["data.slots is ['speech'], it must be a tuple of corpora"]),
    ({"data": {"active_counts": (0.5, True)}}, ["data.active_counts is (0.5, True), it must be a"]),
    ({"data": {"slots": ("x" * 500, 1)}}, ["data.slots is ('xxx"]),
    ({"model": {"mine": 3}}, ["model.mine: no such field"]),
    ({"weighting": {"gamma": [1]}}, ["weighting.gamma is [1], it must be a mapping from names"]),
    (
        {"weighting": {"gamma": {"a": {"b": 1}, "c": True, "": 0.0}}},
        [
            "weighting.gamma.a is {'b': 1}, it must be a number",
            "weighting.gamma.c is True, it must be a number",
            "weighting.gamma.: the name is missing",
        ],
    ),
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
        for name in ("loss", "seed", "train.num_epochs")
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


def test_every_field_says_what_it_means_and_what_is_legal():
    for name, info in FIELDS.items():
        assert info.description, name
        assert legal_values(info), name


def test_the_table_of_fields_has_values_units_bounds_and_meanings_in_columns():
    lines = field_table(load(f"{CONFIGS}/robust.py:cpu")).split("\n")
    assert len(lines) == 1 + 2 * len(FIELDS)
    row = next(line for line in lines if line.startswith("data.segment_seconds "))
    assert " ".join(row.split()) == "data.segment_seconds 1.0 s a number from 0.01 to 3600"
    assert lines[lines.index(row) + 1] == "    length of a drawn mixture"
    columns = [lines[0].index(title) for title in ("VALUE", "UNIT", "LEGAL")]
    assert [row[column - 1 : column + 1] for column in columns] == [" 1", " s", " a"]
