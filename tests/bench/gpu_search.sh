#!/usr/bin/env bash
# The whole search on a GPU machine that has Python, torch, the usual packages and no network, in eight minutes.
#
#     bash tests/bench/gpu_search.sh OUT ARCHIVE [DATA]
#
# ARCHIVE is what tests/bench/gpu_pack.py wrote (or the folder that it was unpacked into), DATA a folder with
# train, val and kodak as tests/bench/carry.py writes it (default: generated images). Parts: unpacked, packages
# (tests/bench/gpu_check.py), hyperprior and cheng (a short search in the paper's geometry, --trials-per-gpu auto),
# killed (kill -9, resume, SIGTERM, resume), memory (trials that need more than their share of the GPU) and
# exported. Each has a time limit, and one that fails stops no other. OUT gets summary.txt, which is printed last,
# the reports and logs.tar.gz. Without a GPU, models and steps are tiny, and time limits longer. PYTHON is
# the interpreter (python3), GPU_SEARCH_SECONDS the time for all parts (470), GPU_SEARCH_PARTS those to run.
set -u
out=$(realpath -m "${1:?OUT}") archive=$(realpath "${2:?ARCHIVE}") data=${3:+$(realpath "$3")}
cd "$(dirname "$0")/../.." || exit
python=${PYTHON:-python3} ends=$((SECONDS + ${GPU_SEARCH_SECONDS:-470}))
work=$(mktemp -d /tmp/gpu-search.XXXXXX) && mkdir -p "$out" "$work/logs" || exit
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
site=$work/site
[ -d "$archive" ] && site=$archive
export PYTHONPATH=$PWD:$site OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore RAY_TMPDIR=$work
export XDG_CACHE_HOME=$work/cache TORCHINDUCTOR_CACHE_DIR=$work/inductor MPLCONFIGDIR=$work/matplotlib
export out archive data python work site slow=1
gpu=$(nvidia-smi --query-gpu=name,memory.total --format=csv,noheader,nounits 2>/dev/null | head -n 1)
[ -z "$gpu" ] && slow=${GPU_SEARCH_SLOW:-3}
printf '%-11s %-9s %5s  %s\n' part outcome s seen > "$out/summary.txt"

# part NAME SECONDS: runs the function NAME; the last line that it prints is what was seen
part() {
    local began=$SECONDS left=$((ends - SECONDS)) log=$work/logs/$1.log outcome status
    if ((left < 20)); then
        printf '%-11s %-9s %5s  %s\n' "$1" "not run" - "no time left" | tee -a "$out/summary.txt"
        return
    fi
    timeout --kill-after=20 $((left < $2 * slow ? left : $2 * slow)) bash -c "$1" > "$log" 2>&1
    status=$?
    case $status in 0) outcome=ok ;; 124 | 137) outcome="time out" ;; *) outcome="FAILED $status" ;; esac
    printf '%-11s %-9s %5d  %s\n' "$1" "$outcome" $((SECONDS - began)) "$(tail -n 1 "$log" | cut -c 1-300)" \
        | tee -a "$out/summary.txt"
    keep
}

# What is small of the searches, and all logs, so that what has run is there if the rest is not
keep() {
    local folder
    for folder in "$work"/results/*/; do
        [ -f "$folder/report.html" ] && cp "$folder/report.html" "$out/report-$(basename "$folder").html"
    done
    (cd "$work" && find logs results ray/session_*/logs -type f \( -name '*.log' -o -name '*.csv' -o -name \
        '*.yaml' -o -name environment.json -o -name error.txt -o -name 'raylet.*' \) -size -2000k 2>/dev/null \
        | tar -czf "$out/logs.tar.gz" -T -)
}

# search NAME OPTION...: a short search; settings that come later win
search() {
    local settings=(--rates "1,3" --budget 4 --grace 1 --seed 0)
    if [ -n "$gpu" ]; then
        settings+=(--preset paper --epochs 3 --steps-per-epoch 40 --val-images 8)
    else
        settings+=(--preset tiny --width 8 --start scratch --epochs 2 --steps-per-epoch 3 --val-images 2 --workers 1)
    fi
    if [ -n "$data" ]; then
        settings+=(--data "$data" --kodak "$data/kodak")
    else
        settings+=(--data deadleaves --test deadleaves --test-images 2)
    fi
    exec env GPU_SEARCH_PART="$work/$1" "$python" -m search.run --results "$work/results" --name "$1" \
        "${settings[@]}" "${@:2}"
}

resume() {
    exec env GPU_SEARCH_PART="$work/$1" "$python" -m search.run --results "$work/results" --resume "$1"
}

gpu_memory() { nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits 2> /dev/null | head -n 1 || true; }

# Processes of a search: its driver, Ray's and the workers
processes() { grep -lzxF "GPU_SEARCH_PART=$work/$1" /proc/[0-9]*/environ 2> /dev/null | wc -l; }

# A line of a log that begins with a label, without it
said() { grep -a "^$1 " "$2" | tail -n 1 | cut -d ' ' -f 2- | sed 's/^ *//'; }

