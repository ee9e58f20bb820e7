#!/usr/bin/env bash
# Stops what start.sh started, and the jobs on it. usage: stop.sh DIR
DIR=${1:?usage: $0 DIR}
export SLURM_CONF=$DIR/slurm.conf
scancel --user=root
for _ in $(seq 100); do
    [ -z "$(squeue -h 2>/dev/null)" ] && break
    sleep 0.1
done
for file in "$DIR"/slurmd-*.pid "$DIR"/slurmctld.pid "$DIR"/munge/munged.pid; do
    [ -f "$file" ] && kill "$(cat "$file")"
done
exit 0
