"""Folders of finished runs as the report reads them: no network, no training.

The tests choose the scores.
"""

import json
from pathlib import Path

import numpy as np
import soundfile

from jaxsep.config import load as settings
from jaxsep.data.packs.format import ClassTable
from jaxsep.evaluation.statistics import average, quantile_names, summarise_rows
from jaxsep.evaluation.tables import write_csv

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("anna", "bert", "dog", "rain", "bell")
GROUPS = ("speech", "speech", "animals", "nature", "things")
CORPORA = ("speech", "speech", "environment", "environment", "environment")
BY_SLOT = {"speech": (0, 1), "environment": (2, 3, 4)}
MIXTURES = 60


def recipe(slots, *, mixtures=MIXTURES, eval_seed=1):
    """The columns of test.csv that all runs on one test set share."""
    rng = np.random.default_rng(eval_seed)
    class_ids = np.stack(
        [rng.permutation(np.resize(BY_SLOT[slot], mixtures)) for slot in slots], axis=1
    )
    snr = rng.uniform(-30, 30, mixtures)
    return {
        "index": np.repeat(np.arange(mixtures), 2),
        "slot": np.tile([0, 1], mixtures),
        "class_id": class_ids.ravel(),
        "num_active": np.full(2 * mixtures, 2),
        "input_snr": np.stack([snr, -snr], axis=1).ravel(),
    }


def slim_run(
    folder,
    *overrides,
    config="class_bias.py",
    seed=0,
    shift=0.0,
    eval_seed=1,
    kind="recordings",
    corpus="environment",
    val=None,
):
    """Write the four files of a finished run. Returns its scores [rows] dB.

    Args:
      overrides: 'section.field=value', of the configuration.
      shift: added to the scores, which depend on the seed alone.
      corpus: the name of the second corpus.
      val: mean validation score by epoch.
    """
    given = [
        f"--config.{override}"
        for override in (f"seed={seed}", f"data.eval_seed={eval_seed}", *overrides)
    ]
    settled = settings.load(
        f"{ROOT}/configs/{config}:demo", ["--config.train.num_epochs=4", *given]
    )
    rows = recipe(settled.data.slots, eval_seed=eval_seed)
    corpora = tuple(corpus if name == "environment" else name for name in CORPORA)
    table = ClassTable(NAMES, GROUPS, corpora)
    scores = np.random.default_rng([seed, 3]).normal(5.0, 4.0, rows["index"].size).round(4) + shift
    rows |= {"si_sdri": scores, "si_sdr": scores + 1.0}
    tests = [summarise_rows({**rows, "si_sdri": scores + change}, table) for change in (-0.5, 0.5)]
    summary = {
        "jaxsep": "0.1.0",
        "num_epochs": 4,
        "data": {"kind": kind, "fingerprints": ["a" * 64, "b" * 64]},
        "training": {"epochs": 4, "steps": 240, "seconds": 90.0, "parameters": 1234},
        "test": {"si_sdri": summarise_rows(rows, table)},
        "test_last": {"si_sdri": tests[1]},
        "test_last_epochs": {"si_sdri": average(tests)},
    }
    records = [
        {"kind": "train", "step": step, "epoch": (step - 1) // 60, "ess": 16.0}
        for step in range(20, 241, 20)
    ]
    val = [1.0, 2.0, 3.0, 4.0] if val is None else val
    records += [
        {"kind": "val", "step": 60 * (e + 1), "epoch": e, "combined": v} for e, v in enumerate(val)
    ]
    records += [
        {"kind": "test", "step": 60 * (e + 1), "epoch": e, **headline(tests[e - 2])} for e in (2, 3)
    ]
    (folder / "evaluation").mkdir(parents=True)
    (folder / "config.json").write_text(settings.to_json(settled))
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_csv(folder / "evaluation" / "test.csv", rows, table, kind)
    return scores


def headline(summaries):
    """What a record of metrics.jsonl says of an evaluation."""
    combined = summaries["combined"]
    quantiles = {f"q{int(q):02d}": value for q, value in combined["quantiles"].items()}
    means = {name: summary["mean"] for name, summary in summaries.items() if ":" not in name}
    return {**means, "std": combined["std"], **{name: quantiles[name] for name in quantile_names()}}


def add_audio(folder, *, mixture=7, rate=4000):
    """Excerpts of `mixture`, the worst, and of the one after it, the best.

    Returns the names of the classes in every mixture.
    """
    class_ids = recipe(("speech", "environment"))["class_id"].reshape(-1, 2)
    classes = [[NAMES[class_id] for class_id in pair] for pair in class_ids]
    for place, number in {"best-1": mixture + 1, "worst-1": mixture}.items():
        target = folder / "evaluation" / "audio" / f"{place}-mixture{number}"
        target.mkdir(parents=True)
        first, second = classes[number]
        stems = ("mixture", f"source1-{first}", "estimate1", f"source2-{second}", "estimate2")
        for level, stem in enumerate(stems):
            samples = np.full(20, 0.1 * level, np.float32)
            soundfile.write(target / f"{stem}.wav", samples, rate, subtype="FLOAT")
    return classes


def edit(path, change):
    """Change the JSON in a file: change(content)."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
