#!/usr/bin/env bash
# A Slurm of one node on this machine, for the tests: scripts/ci/slurm.sh start | stop. Needs root and Debian's packages
# slurm-wlm and munge, which `start` installs where they are missing. Everything listens on 127.0.0.1 only, and all
# files but munge's lie in one folder, SORA_SLURM (default /tmp/sora-slurm).
#
# Ends with status 0 and `start`ed, or with status 3 and a sentence on why there can be no Slurm here.
set -euo pipefail

folder=${SORA_SLURM:-/tmp/sora-slurm}
export SLURM_CONF=$folder/slurm.conf
unavailable() { echo "no Slurm: $*"; exit 3; }

stop() {
    local daemon pid
    for daemon in slurmd slurmctld munged; do
        if [ -f "$folder/$daemon.pid" ]; then
            pid=$(cat "$folder/$daemon.pid")
            kill "$pid" 2>/dev/null || true
            # Until it is gone it writes into the folder.
            for _ in $(seq 60); do
                kill -0 "$pid" 2>/dev/null || break
                sleep 0.5
            done
            kill -9 "$pid" 2>/dev/null || true
        fi
        rm -f "$folder/$daemon.pid"
    done
}

start() {
    [ "$(id -u)" = 0 ] || unavailable "its daemons need root"
    if ! command -v slurmctld slurmd munged sbatch >/dev/null; then
        command -v apt-get >/dev/null || unavailable "slurm-wlm and munge are not installed, and there is no apt-get"
        export DEBIAN_FRONTEND=noninteractive
        timeout 300 apt-get -qq -o DPkg::Lock::Timeout=120 update </dev/null >/dev/null || true  # old lists may do
        timeout 300 apt-get -qq -o DPkg::Lock::Timeout=120 install -y --no-install-recommends slurm-wlm munge </dev/null >/dev/null ||
            unavailable "apt-get could not install slurm-wlm and munge"
    fi
    stop
    mkdir -p "$folder/state" "$folder/spool"
    chmod 755 "$folder"
    umask 077
    [ -f "$folder/munge.key" ] || head -c 1024 /dev/urandom >"$folder/munge.key"
    # As root, with a socket of its own: another munge on this machine is left alone.
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" || unavailable "munged does not start"
    umask 022
    local cores name
    cores=$(getconf _NPROCESSORS_ONLN)
    name=$(hostname -s)
    cat >"$SLURM_CONF" <<CONF
ClusterName=sora
SlurmctldHost=$name(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=10
SlurmctldPort=${SORA_SLURM_PORT:-16817}
SlurmdPort=$((${SORA_SLURM_PORT:-16817} + 1))
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
KillWait=20
InactiveLimit=0
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
NodeName=$name NodeAddr=127.0.0.1 CPUs=$cores State=UNKNOWN
PartitionName=test Nodes=$name Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
CONF
    slurmctld -c -f "$SLURM_CONF" </dev/null >/dev/null || unavailable "slurmctld does not start"
    slurmd -f "$SLURM_CONF" </dev/null >/dev/null || unavailable "slurmd does not start"
    for _ in $(seq 60); do
        if sinfo -h -o %T 2>/dev/null | grep -qx idle; then
            echo "Slurm $(sbatch --version | cut -d' ' -f2) is up; export SLURM_CONF=$SLURM_CONF"
            return
        fi
        sleep 0.5
    done
    unavailable "the node does not come up: $(tail -n 1 "$folder/slurmd.log")"
}

case "${1:-}" in
start) start ;;
stop) stop ;;
*) echo "usage: $0 start | stop" && exit 2 ;;
esac
