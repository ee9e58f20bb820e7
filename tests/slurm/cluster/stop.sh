#!/usr/bin/env bash
# Stops what start.sh started. usage: stop.sh DIR
DIR=${1:?usage: $0 DIR}
for file in "$DIR"/slurmd-*.pid "$DIR"/slurmctld.pid "$DIR"/munge/munged.pid; do
    [ -f "$file" ] && kill "$(cat "$file")"
done
exit 0
