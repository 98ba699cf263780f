#!/usr/bin/env bash
# Trains on all GPUs of this machine, in one process.
#
#   launch/gpu_host.sh --config=configs/mae_b16.py --workdir=runs/mae [--config.a.b=value]
#
# Several machines without a scheduler: run it on each, with
#   --distributed=HOST:PORT,COUNT,INDEX
# where HOST is machine 0 as the others reach it, PORT any free port of it, COUNT the
# number of machines and INDEX 0, 1, ... ; the workdir must be one that all of them share.
#
# Relative paths are from the root of the repository. SIGTERM or Ctrl-C saves and ends with
# status 75; the same command goes on from there. A supervisor that does that by itself
# (`systemctl --user stop` still stops it, and gives it time to save):
#   systemd-run --user --same-dir --unit=mae -p RestartForceExitStatus=75 \
#     -p TimeoutStopSec=15min -E PATH="$PATH" launch/gpu_host.sh ...
set -euo pipefail

# Without a working CUDA build JAX would quietly train on the CPU: make it an error.
export JAX_PLATFORMS="${JAX_PLATFORMS:-cuda,cpu}"
# JAX takes 75 % of the memory unless told otherwise; nobody else is on this machine.
# As it was called before; JAX takes one of both.
former="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
export XLA_CLIENT_MEM_FRACTION="${XLA_CLIENT_MEM_FRACTION:-$former}"
unset XLA_PYTHON_CLIENT_MEM_FRACTION

nvidia-smi -L
cd "$(dirname "$0")/.."
# exec: signals reach the program itself, and its exit status is ours.
exec "${PYTHON:-python}" -m mimjax.main "$@"
