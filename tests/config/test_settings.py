"""Configurations: every file at every scale is valid; every mistake gets one line that names the field."""

from pathlib import Path

import numpy as np
import pytest

from jaxsep.config import load as settings
from jaxsep.config import names as rules_names
from jaxsep.config import schema as rules
from jaxsep.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def load(*overrides: str, file: str = "class_bias.py"):
    return settings.load(str(CONFIGS / file), [f"--config.{override}" for override in overrides])


@pytest.mark.parametrize(
    "name", ["class_bias", "robust", "curriculum", "cvar", "threshold", "group_dro", "product"]
)
@pytest.mark.parametrize("scale", ["demo", "cpu", "open", "paper"])
def test_every_config_is_valid_at_every_scale(name, scale):
    config = load(file=f"{name}.py:{scale}")
    assert config.scale == scale
    assert config.weighting.name == name


def test_paper_scale_has_the_numbers_of_the_paper():
    config = load(file="robust.py:paper")
    assert (config.train.batch_size, config.train.num_epochs, config.train.mixtures_per_epoch) == (
        28,
        100,
        20000,
    )
    assert (config.data.mixtures_val, config.data.mixtures_test) == (5000, 3000)
    assert (config.train.learning_rate, config.train.clip_norm) == (1e-3, 5.0)
    assert (config.data.segment_seconds, config.data.sample_rate, config.data.max_snr_db) == (
        4.0,
        8000,
        30.0,
    )
    model = config.model
    assert (
        model.enc_kernel_size,
        model.enc_num_basis,
        model.num_blocks,
        model.out_channels,
        model.in_channels,
    ) == (
        41,
        512,
        8,
        128,
        512,
    )
    assert config.evaluation.last_epochs == 10
    assert load(file="class_bias.py:paper").evaluation.last_epochs == 5


def test_overrides_keep_types_and_gamma_takes_new_names():
    config = load(
        "train.num_epochs=3",
        "data.slots=('speech','speech:0.5,environment:0.5')",
        "weighting.gamma.dog=-1",
    )
    assert config.train.num_epochs == 3
    assert config.data.slots == ("speech", "speech:0.5,environment:0.5")
    assert config.weighting.gamma == {"speech": 3.0, "environment": 0.0, "dog": -1.0}


