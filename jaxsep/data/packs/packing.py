"""From a dataset to its pack: the one that was made before, or every recording decoded once.

A corpus and a premixed set go the same way: a recording here is one row of a dataset, a file, or
the files of a mixture and its sources, which must be equally long.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.console import progress, say
from jaxsep.data.audio import MAX_SAMPLE_RATE, file_sha256, read_audio
from jaxsep.data.layouts import (
    ESC50_TABLE,
    PAPER_TRAIN_UTTERANCES,
    SPLITS,
    SYNTHETIC_MARKER,
    Dataset,
    Row,
    read_layout,
)
from jaxsep.data.levels import frame_energies, power_ratio, remove_mean
from jaxsep.data.packs.format import (
    AUDIO,
    FORMAT_VERSION,
    INDEX,
    Pack,
    open_packed,
    write_index,
)
from jaxsep.errors import DataError
from jaxsep.files import atomic_folder, display

# Of what a fingerprint covers. The form of packs may change: runs on the same recordings are still
# compared.
FINGERPRINT_VERSION = 2


def prepare(
    root: str | os.PathLike,
    name: str,
    sample_rate: int,
    cache_dir: str | os.PathLike,
    *,
    roles: Sequence[str] = (),
    skip_bad: bool = False,
) -> Pack:
    """Packs a dataset into `cache_dir/NAME-RATE-STAMP/`, or opens what was packed there before.

    Several channels are averaged (one warning). Recordings of a corpus that are digital silence
    throughout (one constant value) are left out (one line). Files beside the recordings that are
    not taken are counted (one line). A damaged pack is told in one line and made again. A pack that
    lacks recordings of its dataset says so whenever it is used again (one line).

    Args:
        root: a dataset in a known layout (see `layouts`), which is never written to; or a packed
            folder, which is opened.
        name: 'speech', 'environment' or 'premixed'.
        sample_rate: Hz.
        cache_dir: where packs lie; made if missing.
        roles: of a premixed set, the mixture's first; see `read_layout`.
        skip_bad: leave out recordings that cannot be used, and list them, instead of refusing the
            dataset. Later calls use that pack whether this is given or not.

    Raises:
        DataError: the root is missing, empty or of no known layout; recordings cannot be used (all
            are listed); there is no sound at all; a packed folder has another name, rate or roles;
            the cache cannot be written.
    """
    root = Path(root)
    if not 1 <= sample_rate <= MAX_SAMPLE_RATE:
        raise DataError(
            f"data.sample_rate: is {sample_rate}; must be 1 to {MAX_SAMPLE_RATE:,} (Hz)"
        )
    if os.path.isfile(root / INDEX):  # Path.is_file raises for names too long, closed folders
        pack = _open(root)
        wanted = {"name": name, "sample_rate": sample_rate, "roles": tuple(roles) or pack.roles}
        for attribute, value in wanted.items():
            if (packed := getattr(pack, attribute)) != value:
                raise DataError(
                    f"data.{name}_root: {display(root)} is packed with the {attribute} "
                    f"{packed!r}; must be {value!r}"
                )
        return pack
    dataset = read_layout(root, name, sample_rate=sample_rate, roles=roles)
    if dataset.others:
        counts = (f"{count:,} {display(kind)}" for kind, count in dataset.others.most_common())
        say(f"{name}: not taken: {', '.join(counts)}")
    if dataset.layout == "wsj0-2mix":
        count = sum(row.split == "train" for row in dataset.rows)
        paper = f"the paper: {PAPER_TRAIN_UTTERANCES:,}"
        say(f"{name}: {count:,} training utterances in WSJ0-2mix ({paper})")
    header = {
        "name": name,
        "layout": dataset.layout,
        "sample_rate": sample_rate,
        "synthetic": (root / SYNTHETIC_MARKER).is_file(),
        "roles": dataset.roles,
    }
    digest = _fingerprint(root, dataset, header)
    target = Path(cache_dir) / f"{name}-{sample_rate}-{_stamp(root, dataset, digest)[:12]}"
    if target.is_dir():
        try:
            return _open(target)
        except DataError as error:
            say(f"warning: {error}; packing again")
            shutil.rmtree(target, ignore_errors=True)
    try:
        # Equal names mean equal contents: the work of another process is kept.
        with atomic_folder(target, complete=INDEX) as folder:
            _pack(root, dataset.rows, header, digest, folder, skip_bad=skip_bad)
    except OSError as error:
        raise DataError(
            f"{display(target)}: cannot be written ({error.strerror or error})"
        ) from error
    return open_packed(target)


def _open(folder: Path) -> Pack:
    """`open_packed`, and one line on the recordings that the pack lacks, if there are any."""
    pack = open_packed(folder)
    for path, reason in list(pack.left_out.items())[:1]:
        say(
            f"{pack.name}: {len(pack.left_out):,} recordings are left out of the pack "
            f"(as {display(path)}: {reason})"
        )
    return pack


def _fingerprint(root: Path, dataset: Dataset, header: dict[str, Any]) -> Any:
    """A SHA-256 of all that decides what is packed; packing adds the path and content of each file.

    The result is the same on every machine: runs and results are compared by it.
    """
    if dataset.roles:
        facts = {
            "name": header["name"],
            "layout": dataset.layout,
            "rate": header["sample_rate"],
            "roles": dataset.roles,
            "splits": [row.split for row in dataset.rows],
        }
    else:
        rows = [(*row.classes[0], row.split) for row in dataset.rows]
        facts = {key: value for key, value in header.items() if key != "roles"}
        facts |= {"kind": "corpus", "rows": rows}
    digest = hashlib.sha256(json.dumps([FINGERPRINT_VERSION, facts], sort_keys=True).encode())
    if dataset.layout == "esc50":
        digest.update((root / ESC50_TABLE).read_bytes())
    return digest


def _stamp(root: Path, dataset: Dataset, digest: Any) -> str:
    """SHA-256 (hex) that finds the pack of a dataset again without reading its recordings.

    It covers `digest`, and path, size and modification time (ns) of each file. 200,000 files take
    seconds.
    """
    digest, folder = digest.copy(), os.fspath(root)
    digest.update(bytes([FORMAT_VERSION]))
    for path in (path for row in dataset.rows for path in row.paths):
        try:
            status = os.stat(os.path.join(folder, path))  # a Path for each would double the time
            size, modified = status.st_size, status.st_mtime_ns
        except OSError:
            size = modified = -1  # reported with its reason when it is decoded
        digest.update(os.fsencode(path) + f"\0{size}\0{modified}\0".encode())
    return digest.hexdigest()


def _pack(
    root: Path,
    rows: Sequence[Row],
    header: dict[str, Any],
    digest: Any,
    folder: Path,
    *,
    skip_bad: bool,
) -> None:
    """Decodes every recording into a pack in `folder`; adds paths and contents to `digest`."""
    name, rate = header["name"], header["sample_rate"]
    title = f"packing {name}"
    kept: list[Row] = []
    lengths, contents, energies, snr = [], [], [], []
    several_channels: list[str] = []
    bad: dict[str, str] = {}
    silent: dict[str, str] = {}
    checksum = hashlib.sha256()
    with open(folder / AUDIO, "wb") as audio:
        for row in progress(rows, desc=title, unit="file", disable=None):
            first = row.paths[0]
            try:
                signals, channels, sha256 = _decode(root, row.paths, rate)
            except DataError as error:
                reason = str(error).removeprefix(f"{display(root / first)}: ")
                bad[first] = reason.removeprefix(f"{display(root)}/")
                continue
            for path, number, sha in zip(row.paths, channels, sha256, strict=True):
                digest.update(os.fsencode(path) + b"\0" + sha)
                if number > 1:
                    several_channels.append(f"{display(path)}: {number}")
            if not header["roles"] and signals.min() == signals.max():
                silent[first] = "digital silence"
                continue
            content = signals.astype("<f4", copy=False).tobytes()
            audio.write(content)
            checksum.update(content)
            kept.append(row)
            lengths.append(signals.shape[1])
            contents += sha256
            energies.append(frame_energies(signals[0], rate))
            snr.append(power_ratio(remove_mean(signals[1:])))
    _tell(root, title, len(rows), several_channels, bad, silent, skip_bad=skip_bad)
    if not kept:
        raise DataError(
            f"data.{name}_root: {display(root)} holds no sound that can be used; "
            f"at least one is needed"
        )
    groups = dict(sorted({pair for row in kept for pair in row.classes}))
    ids = {class_name: index for index, class_name in enumerate(groups)}
    classes = np.array([[ids[class_name] for class_name, _ in row.classes] for row in kept])
    sizes = len(kept[0].paths) * np.array(lengths)
    write_index(
        folder,
        **header,
        fingerprint=digest.hexdigest(),
        audio_sha256=checksum.hexdigest(),
        offsets=np.cumsum(sizes) - sizes,
        lengths=np.array(lengths),
        classes=(classes if header["roles"] else classes[:, 0]).astype(np.int32),
        splits=np.array([SPLITS.index(row.split) for row in kept], np.int8),
        paths=[row.paths[0] for row in kept],
        contents=np.frombuffer(b"".join(contents), np.uint8).reshape(len(kept), -1, 32),
        class_names=list(groups),
        class_groups=list(groups.values()),
        left_out=bad | silent,
        energies=np.concatenate(energies),
        energy_offsets=np.cumsum([0, *(frames.size for frames in energies)]),
        snr=np.array(snr, np.float32),
    )


def _tell(
    root: Path,
    title: str,
    total: int,
    several_channels: Sequence[str],
    bad: dict[str, str],
    silent: dict[str, str],
    *,
    skip_bad: bool,
) -> None:
    """Says what was averaged or left out of `total` recordings.

    Raises:
        DataError: there are bad recordings, and skip_bad is false; the message lists all of them.
    """
    if several_channels:
        say(
            f"warning: {title}: {len(several_channels)} files have several channels, "
            f"averaged (as {several_channels[0]})"
        )
    if bad:
        count = f"{title}: {len(bad):,} of {total:,} recordings"
        listed = "".join(f"\n  {display(root / path)}: {why}" for path, why in bad.items())
        if not skip_bad:
            advice = "--skip-bad of python -m jaxsep.prepare leaves them out"
            raise DataError(f"{count} cannot be used; {advice}:{listed}")
        say(f"{count} are left out:{listed}")
    if silent:
        say(f"{title}: {len(silent)} of {total} recordings are digital silence and left out")


def _decode(
    root: Path, paths: Sequence[str], sample_rate: int
) -> tuple[np.ndarray, list[int], list[bytes]]:
    """(signals [F,T], channels that the files had, their SHA-256) of files of equal lengths."""
    signals, channels = zip(*(read_audio(root / path, sample_rate) for path in paths), strict=True)
    if len({signal.size for signal in signals}) > 1:
        lengths = ", ".join(str(signal.size) for signal in signals)
        raise DataError(
            f"{display(root / paths[0])}: its roles have {lengths} samples; "
            f"they must be equally long"
        )
    return np.stack(signals), list(channels), [file_sha256(root / path) for path in paths]
