#!/usr/bin/env bash
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
    cat <<'END'
Runs the paper's three experiments, each condition with several seeds, and writes a report on them.

    bash launch/reproduce.sh --workdir DIR [--scale SCALE] [--seeds N] [--only EXPERIMENT]
                             [--config.FIELD=VALUE ...]

    --workdir DIR        folder of the runs and the report
    --scale SCALE        demo (default), cpu, open or paper; see configs/
    --seeds N            runs of each condition (default: 5)
    --only EXPERIMENT    robust, curriculum or class_bias
    --config.FIELD=...   passed on to every run, such as --config.data.speech_root=DIR and
                         --config.data.environment_root=DIR, needed by the scales cpu and paper

Runs what is missing in DIR and goes on with what was interrupted. Makes .venv where it is missing.
END
}

mistake() {
    echo "error: $1" >&2
    exit 2
}

scale=demo seeds=5 only="" workdir="" fields=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit ;;
        --scale | --seeds | --only | --workdir)
            [ $# -ge 2 ] || mistake "$1 needs a value"
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        --config.*=*)
            fields+=("$1")
            shift
            ;;
        *) mistake "$1: not known; bash launch/reproduce.sh --help shows the options" ;;
    esac
done
case $scale in
    demo | cpu | open | paper) ;;
    *) mistake "--scale is $scale, it must be demo, cpu, open or paper" ;;
esac
case $only in
    "" | robust | curriculum | class_bias) ;;
    *) mistake "--only is $only, it must be robust, curriculum or class_bias" ;;
esac
[[ $seeds =~ ^[1-9][0-9]*$ ]] ||
    mistake "--seeds is $seeds, it must be a whole number of at least 1"
[ -n "$workdir" ] || mistake "--workdir is missing, the folder for runs and report"

# A condition is a line: its experiment, its name, and the fields that make it.
conditions="
robust alpha-0 --config.weighting.alpha=0.0
robust alpha-1-15 --config.weighting.alpha=0.06666666666666667
robust alpha-1-10 --config.weighting.alpha=0.1
robust alpha-1-5 --config.weighting.alpha=0.2
curriculum uniform --config.weighting.name=uniform
curriculum easy-first --config.weighting.name=curriculum
class_bias gamma-0-0 --config.weighting.name=uniform
class_bias gamma-0-3 --config.weighting.gamma.speech=0 --config.weighting.gamma.environment=3
class_bias gamma-3-0 --config.weighting.gamma.speech=3 --config.weighting.gamma.environment=0
"
conditions=$(awk -v only="$only" 'NF && (only == "" || $1 == only)' <<<"$conditions")
total=$((seeds * $(wc -l <<<"$conditions")))

bash "$root/launch/install.sh" report
python=$root/.venv/bin/python

# Seed by seed, so that whenever it is stopped, what is finished can be compared.
runs=()
for ((seed = 0; seed < seeds; seed++)); do
    while read -r experiment condition changes; do
        run=$workdir/$experiment-$condition-seed$seed
        runs+=("$run")
        # shellcheck disable=SC2206  # the changes are words without blanks
        arguments=(
            --config "$root/configs/$experiment.py:$scale" --workdir "$run"
            --config.seed=$seed $changes "${fields[@]}"
        )
        # What a finished run was made with: if it is the same again, there is nothing to do.
        made_with=$run.command
        before=$(cat "$made_with" 2>/dev/null || true)
        if [ -e "$run/summary.json" ] && [ "$before" = "${arguments[*]}" ]; then
            echo "run ${#runs[@]} of $total: $run is finished"
            continue
        fi
        echo "run ${#runs[@]} of $total: $run"
        "$python" -m jaxsep.main "${arguments[@]}" </dev/null
        echo "${arguments[*]}" >"$made_with"
    done <<<"$conditions"
done
exec "$python" -m jaxsep.report "${runs[@]}" -o "$workdir/report"
