"""Model bundles: what was saved comes back, at any rate and channel count, and nothing else is taken for a model."""

import json

import jax
import numpy as np
import pytest

import jaxsep
from jaxsep import models
from jaxsep.inference.bundle import BundleError, load_bundle, save_bundle

FIELDS = {
    "out_channels": 8,
    "in_channels": 12,
    "num_blocks": 1,
    "upsampling_depth": 2,
    "enc_kernel_size": 21,
    "enc_num_basis": 16,
    "num_sources": 2,
}


@pytest.fixture
def bundle(tmp_path):
    """(folder, module, params) of an untrained network."""
    module = models.create("improved", **FIELDS)
    params = module.init(jax.random.key(0), np.zeros((1, 256), np.float32))["params"]
    folder = tmp_path / "model"
    save_bundle(folder, params, family="improved", fields=FIELDS, sample_rate=8000, about={"classes": ["dog"]})
    return folder, module, params


def tone(seconds: float, sample_rate: int) -> np.ndarray:
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return (0.3 * np.sin(2 * np.pi * 440 * time) + 0.1 * np.sin(2 * np.pi * 1100 * time**1.5)).astype(np.float32)


def test_parameters_come_back_as_they_were(bundle, tmp_path):
    folder, _, params = bundle
    for place in (folder, tmp_path):  # the bundle, and the run's folder that holds it
        module, found, description = load_bundle(place)
        assert module == models.create("improved", **FIELDS)
        jax.tree.map(np.testing.assert_array_equal, found, params)
    assert description["classes"] == ["dog"]
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "params.safetensors"]


def test_saving_again_replaces(bundle, tmp_path):
    folder, _, params = bundle
    doubled = jax.tree.map(lambda leaf: 2 * leaf, params)
    save_bundle(folder, doubled, family="improved", fields=FIELDS, sample_rate=8000, about={})
    jax.tree.map(np.testing.assert_array_equal, load_bundle(folder)[1], doubled)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_separator_normalises_and_scales_back(bundle):
    folder, module, params = bundle
    audio = 5 * tone(0.3, 8000) + 0.2
    normalised = (audio - audio.mean()) / audio.std()
    expected = module.apply({"params": params}, normalised[None])[0] * audio.std()
    np.testing.assert_allclose(jaxsep.load(folder)(audio, 8000), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("sample_rate", "seconds"), [(8000, 0.25), (16000, 0.25), (44100, 0.1), (11025, 0.123)])
def test_output_has_the_rate_and_length_of_the_input(bundle, sample_rate, seconds):
    audio = tone(seconds, sample_rate)
    separator = jaxsep.load(bundle[0])
    mono = separator(audio, sample_rate)
    assert mono.shape == (2, audio.size)
    stereo = separator(np.stack([audio, audio], axis=1), sample_rate)
    np.testing.assert_allclose(stereo, mono, atol=1e-5)


def test_silence_stays_finite(bundle):
    assert np.all(np.isfinite(jaxsep.load(bundle[0])(np.zeros(500, np.float32), 8000)))


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (np.zeros(0), 8000, "not empty"),
        (np.array([0.0, np.nan]), 8000, "finite"),
        (np.zeros((2, 2, 2)), 8000, "shape"),
        (np.zeros(8), 0, "sample_rate must be positive, got 0"),
    ],
)
def test_audio_that_cannot_be_separated(bundle, audio, rate, message):
    with pytest.raises(ValueError, match=message):
        jaxsep.load(bundle[0])(audio, rate)


def edit(folder, **changes):
    description = json.loads((folder / "model.json").read_text()) | changes
    (folder / "model.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.json").unlink(), "no trained model here"),
        (lambda folder: (folder / "params.safetensors").unlink(), "no trained model here"),
        (lambda folder: (folder / "model.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "params.safetensors").write_bytes(b"12345678" * 4), "cannot be read"),
        (lambda folder: edit(folder, format=99), "format is 99"),
        (lambda folder: edit(folder, family="os:system"), "a network outside jaxsep"),
        (lambda folder: edit(folder, fields=FIELDS | {"num_blocks": 2}), "the network has"),
        (lambda folder: edit(folder, fields=FIELDS | {"out_channels": 9}), "has shape"),
    ],
)
def test_damaged_bundles_are_refused_with_their_path(bundle, damage, message):
    damage(bundle[0])
    with pytest.raises(BundleError, match=message) as raised:
        load_bundle(bundle[0])
    assert str(bundle[0].parent) in str(raised.value)
