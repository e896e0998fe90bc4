# Where the parts of the test cluster lie, and its fixed addresses. Sourced by tests/cluster.
# Expects bash with `set -euo pipefail`.

. "$(dirname "${BASH_SOURCE[0]}")/../servers/lib.sh"

HERE=$ROOT/tests/kubernetes
CLUSTER=$ROOT/target/cluster
BIN=$CLUSTER/bin       # what `build` makes: programs,
IMAGES=$CLUSTER/images # and images
STATE=$CLUSTER/state   # of the running cluster; `down` removes it
S3=$CLUSTER/s3         # the S3 server that `up` starts
PIDS=$STATE/pids

# Sockets have short paths, and the name of the work tree whose cluster runs: there can be one on a machine.
RUN=/run/copal-cluster
CONTAINERD=$RUN/containerd.sock
KUBELET=/var/lib/kubelet

NODE=node1
BRIDGE=copal0
ADDRESS=10.244.0.1 # of the bridge: the node's, the API server's and the S3 server's, and the pods' gateway
PODS=10.244.0.0/24
SERVICES=10.96.0.0/16
FIRST_SERVICE=10.96.0.1

KUBECONFIG=$STATE/admin.kubeconfig
KUBECTL=$BIN/kubectl
DRIVER=disk.csi.copal.test

kubectl() { "$KUBECTL" --kubeconfig "$KUBECONFIG" "$@"; }

# kill_all: ends what `spawn` recorded, last started first, by force: nothing of the cluster outlives it, and an API server
# that is asked to end waits for its clients first.
kill_all() {
    [ -f "$PIDS" ] || return 0
    local pid start name
    tac "$PIDS" | while read -r pid start name; do
        ! still_ours "$pid" "$start" || kill -KILL "$pid" || true
    done
    while read -r pid start name; do
        wait_until 10 gone "$pid" "$start" || say "$name ($pid) does not end"
    done <"$PIDS"
    rm -f "$PIDS"
}
