"""prepare --verify names what makes results worthless without being an error."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from trees import RATE, noise, write, write_esc50, write_libri2mix, write_tree, write_wsj0

from jaxsep.data.checks.mixture_sums import add_up
from jaxsep.data.checks.verify import Check, check_apart, verify
from jaxsep.data.packs.packing import prepare
from jaxsep.prepare import main


def checked(root: Path, cache: Path, name: str = "speech", **options) -> dict[str, Check]:
    checks = verify(prepare(root, name, RATE, cache, **options), root)
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def wrong(checks: dict[str, Check]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(check.wrong) for name, check in checks.items() if check.wrong}


@pytest.fixture
def root(tmp_path) -> Path:
    """root/{train,val,test}/SPEAKER/0.wav, no speaker in two splits."""
    for seed, place in enumerate(("train/a", "train/b", "val/c", "test/d")):
        path = tmp_path / "root" / place / "0.wav"
        write(path, noise(seed, 4000 * (seed + 1)), subtype="PCM_16")
    return tmp_path / "root"


# Counts are from the README of the recordings. Of ESC-50 as published two Freesound recordings
# serve a class of fold 4 and another of fold 5.
REAL = {
    ("speech", "speech"): {
        "recordings": "train 249 of 249, val 58 of 58, test 50 of 50",
        "speakers": "none in two splits",
    },
    ("ESC-50", "environment"): {
        "sample rates": "8,000 Hz: 654 files",
        "lengths": "shortest 5.00 s, median 5.00 s, longest 5.00 s; 0 shorter than 1 s",
        "source recordings": "none in two splits",
        "sources of two classes": " = audio/5-",
    },
}


@pytest.mark.parametrize(("folder", "name"), REAL)
def test_the_real_recordings_are_sound(tmp_path, recordings_dir, capsys, folder, name):
    words = [str(recordings_dir / folder), "--name", name, "-o", str(tmp_path), "--verify"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    table = out.split("\n\n")[1].splitlines()
    start = table[0].index("result")
    # The columns are aligned.
    assert all(line[start - 2 : start] == "  " and line[start] != " " for line in table)
    rows = {line[:start].strip(): line[start:] for line in table}
    for check, result in REAL[folder, name].items():
        assert result in rows[check]


def test_rates_channels_lengths_and_recordings_that_are_left_out_are_counted(root, tmp_path):
    stereo = np.stack([noise(7, 44100), noise(8, 44100)], axis=1)
    write(root / "train/a/stereo.flac", stereo, 44100, "PCM_24")
    write(root / "train/a/silent.wav", np.zeros(400))
    (root / "train/a/text.wav").write_bytes(b"text")
    checks = checked(root, tmp_path / "packs", skip_bad=True)
    assert not wrong(checks)
    assert checks["sample rates"].result == "44,100 Hz: 1 files; 8,000 Hz: 4 files"
    assert checks["channels"].result == "1: 4 files; 2: 1 files"
    lengths = "shortest 0.50 s, median 1.00 s, longest 2.00 s; 1 shorter than 1 s"
    assert checks["lengths"].result == lengths
    left_out = "train 3 of 5, val 1 of 1, test 1 of 1, 2 left out (as train/a/text.wav: "
    assert checks["recordings"].result.startswith(left_out)


def test_the_same_sound_in_train_and_test_is_wrong_whatever_its_name_and_format(root, tmp_path):
    shutil.copy(root / "train/b/0.wav", root / "train/b/copy.wav")
    shutil.copy(root / "train/b/0.wav", root / "train/b/copy2.wav")
    shutil.copy(root / "train/b/0.wav", root / "val/c/copy.wav")
    checks = checked(root, tmp_path / "packs")
    assert not wrong(checks)
    assert checks["same sound twice"].result == (
        "train–train 2 (as train/b/0.wav = train/b/copy.wav), "
        "train–val 1 (as train/b/0.wav = val/c/copy.wav)"
    )
    samples, _ = soundfile.read(root / "train/b/0.wav")
    write(root / "test/d/other.flac", samples, subtype="PCM_24")
    line = "train/b/0.wav and test/d/other.flac: the same sound in train and test"
    assert wrong(checked(root, tmp_path / "packs")) == {"same sound twice": (line,)}


def test_silent_sources_are_no_sound_that_is_there_twice(tmp_path):
    root = tmp_path / "set"
    for seed, split in enumerate(("tr", "tt")):
        for role in ("mix", "s1"):
            write(root / split / role / f"{split}.wav", noise(seed, 4000))
        write(root / split / "s2" / f"{split}.wav", np.zeros(4000))
    checks = checked(root, tmp_path / "packs", "premixed")
    assert not wrong(checks)
    assert checks["same sound twice"].result == "none in two splits"


def test_the_first_of_each_split_stands_for_a_thing_and_pairs_are_named_once():
    places = [("train", "b"), ("test", "c"), ("train", "d"), ("test", "e")]
    check = check_apart("x", "sound", [[("train", "a")], places, places])
    assert (
        check.result == "test–test 1 (as c = e), train–test 1 (as b = c), train–train 1 (as b = d)"
    )
    assert check.wrong == ["b and c: the same sound in train and test"]


def test_a_speaker_in_train_and_test_is_wrong_and_in_train_and_val_noted(root, tmp_path):
    write(root / "val/a/1.wav", noise(11, 4000))
    checks = checked(root, tmp_path / "packs")
    assert not wrong(checks)
    assert checks["speakers"].result == "train–val 1 (as a (train/a/0.wav) = a (val/a/1.wav))"
    write(root / "test/b/1.wav", noise(12, 4000))
    line = "b (train/b/0.wav) and b (test/b/1.wav): the same speaker in train and test"
    assert wrong(checked(root, tmp_path / "packs")) == {"speakers": (line,)}
    # Classes of sounds are in all splits by nature.
    assert "speakers" not in checked(root, tmp_path / "packs", "environment")


def test_a_source_recording_in_two_splits_is_wrong_within_a_class_and_noted_across_two(tmp_path):
    entries = [(4, 0, "dog", "1", "A"), (5, 0, "dog", "2", "A")]
    entries += [(5, 10, "rain", "3", "A"), (4, 37, "clock", "3", "A")]
    checks = checked(write_esc50(tmp_path / "root", entries), tmp_path / "packs", "environment")
    assert not wrong(checks)
    noted = "train–test 1 (as audio/4-3-A-37.wav = audio/5-3-A-10.wav)"
    assert checks["sources of two classes"].result == noted
    leaking = write_esc50(tmp_path / "leaking", [*entries, (5, 0, "dog", "1", "B")])
    checks = checked(leaking, tmp_path / "packs", "environment")
    (line,) = wrong(checks)["source recordings"]
    assert line.startswith("audio/4-1-A-0.wav and audio/5-1-B-0.wav: the same source recording in")


def test_a_dataset_that_is_not_what_was_packed(root, tmp_path):
    packed = prepare(root, "speech", RATE, tmp_path / "packs")
    (root / "val/c/0.wav").rename(root / "val/c/1.wav")
    assert wrong({check.name: check for check in verify(packed, root)}) == {
        "recordings": (
            "val/c/1.wav: is in val, packed in no split",
            "val/c/0.wav: is in no split, packed in val",
        )
    }
    alone = {check.name: check for check in verify(packed, packed.folder)}
    assert not wrong(alone)
    assert alone["source files"].result == "not checked: this is the pack itself"


def test_a_changed_recording_and_a_changed_pack(tmp_path, capsys):
    """Though size and time are as they were."""
    root, packs = write_tree(tmp_path / "root", clips=1), tmp_path / "packs"
    arguments = [str(root), "--name", "environment", "-o", str(packs), "--verify"]
    assert main(arguments) == 0
    (pack,) = packs.iterdir()
    changed = root / "val/c1/0.wav"
    for path in (changed, pack / "audio.f32"):
        status, content = path.stat(), bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    capsys.readouterr()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    first, file, audio = err.splitlines()
    assert first == f"error: {root}: is not sound (2):"
    again = f"; remove {pack} and pack again"
    assert file == f"  {changed}: its content is another: has changed since it was packed{again}"
    assert audio.startswith(f"  {pack / 'audio.f32'}: is damaged (SHA-256 ")
    assert audio.endswith(again)
    assert "WRONG: 8 of 9 as they were packed" in out
    shutil.rmtree(pack)
    assert main(arguments) == 0


BASE = "wsj0/2speakers/wav8k/min"
SUM = "mix = s1 + s2"


@pytest.mark.parametrize("name", ["premixed", "speech"])
def test_mixtures_that_are_no_sum_of_their_sources_are_named_worst_first(tmp_path, name):
    root = write_wsj0(tmp_path / "wsj0")
    checks = checked(root, tmp_path / "packs", name)
    assert not wrong(checks)
    assert checks[SUM].result.startswith("7 of 7 add up; largest deviation ")
    for file, error in (
        ("tr/mix/011a0101_1.8_20aa010b_-1.8.wav", 4),
        ("tt/mix/440c0201_1.0_441c0202_-1.0.wav", 900),
    ):
        path = tmp_path / BASE / file
        samples, _ = soundfile.read(path, dtype="int16")
        samples[500] += error  # in steps of 2^-15; rounding of three files explains three
        soundfile.write(path, samples, RATE)
    worst, other = wrong(checked(root, tmp_path / "packs", name))[SUM]
    assert "/440c0201_1.0_441c0202_-1.0.wav: " in worst
    assert "/011a0101_1.8_20aa010b_-1.8.wav: " in other
    assert f"off by up to {900 / 2**15:.1e}" in worst


def test_mixtures_at_a_level_of_their_own_are_noted_and_unreadable_ones_wrong(tmp_path):
    """Of WSJ0-2mix as a corpus of speakers, which is made of the sources alone."""
    root = write_wsj0(tmp_path / "wsj0")
    path = tmp_path / BASE / "tt/mix/440c0201_1.0_441c0202_-1.0.wav"
    samples, _ = soundfile.read(path)
    soundfile.write(path, 0.7 * samples, RATE)
    checks = checked(root, tmp_path / "packs")
    assert not wrong(checks)
    for part in ("7 of 7 add up", "1 at a level of their own (as ", "× 0.700)"):
        assert part in checks[SUM].result
    path.write_bytes(b"no sound")
    (line,) = wrong(checked(root, tmp_path / "packs"))[SUM]
    assert line.startswith(f"{path}: cannot be read as sound")


@pytest.mark.parametrize(
    ("roles", "title"),
    [
        ((), "mix_clean = s1 + s2"),
        (("mix_both", "s1", "s2"), "mix_both = s1 + s2 + noise"),
        (("mix_both", "s1", "s2", "noise"), "mix_both = s1 + s2 + noise"),
        (("mix_clean", "s2"), "mix_clean = s2 + s1"),
    ],
)
def test_noise_counts_where_it_belongs(tmp_path, roles, title):
    root = write_libri2mix(tmp_path / "libri")
    check = checked(root, tmp_path / "packs", "premixed", roles=roles)[title]
    assert (len(check.wrong), check.result[:11]) == (0, "6 of 6 add ")


SIGNALS = noise(1, 3000), noise(2, 3000)


# error: added to one sample. Rounding or cutting off three files explains three steps of the
# format.
@pytest.mark.parametrize(
    ("form", "subtype", "gain", "error", "adds_up"),
    [
        ("WAV", "PCM_16", 1.0, 0.0, True),
        ("WAV", "PCM_16", 1.0, 5 * 2.0**-15, False),
        ("WAV", "PCM_16", 0.31, 0.0, True),
        ("WAV", "PCM_16", 0.31, 5 * 2.0**-15, False),
        ("WAV", "PCM_16", -1.0, 0.0, False),
        ("WAV", "PCM_24", 1.0, 0.0, True),
        ("WAV", "PCM_24", 1.0, 9 * 2.0**-23, False),
        ("WAV", "PCM_U8", 1.0, 0.0, True),
        ("WAV", "FLOAT", 1.0, 0.0, True),
        ("WAV", "FLOAT", 1.0, 2.0**-19, False),
        ("FLAC", "PCM_16", 1.0, 0.0, True),
        ("OGG", "VORBIS", 1.0, 0.0, None),
    ],
)
def test_rounding_is_told_from_what_does_not_add_up(tmp_path, form, subtype, gain, error, adds_up):
    mixture = gain * sum(SIGNALS)
    mixture[1234] += error
    paths = [tmp_path / f"{number}.x" for number in range(3)]
    for path, signal in zip(paths, (mixture, *SIGNALS), strict=True):
        soundfile.write(path, signal, RATE, subtype, format=form)
    one = add_up(paths[0], paths[1:])
    assert (one and one.adds_up) == adds_up, "None: the format is not exact"
    if adds_up:
        assert one.gain == pytest.approx(gain, abs=1e-3)


def test_a_mixture_that_is_clipped_where_its_sources_are_not_adds_up(tmp_path):
    paths = [tmp_path / f"{number}.wav" for number in range(3)]
    for path, signal in zip(paths, (sum(SIGNALS), *SIGNALS), strict=True):
        write(path, 2.5 * signal, subtype="PCM_16")
    assert add_up(paths[0], paths[1:])[2:] == (1,)
    assert add_up(paths[0], paths[1:]).adds_up


def test_a_source_in_train_and_test_is_found_within_mixtures(tmp_path):
    root = write_wsj0(tmp_path / "wsj0")
    train, test = "22ga0102_2.1_011a0102_-2.1.wav", "44xa0102_2.1_45xa0102_-2.1.wav"
    for role, other in (("s1", "s2"), ("s2", "s1"), ("mix", "mix")):
        shutil.copy(tmp_path / BASE / "tr" / role / train, tmp_path / BASE / "tt" / other / test)
    lines = wrong(checked(root, tmp_path / "packs", "premixed"))
    assert list(lines) == ["same sound twice"]
    (line,) = lines["same sound twice"]
    assert "tr/mix/22ga0102" in line
    assert "tt/mix/44xa0102" in line
