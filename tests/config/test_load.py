"""Configurations from files, the command line and JSON."""

import re
from pathlib import Path

import numpy as np
import pytest

from jaxsep.config.load import differences, from_json, load, override, to_json
from jaxsep.config.names import gamma_problems, gamma_vector
from jaxsep.data.packs.format import ClassTable
from jaxsep.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
NAMES = ("class_bias", "robust", "curriculum", "cvar", "threshold", "group_dro", "product")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", ["demo", "cpu", "open", "paper"])
def test_every_config_is_valid_at_every_scale(name, scale):
    config = load(f"{CONFIGS}/{name}.py:{scale}")
    assert config.scale == scale
    assert config.weighting.name == name
    assert from_json(to_json(config)) == config


def test_paper_scale_has_the_numbers_of_the_paper():
    config = load(f"{CONFIGS}/robust.py:paper")
    data, train, model = config.data, config.train, config.model
    assert (train.batch_size, train.num_epochs, train.mixtures_per_epoch) == (28, 100, 20000)
    assert (train.learning_rate, train.clip_norm) == (1e-3, 5.0)
    assert (data.mixtures_val, data.mixtures_test) == (5000, 3000)
    assert (data.segment_seconds, data.sample_rate, data.max_snr_db) == (4.0, 8000, 30.0)
    assert (model.enc_kernel_size, model.enc_num_basis, model.num_blocks) == (41, 512, 8)
    assert (model.out_channels, model.in_channels) == (128, 512)
    assert config.evaluation.last_epochs == 10
    assert load(f"{CONFIGS}/class_bias.py:paper").evaluation.last_epochs == 5


def test_overrides_keep_types_and_gamma_takes_new_names():
    config = load(
        f"{CONFIGS}/class_bias.py",
        [
            "--config.train.num_epochs=3",
            "--config.train.learning_rate=1",
            "--config.data.synthetic=False",
            "--config.data.slots=('speech','speech:0.5,environment:0.5')",
            "--config.weighting.gamma.dog=-1",
            "--config.loss.improvement=false",
        ],
    )
    assert (config.train.num_epochs, config.data.synthetic) == (3, False)
    assert repr(config.train.learning_rate) == "1.0"
    assert config.loss.improvement is False
    assert config.data.slots == ("speech", "speech:0.5,environment:0.5")
    assert config.weighting.gamma == {"speech": 3.0, "environment": 0.0, "dog": -1.0}
    assert override(config, ["--config.seed=5"]).seed == 5
    assert config.seed == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    return None", "get_config gives None, it must give a ConfigDict"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("raise MemoryError", "MemoryError"),
        ("get_config = ", "SyntaxError: "),
        ("", "it must define get_config"),
        (None, "is no file"),
    ],
)
def test_config_files_that_give_no_configuration(tmp_path, text, message):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=r"^--config: .*mine\.py(:| is no file)") as raised:
        load(str(tmp_path / "mine.py"))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_scale_that_is_not_known_is_named():
    with pytest.raises(ConfigError, match="'huge' is not known, it must be one of demo, cpu"):
        load(f"{CONFIGS}/robust.py:huge")


def test_arguments_that_are_no_field_are_refused():
    with pytest.raises(ConfigError, match="--worker=3: not known"):
        load(f"{CONFIGS}/robust.py", ["--worker=3"])


@pytest.mark.parametrize("text", ["", "[1, 2]", "3", '{"seed": '])
def test_text_that_is_no_configuration(text):
    with pytest.raises(ValueError, match=r"Expecting|it holds"):
        from_json(text)


def test_only_named_fields_may_change_in_a_run():
    config = load(f"{CONFIGS}/class_bias.py")
    allowed = ("train.num_epochs=30", "train.micro_batch=4", "train.log_every=7")
    assert differences(config, override(config, [f"--config.{field}" for field in allowed])) == []
    other = override(config, ["--config.train.batch_size=8", "--config.weighting.gamma.dog=1"])
    assert differences(config, other) == [
        "train.batch_size: 8 now, 16 there",
        "weighting.gamma: {'environment': 0.0, 'speech': 3.0, 'dog': 1.0} now, "
        "{'environment': 0.0, 'speech': 3.0} there",
    ]


def test_the_most_specific_name_in_gamma_wins():
    table = ClassTable(
        names=("dog", "rain", "anna"),
        groups=("animals", "nature", "speech"),
        corpora=("environment", "environment", "speech"),
    )
    gamma = {"environment": 1.0, "animals": 2.0, "dog": 3.0}
    np.testing.assert_array_equal(gamma_vector(gamma, table), [3.0, 1.0, 0.0])
    del gamma["dog"]
    np.testing.assert_array_equal(gamma_vector(gamma, table), [2.0, 1.0, 0.0])
    near, far = gamma_problems({"dgo": 1.0, "bus": 2.0, "dog": 1.0, "cow": 0.0}, table)
    assert near.startswith("weighting.gamma.dgo: ")
    assert near.endswith("; did you mean dog?")
    assert far.endswith("; its corpora are environment, speech")


def test_the_config_that_the_readme_shows_is_legal(tmp_path):
    text = (CONFIGS / "README.md").read_text(encoding="utf-8")
    (tmp_path / "mine.py").write_text(text.split("```python\n")[1].split("```")[0])
    config = load(str(tmp_path / "mine.py"))
    assert (config.scale, config.weighting.gamma) == ("cpu", {"dog": 2.0})


@pytest.mark.parametrize(
    "readme", [CONFIGS / "README.md", ROOT / "jaxsep" / "config" / "README.md"]
)
def test_links_of_the_readmes_lead_somewhere(readme):
    links = re.findall(r"\]\(([^):]+)\)", readme.read_text(encoding="utf-8"))
    assert [link for link in links if not (readme.parent / link).exists()] == []
