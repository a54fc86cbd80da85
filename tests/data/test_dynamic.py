"""Recipes and rendering, on real recordings and on small made-up corpora."""

import dataclasses

import numpy as np
import pytest
from trees import RATE, noise, write, write_tree

from jaxsep.data.mixtures.dynamic import draw, render
from jaxsep.data.mixtures.recipes import load_recipes, save_recipes
from jaxsep.data.mixtures.sampler import make_pool
from jaxsep.data.packs.format import class_table
from jaxsep.data.packs.packing import prepare
from jaxsep.errors import DataError


@pytest.fixture(scope="module")
def corpora(tmp_path_factory, recordings_dir):
    cache = tmp_path_factory.mktemp("packed")
    return {
        name: prepare(recordings_dir / folder, name, RATE, cache)
        for name, folder in (("environment", "ESC-50"), ("speech", "speech"))
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """speech and environment of 3 classes, 2 clips of 1.5 s each, in each split."""
    folder = tmp_path_factory.mktemp("small")
    return {
        name: prepare(write_tree(folder / name), name, RATE, folder / "cache")
        for name in ("speech", "environment")
    }


def pool_of(corpora, **settings):
    defaults = {
        "split": "train",
        "slots": ("speech", "environment"),
        "segment_seconds": 1.0,
        "max_snr_db": 30.0,
    }
    return make_pool(corpora, class_table(corpora.values()), **(defaults | settings))


def equal(left, right) -> bool:
    return left.keys() == right.keys() and all(
        np.array_equal(left[key], right[key]) for key in left
    )


SLOTS = [
    ("environment", "environment"),
    ("speech", "speech"),
    ("speech", "environment"),
    ("speech:0.5,environment:0.5",) * 3,
]


@pytest.mark.parametrize("slots", SLOTS, ids="/".join)
def test_a_recipe_depends_on_seed_epoch_and_index_alone(corpora, slots):
    pool = pool_of(corpora, slots=slots, active_counts=[1 / len(slots)] * len(slots))
    whole = draw(pool, 3, 5, np.arange(60))
    shuffled = np.random.default_rng(0).permutation(60)
    parts = [draw(pool, 3, 5, part) for part in np.split(shuffled, [1, 8, 40])]
    joined = {key: np.concatenate([part[key] for part in parts]) for key in whole}
    assert equal({key: value[shuffled] for key, value in whole.items()}, joined)
    for other in (
        draw(pool, 3, 6, np.arange(60)),
        draw(pool, 4, 5, np.arange(60)),
        draw(pool, 3, 5, np.arange(60, 120)),
    ):
        assert (other["snr"] != whole["snr"])[whole["snr"] != 0].all()
        assert (other["recording"] != whole["recording"]).mean() > 0.5
    kinds = {"index": "i8", "corpus": "i1", "recording": "i8", "offset": "i8", "class_ids": "i4"}
    kinds |= {"active": "?", "snr": "f4"}
    assert {key: value.dtype for key, value in whole.items()} == kinds


def test_splits_of_one_seed_are_not_the_same_draws(small):
    train, val = (
        draw(pool_of(small, split=split), 1, 0, np.arange(50)) for split in ("train", "val")
    )
    assert (train["snr"] != val["snr"]).all()
    assert abs(np.corrcoef(train["snr"], val["snr"])[0, 1]) < 0.5


@pytest.mark.parametrize("slots", SLOTS, ids="/".join)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_classes_are_never_twice_in_a_mixture_and_of_the_split(corpora, slots, split):
    pool = pool_of(corpora, slots=slots, split=split)
    table = pool.table
    recipes = draw(pool, 0, 0, np.arange(2000))
    ids = np.sort(recipes["class_ids"], axis=1)
    assert (np.diff(ids, axis=1) > 0).all()
    for n, slot in enumerate(slots):
        drawn = {table.corpora[k] for k in recipes["class_ids"][:, n]}
        assert drawn == {part.split(":")[0] for part in slot.split(",")}
        for b in range(0, 2000, 37):
            corpus = pool.corpora[recipes["corpus"][b, n]]
            recording, class_id = recipes["recording"][b, n], recipes["class_ids"][b, n]
            assert corpus.name == pool.corpus_names[recipes["corpus"][b, n]]
            assert corpus.name == table.corpora[class_id]
            assert corpus.class_names[corpus.classes[recording]] == table.names[class_id]
            assert ("train", "val", "test")[corpus.splits[recording]] == split
            assert 0 <= recipes["offset"][b, n] <= corpus.lengths[recording] - pool.num_samples


def test_draws_are_uniform(corpora):
    """Classes, recordings of a class, priors and SNR: counts within 5 standard deviations."""
    pool = pool_of(corpora, slots=("environment", "environment:0.25,speech:0.75"), max_snr_db=10.0)
    number = 20000
    recipes = draw(pool, 0, 0, np.arange(number))

    def check(counts, probability, total):
        assert (np.abs(counts - total * probability) < 5 * np.sqrt(total * probability)).all()

    check(np.bincount(recipes["class_ids"][:, 0], minlength=50)[:50], 1 / 50, number)
    check(np.bincount(recipes["corpus"][:, 1], minlength=2), np.array([0.25, 0.75]), number)
    second = recipes["class_ids"][recipes["corpus"][:, 1] == 0, 1]
    check(np.bincount(second, minlength=50), 1 / 50, second.size)
    dog = recipes["recording"][recipes["class_ids"][:, 0] == pool.table.names.index("dog"), 0]
    _, counts = np.unique(dog, return_counts=True)
    assert counts.size == 24  # clips of this class in folds 2 to 4
    check(counts, 1 / 24, dog.size)
    snr = recipes["snr"]
    check(np.histogram(snr, bins=10, range=(-10, 10))[0], 0.1, number)
    assert (np.abs(snr) <= 10).all()


def test_the_second_class_is_uniform_over_the_others(small):
    recipes = draw(pool_of(small, slots=("speech",) * 3), 0, 0, np.arange(6000))
    _, counts = np.unique(recipes["class_ids"], axis=0, return_counts=True)
    assert counts.size == 6, "all orders of three classes"
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


@pytest.mark.parametrize(
    ("slots", "max_snr_db", "seconds", "tolerance"),
    [
        (SLOTS[0], 30.0, 4.0, 1e-2),
        (SLOTS[1], 5.0, 1.0, 1e-2),
        (SLOTS[2], 30.0, 1.0, 1e-2),
        (SLOTS[3], 30.0, 0.5, 1e-2),
        (SLOTS[2], 0.0, 1.0, 1e-3),
    ],
)
def test_rendered_sources_have_the_recipes_snr(corpora, slots, max_snr_db, seconds, tolerance):
    pool = pool_of(corpora, slots=slots, max_snr_db=max_snr_db, segment_seconds=seconds)
    recipes = draw(pool, 0, 0, np.arange(56))
    batch = render(pool, recipes)
    power = np.mean(batch["sources"].astype(np.float64) ** 2, axis=2)
    measured = 10 * np.log10(power[:, :1] / power[:, 1:])
    np.testing.assert_allclose(
        measured, np.broadcast_to(recipes["snr"][:, None], measured.shape), atol=tolerance
    )
    assert np.ptp(recipes["snr"]) >= max_snr_db
    assert batch["sources"].shape == (56, len(slots), round(seconds * RATE))
    np.testing.assert_array_equal(batch["snr"], recipes["snr"])


@pytest.mark.parametrize("slots", SLOTS, ids="/".join)
def test_mixtures_are_sums_of_zero_mean_and_unit_deviation(corpora, slots):
    pool = pool_of(corpora, slots=slots, active_counts=[1 / len(slots)] * len(slots))
    batch = render(pool, draw(pool, 7, 0, np.arange(100)))
    assert batch["mixture"].dtype == batch["sources"].dtype == np.float32
    mixture, sources = batch["mixture"].astype(np.float64), batch["sources"].astype(np.float64)
    assert np.abs(sources.sum(axis=1) - mixture).max() < 1e-5
    assert np.abs(mixture.mean(axis=1)).max() < 1e-5
    assert np.abs(sources.mean(axis=2)).max() < 1e-5
    assert np.abs(mixture.std(axis=1) - 1).max() < 1e-4


def test_a_source_is_the_recording_at_its_offset(corpora):
    pool = pool_of(corpora)
    recipes = draw(pool, 0, 0, np.arange(20))
    batch = render(pool, recipes)
    for b in range(20):
        for n in range(2):
            corpus = pool.corpora[recipes["corpus"][b, n]]
            start = corpus.offsets[recipes["recording"][b, n]] + recipes["offset"][b, n]
            expected = corpus.audio[start : start + RATE].astype(np.float64)
            assert np.corrcoef(batch["sources"][b, n], expected)[0, 1] > 1 - 1e-6


def test_some_slots_only(corpora):
    pool = pool_of(corpora, slots=SLOTS[3], active_counts=[0.5, 0.3, 0.2])
    recipes = draw(pool, 0, 0, np.arange(3000))
    active = recipes["active"]
    counts = np.bincount(active.sum(axis=1), minlength=4)
    assert counts[0] == 0
    assert np.abs(counts[1:] - [1500, 900, 600]).max() < 5 * np.sqrt(900)
    single = active[active.sum(axis=1) == 1].sum(axis=0)
    assert np.abs(single - counts[1] / 3).max() < 5 * np.sqrt(counts[1] / 3), (
        "every subset is equally likely"
    )
    for key in ("class_ids", "corpus", "recording"):
        assert ((recipes[key] == -1) == ~active).all()
    assert ((recipes["snr"] == 0) == (active.sum(axis=1) == 1)).all()
    few = {key: value[:100] for key, value in recipes.items()}
    batch = render(pool, few)
    np.testing.assert_array_equal(batch["active"], few["active"])
    assert (batch["sources"][~few["active"]] == 0).all()
    assert (batch["sources"].std(axis=2)[few["active"]] > 0).all()
    power = np.mean(batch["sources"].astype(np.float64) ** 2, axis=2)
    for b in np.flatnonzero(few["active"].sum(axis=1) > 1):
        first, *others = power[b][few["active"][b]]
        np.testing.assert_allclose(
            10 * np.log10(first / np.array(others)), few["snr"][b], atol=1e-2
        )


def test_short_clips_are_padded_at_varying_positions(small):
    pool = pool_of(small, segment_seconds=2.0)
    recipes = draw(pool, 0, 0, np.arange(400))
    assert (recipes["offset"] <= 0).all()
    assert recipes["offset"].min() >= -4000
    assert np.abs(np.histogram(-recipes["offset"], bins=8, range=(0, 4000))[0] - 100).max() < 50
    batch = render(pool, recipes)
    for b in range(10):
        for n in range(2):
            source = batch["sources"][b, n]
            start = -recipes["offset"][b, n]
            # Outside of the clip only what the mean leaves.
            outside = np.delete(source, np.arange(start, start + 12000))
            assert outside.size == 4000
            assert np.ptp(outside) == 0
            assert source[start : start + 12000].std() > 10 * abs(outside[0])


def test_short_clips_can_be_skipped(tmp_path):
    root = write_tree(tmp_path / "root", clips=1, seconds=1.0)
    for k in range(2):
        write(root / "train" / f"c{k}" / "long.wav", noise(50 + k, 20000))
    corpora = {"speech": prepare(root, "speech", RATE, tmp_path / "cache")}
    settings = {"slots": ("speech", "speech"), "segment_seconds": 2.0}
    recipes = draw(pool_of(corpora, short_clips="skip", **settings), 0, 0, np.arange(200))
    names = {corpora["speech"].paths[k] for k in recipes["recording"].ravel()}
    assert names == {"train/c0/long.wav", "train/c1/long.wav"}
    assert (recipes["offset"] >= 0).all()
    padded = draw(pool_of(corpora, **settings), 0, 0, np.arange(200))
    assert {corpora["speech"].paths[k] for k in padded["recording"].ravel()} > names


def loudest_tenth(samples: np.ndarray) -> float:
    frames = samples[: samples.size // 800 * 800].astype(np.float64).reshape(-1, 800)
    return float(frames.var(axis=1).max())


def test_no_crop_of_a_clip_that_ends_in_zeros_is_silent(corpora):
    pool = pool_of(corpora, slots=("environment", "environment"), segment_seconds=0.5)
    recipes = draw(pool, 0, 0, np.arange(1500))
    corpus = corpora["environment"]
    rng = np.random.default_rng(0)
    silent_at_random = 0
    for recording, offset in zip(
        recipes["recording"].ravel(), recipes["offset"].ravel(), strict=True
    ):
        samples = np.asarray(corpus.audio[corpus.offsets[recording] :][: corpus.lengths[recording]])
        limit = 1e-6 * loudest_tenth(samples)
        # A frame of the crop's grid can hold a little less than the loud one of the recording's.
        assert (
            max(loudest_tenth(samples[offset:][:4000]), loudest_tenth(samples[offset:][400:4000]))
            >= 0.25 * limit
        )
        at_random = rng.integers(samples.size - 4000 + 1)
        silent_at_random += loudest_tenth(samples[at_random:][:4000]) < limit
    assert silent_at_random > 100, "these clips have silent crops to be avoided"
    batch = render(pool, {key: value[:300] for key, value in recipes.items()})
    assert batch["active"].all()


def test_a_click_in_a_minute_of_silence_is_found(tmp_path):
    click = np.zeros(60 * RATE)
    click[40 * RATE + 300 : 40 * RATE + 900] = noise(0, 600)
    write(tmp_path / "root" / "train" / "click" / "0.wav", click)
    corpora = {"environment": prepare(tmp_path / "root", "environment", RATE, tmp_path / "cache")}
    pool = pool_of(corpora, slots=("environment",), segment_seconds=0.5)
    offsets = draw(pool, 0, 0, np.arange(300))["offset"][:, 0]
    assert (offsets < 40 * RATE + 900).all()
    assert (offsets + 4000 > 40 * RATE + 300).all()
    assert np.unique(offsets).size > 5, "where one of the nine tries is not silent, it is taken"
    assert np.isfinite(render(pool, draw(pool, 0, 0, np.arange(50)))["mixture"]).all()


@pytest.mark.parametrize("dc", [0.0, 0.7])
def test_a_constant_segment_is_zero_and_inactive(tmp_path, dc):
    step = np.full(2 * RATE, dc)
    step[:4000] += noise(0, 4000)
    for k in range(2):
        write(tmp_path / "root" / "train" / f"c{k}" / "0.wav", step if k else noise(1, 2 * RATE))
    corpora = {"speech": prepare(tmp_path / "root", "speech", RATE, tmp_path / "cache")}
    pool = pool_of(corpora, slots=("speech", "speech"))
    recipes = draw(pool, 0, 0, np.arange(4))
    second = recipes["class_ids"] == 1
    # Beyond the sound: what draw would never give.
    recipes["offset"] = np.where(second, 8000, recipes["offset"])
    batch = render(pool, recipes)
    assert (batch["sources"][second] == 0).all()
    assert (batch["active"] == ~second).all()
    assert (batch["class_ids"] == np.where(second, -1, 0)).all()
    np.testing.assert_allclose(batch["mixture"].std(axis=1), 1, atol=1e-4)
    recipes["recording"][:] = corpora["speech"].paths.index("train/c1/0.wav")
    recipes["offset"][:] = 8000
    batch = render(pool, recipes)
    assert (batch["mixture"] == 0).all()
    assert (batch["sources"] == 0).all()


@pytest.mark.parametrize("seconds", [1 / RATE, 0.01, 0.1, 0.15, 0.25, 1.5])
def test_segments_of_any_length(small, seconds):
    pool = pool_of(small, segment_seconds=seconds)
    batch = render(pool, draw(pool, 0, 0, np.arange(64)))
    assert batch["mixture"].shape == (64, round(seconds * RATE))
    assert np.isfinite(batch["mixture"]).all()
    assert np.isfinite(batch["sources"]).all()
    assert (batch["lengths"] == round(seconds * RATE)).all()


SETTINGS = [
    ({"slots": ("music", "speech")}, "data.slots", "'music' must be one of environment, speech"),
    ({"slots": ("speech:0.5,environment:0.4",)}, "data.slots", "sum to 1"),
    ({"slots": ("speech:1.5,environment:-0.5",)}, "data.slots", "sum to 1"),
    ({"slots": ("speech:x,environment:0.4",)}, "data.slots", "sum to 1"),
    ({"slots": ("speech",) * 4}, "data.slots", "the train split has 3"),
    ({"slots": ("speech", "speech"), "split": "val"}, "data.slots", "the val split has 1"),
    ({"split": "test"}, "data.slots", "the test split has 0"),
    ({"active_counts": (0.5, 0.4)}, "data.active_counts", "sum to 1"),
    ({"active_counts": (1.0,)}, "data.active_counts", "2 probabilities"),
    ({"active_counts": (1.5, -0.5)}, "data.active_counts", "2 probabilities"),
    ({"short_clips": "skip", "segment_seconds": 9.0}, "data.slots", "'skip' leaves out"),
]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Three classes to train on, one to validate on, none to test on."""
    folder = tmp_path_factory.mktemp("uneven")
    corpora = {}
    for name in ("speech", "environment"):
        write_tree(folder / name, splits=("train",))
        write(folder / name / "val" / "c0" / "0.wav", noise(0, 20000))
        corpora[name] = prepare(folder / name, name, RATE, folder / "cache")
    return corpora


@pytest.mark.parametrize(("settings", "field", "said"), SETTINGS)
def test_settings_that_cannot_be(uneven, settings, field, said):
    with pytest.raises(DataError, match=said) as caught:
        pool_of(uneven, **settings)
    assert str(caught.value).startswith(f"{field}: ")


def test_fewer_classes_do_where_fewer_slots_are_active(small):
    pool = pool_of(small, slots=("speech",) * 4, active_counts=(0.0, 0.5, 0.5, 0.0))
    recipes = draw(pool, 0, 0, np.arange(500))
    assert set(recipes["active"].sum(axis=1)) == {2, 3}
    ids = np.sort(np.where(recipes["active"], recipes["class_ids"], [-4, -3, -2, -1]), axis=1)
    assert (np.diff(ids, axis=1) > 0).all()


def test_recipes_come_back_from_their_file(small, tmp_path):
    pool = pool_of(small)
    recipes = draw(pool, 0, 0, np.arange(30))
    save_recipes(tmp_path / "run" / "val.npz", recipes, pool)
    assert equal(load_recipes(tmp_path / "run" / "val.npz", pool), recipes)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["val.npz"]
    for other in (
        pool_of(small, split="val"),
        pool_of(small, segment_seconds=1.1),
        dataclasses.replace(pool, fingerprints=("0", "0")),
    ):
        with pytest.raises(DataError, match=r"val.npz: .* the pool has"):
            load_recipes(tmp_path / "run" / "val.npz", other)
    content = (tmp_path / "run" / "val.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    np.savez(tmp_path / "other.npz", **recipes)
    for name in ("cut.npz", "other.npz", "missing.npz"):
        with pytest.raises(DataError, match=f"{name}: holds no recipes"):
            load_recipes(tmp_path / name, pool)
