#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice. From your own machine, with gcloud set up:
#
#   export TPU=my-tpu ZONE=us-west4-a TYPE=v5litepod-16
#   launch/tpu_pod.sh create [--spot]     make the slice
#   launch/tpu_pod.sh install             copy the last commit there and install it
#   launch/tpu_pod.sh train --config=configs/mae_l16.py --workdir=/mnt/shared/mae_l16
#   launch/tpu_pod.sh watch               the log of host 0
#   launch/tpu_pod.sh stop                save and stop; `train` again resumes
#   launch/tpu_pod.sh delete              stop paying
#
# The workdir (and a folder of images) must be one that all hosts see at the same path,
# such as a Filestore share mounted on each.
set -euo pipefail
: "${TPU:?name of the slice}" "${ZONE:?zone, e.g. us-west4-a}"
VERSION="${VERSION:-v2-alpha-tpuv5-lite}" # system image; v4: tpu-ubuntu2204-base

vm() { # vm VERB ARGUMENTS...
    gcloud compute tpus tpu-vm "$1" "$TPU" --zone="$ZONE" "${@:2}"
}
on() { # on all|0 COMMAND: runs it on these hosts
    vm ssh --worker="$1" --command="$2"
}

verb="${1:?create, install, train, watch, stop or delete}"
shift
case "$verb" in
create)
    vm create --accelerator-type="${TYPE:?e.g. v5litepod-16}" --version="$VERSION" "$@"
    ;;
install)
    folder=$(mktemp -d)
    archive="$folder/mimjax.tar.gz"
    trap 'rm -rf "$folder"' EXIT
    git -C "$(dirname "$0")/.." archive --prefix=mimjax/ -o "$archive" HEAD
    gcloud compute tpus tpu-vm scp "$archive" "$TPU:mimjax.tar.gz" --zone="$ZONE" --worker=all
    # The system's Python is too old for mimjax; uv brings one along.
    # Of an earlier install only the code goes: there may be workdirs beside it.
    on all 'rm -rf mimjax/mimjax mimjax/configs && tar xzf mimjax.tar.gz &&
        python3 -m pip install -q --user uv &&
        ~/.local/bin/uv venv -q --clear --python 3.13 env &&
        ~/.local/bin/uv pip install -q --python env/bin/python -e "./mimjax[data,tpu]"'
    ;;
train)
    # Detached from this connection; jax.distributed finds the other hosts by itself, and
    # a missing one is named in the log within a minute.
    # The log goes on; a second run here would take the chips from the first.
    on all "cd mimjax && if kill -0 \$(cat ~/mimjax.pid) 2> /dev/null; then
        echo \"\$(hostname): a run is at work; stop it first\" >&2; exit 1; fi
        { nohup ~/env/bin/python -m mimjax.main --distributed=auto \
$(printf '%q ' "$@")>> ~/mimjax.log 2>&1 < /dev/null & echo \$! > ~/mimjax.pid; }"
    ;;
watch) on 0 'tail -n 100 -F ~/mimjax.log' ;;
stop) on all "kill -TERM \$(cat ~/mimjax.pid)" ;;
delete) vm delete "$@" ;;
*)
    echo "$verb: must be create, install, train, watch, stop or delete" >&2
    exit 64
    ;;
esac
