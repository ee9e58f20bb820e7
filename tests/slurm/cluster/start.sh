#!/usr/bin/env bash
# A SLURM of two nodes on this machine, as root, without systemd, cgroups or accounting. usage: start.sh DIR
# Needs slurmctld, slurmd, slurm-client and munge. Afterwards: export SLURM_CONF=DIR/slurm.conf
set -euo pipefail
DIR=${1:?usage: $0 DIR}
HOST=$(hostname -s)
PORT=${2:-16817}
mkdir -p "$DIR"/{state,spool-one,spool-two,log,munge}
chmod 755 "$DIR" "$DIR/munge"
[ -f "$DIR/munge/munge.key" ] || (umask 077 && head -c 128 /dev/urandom >"$DIR/munge/munge.key")
cat >"$DIR/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/munge.socket
CredType=cred/munge
SlurmctldPort=$PORT
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd-%n.pid
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool-%n
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=0,requeue_setup_env_fail
ReturnToService=2
MpiDefault=none
KillWait=5
MinJobAge=600
JobRequeue=1
SlurmdParameters=config_overrides
NodeName=one NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((PORT + 1)) CPUs=2 State=UNKNOWN
NodeName=two NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((PORT + 2)) CPUs=2 State=UNKNOWN
PartitionName=test Nodes=one,two Default=YES MaxTime=60 State=UP
CONF
export SLURM_CONF=$DIR/slurm.conf
munged --force --key-file="$DIR/munge/munge.key" --socket="$DIR/munge/munge.socket" --pid-file="$DIR/munge/munged.pid" \
    --log-file="$DIR/munge/munged.log" --seed-file="$DIR/munge/munged.seed" --num-threads=2
slurmctld -f "$SLURM_CONF"
for node in one two; do slurmd -f "$SLURM_CONF" -N "$node"; done
for _ in $(seq 100); do
    [ "$(sinfo -h -o %T 2>/dev/null | sort -u)" = idle ] && exit 0
    sleep 0.1
done
sinfo >&2
tail -n 5 "$DIR"/log/*.log >&2
exit 1
