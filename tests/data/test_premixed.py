"""Premixed sets: every published mixture as it is, and crops of them for training."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from trees import (
    LIBRI,
    RATE,
    WSJ0,
    noise,
    write,
    write_libri2mix,
    write_roles,
    write_tree,
    write_wsj0,
)

from jaxsep.data.mixtures.dynamic import draw, render
from jaxsep.data.mixtures.premixed import make_premixed_pool
from jaxsep.data.mixtures.recipes import load_recipes, save_recipes
from jaxsep.data.packs.corpus import prepare
from jaxsep.data.packs.premixed import open_premixed, premixed_table, prepare_premixed
from jaxsep.errors import DataError


@pytest.fixture
def wsj0(tmp_path):
    return prepare_premixed(write_wsj0(tmp_path / "wsj0"), RATE, tmp_path / "cache", progress=False)


@pytest.fixture
def libri(tmp_path):
    def prepared(*roles, rate=RATE):
        return prepare_premixed(
            write_libri2mix(tmp_path / "libri", rate), rate, tmp_path / "cache", roles=roles
        )

    return prepared


def folder_of(premixed) -> Path:
    return Path(premixed.audio.filename).parent


def classes_of(pool, batch) -> list[list[str]]:
    return [[pool.table.names[k] for k in row] for row in batch["class_ids"]]


def test_wsj0_test_mixtures_are_whole_in_order_and_each_once(wsj0, tmp_path):
    pool = make_premixed_pool(wsj0, split="test", segment_seconds=None)
    entries = sorted((e for e in WSJ0 if e[0] == "tt"), key=lambda e: e[1])
    assert pool.num_mixtures == 3
    assert (pool.num_samples, pool.num_sources, pool.sample_rate) == (11000, 2, RATE)
    recipes = draw(pool, 0, 0, np.arange(3))
    assert sorted(recipes["recording"][:, 0]) == sorted(pool.mixtures)
    batch = render(pool, recipes)
    assert batch["lengths"].tolist() == [entry[5] for entry in entries]
    assert classes_of(pool, batch) == [["440", "441"], ["441", "442"], ["442", "443"]]
    base = tmp_path / "wsj0/2speakers/wav8k/min/tt"
    for b, (_, first, level1, second, level2, samples) in enumerate(entries):
        signals = [
            soundfile.read(base / role / f"{first}_{level1}_{second}_{level2}.wav")[0]
            for role in ("mix", "s1", "s2")
        ]
        mixture, *sources = [signal - signal.mean() for signal in signals]
        scale = mixture.std()
        np.testing.assert_allclose(batch["mixture"][b, :samples], mixture / scale, atol=1e-5)
        np.testing.assert_allclose(
            batch["sources"][b, :, :samples], np.stack(sources) / scale, atol=1e-5
        )
        assert (batch["mixture"][b, samples:] == 0).all()
        assert (batch["sources"][b, :, samples:] == 0).all()
        snr = 10 * np.log10(np.var(sources[0]) / np.var(sources[1]))
        assert batch["snr"][b] == pytest.approx(snr, abs=1e-3)
        assert recipes["snr"][b] == pytest.approx(snr, abs=1e-3)


@pytest.mark.parametrize("level", ["", "2speakers", "2speakers/wav8k", "2speakers/wav8k/min"])
def test_any_level_of_the_published_tree(tmp_path, level):
    premixed = prepare_premixed(write_wsj0(tmp_path / "wsj0") / level, RATE, tmp_path / "cache")
    assert premixed.roles == ("mix", "s1", "s2")
    assert np.bincount(premixed.splits).tolist() == [3, 1, 3]
    assert premixed.class_groups == ("speech",) * len(premixed.class_names)


def test_libri2mix_splits_and_speakers(libri):
    premixed = libri()
    assert premixed.roles == ("mix_clean", "s1", "s2")
    assert np.bincount(premixed.splits).tolist() == [3, 1, 2], (
        "train-100 and train-360 are both training"
    )
    for split, names in (
        ("train", ("train-100", "train-360")),
        ("val", ("dev",)),
        ("test", ("test",)),
    ):
        pool = make_premixed_pool(premixed, split=split, segment_seconds=None)
        stems = sorted((name, stem) for name in names for stem in LIBRI[name])
        expected = [[utterance.split("-")[0] for utterance in stem.split("_")] for _, stem in stems]
        assert (
            classes_of(pool, render(pool, draw(pool, 0, 0, np.arange(pool.num_mixtures))))
            == expected
        )


def test_the_folder_of_the_rate_is_taken(libri, tmp_path):
    write_libri2mix(tmp_path / "libri", 16000)
    premixed = libri()
    assert all("wav8k" in path for path in premixed.paths)
    assert all("wav16k" in path for path in libri(rate=16000).paths)


@pytest.mark.parametrize(
    ("roles", "adds_up"),
    [
        (("mix_clean", "s1", "s2"), True),
        (("mix_both", "s1", "s2"), False),
        (("mix_both", "s1", "s2", "noise"), True),
    ],
)
def test_noisy_mixtures_are_the_sum_of_all_that_is_in_them(libri, roles, adds_up):
    premixed = libri(*roles)
    assert premixed.roles == roles
    pool = make_premixed_pool(premixed, split="train", segment_seconds=0.5)
    batch = render(pool, draw(pool, 0, 0, np.arange(12)))
    error = np.abs(batch["sources"].sum(axis=1) - batch["mixture"]).max()
    assert (error < 1e-3) == adds_up  # the files are rounded to 16 bit
    np.testing.assert_allclose(batch["mixture"].std(axis=1), 1, atol=1e-4)
    assert np.abs(batch["sources"].mean(axis=2)).max() < 1e-5
    if roles[-1] == "noise":
        noise_id = pool.table.names.index("noise")
        assert pool.table.groups[noise_id] == pool.table.corpora[noise_id] == "noise"
        assert (batch["class_ids"][:, 2] == noise_id).all()


def test_training_crops_every_mixture_once_a_pass(wsj0):
    pool = make_premixed_pool(wsj0, split="train", segment_seconds=0.5)
    orders, offsets = [], []
    for epoch in range(20):
        recipes = draw(pool, 1, epoch, np.arange(6))
        assert (recipes["recording"] == recipes["recording"][:, :1]).all()
        assert (recipes["offset"] == recipes["offset"][:, :1]).all(), "all roles share the offset"
        orders.append(tuple(recipes["recording"][:, 0]))
        assert sorted(orders[-1][:3]) == sorted(orders[-1][3:]) == sorted(pool.mixtures)
        offsets.extend(recipes["offset"][:, 0])
        part = draw(pool, 1, epoch, np.array([4]))
        assert all(np.array_equal(part[key], recipes[key][4:5]) for key in recipes)
        spare = wsj0.lengths[recipes["recording"][:, 0]] - pool.num_samples
        assert ((recipes["offset"][:, 0] >= 0) & (recipes["offset"][:, 0] <= spare)).all()
    assert len(set(orders)) > 10
    assert len(set(offsets)) > 100
    batch = render(pool, recipes)
    assert (batch["lengths"] == 4000).all()
    assert np.abs(batch["sources"].sum(axis=1) - batch["mixture"]).max() < 1e-3


def test_mixtures_shorter_than_the_segment_are_padded_at_the_end(wsj0):
    pool = make_premixed_pool(wsj0, split="train", segment_seconds=1.25)
    recipes = draw(pool, 0, 0, np.arange(3))
    batch = render(pool, recipes)
    lengths = wsj0.lengths[recipes["recording"][:, 0]]
    assert sorted(lengths) == [8000, 9000, 12000]
    assert batch["lengths"].tolist() == np.minimum(lengths, 10000).tolist()
    for b, length in enumerate(batch["lengths"]):
        assert (batch["mixture"][b, length:] == 0).all()
        assert batch["mixture"][b, :length].std() == pytest.approx(1, abs=1e-4)
        assert abs(batch["mixture"][b, :length].mean()) < 1e-5


def test_a_silent_source_is_inactive(tmp_path):
    folder = tmp_path / "set" / "tt"
    sound = noise(0, 4000)
    for role, signal in (("mix", sound), ("s1", sound), ("s2", np.zeros(4000))):
        write(folder / role / "a.wav", signal)
    for role in ("mix", "s1", "s2"):
        write(folder / role / "b.wav", np.zeros(4000))
    premixed = prepare_premixed(tmp_path / "set", RATE, tmp_path / "cache")
    pool = make_premixed_pool(premixed, split="test", segment_seconds=None)
    batch = render(pool, draw(pool, 0, 0, np.arange(2)))
    assert batch["active"].tolist() == [[True, False], [False, False]]
    assert batch["class_ids"].tolist() == [[0, -1], [-1, -1]]
    assert batch["snr"].tolist() == [0, 0]
    assert all(np.isfinite(batch[key]).all() for key in ("mixture", "sources"))
    assert pool.table.names == ("s1", "s2"), "names that tell no speaker: the roles"
    assert set(pool.table.corpora) == {"premixed"}


def test_packed_once_and_again_when_a_file_changes(wsj0, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in folder_of(wsj0).iterdir()}
    again = prepare_premixed(tmp_path / "wsj0", RATE, tmp_path / "cache")
    assert {path: path.stat().st_mtime_ns for path in folder_of(again).iterdir()} == before
    assert again.fingerprint == wsj0.fingerprint
    assert prepare_premixed(folder_of(wsj0), RATE, "/nonexistent").fingerprint == wsj0.fingerprint
    write_roles(
        tmp_path / "wsj0/2speakers/wav8k/min/tr", "011a0101_1.8_20aa010b_-1.8.wav", 77, 9000
    )
    assert (
        prepare_premixed(tmp_path / "wsj0", RATE, tmp_path / "cache").fingerprint
        != wsj0.fingerprint
    )


def test_corpora_and_premixed_sets_are_not_taken_for_each_other(wsj0, tmp_path):
    with pytest.raises(DataError, match=r"data.speech_root: .* packed 'premixed'"):
        prepare(folder_of(wsj0), "speech", RATE, "/nonexistent")
    corpus = prepare(write_tree(tmp_path / "tree"), "speech", RATE, tmp_path / "cache")
    with pytest.raises(DataError, match="packed 'corpus'; must be 'premixed'"):
        open_premixed(folder_of(corpus))
    with pytest.raises(DataError, match="asked for 16000 Hz"):
        prepare_premixed(folder_of(wsj0), 16000, "/nonexistent")


def test_recipes_go_to_a_file_and_back(wsj0, tmp_path):
    pool = make_premixed_pool(wsj0, split="test", segment_seconds=None)
    recipes = draw(pool, 0, 0, np.arange(3))
    save_recipes(tmp_path / "test.npz", recipes, pool)
    loaded = load_recipes(tmp_path / "test.npz", pool)
    assert all(np.array_equal(loaded[key], recipes[key]) for key in recipes)
    assert premixed_table(wsj0) == pool.table


def remove_one(root):
    (root / "tr/s2" / "22ga0102_2.1_011a0102_-2.1.wav").unlink()


def shorten_one(root):
    write(root / "cv/s1/050a0501_0.3_051a0502_-0.3.wav", noise(0, 9999))


def garble_one(root):
    (root / "cv/s1/050a0501_0.3_051a0502_-0.3.wav").write_bytes(b"nonsense")


def remove_role(root):
    shutil.rmtree(root / "cv" / "s2")


def remove_mix(root):
    shutil.rmtree(root / "tr" / "mix")


def remove_splits(root):
    for split in ("tr", "cv", "tt"):
        shutil.rmtree(root / split)
    (root / "notes").mkdir()


@pytest.mark.parametrize(
    ("damage", "roles", "said"),
    [
        (
            remove_one,
            (),
            r"tr/s2/22ga0102_2.1_011a0102_-2.1.wav: cannot be read as sound \(no such file\)",
        ),
        (
            shorten_one,
            (),
            r"cv/mix/050a0501_0.3_051a0502_-0.3.wav: its roles have 10000, 9999, 10000 samples",
        ),
        (garble_one, (), r"cv/s1/050a0501.*cannot be read as sound"),
        (remove_role, (), r"data.premixed_roles: 's2' has no folder in .*cv"),
        (remove_mix, (), r"data.premixed_root: .*tr holds no mixture or no s1"),
        (remove_splits, (), r"data.premixed_root: .* no known layout; known: .*WHAM!"),
        (None, ("mix", "s3"), "data.premixed_roles: 's3' has no folder"),
        (None, ("mix",), "data.premixed_roles: is .* must be a mixture role, then"),
        (None, ("mix", "s1", "s1"), "data.premixed_roles: is .* all different"),
    ],
)
def test_sets_that_cannot_be_used(tmp_path, damage, roles, said):
    root = write_wsj0(tmp_path / "wsj0") / "2speakers/wav8k/min"
    if damage:
        damage(root)
    with pytest.raises(DataError, match=said):
        prepare_premixed(root, RATE, tmp_path / "cache", roles=roles, progress=False)
    cache = tmp_path / "cache"
    assert not cache.exists() or not list(cache.iterdir())


def test_pools_that_cannot_be(wsj0, tmp_path):
    with pytest.raises(DataError, match="at least one sample"):
        make_premixed_pool(wsj0, split="train", segment_seconds=0.0)
    shutil.rmtree(tmp_path / "wsj0/2speakers/wav8k/min/tt")
    without = prepare_premixed(tmp_path / "wsj0", RATE, tmp_path / "cache")
    with pytest.raises(
        DataError, match="has no test mixtures; needed: one of the folders tt, test"
    ):
        make_premixed_pool(without, split="test", segment_seconds=None)


def test_a_missing_root():
    with pytest.raises(DataError, match=r"data.premixed_root: /nonexistent is no readable folder"):
        prepare_premixed("/nonexistent", RATE, "/tmp")
