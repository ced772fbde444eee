#!/usr/bin/env bash
# The paper's protocol on a GPU in parts, most valuable first: bash tests/bench/reproduce_gpu.sh MINUTES [OPTION...]
#
# 33,000 steps from scratch at the paper's geometry in bf16; OPTION goes to search.reproduce (--data, --kodak). What
# is done is not trained again, so each call goes on with the first part that is not; none is begun with less than
# a minute left. A part adds its records to docs/reproduction/PART, whose tables.md says what follows from them.
set -u
minutes=${1:?how many minutes it may take} python=${GPU_PYTHON:-python3}
end=$(($(date +%s) + minutes * 60))
cd "$(dirname "$0")/../.." || exit

# part NAME OPTION...
part() {
    local left=$(((end - $(date +%s)) / 60))
    [ "$left" -ge 1 ] || return 0
    "$python" -m search.reproduce --preset paper --fraction "${FRACTION:-1}" --precision bf16 --refine 0 --longer 1 \
        --state "${STATE:-docs/reproduction}/$1" --max-minutes "$left" "${@:2}"
}

options=("${@:2}")
part hyperprior-128-q3 --model hyperprior --rates 3 --strategies y --alphas 1e-7,1e-6,1e-5 --seeds 2 "${options[@]}" &&
    part cheng-128-q3 --model cheng --rates 3 --strategies y+z --alphas 1e-7,1e-6,1e-5 --seeds 2 "${options[@]}" &&
    part hyperprior-128-all --model hyperprior --strategies y --alphas 1e-8,1e-7,1e-6 --seeds 2 "${options[@]}" &&
    part cheng-128-all --model cheng --strategies y+z --alphas 1e-8,1e-7,1e-6 --seeds 2 "${options[@]}"
