"""Model bundles: what was saved comes back, and nothing else is taken for a model."""

import hashlib
import json
import shutil
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
import safetensors.numpy
from runs import FIELDS, network
from torch_files import difference, stored, write_state_dict

import jaxsep
from jaxsep import models
from jaxsep.errors import ModelError
from jaxsep.inference.bundle import export_bundle, import_published, load_bundle, save_bundle
from jaxsep.inference.chunks import make_plan
from jaxsep.inference.separator import make_network
from jaxsep.separate import main


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder, module, params) of an untrained network, in a run's folder as model/."""
    module, params = network("improved")
    folder = tmp_path_factory.mktemp("run") / "model"
    save(folder, params, about={"classes": ["dog"]})
    return folder, module, params


@pytest.fixture
def bundle(saved, tmp_path):
    """A copy of it that a test may damage: tmp_path is the run's folder."""
    return shutil.copytree(saved[0], tmp_path / "model"), *saved[1:]


@pytest.fixture(scope="module")
def separator(saved):
    return jaxsep.load(saved[0])


def save(folder, params, *, family="improved", fields=FIELDS, about=None):
    options = {"family": family, "fields": fields, "sample_rate": 8000, "about": about or {}}
    save_bundle(folder, params, **options)


def tone(seconds: float, sample_rate: int) -> np.ndarray:
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return (
        0.3 * np.sin(2 * np.pi * 440 * time) + 0.1 * np.sin(2 * np.pi * 1100 * time**1.5)
    ).astype(np.float32)


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
    save(folder, doubled)
    jax.tree.map(np.testing.assert_array_equal, load_bundle(folder)[1], doubled)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


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


def test_long_audio_goes_chunk_by_chunk(separator):
    audio = tone(0.5, 8000)
    whole = separator(audio, 8000)
    by_chunks = replace(separator, plan=make_plan(8000, 0.2, 0.05))(audio, 8000)
    assert by_chunks.shape == whole.shape
    assert not np.array_equal(by_chunks, whole)
    np.testing.assert_allclose(by_chunks, whole, atol=0.2 * np.abs(whole).max())
    infinite = replace(separator, plan=make_plan(8000, float("inf"), 1.0))
    np.testing.assert_array_equal(infinite(audio, 8000), whole)


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


def test_silence_stays_finite(separator):
    assert np.all(np.isfinite(separator(np.zeros(2000, np.float32), 8000)))


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


def drop(folder, *names):
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(
        json.dumps({k: v for k, v in description.items() if k not in names})
    )


def edit(folder, **changes):
    description = json.loads((folder / "model.json").read_text()) | changes
    (folder / "model.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.json").unlink(), "no trained model here"),
        (lambda folder: (folder / "params.safetensors").unlink(), "no trained model here"),
        (lambda folder: (folder / "model.json").write_text("{"), "cannot be read"),
        (
            lambda folder: (folder / "params.safetensors").write_bytes(b"12345678" * 4),
            "cannot be read",
        ),
        (lambda folder: (folder / "model.json").write_text("[]"), "is no JSON object"),
        (
            lambda folder: edit(folder, format=99, jaxsep="7.0"),
            "format is 99, written by jaxsep 7.0; this jaxsep, .* reads 1",
        ),
        (lambda folder: drop(folder, "sample_rate", "fields"), "lacks fields, sample_rate"),
        (
            lambda folder: edit(folder, sample_rate="8k"),
            "sample_rate is '8k', it must be of type int",
        ),
        (lambda folder: edit(folder, sample_rate=0), "sample_rate is 0, it must be at least 1 Hz"),
        (
            lambda folder: edit(folder, fields=FIELDS | {"depth": 2}),
            "model.depth is not a field of family 'improved'",
        ),
        (lambda folder: edit(folder, family="os:system"), "a network outside jaxsep"),
        (lambda folder: edit(folder, fields=FIELDS | {"num_blocks": 2}), "the network has"),
        (lambda folder: edit(folder, fields=FIELDS | {"out_channels": 9}), "has shape"),
    ],
)
def test_damaged_bundles_are_refused_with_their_path(bundle, damage, message):
    damage(bundle[0])
    with pytest.raises(ModelError, match=message) as raised:
        load_bundle(bundle[0])
    assert str(bundle[0].parent) in str(raised.value)


def test_a_bundle_of_a_run_says_what_it_is(bundle):
    description = load_bundle(bundle[0])[2]
    digest = hashlib.sha256((bundle[0] / "params.safetensors").read_bytes()).hexdigest()
    assert description.pop("params_sha256") == digest
    assert description == {
        "format": 1,
        "jaxsep": jaxsep.__version__,
        "family": "improved",
        "fields": FIELDS,
        "sample_rate": 8000,
        "num_sources": 2,
        "normalisation": "mixture: zero mean, unit standard deviation",
        "classes": ["dog"],
    }


