#!/usr/bin/env bash
# The paper's three experiments, then a report on them:
#   bash launch/reproduce.sh --workdir DIR [--scale demo|cpu|open|paper] [--seeds 5] [--only robust|curriculum|class_bias]
#                            [--config.field=value ...]
# Runs what is missing in DIR and goes on with what was interrupted; fields are passed on to every run, such as
# --config.data.speech_root=... and --config.data.environment_root=... (needed from the scale cpu on).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

mistake() {
    echo "error: $1" >&2
    exit 2
}

scale=demo seeds=5 only="" workdir="" fields=()
while [ $# -gt 0 ]; do
    case $1 in
        --scale | --seeds | --only | --workdir)
            [ $# -ge 2 ] || mistake "$1 needs a value"
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        --config.*=*)
            fields+=("$1")
            shift
            ;;
        *) mistake "$1: not known; see the first lines of launch/reproduce.sh" ;;
    esac
done
case $scale in demo | cpu | open | paper) ;; *) mistake "--scale is $scale, it must be demo, cpu, open or paper" ;; esac
case $only in "" | robust | curriculum | class_bias) ;; *) mistake "--only is $only, it must be robust, curriculum or class_bias" ;; esac
[[ $seeds =~ ^[1-9][0-9]*$ ]] || mistake "--seeds is $seeds, it must be a whole number of at least 1"
[ -n "$workdir" ] || mistake "--workdir is missing, the folder for runs and report"

# One line per condition: its experiment, the name of its folders, the fields that make it.
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
runs=() number=0
# Seed by seed: whenever it is stopped, what is finished can be compared.
for ((seed = 0; seed < seeds; seed++)); do
    while read -r experiment condition changes; do
        run=$workdir/$experiment-$condition-seed$seed
        runs+=("$run") number=$((number + 1))
        # shellcheck disable=SC2206  # the changes are words without blanks
        command=(--config "$root/configs/$experiment.py:$scale" --workdir "$run" --config.seed=$seed $changes "${fields[@]}")
        done_before=$run.command # what a finished run was made with: the same again needs no look inside
        if [ -e "$run/summary.json" ] && [ "$(cat "$done_before" 2>/dev/null)" = "${command[*]}" ]; then
            echo "run $number of $total: $run is finished"
            continue
        fi
        echo "run $number of $total: $run"
        "$python" -m jaxsep.main "${command[@]}" </dev/null
        echo "${command[*]}" >"$done_before"
    done <<<"$conditions"
done
exec "$python" -m jaxsep.report "${runs[@]}" -o "$workdir/report"
