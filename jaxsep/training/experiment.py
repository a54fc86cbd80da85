"""Whole experiments: a configuration and a folder in, a summary out."""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import jaxsep
from jaxsep import models, rules, settings
from jaxsep.data.audio import together, write_wav
from jaxsep.data.packing import atomic_file
from jaxsep.evaluation.evaluate import Rows, make_eval_step
from jaxsep.evaluation.excerpts import aligned, pick_excerpts
from jaxsep.evaluation.statistics import average, summarise_alone
from jaxsep.evaluation.tables import distribution_table, write_csv
from jaxsep.inference.bundle import load_bundle, save_bundle
from jaxsep.settings import SettingsError
from jaxsep.training.build import Parts, build, build_sets, params_to_start_from
from jaxsep.training.checkpoint import has_checkpoint
from jaxsep.training.devices import Devices
from jaxsep.training.run import Interrupted, Run, Stop, score


def train(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Train, or go on, or find finished; then score the test set and write the results. Returns summary.json's content.

    Raises:
      SettingsError, DataError: before anything is compiled or written.
      Interrupted: a signal arrived; the run is saved.
      ElsewhereError: another process cannot go on.
    """
    devices = Devices()
    parts = devices.in_turn(lambda: build(config, devices=devices.count))
    params, done = devices.in_turn(lambda: begin(parts, workdir) if devices.first else (None, None))
    done = devices.tell(done)
    if done is None:
        run = Run(parts, workdir, devices, params)
        try:
            run.fit()
            done = conclude(run)
        except Interrupted as interruption:
            step = int(run.state.step)
            if devices.first:
                print(f"{interruption}: saved at step {step}; the same command goes on from here", file=sys.stderr)
            raise
        finally:
            run.close()
    if devices.first:
        print(report(done, workdir))
    return done


def begin(parts: Parts, workdir: Path) -> tuple[Any, dict[str, Any] | None]:
    """The folder made this run's: the parameters to start from, None for fresh or saved ones, and the summary of a run that is
    finished."""
    params = None if has_checkpoint(workdir / "checkpoints", "last") else params_to_start_from(parts)
    claim(workdir, parts)
    done = finished(workdir, parts.config)
    if done is None:
        announce(parts, workdir)
    return params, done


def claim(workdir: Path, parts: Parts) -> None:
    """Make workdir this run's: write its config.json and recipes, or find them to be the same run's."""
    saved = workdir / "config.json"
    if saved.exists():
        different = settings.differences(read_config(workdir), parts.config)
        if different:
            raise SettingsError(f"--workdir {workdir} holds another run: {'; '.join(different)}; use another folder")
    elif workdir.is_dir() and any(workdir.iterdir()):
        raise SettingsError(
            f"--workdir {workdir} is neither empty nor a run's folder (no config.json); use another folder"
        )
    parts.sets.check_recipes(workdir / "recipes")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_text(saved, settings.to_json(parts.config))
        parts.sets.save_recipes(workdir / "recipes")
    except OSError as error:
        raise SettingsError(f"--workdir {workdir} cannot be written: {error.strerror}") from error


def read_config(workdir: Path) -> ConfigDict:
    """The configuration in a run's folder.

    Raises:
      SettingsError: it cannot be read, or has fields that are missing, unknown or wrong: all of them.
    """
    try:
        config = settings.from_json((workdir / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"--workdir {workdir}: config.json cannot be read ({error}); use a run's folder") from error
    if problems := rules.problems(config):
        raise SettingsError(f"--workdir {workdir}: config.json: {together(problems)}")
    return config


def finished(workdir: Path, config: ConfigDict) -> dict[str, Any] | None:
    """summary.json of a run that has nothing left to do, or None."""
    path = workdir / "summary.json"
    if not path.exists():
        return None
    summary = json.loads(path.read_text(encoding="utf-8"))
    return summary if summary["num_epochs"] == config.train.num_epochs else None


def announce(parts: Parts, workdir: Path) -> None:
    """What is about to happen, in a line or two."""
    chosen, corpora = parts.config.weighting, parts.sets.table.corpora
    classes = ", ".join(f"{corpora.count(name)} {name} classes" for name in sorted(set(corpora)))
    mixtures = "premixed" if parts.config.data.premixed_root else " + ".join(parts.config.data.slots)
    print(f"{workdir}: {chosen.name} weighting per {chosen.granularity}; mixtures: {mixtures}; {classes}")
    if parts.sets.synthetic:
        print("the sound is synthetic: no figure of this run says anything about recordings")


def conclude(run: Run) -> dict[str, Any]:
    """Score best and last on the test set; the first process writes tables, excerpts, model and summary.json."""
    parts, workdir, progress = run.parts, run.workdir, run.progress
    config, table, data = parts.config, parts.sets.table, parts.sets.kind
    best = run.params("best")
    scored = {split: run.score(best, split) for split in ("val", "test")}
    last = progress.tests.get(str(progress.epoch - 1)) or run.score(run.params("last"), "test")[1]
    if not run.devices.first:
        return {}
    params = jax.device_get(best)
    folder = workdir / "evaluation"
    folder.mkdir(exist_ok=True)
    for split, (rows, _) in scored.items():
        write_csv(folder / f"{split}.csv", rows, table.names, table.groups, table.corpora, data=data)
    write_excerpts(parts, params, scored["test"][0], folder / "audio")
    results = {split: describe(*found) for split, found in scored.items()}
    results["test_last"] = {"si_sdri": last}
    summary = {
        "jaxsep": jaxsep.__version__,
        "weighting": config.weighting.name,
        "scale": config.scale,
        "num_epochs": config.train.num_epochs,
        "data": {"kind": data, "fingerprints": list(parts.sets.pools["test"].fingerprints)},
        "training": {
            "epochs": progress.epoch,
            "steps": int(run.state.step),
            "seconds": round(progress.seconds, 1),
            "parameters": models.count_params(params),
        },
        "best": {"epoch": progress.best_epoch + 1, "metric": config.train.best_metric, "value": progress.best},
        **results,
    }
    if recent := run.recent_tests():
        summary["test_last_epochs"] = {"si_sdri": average(recent)}
    save_bundle(
        workdir / "model",
        params,
        family=config.model.family,
        fields=parts.fields,
        sample_rate=config.data.sample_rate,
        about={
            "classes": list(table.names),
            "data": data,
            "weighting": config.weighting.to_dict(),
            "training": summary["training"],
        },
    )
    write_text(workdir / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


def describe(rows: Rows, summaries: dict[str, Any]) -> dict[str, Any]:
    """What summary.json says of a split."""
    described = {"si_sdri": summaries}
    if np.any(rows["num_active"] == 1):
        described["si_sdr_alone"] = summarise_alone(rows)
    return described


def write_excerpts(parts: Parts, params: Any, rows: Rows, folder: Path) -> None:
    """The audio of test mixtures from the worst to the best: PLACE-RANK-mixtureINDEX/{mixture,sourceN-CLASS,estimateN}.wav."""
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier end of this run
    apply_fn = jax.jit(parts.module.apply)
    names, rate = parts.sets.table.names, parts.sets.sample_rate
    padded = parts.sets.padded_lengths("test")
    for place, index in pick_excerpts(rows):
        mixture = parts.sets.render("test", [index])
        length, samples = int(mixture["lengths"][0]), padded[index]
        heard = np.asarray(apply_fn({"params": params}, mixture["mixture"][:, :samples]))[0]
        sources, active = mixture["sources"][0, :, :length], mixture["active"][0]
        estimates = aligned(heard[:, :length], sources, active)
        signals = {"mixture": mixture["mixture"][0, :length]}
        for n, source in enumerate(sources):
            kind = names[mixture["class_ids"][0, n]] if active[n] else "silent"
            signals[f"source{n + 1}-{kind}"] = source
            signals[f"estimate{n + 1}"] = estimates[n]
        # One gain for all files of a mixture: they stay comparable, and none clips.
        gain = 0.9 / max(1e-9, *(float(np.abs(signal).max()) for signal in signals.values()))
        target = folder / f"{place}-mixture{index}"
        target.mkdir(parents=True, exist_ok=True)
        for name, signal in signals.items():
            write_wav(target / f"{name}.wav", gain * signal, rate)


def report(summary: dict[str, Any], workdir: Path) -> str:
    """The table on the screen."""
    best, training = summary["best"], summary["training"]
    label = "  [synthetic sound]" if summary["data"]["kind"] == "synthetic" else ""
    lines = [
        f"\nTest set, best epoch ({best['epoch']} of {training['epochs']}, by {best['metric']}){label}",
        distribution_table(summary["test"]["si_sdri"]),
        f"last epoch: combined mean {summary['test_last']['si_sdri']['combined']['mean']:.2f} dB"
        f"   training: {training['steps']} steps, {training['seconds'] / 60:.1f} min",
        f"results: {workdir}/summary.json, evaluation/test.csv (one row per source), evaluation/audio (to listen), model/",
    ]
    if "si_sdr_alone" in summary["test"]:
        alone = summary["test"]["si_sdr_alone"]
        lines.insert(2, f"alone in their mixture: SI-SDR mean {alone['mean']:.2f} dB over {alone['n']} sources")
    return "\n".join(lines)


def evaluate_run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Score a finished run's best parameters on the test split of any data; config is the run's, with other data perhaps.

    Writes workdir/evaluation/on-FINGERPRINT/test.csv and summary.json, one folder per set of test mixtures.

    Raises:
      SettingsError, DataError: before anything is compiled or written.
      BundleError: the run holds no model.
    """
    devices = Devices()
    rules.validate(config)
    changed = [name for name in settings.differences(read_config(workdir), config) if not name.startswith("data.")]
    if changed:
        raise SettingsError(f"--mode evaluate takes only other data and evaluation.batch_size, not {changed[0]}")
    module, params, description = load_bundle(workdir, trust=config.model.family)
    if config.data.sample_rate != description["sample_rate"]:
        raise SettingsError(
            f"data.sample_rate is {config.data.sample_rate}, the model's is {description['sample_rate']}"
        )
    sets = build_sets(config, ("test",))
    if not sets.scored_classes("test"):
        raise SettingsError("no mixture of test has two sources that sound, and SI-SDR improvement needs them")
    eval_step = devices.eval_step(make_eval_step(module.apply, zero_mean=config.loss.zero_mean))
    stop, batch_size = Stop(devices), config.evaluation.batch_size
    try:
        rows, summaries = score(sets, devices, eval_step, devices.copy(params), "test", batch_size, stop)
    except Interrupted as interruption:
        print(f"{interruption}: stopped, nothing written", file=sys.stderr)
        raise
    finally:
        stop.close()
    if not devices.first:
        return {}
    data = sets.kind
    mixtures = [*sets.pools["test"].fingerprints, *(array.tobytes().hex() for array in sets.recipes["test"].values())]
    name = hashlib.sha256("\n".join(mixtures).encode()).hexdigest()[:12]
    folder = workdir / "evaluation" / f"on-{name}"
    sets.save_recipes(folder / "recipes")
    table = sets.table
    write_csv(folder / "test.csv", rows, table.names, table.groups, table.corpora, data=data)
    summary: dict[str, Any] = {"jaxsep": jaxsep.__version__, "data": {"kind": data, **config.data.to_dict()}}
    summary["test"] = describe(rows, summaries)
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    print(f"\nTest set of {data}\n{distribution_table(summaries)}\nresults: {folder}/summary.json, test.csv")
    return summary


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with atomic_file(path) as stream:
        stream.write(text.encode())