# The newest checkpoint of each training
checkpoints() { (cd "$work/results/$1/trials" 2> /dev/null && echo */*.pt); }

# until_others NAME CHECKPOINTS PID: waits until the search has others than these; fails if it ends first
until_others() {
    until [[ $(checkpoints "$1") == *epoch-* && $(checkpoints "$1") != "$2" ]]; do
        kill -0 "$3" 2> /dev/null || return 1
        sleep 0.2
    done
}

unpacked() {
    [ -d "$archive" ] || "$python" -c \
        "import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter='data')" "$archive" "$work" \
        || return
    # Ray's processes have to be up in 30 seconds, which compiling thousands of files takes.
    "$python" -m compileall -q -j 0 "$site" > /dev/null
    du -sm "$site" | awk '{print $1 " MiB of packages"}'
}

packages() {
    "$python" -m tests.bench.gpu_check > "$work/versions" 2> "$work/errors" \
        || { cat "$work/versions" "$work/errors"; return 1; }
    paste -sd ';' "$work/versions"
}

# short NAME MODEL: a search to its end, and what it measured and did
short() {
    local log=$work/logs/$1.search.log
    (search "$1" --model "$2" --trials-per-gpu auto) > "$log" 2>&1 || { tail -n 20 "$log"; return 1; }
    echo "$(grep -a ' trials: ' "$log" | tail -n 1); sharing: $(said measured "$log")"
}

hyperprior() { short hyperprior hyperprior; }

cheng() { short cheng cheng; }

killed() {
    local log=$work/logs/killed.search.log driver free held left waited=0 after before status began seconds
    free=$(gpu_memory)
    (search killed --model hyperprior --epochs 8 --rates 3 --budget 2 --no-stopping) > "$log" 2>&1 &
    driver=$!
    until_others killed '' $driver || { tail -n 20 "$log"; return 1; }
    held=$(gpu_memory)
    kill -9 $driver
    until (($(processes killed) == 0)) || ((waited >= 60)); do sleep 1; ((waited += 1)); done
    left=$(processes killed) after=$(gpu_memory)
    echo "kill -9: GPU memory $free MiB before, $held while it ran, $after with $left processes left, $waited s later"
    before=$(checkpoints killed)
    (resume killed) >> "$log" 2>&1 &
    driver=$!
    until_others killed "$before" $driver || { tail -n 20 "$log"; return 1; }
    began=$SECONDS
    kill -TERM $driver
    wait $driver
    status=$? seconds=$((SECONDS - began))
    echo "SIGTERM: status $status after $seconds s, $(processes killed) processes, GPU memory $(gpu_memory) MiB"
    (resume killed) >> "$log" 2>&1 || { tail -n 20 "$log"; return 1; }
    grep -a ' trials: ' "$log" | tail -n 1
    echo "kill -9: $left processes left $waited s later, GPU MiB ${free:--} before, ${held:--} running," \
        "${after:--} later; SIGTERM: status $status in $seconds s; resumed twice, finished"
    ((left == 0 && status == 130))
}

# Shares of 1.5 GiB of the GPU, less than the hyperprior's 1.9 GiB of training
memory() {
    local log=$work/logs/memory.search.log total errors
    if [ -z "$gpu" ]; then
        echo "no GPU: not measured"
        return
    fi
    total=${gpu##*, }
    (search memory --model hyperprior --rates 3 --budget 1 --epochs 2 --workers 2 --no-compile --no-graph \
        --trials-per-gpu $((total / 1536))) > "$log" 2>&1 || { tail -n 20 "$log"; return 1; }
    errors=$(grep -rl OutOfMemoryError "$work/ray" "$work/results/memory" --include=error.txt 2> /dev/null | wc -l)
    echo "$errors trainings ran out of memory in 1/$((total / 1536)): $(grep -a ' trials: ' "$log" | tail -n 1)"
    ((errors > 0)) && ! grep -qa "no result for quality" "$log"
}

exported() {
    "$python" -m search.export hyperprior --results "$work/results" --out "$work/zoo" --rates 3 --with-baseline \
        --verify --processes 1 || return
    echo "$(find "$work/zoo" -name '*.safetensors' | wc -l) models, verified; report.html" \
        "$(stat -c %s "$work/results/hyperprior/report.html") bytes"
}

export gpu
export -f search resume gpu_memory processes said checkpoints until_others
export -f unpacked packages short hyperprior cheng killed memory exported

declare -A most=([unpacked]=90 [packages]=60 [hyperprior]=150 [killed]=140 [memory]=80 [exported]=60 [cheng]=200)
for name in ${GPU_SEARCH_PARTS:-unpacked packages hyperprior killed memory exported cheng}; do
    part "$name" "${most[$name]}"
done
echo "on ${gpu:-a CPU}, $("$python" -c 'import torch; print("torch", torch.__version__)')" >> "$out/summary.txt"
echo
cat "$out/summary.txt"
! grep -qE '(FAILED|time out|not run)' "$out/summary.txt"
