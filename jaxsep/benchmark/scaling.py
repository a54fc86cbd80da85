"""How far it reaches: memory as the batch grows in parts, what devices exchange and need to be fed, corpora of many hours."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.benchmark.flops import network_flops
from jaxsep.benchmark.processes import Results
from jaxsep.benchmark.rows import GB, MS, setting
from jaxsep.benchmark.table import Row, summary
from jaxsep.data.packs.corpus import KIND, frame_size
from jaxsep.data.packs.format import AUDIO, finish_pack, pack_paths

# What a GPU is taken to make of its float32 arithmetic, for an estimate of what a node of them needs.
GPUS, GPU_FLOPS = 8, 20e12
RECORDING_SECONDS = 6.0  # of the recordings of a corpus of many hours


def part_rows(cases: dict[str, dict[str, Any]], results: Results) -> list[Row]:
    """Largest memory and time per example of batches taken in parts of one size."""
    rows = []
    for name, of in cases.items():
        values, where = results[name], f"{setting(of)}, parts of {of['micro_batch']}"
        on_device = "device_bytes" in values
        largest = summary([max(values["device_bytes" if on_device else "peak_bytes"])], GB)
        note = "of the device, largest" if on_device else "resident, largest, compiler included"
        rows.append(Row("reach", "step in parts, paper's network", where, "GB", largest, note=note))
        each = summary(values["seconds"], MS / of["batch"])
        rows.append(Row("reach", "step in parts, paper's network", where, "ms/example", each))
    return rows


def node_rows(ours: dict[str, Any], drawn: dict[str, Any], results: Results) -> list[Row]:
    """What several devices exchange in a step, and what a node of GPUs needs to be fed."""
    where, params = setting(ours), results["ours"]["parameters"][0]
    samples = round(ours["seconds"] * ours["sample_rate"])
    flops = network_flops(ours["family"], ours["network"], batch=1, num_samples=samples, train=True)
    step = summary(results["ours"]["seconds"], MS)
    rendered = summary([drawn["mixtures"] / value for value in results["drawn"]["seconds"]])
    needed, share = GPUS * GPU_FLOPS / flops, 4e-6 * params
    guess = f"{GPUS} GPUs at an assumed {GPU_FLOPS * 1e-12:.0f} TFLOP/s, {flops * 1e-9:.4g} GFLOP a mixture"

    def single(name: str, unit: str, value: float, note: str) -> Row:
        return Row("reach", name, where, unit, summary([value]), note=note)

    return [
        single(
            "gradient summed over devices",
            "MB/step",
            share,
            f"beside a step of {step.median:.4g} ms here",
        ),
        single("mixtures that a node needs", "1/s", needed, guess),
        Row("reach", "mixtures rendered by one core", where, "1/s", rendered),
        single(
            "cores that render for a node", "cores", needed / rendered.median, "needed / rendered"
        ),
    ]


def corpus_rows(cases: dict[str, dict[str, Any]], results: Results) -> list[Row]:
    """Time and memory of opening a packed corpus and drawing a batch of it."""
    rows = []
    for name, of in cases.items():
        where, values = f"{of['hours']:,} h", results[name]
        count = round(of["hours"] * 3600 / RECORDING_SECONDS)
        opened, size = summary(values["seconds"]), summary([max(values["grown_bytes"])], GB)
        rows.append(
            Row("reach", "packed corpus opened", where, "s", opened, note=f"{count:,} recordings")
        )
        rows.append(
            Row(
                "reach",
                "packed corpus in memory",
                where,
                "GB",
                size,
                note="its index; audio stays on disk",
            )
        )
    return rows


def make_corpus(folder: Path, hours: float, sample_rate: int) -> None:
    """A packed corpus of so many hours whose audio is a hole in a file: it takes no space on disk."""
    count, length = round(hours * 3600 / RECORDING_SECONDS), round(RECORDING_SECONDS * sample_rate)
    frames = -(-length // frame_size(sample_rate))
    names = [f"speaker{n:04d}" for n in range(1000)]
    arrays: dict[str, np.ndarray] = {
        "offsets": np.arange(count, dtype=np.int64) * length,
        "lengths": np.full(count, length, np.int64),
        "classes": np.arange(count, dtype=np.int32) % len(names),
        "splits": np.zeros(count, np.int8),
        "paths": pack_paths([f"train/{names[n % len(names)]}/{n:07d}.flac" for n in range(count)]),
        "energies": np.ones(count * frames, np.float32),
        "energy_offsets": np.arange(count + 1, dtype=np.int64) * frames,
        "contents": np.zeros((count, 32), np.uint8),
    }
    header: dict[str, Any] = {
        "kind": KIND,
        "name": "speech",
        "layout": "tree",
        "sample_rate": sample_rate,
        "synthetic": True,
    }
    header |= {"fingerprint": "0" * 64, "audio_sha256": "0" * 64, "left_out": []}
    header |= {"class_names": names, "class_groups": ["speech"] * len(names)}
    folder.mkdir()
    with open(folder / AUDIO, "wb") as audio:
        audio.truncate(4 * count * length)
        audio.seek(4 * count * length)
        finish_pack(folder, audio, header, arrays)


def corpora(hours: tuple[int, ...], sample_rate: int, folder: str) -> dict[str, dict[str, Any]]:
    """A packed corpus of each size in the folder, and the cases that open them."""
    cases = {}
    for count in hours:
        path = Path(folder) / f"{count}-hours"
        make_corpus(path, count, sample_rate)
        cases[str(count)] = {"side": "ours", "kind": "open", "hours": count, "path": str(path)}
    return cases
