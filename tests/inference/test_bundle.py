"""Model bundles: what was saved comes back, and nothing else is taken for a model."""

import hashlib
import json
import shutil
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from runs import FIELDS, network
from torch_files import difference, stored, write_state_dict

import jaxsep
from jaxsep import models
from jaxsep.errors import ModelError
from jaxsep.inference.bundle import export_bundle, load_bundle, save_bundle
from jaxsep.inference.chunks import make_plan
from jaxsep.inference.separator import make_network
from jaxsep.separate import main


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder, module, params) of an untrained network, in a run's folder as model/."""
    module, params = network("improved")
    folder = tmp_path_factory.mktemp("run") / "model"
    save(folder, jax.tree.map(np.zeros_like, params))
    save(folder, params, about={"classes": ["dog"]})  # in place of the first
    return folder, module, params


@pytest.fixture
def bundle(saved, tmp_path):
    """A copy of its folder that a test may damage: tmp_path is the run's folder."""
    return shutil.copytree(saved[0], tmp_path / "model")


@pytest.fixture(scope="module")
def separator(saved):
    return jaxsep.load(saved[0])


def save(folder, params, *, family="improved", fields=FIELDS, about=None):
    options = {"family": family, "fields": fields, "sample_rate": 8000, "about": about or {}}
    save_bundle(folder, params, **options)


def tone(seconds: float, sample_rate: int) -> np.ndarray:
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    high = 0.1 * np.sin(2 * np.pi * 1100 * time**1.5)
    return (0.3 * np.sin(2 * np.pi * 440 * time) + high).astype(np.float32)


def test_what_was_saved_comes_back(saved):
    folder, _, params = saved
    for place in (folder, folder.parent):  # the bundle, and the run's folder that holds it
        module, loaded, description = load_bundle(place)
        assert module == models.create("improved", **FIELDS)
        jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert description == {
        "format": 1,
        "jaxsep": jaxsep.__version__,
        "family": "improved",
        "fields": FIELDS,
        "sample_rate": 8000,
        "num_sources": 2,
        "normalisation": "mixture: zero mean, unit standard deviation",
        "params_sha256": hashlib.sha256((folder / "params.safetensors").read_bytes()).hexdigest(),
        "classes": ["dog"],
    }
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "params.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_separator_normalises_and_brings_back_to_the_mixture(saved, separator):
    _, module, params = saved
    audio = 5 * tone(0.3, 8000) + 0.2
    normalised = (audio - audio.mean()) / audio.std()
    raw = np.asarray(jax.jit(module.apply)({"params": params}, normalised[None])[0] * audio.std())
    estimates = separator(audio, 8000)
    gains = (estimates * raw).sum(1) / (raw * raw).sum(1)
    np.testing.assert_allclose(estimates, gains[:, None] * raw, rtol=1e-3, atol=1e-4)
    # Each estimate has the sign of the sound it holds, and the level of the mixture.
    assert np.all(estimates @ audio > 0)
    louder = separator(10 * audio, 8000)
    np.testing.assert_allclose(louder, 10 * estimates, rtol=1e-3, atol=1e-3)
    # Chunk by chunk it is nearly the same; in one infinite chunk, the same.
    by_chunks = replace(separator, plan=make_plan(8000, 0.15, 0.05))(audio, 8000)
    assert not np.array_equal(by_chunks, estimates)
    np.testing.assert_allclose(by_chunks, estimates, atol=0.2 * np.abs(estimates).max())
    infinite = replace(separator, plan=make_plan(8000, float("inf"), 1.0))
    np.testing.assert_array_equal(infinite(audio, 8000), estimates)
    assert np.all(np.isfinite(separator(np.zeros(2400, np.float32), 8000)))


# Mixtures are padded to multiples of (L // 2)·2^depth = 40 samples; with an even kernel no length
# is ever enough.
@pytest.mark.parametrize(("family", "kernel"), [("original", 21), ("improved", 20)])
def test_padding_before_the_network_changes_nothing(family, kernel):
    module, params = network(family, enc_kernel_size=kernel)
    mixture = tone(1.0, 8000)[:97] + 0.1
    expected = jax.jit(module.apply)({"params": params}, mixture[None])[0]
    np.testing.assert_allclose(make_network(module, params)(mixture), expected, atol=1e-5)


