#!/usr/bin/env bash
# Long tables beside other work on a shared workstation: docs/background.md
#
#   bash studies/background.sh FOLDER start NAME SETTINGS...   begin a table under a name of your choice, with these settings of `reproduce`
#   bash studies/background.sh FOLDER start [NAME]          go on with all that do not run, or one: after a reboot, after a stop
#   bash studies/background.sh FOLDER status                what runs, and the last line of each
#   bash studies/background.sh FOLDER pause | continue      give the cores back for a while; nothing is lost
#   bash studies/background.sh FOLDER stop                  end within a step, everything saved
#   bash studies/background.sh FOLDER take                  copy the records of the reports into results/ of this checkout
#
# FOLDER, outside the checkout, gets a clone of the commit at hand, an environment of its own, the runs and the logs. Whatever
# happens to the checkout, the runs go on with the code that they began with. The commands run in FOLDER: give data.root as an
# absolute path. PYTHON=... uses an environment that is there.
set -euo pipefail
usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2; }
[ $# -ge 2 ] || usage
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1/jobs" && cd "$1"
command=$2
shift 2

# After a reboot a number may be another process's: only one that has this package's command is ours.
running() { [ -f "jobs/$1.pid" ] && ps -o args= -p "$(cat "jobs/$1.pid")" 2> /dev/null | grep -q fairat_lightning.reproduce; }

begin() {
    if running "$1"; then echo "$1 runs already"; return; fi
    [ -d code ] || git clone --quiet "$here" code
    if [ -z "${PYTHON:-}" ] && [ ! -f venv/.installed ]; then
        python3 -m venv venv && venv/bin/python -m pip install --quiet -c code/constraints.txt -e 'code[autoattack]'
        touch venv/.installed
    fi
    mapfile -t words < "jobs/$1.words"
    PYTHONPATH=$PWD/code OMP_NUM_THREADS=1 nohup nice -n 19 "${PYTHON:-venv/bin/python}" -m fairat_lightning.reproduce \
        runs=runs "${words[@]}" >> "jobs/$1.log" 2>&1 < /dev/null &
    echo $! > "jobs/$1.pid"
    echo "$1 runs: $PWD/jobs/$1.log"
}

names() { for file in jobs/*.words; do [ -f "$file" ] && basename "$file" .words; done; }

tell() { for name in $(names); do if running "$name"; then kill "-$1" "$(cat "jobs/$name.pid")" && echo "$name: $2"; fi; done; }

case $command in
start)
    if [ $# -ge 2 ]; then
        if running "$1"; then echo "$1 runs already: stop it first, or choose another name" >&2; exit 2; fi
        printf '%s\n' "${@:2}" > "jobs/$1.words" && begin "$1"
    else
        for name in ${1:-$(names)}; do
            [ -f "jobs/$name.words" ] || { echo "nothing was begun as $name: start NAME SETTINGS..." >&2; exit 2; }
            begin "$name"
        done
    fi ;;
status)
    for name in $(names); do
        echo "$name $(running "$name" && echo runs || echo 'does not run'): $(tail -n 1 "jobs/$name.log" 2> /dev/null)"
    done ;;
pause) tell STOP paused ;;
continue) tell CONT 'goes on' ;;
stop) tell TERM 'told to stop'; tell CONT 'goes on, to save' > /dev/null ;;
take)
    for report in runs/*/report; do
        [ -d "$report" ] || { echo "no table is finished yet" >&2; exit 1; }
        to=$here/results/$(basename "$(dirname "$report")")
        "${PYTHON:-venv/bin/python}" "$here/studies/take.py" "$report" "$to"
    done ;;
*) usage ;;
esac
