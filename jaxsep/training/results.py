"""What a finished run leaves: tables, excerpts to listen to, the model, and summary.json."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxsep
from jaxsep import models
from jaxsep.config.schema import Config
from jaxsep.errors import ConfigError
from jaxsep.evaluation.evaluate import Rows
from jaxsep.evaluation.excerpts import write_excerpts
from jaxsep.evaluation.statistics import average, metric, summarise_alone
from jaxsep.evaluation.tables import distribution_table, write_csv
from jaxsep.files import atomic_file, read_json
from jaxsep.inference.bundle import save_bundle
from jaxsep.training.loop import Trainer


def conclude(trainer: Trainer) -> dict[str, Any]:
    """Score the best and the last parameters, and write all results.

    Returns:
      What summary.json holds; {} in all processes but the main one, which writes.
    """
    components, workdir, progress = trainer.components, trainer.workdir, trainer.progress
    config, pipeline, table = components.config, components.pipeline, components.pipeline.table
    best, best_epoch, value = trainer.best()
    val, val_summaries = trainer.score(best, "val")
    test, test_summaries = trainer.score(best, "test")
    last = progress.tests.get(str(progress.epoch - 1))
    last = last or trainer.score(trainer.state.eval_params, "test")[1]
    if not trainer.devices.is_main:
        return {}
    params, apply_fn = jax.device_get(best), jax.jit(components.module.apply)
    lengths = pipeline.padded_lengths("test")

    def separate(index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        batch = pipeline.render("test", np.array([index]), int(lengths[index]))
        estimates = apply_fn({"params": params}, batch["mixture"])
        return {name: array[0] for name, array in batch.items()}, np.asarray(estimates)[0]

    folder = workdir / "evaluation"
    write_csv(folder / "val.csv", val, table, pipeline.kind)
    write_csv(folder / "test.csv", test, table, pipeline.kind)
    write_excerpts(folder / "audio", test, separate, table.names, config.data.sample_rate)
    training = {
        "epochs": progress.epoch,
        "steps": int(trainer.state.step),
        "seconds": round(progress.seconds, 1),
        "skipped": progress.skipped,
        "parameters": models.count_params(params),
    }
    if value is None:
        value = metric(val_summaries, config.train.best_metric)
    summary = {
        "jaxsep": jaxsep.__version__,
        "weighting": config.weighting.name,
        "scale": config.scale,
        "num_epochs": config.train.num_epochs,
        "data": {
            "kind": pipeline.kind,
            "fingerprints": list(pipeline.pools["test"].fingerprints),
        },
        "training": training,
        "best": {"epoch": best_epoch + 1, "metric": config.train.best_metric, "value": value},
        "val": describe(val, val_summaries),
        "test": describe(test, test_summaries),
        "test_last": {"si_sdri": last},
    }
    first = max(0, progress.epoch - config.evaluation.last_epochs)
    epochs = [str(epoch) for epoch in range(first, progress.epoch)]
    if epochs and progress.tests.keys() >= {*epochs}:  # not where patience came before them
        tests = [progress.tests[epoch] for epoch in epochs]
        summary["test_last_epochs"] = {"si_sdri": average(tests)}
    save_bundle(
        workdir / "model",
        params,
        family=config.model.family,
        fields=components.model_fields,
        sample_rate=config.data.sample_rate,
        about={
            "classes": list(table.names),
            "data": pipeline.kind,
            "weighting": config.weighting.model_dump(),
            "training": training,
        },
    )
    write_summary(workdir, summary)
    return summary


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write summary.json, the last of a run's files: it says that the run is finished."""
    with atomic_file(folder / "summary.json", "w") as stream:
        stream.write(json.dumps(summary, indent=2) + "\n")


def describe(rows: Rows, summaries: dict[str, Any]) -> dict[str, Any]:
    """What summary.json says of a split; sources that are alone in their mixture stand apart."""
    alone = {"si_sdr_alone": summarise_alone(rows)} if np.any(rows["num_active"] == 1) else {}
    return {"si_sdri": summaries, **alone}


def finished(workdir: Path, config: Config) -> dict[str, Any] | None:
    """summary.json of a run that has nothing left to do, or None.

    Raises:
      ConfigError: it is damaged.
    """
    path = workdir / "summary.json"
    if not path.exists():
        return None
    try:
        summary = read_json(path)
        report(summary, workdir).encode()  # will be printed
        return summary if summary["num_epochs"] == config.train.num_epochs else None
    except Exception as error:  # whatever a value that is missing or odd leads to
        raise ConfigError(
            f"--workdir {workdir}: summary.json is damaged ({error!r:.200}); "
            "remove it, and the same command writes it again"
        ) from error


def report(summary: dict[str, Any], workdir: Path) -> str:
    """The table that a run ends with."""
    best, training, test = summary["best"], summary["training"], summary["test"]
    label = "  [synthetic sound]" if summary["data"]["kind"] == "synthetic" else ""
    alone = ""
    if scores := test.get("si_sdr_alone"):
        mean, count = scores["mean"], scores["n"]
        alone = f"alone in their mixture: SI-SDR mean {mean:.2f} dB over {count} sources\n"
    return f"""
Test set, best epoch ({best["epoch"]} of {training["epochs"]}, by {best["metric"]}){label}
{distribution_table(test["si_sdri"])}
{alone}last epoch: combined mean {summary["test_last"]["si_sdri"]["combined"]["mean"]:.2f} dB\
   training: {training["steps"]} steps, {training["seconds"] / 60:.1f} min
results: {workdir}/summary.json, evaluation/test.csv (one row per source), \
evaluation/audio (to listen), model/"""
