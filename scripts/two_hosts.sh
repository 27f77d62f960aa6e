#!/usr/bin/env bash
# One torchrun on each of several "hosts" of this machine: network namespaces whose links are as
# slow as a real network.
#   scripts/two_hosts.sh [--hosts 2] [--ranks 1] [--rate 1gbit] [--cores 0.5] [--lose WHEN] [--] [torchrun's]
#   scripts/two_hosts.sh                                            measures the links
#   scripts/two_hosts.sh --hosts 4 -- -m lmtrain bench what=sp 'lengths=[4096]'
#   scripts/two_hosts.sh --ranks 2 -- -m lmtrain train parallel.sequence=4
#   scripts/two_hosts.sh --lose 'grep -q "step.: 50," runs/default/metrics.jsonl' -- --max-restarts=3 \
#       -m lmtrain train launch.timeout_seconds=60
# --cores is what a rank may use of this machine's cores: without it, ranks take the time of those
# that wait, as no rank of a real cluster can. --lose is a command: once it succeeds, the last host
# loses its link and its processes, without a word to the others, and 5 s later it is back. Needs root, and ip and tc of iproute2.
set -euo pipefail
cd "$(dirname "$0")/.."

hosts=2 ranks=1 rate=1gbit cores= lose=
while [ $# -gt 0 ]; do
    case $1 in
        --hosts) hosts=$2; shift 2 ;;
        --ranks) ranks=$2; shift 2 ;;
        --rate) rate=$2; shift 2 ;;
        --cores) cores=$2; shift 2 ;;
        --lose) lose=$2; shift 2 ;;
        --) shift; break ;;
        --*) echo "unknown option $1: --hosts, --ranks, --rate, --cores or --lose" >&2; exit 2 ;;
        *) break ;;
    esac
done
for number in "$hosts" "$ranks"; do
    [[ $number =~ ^[1-9]$ ]] || { echo "--hosts and --ranks go from 1 to 9, not $number" >&2; exit 2; }
done
[ $# -gt 0 ] || set -- -m lmtrain bench what=links

if [ "$(id -u)" != 0 ] || [ "$(command -v ip tc | wc -l)" != 2 ]; then
    echo "Simulated hosts need root, and ip and tc of iproute2 (apt install iproute2): nothing is run."
    exit 0
fi
name=lmt$$ torchrun=$PWD/.venv/bin/torchrun
[ -x "$torchrun" ] || torchrun=$(command -v torchrun)
jobs=() seen=
cleanup() {
    trap - EXIT INT TERM
    for job in "${jobs[@]}"; do kill -- "-$job" 2>/dev/null || true; done
    wait 2>/dev/null || true
    for ((host = 0; host < hosts; host++)); do ip netns del "${name}h$host" 2>/dev/null || true; done
    ip link del "${name}b" 2>/dev/null || true
    if [ -n "$seen" ]; then
        rmdir "$seen/${name}"r* 2>/dev/null || true
        umount "$seen" 2>/dev/null || true
        rmdir "$seen"
    fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if ! ip netns add "${name}h0" 2>/dev/null; then
    echo "Network namespaces cannot be made here (a container without NET_ADMIN?): nothing is run."
    exit 0
fi

# A rank enters a control group of its own, whose time is limited in slices of 10 ms.
groups=/sys/fs/cgroup enter=()
[ -d "$groups/cpu" ] && groups=$groups/cpu # version 1
if [ -n "$cores" ]; then
    seen=$(mktemp -d) # a namespace has a /sys of its own, without control groups
    mount --bind "$groups" "$seen"
    export LMTRAIN_GROUP=$seen/${name}r LMTRAIN_PERIOD=10000
    LMTRAIN_QUOTA=$(awk "BEGIN { print int($cores * $LMTRAIN_PERIOD) }")
    export LMTRAIN_QUOTA
    # shellcheck disable=SC2016  # the rank expands it
    enter=(--no-python bash -c '
        set -e
        group=$LMTRAIN_GROUP$RANK
        mkdir "$group"
        if [ -e "$group/cpu.max" ]; then
            echo "$LMTRAIN_QUOTA $LMTRAIN_PERIOD" > "$group/cpu.max"
        else
            echo "$LMTRAIN_PERIOD" > "$group/cpu.cfs_period_us"
            echo "$LMTRAIN_QUOTA" > "$group/cpu.cfs_quota_us"
        fi
        echo $BASHPID > "$group/cgroup.procs" # torchrun reads a double dollar as one
        exec python "$@"' _)
    PATH=$(dirname "$torchrun"):$PATH
fi

# A host sends through its own end of a cable, the bridge through the other: both are slowed, so
# that a link is as fast in one direction as in the other.
ip link add "${name}b" type bridge
ip link set "${name}b" up
slow=(root tbf rate "$rate" burst 256kb latency 50ms)
for ((host = 0; host < hosts; host++)); do
    space=${name}h$host port=${name}p$host
    [ "$host" = 0 ] || ip netns add "$space"
    ip link add "$port" type veth peer name lan netns "$space"
    ip link set "$port" master "${name}b" up
    ip -n "$space" addr add "10.77.0.$((host + 1))/24" dev lan
    ip -n "$space" link set lan up
    ip -n "$space" link set lo up
    tc qdisc add dev "$port" "${slow[@]}"
    tc -n "$space" qdisc add dev lan "${slow[@]}"
done

export GLOO_SOCKET_IFNAME=lan NCCL_SOCKET_IFNAME=lan TP_SOCKET_IFNAME=lan
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # else a host that comes back finds old addresses
set -m # each job is a group of processes that cleanup can end
# The first host is told that they meet at its address, which it would not recognise; ranks follow
# the order of the addresses.
begin() {
    local host=$1 meets=false
    [ "$host" != 0 ] || meets=true
    shift
    ip netns exec "${name}h$host" "$torchrun" --nnodes="$hosts" --nproc-per-node="$ranks" \
        --rdzv-backend=c10d --rdzv-id="$name" \
        --rdzv-endpoint=10.77.0.1:29400 --rdzv-conf="is_host=$meets" \
        --local-addr="10.77.0.$((host + 1))" "${enter[@]}" "$@" &
    jobs[host]=$!
}
for ((host = 0; host < hosts; host++)); do begin "$host" "$@"; done
if [ -n "$lose" ]; then
    last=$((hosts - 1))
    while kill -0 "${jobs[last]}" 2>/dev/null && ! bash -c "$lose" 2>/dev/null; do sleep 0.2; done
    kill -0 "${jobs[last]}" 2>/dev/null || lose= # it ended by itself
fi
if [ -n "$lose" ]; then
    ip -n "${name}h$last" link set lan down
    ip netns pids "${name}h$last" | xargs --no-run-if-empty kill -KILL
    wait "${jobs[last]}" || true
    echo "host $hosts is lost"
    sleep 5
    ip -n "${name}h$last" link set lan up
    echo "host $hosts is back"
    begin "$last" "$@"
fi
failed=0
for job in "${jobs[@]}"; do wait "$job" || failed=$?; done
exit "$failed"