@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100, 11025])
def test_output_has_the_rate_and_length_of_the_input(separator, sample_rate):
    audio = tone(0.2501, sample_rate)
    mono = separator(audio, sample_rate)
    assert mono.shape == (2, audio.size)
    stereo = separator(np.stack([audio, audio], axis=1), sample_rate)
    np.testing.assert_allclose(stereo, mono, atol=1e-5)


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (np.zeros(0), 8000, "not empty"),
        (np.array([0.0, np.nan]), 8000, "finite"),
        (np.zeros((2, 2, 2)), 8000, "shape"),
        (np.zeros(8), 0, "sample_rate must be positive, got 0"),
    ],
)
def test_audio_that_cannot_be_separated(separator, audio, rate, message):
    with pytest.raises(ValueError, match=message):
        separator(audio, rate)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, rf"format is 99: .*1 \(this is jaxsep {jaxsep.__version__}\)"),
        ({"sample_rate": None}, "sample_rate is missing"),
        ({"sample_rate": "8k"}, "sample_rate is '8k'.*integer"),
        ({"sample_rate": 0}, "sample_rate is 0.*equal to 1"),
        ({"params_sha256": "0"}, "is damaged: its SHA-256"),
        ({"fields": FIELDS | {"depth": 2}}, "model.depth is not a field of family 'improved'"),
        ({"family": "os:system"}, "a network outside jaxsep"),
        ({"fields": FIELDS | {"num_blocks": 2}}, r"float32\(1, .*the network has float32\(2, "),
        ({"fields": FIELDS | {"upsampling_depth": 3}}, "is None, the network has float32"),
    ],
)
def test_damaged_descriptions_are_refused_with_their_path(bundle, changes, message):
    description = json.loads((bundle / "model.json").read_text()) | changes
    description = {name: value for name, value in description.items() if value is not None}
    (bundle / "model.json").write_text(json.dumps(description))
    with pytest.raises(ModelError, match=message) as raised:
        load_bundle(bundle)
    assert str(bundle) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.json", None, "no trained model here"),
        ("params.safetensors", None, "no trained model here"),
        ("model.json", b"{", "model.json: cannot be read"),
        ("model.json", b"[]", "valid dictionary"),
        ("params.safetensors", b"12345678" * 4, "params.safetensors: cannot be read"),
    ],
)
def test_damaged_files_are_refused_with_their_path(bundle, name, content, message):
    (bundle / name).unlink()
    if content is not None:
        (bundle / name).write_bytes(content)
    with pytest.raises(ModelError, match=message) as raised:
        load_bundle(bundle)
    assert str(bundle) in str(raised.value)


NETWORK = """
import jax.numpy as jnp
from flax import linen as nn

class Halves(nn.Module):
    num_sources: int = 2

    @nn.compact
    def __call__(self, mixture):
        scale = self.param("scale", nn.initializers.ones, (1,))
        return jnp.stack([0.75 * mixture, 0.25 * mixture], axis=1) * scale[0]
"""


def test_a_network_outside_jaxsep_needs_trust(tmp_path, monkeypatch):
    (tmp_path / "their_network.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    family, fields = "their_network:Halves", {"num_sources": 2}
    params = {"scale": np.ones(1, np.float32)}
    save(tmp_path / "theirs", params, family=family, fields=fields)
    for trust in ("", "their_network:Other", "their_network"):
        with pytest.raises(ModelError, match="--trust their_network:Halves"):
            jaxsep.load(tmp_path / "theirs", trust=trust)
    with pytest.raises(ModelError, match="--trust"):
        export_bundle(tmp_path / "theirs", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert "their_network" not in sys.modules, "refused before any of its code ran"
    export_bundle(tmp_path / "theirs", tmp_path / "copy", trust=family)
    audio = tone(0.1, 8000)
    estimates = jaxsep.load(tmp_path / "copy", trust=family)(audio, 8000)
    np.testing.assert_allclose(estimates.sum(0), audio - audio.mean(), atol=1e-3)


def test_export_copies_the_model_of_a_run(bundle, tmp_path, capsys):
    run, taken = str(tmp_path), str(tmp_path / "taken")
    assert main(["--export", run, "-o", taken]) == 0
    for name in ("model.json", "params.safetensors"):
        assert (tmp_path / "taken" / name).read_bytes() == (bundle / name).read_bytes()
    assert main(["--export", run, "-o", taken, "--force"]) == 0
    for output, flags, message in (
        (taken, [], "taken holds a model; --force replaces it"),
        (str(bundle), ["--force"], "holds the model to be exported"),
        (run, ["--force"], "holds other things than a model"),
    ):
        assert main(["--export", run, "-o", output, *flags]) == 2
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "taken"]


@pytest.mark.parametrize("family", ["improved", "original"])
def test_published_models_become_bundles(reference_dir, tmp_path, family):
    data, weights = stored(reference_dir, family)
    path = reference_dir / "improved_sudormrf_module.pt"
    if family == "original":
        path = write_state_dict(tmp_path / "net.pt", weights)
    flags = ["-o", str(tmp_path / "taken"), "--sample-rate", "16000"]
    assert main(["--import", str(path), *flags]) == 0
    module, params, description = load_bundle(tmp_path / "taken")
    assert (description["family"], description["sample_rate"]) == (family, 16000)
    assert description["origin"]["file"] == path.name
    apply = jax.jit(module.apply)
    assert difference(apply({"params": params}, data["input"][:1]), data["output"][:1]) <= 1e-4
    # The same through the separator, which normalises, and multiplies each estimate by a number.
    mixture = (data["input"][0] - data["input"][0].mean()) / data["input"][0].std()
    expected = np.asarray(apply({"params": params}, mixture[None])[0])
    estimates = jaxsep.load(tmp_path / "taken")(mixture, 16000)
    gains = (estimates * expected).sum(1) / (expected * expected).sum(1)
    assert difference(estimates, gains[:, None] * expected) <= 1e-4
