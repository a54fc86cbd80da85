"""Recordings that are damaged, odd or no recordings at all: told in one list, left out on request,
never a hang or a crash."""

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from limits import command, limited
from trees import RATE, noise, write, write_tree, write_wsj0

from jaxsep.data.audio import read_audio
from jaxsep.data.packs.packing import prepare
from jaxsep.errors import DataError
from jaxsep.files import display
from jaxsep.prepare import main


def encoded(samples: np.ndarray, form: str, subtype: str | None = None, rate: int = RATE) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=form, subtype=subtype)
    return stream.getvalue()


def wav(data: bytes, *, channels: int = 1, rate: int = RATE, claimed: int | None = None) -> bytes:
    """A 16-bit WAV file of so many bytes of samples, whose header may claim others."""
    claimed = len(data) if claimed is None else claimed
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * 2 % 2**32, 2 * channels, 16)
    size = struct.pack("<I", min(36 + claimed, 2**32 - 1))
    return b"RIFF" + size + b"WAVEfmt " + form + struct.pack("<4sI", b"data", claimed) + data


def flac(frames: int) -> bytes:
    """A FLAC file of 2000 samples whose header claims `frames`."""
    content = bytearray(encoded(SOUND, "FLAC"))
    # STREAMINFO: the lower 36 bits are the number of samples.
    (fields,) = struct.unpack_from(">Q", content, 18)
    struct.pack_into(">Q", content, 18, fields >> 36 << 36 | frames)
    return bytes(content)


SOUND = noise(0, 2000)
PCM = (SOUND * 2**15).astype("<i2").tobytes()
NAN, INF = (np.where(np.arange(2000) == 800, value, SOUND) for value in (np.nan, np.inf))
NO_SOUND = "cannot be read as sound"
BAD = {
    "empty.wav": (b"", NO_SOUND),
    "text.wav": (b"this is no sound at all\n" * 99, NO_SOUND),
    "song.flac": (b"fLaC\x00\x00", NO_SOUND),
    "cut.wav": (wav(PCM)[:3000], "is cut short or damaged (1,044 bytes are missing)"),
    "cut24.wav": (encoded(SOUND, "WAV", "PCM_24")[:-1], "damaged (1 bytes are missing)"),
    "cut.flac": (encoded(noise(0, 50000), "FLAC")[:40000], NO_SOUND),
    "cut.ogg": (encoded(noise(0, 80000), "OGG")[:30000], "is cut short or damaged ("),
    "header.wav": (wav(PCM)[:44], "holds no samples"),
    "none.wav": (encoded(SOUND[:0], "WAV"), "holds no samples"),
    "nan.wav": (encoded(NAN, "WAV", "FLOAT"), "NaN or infinite samples, the first at 0.100 s"),
    "inf.wav": (encoded(INF, "WAV", "DOUBLE"), "NaN or infinite samples"),
    "loud.wav": (encoded(SOUND * 1e30, "WAV", "FLOAT"), "must be within ±2^32"),
    "slow.wav": (wav(PCM, rate=1), "its sample rate is 1 Hz; must be between 1,000"),
    "fast.wav": (wav(PCM, rate=2**31 - 1), "its sample rate is 2,147,483,647 Hz"),
    "claims.flac": (flac(2**36 - 1), NO_SOUND),
    os.fsdecode(b"caf\xe9.wav"): (b"nonsense", NO_SOUND),
    "two\nlines.wav": (b"nonsense", NO_SOUND),
}
NO_FILES = {
    "folder.wav": (Path.mkdir, "is no regular file"),
    "pipe.wav": (os.mkfifo, "is no regular file"),
    "dangling.wav": (lambda path: path.symlink_to("nowhere"), "no such file"),
    "loop.wav": (lambda path: path.symlink_to("loop.wav"), "Too many levels of symbolic links"),
}


def write_bad(folder: Path) -> dict[str, str]:
    """All bad recordings, and what must be said of each."""
    for name, (content, _) in BAD.items():
        (folder / name).write_bytes(content)
    for name, (make, _) in NO_FILES.items():
        make(folder / name)
    return {name: reason for name, (_, reason) in (BAD | NO_FILES).items()}


