#!/usr/bin/env bash
# The optimisers on a GPU, on a machine with Python, torch and no network: see tests/bench/carry.py.
#
#     bash tests/bench/on_gpu.sh steps|fast|ema|parity|packing [FOLDER] [CARRIED]
#
# Both models at 128 channels and the paper's geometry, quality 3, bf16. `steps`: J after every 500 of 4,000 steps
# of Adam, SOAP and Muon (five minutes of an H200). `fast`: the preset fast, and what it has to reach, the
# paper's 33,000 steps of Adam (ten minutes; the hyperprior's first). `ema`: fast with averaged weights, and J on the
# way (six minutes). `parity`: bf16 against TF32, 2,310 steps, seed by seed (six minutes for three). `packing`:
# trials at once in bf16 with CUDA graphs (two minutes). FOLDER (default: results/gpu) gets tables and logs; what
# it has already is not trained again.
set -u
part=${1:?steps, fast, ema, parity or packing} out=$(realpath -m "${2:-results/gpu}") carried=$(realpath -m "${3:-.carry}")
mkdir -p "$out"
cd "$(dirname "$0")/../.." || exit
export PYTHONPATH=$PWD:$carried/site OMP_NUM_THREADS=1 XDG_CACHE_HOME=/tmp/cache
export TORCHINDUCTOR_CACHE_DIR=/tmp/inductor PYTHONUNBUFFERED=1

# bench NAME SECONDS OPTION...: prepares at once, trains in its turn
bench() {
    timeout "$2" python3 -W ignore -m tests.bench.optimizers --data "$carried" --kodak "$carried/kodak" --jobs 1 \
        --qualities 3 --seeds 1 --precision bf16 --turn /tmp/gpu.turn --out "$out/$1.csv" "${@:3}" \
        > "$out/$1.log" 2>&1
}

case $part in
steps)
    common=(--preset paper --steps 4000 --decay-at 0.3 --decay-to 0.02 --most-ms 60)
    common+=(--optimizers adam=1e-3 soap=3e-3 muon=3e-3 adam=1e-4)
    bench steps-hyperprior 200 --models hyperprior "${common[@]}" &
    bench steps-cheng 400 --models cheng "${common[@]}" &
    wait
    ;;
fast)
    bench fast-hyperprior 150 --preset fast --models hyperprior --optimizers soap &
    bench fast-cheng 300 --preset fast --models cheng --optimizers muon &
    wait
    bench paper-hyperprior 250 --preset paper --models hyperprior --optimizers adam=1e-4 --parts 33
    bench paper-cheng 500 --preset paper --models cheng --optimizers adam=1e-4 --parts 33
    ;;
ema)
    for model in hyperprior:soap cheng:muon; do
        bench "ema-${model%:*}" 300 --preset fast --models "${model%:*}" --optimizers "${model#*:}" --parts 20 \
            --changes ema=0.99 ema=0.99,strategy=z,alpha=1e-9 strategy=z,alpha=1e-9
    done
    ;;
parity)
    for model in hyperprior cheng; do
        timeout 400 python3 -W ignore -m tests.bench.parity --data "$carried" --models $model --preset paper \
            --epochs 7 --jobs 1 --variants "all of a GPU's" "the same in bf16" --out "$out/parity-$model.csv" \
            > "$out/parity-$model.log" 2>&1
    done
    ;;
packing)
    for model in hyperprior cheng; do
        timeout 150 python3 -W ignore -m tests.bench.packing --data "$carried" --models $model --precision bf16 \
            --most 4 --seconds 5 --out "$out/packing-$model.csv" > "$out/packing-$model.log" 2>&1
    done
    ;;
*)
    echo "on_gpu.sh: '$part' is none of steps, fast, ema, parity and packing" >&2
    exit 2
    ;;
esac
tail -n 30 "$out"/*.log
