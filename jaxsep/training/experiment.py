"""Whole experiments: a configuration and a folder in, a summary out."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxsep
from jaxsep import models
from jaxsep.config.schema import Config
from jaxsep.data.audio import write_wav
from jaxsep.errors import ConfigError, DataError, Interrupted, ModelError, RunError
from jaxsep.evaluation.evaluate import Rows, make_eval_step
from jaxsep.evaluation.excerpts import aligned, pick_excerpts
from jaxsep.evaluation.statistics import average, metric, summarise_alone
from jaxsep.evaluation.tables import distribution_table, write_csv
from jaxsep.files import read_json
from jaxsep.inference.bundle import load_bundle, save_bundle
from jaxsep.training import replay as skipped
from jaxsep.training.build import Parts, build, build_sets, params_to_start_from
from jaxsep.training.checkpoint import has_checkpoint
from jaxsep.training.devices import Devices
from jaxsep.training.loop import Run, score
from jaxsep.training.signals import Stop
from jaxsep.training.workdir import claim, own_config, write_text


def train(config: Config, workdir: Path) -> dict[str, Any]:
    """Train, or go on, or find finished; then score the test set and write the results. Returns summary.json's content.

    Raises:
      ConfigError, DataError: before anything is compiled or written.
      RunError: the folder cannot be written or read, or too many steps were skipped; what was saved before is intact.
      Interrupted: a signal arrived; the run is saved.
      OtherProcessError: another process cannot go on.
    """
    devices = Devices()
    parts = devices.in_turn(lambda: build(config, devices=devices.count))
    with ExitStack() as held:
        params, done = devices.in_turn(
            lambda: begin(parts, workdir, held) if devices.first else (None, None)
        )
        done = devices.tell(done)
        if done is None:
            done = fit_and_conclude(parts, workdir, devices, params)
    if devices.first:
        print(report(done, workdir))
    return done


def fit_and_conclude(parts: Parts, workdir: Path, devices: Devices, params: Any) -> dict[str, Any]:
    """The run from where it stands to its end; the content of summary.json."""
    with writing(workdir):
        run = Run(parts, workdir, devices, params)
        try:
            run.fit()
            return conclude(run)
        except Interrupted as interruption:
            step = int(run.state.step)
            if devices.first:
                print(
                    f"{interruption}: saved at step {step}; the same command goes on from here",
                    file=sys.stderr,
                )
            raise
        finally:
            run.close()


@contextmanager
def writing(workdir: Path) -> Iterator[None]:
    """All data are open by now: what goes wrong inside is of writing, and becomes a RunError."""
    safe = "what was saved before is as it was, and the same command goes on from there"
    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename or workdir}: {error.strerror or error}; {safe}") from error
    except (DataError, ModelError) as error:
        raise RunError(f"{error}; {safe}") from error


def begin(parts: Parts, workdir: Path, held: ExitStack) -> tuple[Any, dict[str, Any] | None]:
    """The folder made this run's as long as `held` is open: the parameters to start from, None for fresh or saved ones, and
    the summary of a run that is finished."""
    params = (
        None if has_checkpoint(workdir / "checkpoints", "last") else params_to_start_from(parts)
    )
    claim(workdir, parts, held)
    done = finished(workdir, parts.config)
    if done is None:
        announce(parts, workdir)
    return params, done


def finished(workdir: Path, config: Config) -> dict[str, Any] | None:
    """summary.json of a run that has nothing left to do, or None."""
    path = workdir / "summary.json"
    if not path.exists():
        return None
    try:
        summary = read_json(path)
        report(summary, workdir).encode()  # whatever is said of it later can be
        return summary if summary["num_epochs"] == config.train.num_epochs else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ConfigError(
            f"--workdir {workdir}: summary.json is damaged ({error!r:.200}); removed, it is written again by the same command"
        ) from error


def announce(parts: Parts, workdir: Path) -> None:
    """What is about to happen, in a line or two."""
    chosen, corpora = parts.config.weighting, parts.sets.table.corpora
    classes = ", ".join(f"{corpora.count(name)} {name} classes" for name in sorted(set(corpora)))
    mixtures = (
        "premixed" if parts.config.data.premixed_root else " + ".join(parts.config.data.slots)
    )
    print(
        f"{workdir}: {chosen.name} weighting per {chosen.granularity}; mixtures: {mixtures}; {classes}"
    )
    if parts.sets.synthetic:
        print("the sound is synthetic: no figure of this run says anything about recordings")


def conclude(run: Run) -> dict[str, Any]:
    """Score best and last on the test set; the first process writes tables, excerpts, model and summary.json."""
    parts, workdir, progress = run.parts, run.workdir, run.progress
    config, table, data = parts.config, parts.sets.table, parts.sets.kind
    best, best_epoch, value = run.best()
    scored = {split: run.score(best, split) for split in ("val", "test")}
    last = (
        progress.tests.get(str(progress.epoch - 1)) or run.score(run.state.eval_params, "test")[1]
    )
    value = metric(scored["val"][1], config.train.best_metric) if value is None else value
    if not run.devices.first:
        return {}
    params = jax.device_get(best)
    folder = workdir / "evaluation"
    folder.mkdir(exist_ok=True)
    for split, (rows, _) in scored.items():
        write_csv(
            folder / f"{split}.csv", rows, table.names, table.groups, table.corpora, data=data
        )
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
            "skipped": progress.skipped,
            "parameters": models.count_params(params),
        },
        "best": {"epoch": best_epoch + 1, "metric": config.train.best_metric, "value": value},
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
            "weighting": config.weighting.model_dump(),
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
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
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
        target = partial / f"{place}-mixture{index}"
        target.mkdir(parents=True, exist_ok=True)
        for name, signal in signals.items():
            write_wav(target / f"{name}.wav", gain * signal, rate)
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier end of this run
    os.replace(partial, folder)


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
        lines.insert(
            2,
            f"alone in their mixture: SI-SDR mean {alone['mean']:.2f} dB over {alone['n']} sources",
        )
    return "\n".join(lines)


def evaluate_run(overrides: Sequence[str], workdir: Path) -> dict[str, Any]:
    """Score a finished run's best parameters on the test split of any data.

    Args:
      overrides: '--config.field=value', of the run's own configuration: other data, evaluation.batch_size; and
        '--config.model.family=package.module:Class', which allows to run the code of a network outside jaxsep that the run's
        files name: a file is no reason to run anything.
      workdir: the run's.

    Writes workdir/evaluation/on-FINGERPRINT/test.csv and summary.json, one folder per set of test mixtures.

    Raises:
      ConfigError, DataError: before anything is compiled or written.
      ModelError: the run holds no model.
      RunError: the results cannot be written.
    """
    devices = Devices()
    config = own_config(workdir, overrides, "evaluate")
    module, params, description = load_bundle(workdir, trust=config.model.family)
    if config.data.sample_rate != description["sample_rate"]:
        raise ConfigError(
            f"data.sample_rate is {config.data.sample_rate}, the model's is {description['sample_rate']}"
        )
    sets = build_sets(config, ("test",))
    if not sets.scored_classes("test"):
        raise ConfigError(
            "no mixture of test has two sources that sound, and SI-SDR improvement needs them"
        )
    eval_step = devices.eval_step(make_eval_step(module.apply, zero_mean=config.loss.zero_mean))
    stop, batch_size = Stop(devices), config.evaluation.batch_size
    try:
        rows, summaries = score(
            sets, devices, eval_step, devices.copy(params), "test", batch_size, stop
        )
    except Interrupted as interruption:
        print(f"{interruption}: stopped, nothing written", file=sys.stderr)
        raise
    finally:
        stop.close()
    if not devices.first:
        return {}
    data = sets.kind
    mixtures = [
        *sets.pools["test"].fingerprints,
        *(array.tobytes().hex() for array in sets.recipes["test"].values()),
    ]
    name = hashlib.sha256("\n".join(mixtures).encode()).hexdigest()[:12]
    folder, table = workdir / "evaluation" / f"on-{name}", sets.table
    summary: dict[str, Any] = {
        "jaxsep": jaxsep.__version__,
        "data": {"kind": data, **config.data.model_dump()},
    }
    summary["test"] = describe(rows, summaries)
    with writing(workdir):
        sets.save_recipes(folder / "recipes")
        write_csv(folder / "test.csv", rows, table.names, table.groups, table.corpora, data=data)
        write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    print(
        f"\nTest set of {data}\n{distribution_table(summaries)}\nresults: {folder}/summary.json, test.csv"
    )
    return summary


def replay_run(overrides: Sequence[str], workdir: Path) -> None:
    """Take the skipped steps of a run again that it kept, and print which mixtures give no numbers.

    Args:
      overrides: as of `evaluate_run`; the recordings must be the run's.
      workdir: the run's.

    Raises:
      ConfigError, DataError: what does not fit, also recordings that are not the run's.
      RunError: what was kept of a step is damaged.
    """
    devices = Devices()
    if jax.process_count() > 1:
        raise ConfigError(f"--mode replay takes one process, there are {jax.process_count()}")
    config = own_config(workdir, overrides, "replay")
    if not (workdir / skipped.FOLDER).is_dir():
        print(f"{workdir}: no step was skipped: there is nothing to replay")
        return
    skipped.replay(build(config, devices=devices.count), workdir, devices)