def rewrite(folder, change):
    arrays = safetensors.numpy.load_file(folder / "params.safetensors")
    safetensors.numpy.save_file(change(arrays), folder / "params.safetensors")
    drop(folder, "params_sha256")  # as older versions wrote it


def test_blocks_of_an_older_version_are_stacked(tmp_path):
    fields = FIELDS | {"num_blocks": 3}
    _, params = network("original", num_blocks=3)
    save(tmp_path / "old", params, family="original", fields=fields)

    def older(arrays):
        apart = {name: array for name, array in arrays.items() if not name.startswith("blocks/")}
        for name in arrays.keys() - apart.keys():
            apart |= {
                name.replace("blocks", f"block_{i}"): np.ascontiguousarray(arrays[name][i])
                for i in range(3)
            }
        return apart

    rewrite(tmp_path / "old", older)
    jax.tree.map(np.testing.assert_array_equal, load_bundle(tmp_path / "old")[1], params)
    rewrite(
        tmp_path / "old",
        lambda arrays: {name: a for name, a in arrays.items() if "block_1/" not in name},
    )
    with pytest.raises(
        ModelError, match=r"parameter blocks/\S+ has shape None, the network has \(3,"
    ):
        load_bundle(tmp_path / "old")


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
    assert "their_network" not in sys.modules, "refused before any of its code ran"
    audio = tone(0.1, 8000)
    found = jaxsep.load(tmp_path / "theirs", trust=family)(audio, 8000)
    np.testing.assert_allclose(found.sum(0), audio - audio.mean(), atol=1e-3)
    export_bundle(tmp_path / "theirs", tmp_path / "copy", trust=family)
    with pytest.raises(ModelError, match="--trust"):
        export_bundle(tmp_path / "theirs", tmp_path / "copy2")
    assert not (tmp_path / "copy2").exists()


def test_export_copies_the_model_of_a_run(bundle, tmp_path, capsys):
    folder = bundle[0]  # tmp_path is the run's folder
    assert main(["--export", str(tmp_path), "-o", str(tmp_path / "taken")]) == 0
    for name in ("model.json", "params.safetensors"):
        assert (tmp_path / "taken" / name).read_bytes() == (folder / name).read_bytes()
    assert main(["--export", str(tmp_path), "-o", str(tmp_path / "taken")]) == 2
    assert "taken holds a model; --force replaces it" in capsys.readouterr().err
    assert main(["--export", str(tmp_path), "-o", str(tmp_path / "taken"), "--force"]) == 0
    assert main(["--export", str(tmp_path), "-o", str(folder), "--force"]) == 2
    assert "holds the model to be exported" in capsys.readouterr().err
    assert main(["--export", str(folder), "-o", str(tmp_path), "--force"]) == 2
    assert "holds other things than a model" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "taken"]


@pytest.mark.parametrize(
    ("form", "tolerance"), [("module", 1e-4), ("state_dict", 1e-4), ("original", 1e-4)]
)
def test_published_models_become_bundles(reference_dir, tmp_path, form, tolerance):
    family = "original" if form == "original" else "improved"
    data, weights = stored(reference_dir, family)
    path = reference_dir / f"improved_sudormrf_{form}.pt"
    if form == "original":
        path = write_state_dict(tmp_path / "net.pt", weights)
    assert (
        main(["--import", str(path), "-o", str(tmp_path / "taken"), "--sample-rate", "16000"]) == 0
    )
    module, params, description = load_bundle(tmp_path / "taken")
    assert (
        difference(jax.jit(module.apply)({"params": params}, data["input"]), data["output"])
        <= tolerance
    )
    assert (description["family"], description["sample_rate"]) == (family, 16000)
    assert description["origin"]["file"] == path.name
    if form != "module":
        return
    # The same through the separator, which normalises, and multiplies each estimate by a number.
    mixture = (data["input"][0] - data["input"][0].mean()) / data["input"][0].std()
    expected = np.asarray(jax.jit(module.apply)({"params": params}, mixture[None])[0])
    found = jaxsep.load(tmp_path / "taken")(mixture, 16000)
    gains = (found * expected).sum(1) / (expected * expected).sum(1)
    assert difference(found, gains[:, None] * expected) <= tolerance


def test_what_is_no_published_model(tmp_path):
    (tmp_path / "net.pt").write_bytes(b"no zip archive")
    with pytest.raises(ModelError, match=r"net\.pt: not a zip archive"):
        import_published(tmp_path / "net.pt", tmp_path / "taken", sample_rate=8000)
    assert not (tmp_path / "taken").exists()