MISTAKES = [
    ("weighting.name=cvr", "weighting.name is 'cvr', it must be 'uniform' or 'robust'"),
    (
        "weighting.name=product",
        "weighting.factors is empty, it must name weightings to multiply: uniform, robust",
    ),
    (
        "weighting.factors=('robust','hard')",
        "weighting.factors is ('robust', 'hard'), it must be a tuple of uniform",
    ),
    ("weighting.fraction=0.0", "weighting.fraction is 0.0, it must be a number in (0, 1]"),
    ("weighting.threshold_db=nan", "weighting.threshold_db is nan, it must be a number"),
    ("weighting.dro_step=0.0", "weighting.dro_step is 0.0, it must be a number above 0"),
    (
        "weighting.dro_groups=speaker",
        "weighting.dro_groups is 'speaker', it must be 'corpus' or 'group' or 'class'",
    ),
    ("train.batchsize=3", "train.batchsize: no such field; did you mean train.batch_size?"),
    ("train.batch_size=many", "batch_size"),
    ("train.batch_size=0", "train.batch_size is 0, it must be a whole number of at least 1"),
    (
        "train.batch_size=2000",
        "train.batch_size is 2000, it must be at most train.mixtures_per_epoch",
    ),
    ("train.micro_batch=-1", "train.micro_batch is -1, it must be a whole number of at least 0"),
    ("train.learning_rate=0.0", "train.learning_rate is 0.0, it must be a number above 0"),
    ("train.learning_rate=nan", "train.learning_rate is nan"),
    (
        "train.schedule='linear'",
        "train.schedule is \"'linear'\", it must be 'constant' or 'step' or 'cosine'",
    ),
    ("train.ema_decay=1.0", "train.ema_decay is 1.0, it must be a number in"),
    ("weighting.alpha=-0.1", "weighting.alpha is -0.1, it must be a number of at least 0"),
    ("weighting.beta=(0.0,0.5)", "weighting.beta is"),
    (
        "weighting.name=hard",
        "weighting.name is 'hard', it must be 'uniform' or 'robust' or 'curriculum' or 'class_bias'",
    ),
    (
        "weighting.granularity=batch",
        "weighting.granularity is 'batch', it must be 'example' or 'source'",
    ),
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
    (
        "data.slots=('speech','music')",
        "data.slots is ('speech', 'music'): 'music' is no corpus; there are speech and",
    ),
    ("data.slots=('speech:0.5,environment:0.4','speech')", "sum to 0.9; must sum to 1"),
    ("data.active_counts=(0.5,0.4)", "data.active_counts: is [0.5, 0.4]; must be 2 probabilities"),
    ("data.active_counts=(1.0,)", "data.active_counts: is [1.0]; must be 2 probabilities"),
    (
        "data.premixed_roles=('mix','s1')",
        "data.premixed_roles is ('mix', 's1'), it must be () where data.premixed_root is empty",
    ),
    (
        "data.sample_rate=3999",
        "data.sample_rate is 3999, it must be at least 4000 where data.synthetic is True",
    ),
    (
        "data.sample_rate=0",
        "data.sample_rate is 0, it must be a whole number of at least 1000 and at most 384000",
    ),
    (
        "data.segment_seconds=1e300",
        "data.segment_seconds is 1e+300, it must be a number above 0, from 0.01 to 3600",
    ),
    (
        "data.max_snr_db=1e3",
        "data.max_snr_db is 1000.0, it must be a number of at least 0 and at most 100",
    ),
    (
        "data.eval_seed=18446744073709551616",
        "data.eval_seed is 18446744073709551616, it must be a whole number",
    ),
    (
        "seed=4294967296",
        "seed is 4294967296, it must be a whole number of at least 0 and at most 4294967295",
    ),
    ("seed=-1", "seed is -1, it must be a whole number of at least 0"),
    (
        "train.micro_batch=17",
        "train.micro_batch is 17, it must be at most train.batch_size, 16, or 0 for the whole batch",
    ),
    (
        "train.warmup_epochs=2",
        "train.warmup_epochs is 2, it must be 0: train.schedule 'constant' has no warm-up",
    ),
    (
        "train.schedule_every=40000000",
        "train.schedule_every is 40000000, it must be a whole number of at least 1 and",
    ),
    (
        "train.workers=100000",
        "train.workers is 100000, it must be a whole number of at least 1 and at most 256",
    ),
    (
        "evaluation.pad_seconds=1e-5",
        "evaluation.pad_seconds is 1e-05, it must be at least one sample, 0.000125 s at 8000",
    ),
    (
        "evaluation.batch_size=40000",
        "evaluation.batch_size is 40000, 3.2e+08 samples with data.segment_seconds 1 at 8000 Hz",
    ),
    ("weighting.gamma.dog=1e31", "weighting.gamma.dog is 1e+31, it must be a number within ±1e30"),
    ("weighting.gamma.dog=nan", "weighting.gamma.dog is nan, it must be a number"),
    ("weighting.alpha=inf", "weighting.alpha is inf, it must be a number of at least 0"),
    ("weighting.beta=(1e-300,0.5)", "weighting.beta is (1e-300, 0.5), it must be (b0, b1)"),
    (
        "model.enc_kernel_size=1",
        "model.enc_kernel_size is 1, it must be a whole number of at least 2",
    ),
    (
        "model.enc_num_basis=127",
        "model.enc_num_basis is 127; family 'original' needs an even number",
    ),
    (
        "model.upsampling_depth=12",
        "model.upsampling_depth is 12, which with model.enc_kernel_size 41 pads the 8000 samples",
    ),
    (
        "model.num_blocks=129",
        "model.num_blocks is 129, it must be a whole number of at least 1 and at most 128",
    ),
    (
        "model.in_channels=100000",
        "model.in_channels is 100000, it must be a whole number of at least 1 and at most 4096",
    ),
    (
        "model.num_sources=9",
        "model.num_sources is 9, it must be a whole number of at least 1 and at most 8",
    ),
]


@pytest.mark.parametrize(
    ("override", "message"), MISTAKES, ids=[override for override, _ in MISTAKES]
)
def test_mistakes_are_named(override, message):
    with pytest.raises(ConfigError) as raised:
        load(override)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


PAIRS = [
    (
        ("train.schedule=cosine", "train.warmup_epochs=16"),
        "train.warmup_epochs is 16, it must be below train.num_epochs, 16",
    ),
    (
        ("train.num_epochs=1000000", "train.mixtures_per_epoch=100000000"),
        "train.num_epochs is 1000000, it must be at most 343: 6250000 steps an epoch, 2147483647 in all",
    ),
    (("weighting.gamma=1",), "--config.weighting.gamma: no such field; did you mean"),
    (("model.family=no:Net", "model.mine=3"), "--config.model.mine: no such field"),
]


