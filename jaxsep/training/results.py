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
from jaxsep.training.build import Components
from jaxsep.training.input_pipeline import InputPipeline
from jaxsep.training.loop import Trainer


def conclude(trainer: Trainer) -> dict[str, Any]:
    """Score the best and the last parameters, and write all results.

    Returns:
      What summary.json holds; {} in all processes but the main one, which writes.
    """
    components, workdir, progress = trainer.components, trainer.workdir, trainer.progress
    config, pipeline = components.config, components.pipeline
    best, best_epoch, value = trainer.best()
    val, val_summaries = trainer.score(best, "val")
    test, test_summaries = trainer.score(best, "test")
    last = progress.tests.get(str(progress.epoch - 1))
    last = last or trainer.score(trainer.state.eval_params, "test")[1]
    if not trainer.devices.first:
        return {}
    if value is None:
        value = metric(val_summaries, config.train.best_metric)
    params = jax.device_get(best)
    folder = workdir / "evaluation"
    write_rows(folder / "val.csv", val, pipeline)
    write_rows(folder / "test.csv", test, pipeline)
    _write_excerpts(folder / "audio", components, params, test)
    summary = {
        "jaxsep": jaxsep.__version__,
        "weighting": config.weighting.name,
        "scale": config.scale,
        "num_epochs": config.train.num_epochs,
        "data": {
            "kind": pipeline.kind,
            "fingerprints": list(pipeline.pools["test"].fingerprints),
        },
        "training": {
            "epochs": progress.epoch,
            "steps": int(trainer.state.step),
            "seconds": round(progress.seconds, 1),
            "skipped": progress.skipped,
            "parameters": models.count_params(params),
        },
        "best": {"epoch": best_epoch + 1, "metric": config.train.best_metric, "value": value},
        "val": describe(val, val_summaries),
        "test": describe(test, test_summaries),
        "test_last": {"si_sdri": last},
    }
    if recent := trainer.recent_tests():
        summary["test_last_epochs"] = {"si_sdri": average(recent)}
    save_bundle(
        workdir / "model",
        params,
        family=config.model.family,
        fields=components.model_fields,
        sample_rate=config.data.sample_rate,
        about={
            "classes": list(pipeline.table.names),
            "data": pipeline.kind,
            "weighting": config.weighting.model_dump(),
            "training": summary["training"],
        },
    )
    write_summary(workdir, summary)
    return summary


def write_rows(path: Path, rows: Rows, pipeline: InputPipeline) -> None:
    """Write one line of CSV for each source that was scored."""
    table = pipeline.table
    write_csv(path, rows, table.names, table.groups, table.corpora, data=pipeline.kind)


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write summary.json, the last of a run's files: it says that the run is finished."""
    with atomic_file(folder / "summary.json", "w") as stream:
        stream.write(json.dumps(summary, indent=2) + "\n")


def describe(rows: Rows, summaries: dict[str, Any]) -> dict[str, Any]:
    """What summary.json says of a split; sources that are alone in their mixture stand apart."""
    alone = {"si_sdr_alone": summarise_alone(rows)} if np.any(rows["num_active"] == 1) else {}
    return {"si_sdri": summaries, **alone}


def _write_excerpts(folder: Path, components: Components, params: Any, rows: Rows) -> None:
    pipeline, apply_fn = components.pipeline, jax.jit(components.module.apply)
    lengths = pipeline.padded_lengths("test")

    def separate(index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        batch = pipeline.render("test", np.array([index]), int(lengths[index]))
        estimates = apply_fn({"params": params}, batch["mixture"])
        return {name: array[0] for name, array in batch.items()}, np.asarray(estimates)[0]

    write_excerpts(folder, rows, separate, pipeline.table.names, pipeline.sample_rate)


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
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ConfigError(
            f"--workdir {workdir}: summary.json is damaged ({error!r:.200}); "
            "remove it, and the same command writes it again"
        ) from error


def report(summary: dict[str, Any], workdir: Path) -> str:
    """The table that a run ends with."""
    best, training, test = summary["best"], summary["training"], summary["test"]
    label = "  [synthetic sound]" if summary["data"]["kind"] == "synthetic" else ""
    last = summary["test_last"]["si_sdri"]["combined"]["mean"]
    lines = [
        f"\nTest set, best epoch ({best['epoch']} of {training['epochs']}, "
        f"by {best['metric']}){label}",
        distribution_table(test["si_sdri"]),
    ]
    if alone := test.get("si_sdr_alone"):
        lines.append(
            f"alone in their mixture: SI-SDR mean {alone['mean']:.2f} dB over {alone['n']} sources"
        )
    minutes = training["seconds"] / 60
    lines += [
        f"last epoch: combined mean {last:.2f} dB"
        f"   training: {training['steps']} steps, {minutes:.1f} min",
        f"results: {workdir}/summary.json, evaluation/test.csv (one row per source), "
        "evaluation/audio (to listen), model/",
    ]
    return "\n".join(lines)