def test_bad_recordings_of_every_kind_are_one_list_and_left_out_on_request(tmp_path, capsys):
    root, packs = write_tree(tmp_path / "root", classes=1, clips=1), tmp_path / "packs"
    bad = write_bad(root / "train" / "c0")
    arguments = [str(root), "--name", "environment", "-o", str(packs)]
    refused = command("jaxsep.prepare", *arguments, timeout=60)
    assert refused.returncode == 2
    assert refused.stdout == ""
    first, *listed = refused.stderr.splitlines()
    count = f"packing environment: {len(bad)} of {len(bad) + 3} recordings"
    assert first == (
        f"error: {count} cannot be used; --skip-bad of python -m jaxsep.prepare leaves them out:"
    )
    assert len(listed) == len(bad), "a line for each"
    for name, reason in bad.items():
        (line,) = [line for line in listed if f"{display(name)}: " in line]
        assert line.startswith(f"  {display(root / 'train' / 'c0' / name)}: ")
        assert reason in line
    assert not list(packs.iterdir())
    assert main([*arguments, "--skip-bad"]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == [f"{count} are left out:", *listed]
    assert out.splitlines()[-1].split() == ["left", "out", str(len(bad))]


def test_a_training_finds_the_pack_made_without_bad_recordings_and_says_so(tmp_path, capsys):
    root, packs = write_tree(tmp_path / "root", classes=2, clips=1), tmp_path / "packs"
    bad = write_bad(root / "train" / "c0")
    first = prepare(root, "speech", RATE, packs, skip_bad=True)
    capsys.readouterr()
    again = prepare(root, "speech", RATE, packs)
    assert again.audio.filename == first.audio.filename
    assert len(list(packs.iterdir())) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"speech: {len(bad)} recordings are left out of the pack (as train/c0/")
    assert again.left_out.keys() == {f"train/c0/{name}" for name in bad}
    assert all(reason in again.left_out[f"train/c0/{name}"] for name, reason in bad.items())
    assert prepare(again.folder, "speech", RATE, packs).left_out == again.left_out
    assert capsys.readouterr().err.splitlines() == [line]
    # What is left is what a dataset without them is.
    clean = prepare(write_tree(tmp_path / "clean", classes=2, clips=1), "speech", RATE, packs)
    np.testing.assert_array_equal(again.audio, clean.audio)
    assert again.paths == clean.paths
    assert again.fingerprint != clean.fingerprint


def test_a_bad_recording_that_was_mended_is_packed(tmp_path):
    root, packs = write_tree(tmp_path / "root", classes=1, clips=1), tmp_path / "packs"
    (root / "train/c0/1.wav").symlink_to(tmp_path / "later.wav")
    assert len(prepare(root, "speech", RATE, packs, skip_bad=True).left_out) == 1
    write(tmp_path / "later.wav", SOUND)
    mended = prepare(root, "speech", RATE, packs)
    assert mended.left_out == {}
    assert "train/c0/1.wav" in mended.paths


@pytest.mark.parametrize("skip", [(), ("--skip-bad",)])
def test_nothing_but_bad_recordings_is_an_error_either_way(tmp_path, capsys, skip):
    root, packs = tmp_path / "root", tmp_path / "packs"
    (root / "train" / "c0").mkdir(parents=True)
    (root / "train" / "c0" / "0.wav").write_bytes(b"")
    assert main([str(root), "--name", "speech", "-o", str(packs), *skip]) == 2
    said = (
        "error: data.speech_root: " if skip else "error: packing speech: 1 of 1 recordings cannot"
    )
    assert said in capsys.readouterr().err
    assert not list(packs.iterdir())