@pytest.mark.parametrize(("overrides", "message"), PAIRS)
def test_fields_that_do_not_fit_together_are_named(overrides, message):
    with pytest.raises(ConfigError) as raised:
        load(*overrides)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_all_problems_are_listed_at_once():
    """Unknown fields, wrong types, values and combinations; nothing is said of a field whose partner is wrong itself."""
    overrides = (
        "train.epochs=3",
        "train.batch_size=many",
        "seed=-1",
        "train.num_epochs=0",
        "train.micro_batch=20",
    )
    file = str(CONFIGS / "robust.py")
    with pytest.raises(ConfigError) as raised:
        settings.load(file, [f"--config.{override}" for override in overrides])
    first, *problems = str(raised.value).split("\n")
    assert first == "5 problems in the configuration:"
    assert [problem.split(":")[0].split(" is ")[0] for problem in problems] == [
        "  --config.train.epochs",
        "  flag --config.train.batch_size=many",
        "  seed",
        "  train.num_epochs",
        "  train.micro_batch",
    ]


def test_a_batch_that_devices_cannot_share_is_named_with_one_that_they_can():
    config = settings.load(
        str(CONFIGS / "robust.py"), ["--config.train.batch_size=12", "--config.train.micro_batch=4"]
    )
    assert rules.problems(config, devices=4) == []
    assert rules.problems(config, devices=8) == [
        "train.batch_size is 12, it must be a multiple of the 8 devices that share it, such as 16",
        "train.micro_batch is 4, it must be a multiple of the 8 devices that share it, such as 8",
    ]


def test_a_network_of_ones_own_may_have_fields_of_its_own():
    config = load()
    with config.unlocked():
        config.model.family, config.model.mine, config.train.mine = "my.package:Net", 3, 3
    assert rules.problems(config) == ["train.mine: no such field; did you mean train.patience?"]


def test_sections_and_gamma_must_be_there():
    config = load()
    with config.unlocked(), config.ignore_type():
        del config.weighting.gamma
        config.loss = 3
    found = rules.problems(config)
    assert "loss.improvement is missing from the configuration" in found
    assert any(
        problem.startswith("weighting.gamma is None, it must be a ConfigDict from names")
        for problem in found
    )
    assert any(problem.startswith("loss: no such field") for problem in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def get_config():\n    return None",
            "get_config gives a NoneType, it must give a ConfigDict",
        ),
        (
            "def get_config():\n    return {'seed': 1}",
            "get_config gives a dict, it must give a ConfigDict",
        ),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("get_config = 3", "TypeError: 'int' object is not callable"),
        ("raise MemoryError", "MemoryError"),
        ("\0", "SyntaxError: source code string cannot contain null bytes"),
        ("", "no attribute 'get_config'"),
    ],
)
def test_config_files_that_give_no_configuration(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.py: ") as raised:
        settings.load(str(tmp_path / "mine.py"), [])
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("x" * 5000, "is no file"),
        (str(CONFIGS), "is no file"),
        (f"{CONFIGS.parent}/README.md", "is not a Python file"),
        ("configs/nothing.py", "is no file"),
        (f"{CONFIGS}/robust.py:huge", "'huge' is not known, it must be one of demo, cpu"),
    ],
)
def test_config_files_that_are_not_there(spec, message):
    with pytest.raises(ConfigError, match=message):
        settings.load(spec, [])


def test_arguments_that_are_no_field_are_refused():
    with pytest.raises(ConfigError, match="--worker=3: not known"):
        settings.load(str(CONFIGS / "robust.py"), ["--worker=3"])


def test_the_most_specific_name_in_gamma_wins():
    names, groups, corpora = (
        ("dog", "rain", "anna"),
        ("animals", "nature", "speech"),
        ("environment", "environment", "speech"),
    )
    gamma = {"environment": 1.0, "animals": 2.0, "dog": 3.0}
    np.testing.assert_array_equal(
        rules_names.gamma_vector(gamma, names, groups, corpora), [3.0, 1.0, 0.0]
    )
    del gamma["dog"]
    np.testing.assert_array_equal(
        rules_names.gamma_vector(gamma, names, groups, corpora), [2.0, 1.0, 0.0]
    )
    with pytest.raises(ConfigError, match=r"weighting\.gamma\.dgo: .* did you mean dog\?"):
        rules_names.gamma_vector({"dgo": 1.0}, names, groups, corpora)
    assert (
        len(
            rules_names.gamma_problems(
                {"dgo": 1.0, "rian": 2.0, "dog": 1.0, "cow": 0.0}, names, groups, corpora
            )
        )
        == 2
    )


def test_only_named_fields_may_change_in_a_run():
    saved = settings.from_json(settings.to_json(load()))
    assert (
        settings.differences(
            saved, load("train.num_epochs=30", "train.micro_batch=4", "train.log_every=7")
        )
        == []
    )
    assert settings.differences(saved, load("train.batch_size=8", "weighting.gamma.dog=1")) == [
        "train.batch_size: 8 now, 16 there",
        "weighting.gamma.dog: 1.0 now, None there",
    ]
