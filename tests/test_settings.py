"""Configurations: every file at every scale is valid; every mistake gets one line that names the field."""

from pathlib import Path

import numpy as np
import pytest

from jaxsep import rules, settings
from jaxsep.settings import SettingsError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def load(*overrides: str, file: str = "class_bias.py"):
    config = settings.load(str(CONFIGS / file), [f"--config.{override}" for override in overrides])
    rules.validate(config)
    return config


@pytest.mark.parametrize("name", ["class_bias", "robust", "curriculum", "cvar", "threshold", "group_dro", "product"])
@pytest.mark.parametrize("scale", ["demo", "cpu", "open", "paper"])
def test_every_config_is_valid_at_every_scale(name, scale):
    config = load(file=f"{name}.py:{scale}")
    assert config.scale == scale
    assert config.weighting.name == name


def test_paper_scale_has_the_numbers_of_the_paper():
    config = load(file="robust.py:paper")
    assert (config.train.batch_size, config.train.num_epochs, config.train.mixtures_per_epoch) == (28, 100, 20000)
    assert (config.data.mixtures_val, config.data.mixtures_test) == (5000, 3000)
    assert (config.train.learning_rate, config.train.clip_norm) == (1e-3, 5.0)
    assert (config.data.segment_seconds, config.data.sample_rate, config.data.max_snr_db) == (4.0, 8000, 30.0)
    model = config.model
    assert (model.enc_kernel_size, model.enc_num_basis, model.num_blocks, model.out_channels, model.in_channels) == (
        41,
        512,
        8,
        128,
        512,
    )
    assert config.evaluation.last_epochs == 10
    assert load(file="class_bias.py:paper").evaluation.last_epochs == 5


def test_overrides_keep_types_and_gamma_takes_new_names():
    config = load("train.num_epochs=3", "data.slots=('speech','speech:0.5,environment:0.5')", "weighting.gamma.dog=-1")
    assert config.train.num_epochs == 3
    assert config.data.slots == ("speech", "speech:0.5,environment:0.5")
    assert config.weighting.gamma.to_dict() == {"speech": 3.0, "environment": 0.0, "dog": -1.0}


MISTAKES = [
    ("weighting.name=cvr", "weighting.name is 'cvr', it must be 'uniform' or 'robust'"),
    ("weighting.name=product", "weighting.factors is empty, it must name weightings to multiply: uniform, robust"),
    ("weighting.factors=('robust','hard')", "weighting.factors is ('robust', 'hard'), it must be a tuple of uniform"),
    ("weighting.fraction=0.0", "weighting.fraction is 0.0, it must be a number in (0, 1]"),
    ("weighting.threshold_db=nan", "weighting.threshold_db is nan, it must be a number"),
    ("weighting.dro_step=0.0", "weighting.dro_step is 0.0, it must be a number above 0"),
    ("weighting.dro_groups=speaker", "weighting.dro_groups is 'speaker', it must be 'corpus' or 'group' or 'class'"),
    ("train.batchsize=3", "train.batchsize: no such field; did you mean train.batch_size?"),
    ("train.batch_size=many", "batch_size"),
    ("train.batch_size=0", "train.batch_size is 0, it must be a whole number of at least 1"),
    ("train.batch_size=2000", "train.batch_size is 2000, it must be at most train.mixtures_per_epoch"),
    ("train.micro_batch=-1", "train.micro_batch is -1, it must be a whole number of at least 0"),
    ("train.learning_rate=0.0", "train.learning_rate is 0.0, it must be a number above 0"),
    ("train.learning_rate=nan", "train.learning_rate is nan"),
    ("train.schedule='linear'", "train.schedule is \"'linear'\", it must be 'constant' or 'step' or 'cosine'"),
    ("train.ema_decay=1.0", "train.ema_decay is 1.0, it must be a number in"),
    ("weighting.alpha=-0.1", "weighting.alpha is -0.1, it must be a number of at least 0"),
    ("weighting.beta=(0.0,0.5)", "weighting.beta is"),
    (
        "weighting.name=hard",
        "weighting.name is 'hard', it must be 'uniform' or 'robust' or 'curriculum' or 'class_bias'",
    ),
    ("weighting.granularity=batch", "weighting.granularity is 'batch', it must be 'example' or 'source'"),
    ("weighting.gamma.dog=much", "weighting.gamma.dog is 'much', it must be a number"),
    (
        "model.family=convtasnet",
        "model.family is 'convtasnet', it must be 'original' or 'improved', or 'package.module:Class'",
    ),
    ("model.num_sources=3", "model.num_sources is 3, it must be the number of data.slots, 2"),
    ("model.num_blocks=0", "model.num_blocks is 0"),
    ("data.max_snr_db=-1.0", "data.max_snr_db is -1.0"),
    ("data.short_clips=drop", "data.short_clips is 'drop', it must be 'pad' or 'skip'"),
    ("data.slots=()", "data.slots is ()"),
]


@pytest.mark.parametrize(("override", "message"), MISTAKES, ids=[override for override, _ in MISTAKES])
def test_mistakes_are_named(override, message):
    with pytest.raises(SettingsError) as raised:
        load(override)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("configs/nothing.py", "is no file"),
        (f"{CONFIGS}/robust.py:huge", "'huge' is not known, it must be one of demo, cpu"),
    ],
)
def test_config_files_that_are_not_there(spec, message):
    with pytest.raises(SettingsError, match=message):
        settings.load(spec, [])


def test_arguments_that_are_no_field_are_refused():
    with pytest.raises(SettingsError, match="--worker=3: not known"):
        settings.load(str(CONFIGS / "robust.py"), ["--worker=3"])


def test_the_most_specific_name_in_gamma_wins():
    names, groups, corpora = (
        ("dog", "rain", "anna"),
        ("animals", "nature", "speech"),
        ("environment", "environment", "speech"),
    )
    gamma = {"environment": 1.0, "animals": 2.0, "dog": 3.0}
    np.testing.assert_array_equal(rules.gamma_vector(gamma, names, groups, corpora), [3.0, 1.0, 0.0])
    del gamma["dog"]
    np.testing.assert_array_equal(rules.gamma_vector(gamma, names, groups, corpora), [2.0, 1.0, 0.0])
    with pytest.raises(SettingsError, match=r"weighting\.gamma\.dgo: .* did you mean dog\?"):
        rules.gamma_vector({"dgo": 1.0}, names, groups, corpora)


def test_only_named_fields_may_change_in_a_run():
    saved = settings.from_json(settings.to_json(load()))
    assert settings.differences(saved, load("train.num_epochs=30", "train.micro_batch=4", "train.log_every=7")) == []
    assert settings.differences(saved, load("train.batch_size=8", "weighting.gamma.dog=1")) == [
        "train.batch_size: 8 now, 16 there",
        "weighting.gamma.dog: 1.0 now, None there",
    ]