def test_a_mixture_of_which_one_role_is_bad_is_left_out_whole(tmp_path, capsys):
    base = write_wsj0(tmp_path / "wsj0") / "2speakers/wav8k/min"
    (base / "tr/s1/extra.mp3").write_bytes(b"x")
    cut, missing = "011a0101_1.8_20aa010b_-1.8.wav", "440c0201_1.0_441c0202_-1.0.wav"
    for role in ("s1", "s2"):
        (base / "tr" / role / cut).write_bytes((base / "tr" / role / cut).read_bytes()[:-100])
    (base / "tt/mix" / missing).unlink()
    arguments = [str(tmp_path / "wsj0"), "--name", "premixed", "-o", str(tmp_path / "packs")]
    assert main(arguments) == 2
    others, first, *listed = capsys.readouterr().err.splitlines()
    assert others == "premixed: not taken: 1 .mp3"
    assert "2 of 7 recordings cannot be used" in first
    where = "2speakers/wav8k/min"
    for line, start in zip(
        listed,
        (f"tr/mix/{cut}: {where}/tr/s1/{cut}: is cut short", f"tt/mix/{missing}: cannot be read"),
        strict=True,
    ):
        assert line.startswith(f"  {base}/{start}")
    assert main([*arguments, "--skip-bad"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["left", "out", "2"]
    left = prepare(tmp_path / "wsj0", "premixed", RATE, tmp_path / "packs")
    for role in ("mix", "s1", "s2"):
        (base / "tr" / role / cut).unlink()
        (base / "tt" / role / missing).unlink(missing_ok=True)
    clean = prepare(tmp_path / "wsj0", "premixed", RATE, tmp_path / "packs")
    for name in ("audio", "offsets", "lengths", "classes", "splits", "snr", "contents"):
        np.testing.assert_array_equal(getattr(left, name), getattr(clean, name))
    assert (left.paths, left.class_names) == (clean.paths, clean.class_names)


# (content, channels, tolerance: a step of the format, or the codec's loss)
GOOD = [
    ("8.wav", encoded(SOUND, "WAV", "PCM_U8"), 1, 2.0**-7),
    ("24.wav", encoded(SOUND, "WAV", "PCM_24"), 1, 2.0**-23),
    ("32.wav", encoded(SOUND, "WAV", "PCM_32"), 1, 2.0**-24),
    ("float.wav", encoded(SOUND, "WAV", "FLOAT"), 1, 2.0**-24),
    ("double.wav", encoded(SOUND, "WAV", "DOUBLE"), 1, 2.0**-24),
    ("rf64.wav", encoded(SOUND, "RF64", "PCM_24"), 1, 2.0**-23),
    ("flac.wav", encoded(SOUND, "FLAC", "PCM_24"), 1, 2.0**-23),
    ("ogg.flac", encoded(SOUND, "OGG"), 1, 0.2),
    ("many.wav", encoded(np.repeat(SOUND[:, None], 200, axis=1), "WAV", "PCM_24"), 200, 2.0**-22),
    ("streamed.wav", wav(PCM, claimed=2**32 - 1), 1, 2.0**-15),
    (os.fsdecode(b"caf\xe9.wav"), encoded(SOUND, "WAV", "FLOAT"), 1, 2.0**-24),
    ("a" * 251 + ".wav", encoded(SOUND, "WAV", "FLOAT"), 1, 2.0**-24),
]


@pytest.mark.parametrize(
    ("name", "content", "channels", "atol"), GOOD, ids=[display(name)[-12:] for name, *_ in GOOD]
)
def test_odd_but_sound_recordings_are_taken(tmp_path, name, content, channels, atol):
    path = tmp_path / "train" / "c0" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    (path.parent / "link.wav").symlink_to(path)
    samples, number = read_audio(path, RATE)
    assert number == channels
    np.testing.assert_allclose(samples, SOUND, atol=atol, rtol=0)
    corpus = prepare(tmp_path, "speech", RATE, tmp_path / "packs")
    assert sorted(corpus.paths) == sorted([f"train/c0/{name}", "train/c0/link.wav"])
    np.testing.assert_array_equal(corpus.audio, np.tile(samples, 2))


def test_files_that_are_not_taken_are_told_in_one_line(tmp_path, capsys):
    root = write_tree(tmp_path / "root", classes=1, clips=1)
    for name in ("a.mp3", "b.mp3", "C.MP3", "d.m4a", "notes", ".hidden.mp3"):
        (root / "train/c0" / name).write_bytes(b"x")
    write(root / "train" / "homeless.wav", SOUND)
    (root / "train/c0/more").symlink_to(root / "val")
    corpus = prepare(root, "speech", RATE, tmp_path / "packs")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("speech: not taken: 3 .mp3, ")
    others = {"1 .m4a", "1 without suffix", "1 links to folders", "1 .wav outside of a class"}
    assert set(line.removeprefix("speech: not taken: 3 .mp3, ").split(", ")) == others
    assert len(corpus.paths) == 3


@pytest.mark.parametrize(("name", "root"), [("speech", "a" * 300), ("premixed", "loop/deeper")])
def test_a_root_that_no_system_can_open_is_one_line(tmp_path, capsys, name, root):
    (tmp_path / "loop").symlink_to("loop")
    assert main([str(tmp_path / root), "--name", name, "-o", str(tmp_path / "packs")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: data.{name}_root: {tmp_path / root} is no readable folder (")
    assert said.count("\n") == 1


CLAIMS = {
    "flac, 2^36 - 1 samples": flac(2**36 - 1),
    "flac, 2^29 samples": flac(2**29),
    "flac, unknown": flac(0),
    "wav, 2 GB": wav(PCM, claimed=2**31 - 2),
    "wav, 1 Hz": wav(PCM * 50, rate=1),
    "wav, 1024 channels": wav(PCM, channels=1024, claimed=2**31 - 2),
    "au, 4 GB": b".snd" + struct.pack(">5I", 24, 2**32 - 2, 3, RATE, 1) + PCM,
    "aiff": encoded(SOUND, "AIFF").replace(struct.pack(">I", 2000), struct.pack(">I", 2**31 - 1)),
}
READS = """
import resource, sys, tracemalloc
from jaxsep.data.audio import read_audio
from jaxsep.errors import DataError
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
for path in sys.argv[1:]:
    before = peak()
    tracemalloc.start()
    try:
        result = read_audio(path, 8000)[0].size
    except DataError:
        result = "DataError"
    print(result, max(peak() - before, tracemalloc.get_traced_memory()[1]) >> 20)
    tracemalloc.stop()
"""


def test_a_header_that_claims_gigabytes_takes_no_memory(tmp_path):
    paths = [tmp_path / f"{number}.wav" for number in range(len(CLAIMS))]
    for path, content in zip(paths, CLAIMS.values(), strict=True):
        path.write_bytes(content)
    # Enough for the libraries, whose threads reserve some.
    words = limited([sys.executable, "-c", READS, *map(str, paths)], most_memory=6 << 30)
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for name, line in zip(CLAIMS, lines, strict=True):
        result, megabytes = line.split()
        assert result == "DataError" or int(result) <= 2000, name
        assert int(megabytes) < 32, name


@pytest.mark.parametrize("form", ["WAV", "FLAC"])
@settings(max_examples=100)
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_recording_that_is_cut_anywhere_is_never_taken_for_whole(tmp_path_factory, form, part):
    content = encoded(noise(0, 30000), form)
    path = tmp_path_factory.mktemp("cut") / "x.wav"
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(DataError):
        read_audio(path, RATE)


@pytest.mark.parametrize(("form", "start"), [("FLAC", 100), ("OGG", 5000)])
@settings(max_examples=100)
@given(part=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_compressed_sound_with_a_changed_byte_loses_no_part_unseen(
    tmp_path_factory, form, start, part, change
):
    content = bytearray(encoded(noise(0, 30000), form))
    folder = tmp_path_factory.mktemp("changed")
    (folder / "whole.wav").write_bytes(content)
    content[start + int(part * (len(content) - start))] ^= change
    (folder / "x.wav").write_bytes(content)
    try:
        samples, _ = read_audio(folder / "x.wav", RATE)
    except DataError:
        return
    np.testing.assert_array_equal(samples, read_audio(folder / "whole.wav", RATE)[0])


@settings(max_examples=100)
@given(place=st.integers(0, 60043), value=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_read_as_finite_sound(tmp_path_factory, place, value):
    content = bytearray(wav((noise(0, 30000) * 2**15).astype("<i2").tobytes()))
    content[place % 60 if place % 2 else place] = value  # half of them in the header
    path = tmp_path_factory.mktemp("changed") / "x.wav"
    path.write_bytes(content)
    try:
        samples, _ = read_audio(path, RATE)
    except DataError:
        return
    assert np.isfinite(samples).all()
    assert 1 <= samples.size <= 8 * 60044
