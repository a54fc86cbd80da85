"""Train a separation network, or evaluate a trained one.

    python -m jaxsep.main --config configs/class_bias.py[:SCALE] [--workdir DIR]
                          [--config.section.field=value …]
    python -m jaxsep.main --config configs/class_bias.py[:SCALE] --help-fields
    python -m jaxsep.main --mode evaluate --workdir DIR [--config.data.speech_root=… …]
    python -m jaxsep.main --mode replay --workdir DIR

A run started again in its folder goes on where it was. Evaluation scores a finished run on other
data. Replay takes the steps again that were skipped for a non-finite loss or gradient, and shows
which mixtures cause it. The last two import a network outside jaxsep only where
--config.model.family=package.module:Class is given again.

All devices share every batch. Of several machines each runs the command, with --coordinator
HOST:PORT --processes N --process I, or as a task of a SLURM step (launch/slurm.sbatch).

Exit status: 0 done; 1 the run cannot go on (disk full, checkpoints damaged, too many steps
skipped); 2 a mistake in the command, the configuration or the data; 130 and 143 interrupted by
Ctrl-C and SIGTERM, and saved.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxsep import runtime
from jaxsep.config.load import field_table, load, override
from jaxsep.config.schema import Config
from jaxsep.data.mixtures.sampler import CORPORA
from jaxsep.errors import Interrupted, JaxsepError
from jaxsep.training import experiment


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and give its exit status; a user's mistake ends in a message."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxsep.main",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--mode", choices=("train", "evaluate", "replay"), default="train")
    add("--config", metavar="FILE[:SCALE]", help="for --mode train; the others take the run's own")
    add("--workdir", type=Path, help="the run's folder; default: runs/CONFIG-SCALE")
    add("--help-fields", action="store_true", help="print what every field is and may be")
    add("--coordinator", metavar="HOST:PORT", help="of several processes: where process 0 listens")
    add("--processes", type=int, metavar="N", help="how many processes there are")
    add("--process", type=int, metavar="I", help="which process this is, from 0")
    arguments, overrides = parser.parse_known_args(argv)
    spec, workdir, mode = arguments.config, arguments.workdir, arguments.mode
    try:
        if arguments.help_fields:
            config = load(spec, overrides) if spec else override(Config(), overrides)
            print(field_table(config))
            return 0
        runtime.join(arguments.coordinator, arguments.processes, arguments.process)
        if mode != "train":
            if workdir is None or spec is not None:
                parser.error(f"--mode {mode} takes --workdir, a run's folder, and no --config")
            again = experiment.evaluate_run if mode == "evaluate" else experiment.replay_run
            again(overrides, workdir)
            return 0
        if spec is None:
            parser.error("--config is missing, such as --config configs/class_bias.py")
        config, file = load(spec, overrides), Path(spec.split(":")[0])
        if config.scale == "demo":
            roots = [f"--config.data.{name}_root=DIR" for name in CORPORA]
            command = f"python -m jaxsep.main --config {file}:cpu {' '.join(roots)}"
            print(f"demo is a toy scale; on your recordings: {command}")
        experiment.train(config, workdir or Path("runs") / f"{file.stem}-{config.scale}")
    except JaxsepError as error:
        if not isinstance(error, Interrupted):
            print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("SIGINT: stopped at once", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    runtime.configure()
    sys.exit(main())
