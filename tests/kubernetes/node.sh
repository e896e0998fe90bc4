# The node: network, containerd with the images, kubelet, kube-proxy; and how all of it is taken away again.
# Sourced by tests/cluster.

# What the kubelet and kube-proxy change on the machine; `down` sets it back.
SYSCTLS=(net/ipv4/ip_forward vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes)

# A bridge whose address is at once the node's, the API server's and the S3 server's, and the pods' gateway. No address is
# translated and no route leads further: pods reach this machine and each other, nothing else.
start_network() {
    local name
    for name in "${SYSCTLS[@]}"; do
        [ ! -e "/proc/sys/$name" ] || printf '%s %s\n' "$name" "$(cat "/proc/sys/$name")" >>"$STATE/sysctls"
    done
    ip link add "$BRIDGE" type bridge
    ip address add "$ADDRESS/24" dev "$BRIDGE"
    ip link set "$BRIDGE" up
    echo 1 >/proc/sys/net/ipv4/ip_forward
    mkdir -p "$STATE/cni"
    cat >"$STATE/cni/copal.conflist" <<CONF
{"cniVersion": "0.4.0", "name": "copal", "plugins": [{
    "type": "bridge", "bridge": "$BRIDGE", "isGateway": false, "ipMasq": false, "hairpinMode": true,
    "ipam": {"type": "host-local", "dataDir": "$STATE/addresses",
             "ranges": [[{"subnet": "$PODS", "rangeStart": "10.244.0.10", "gateway": "$ADDRESS"}]],
             "routes": [{"dst": "$PODS"}, {"dst": "$SERVICES", "gw": "$ADDRESS"}]}}]}
CONF
}

# Without the right to lower a process' OOM score, as in most sandboxes, no container starts unless told not to try.
start_containerd() {
    mkdir -p "$STATE/containerd"
    cat >"$STATE/containerd.toml" <<CONF
version = 2
root = "$STATE/containerd"
state = "$RUN/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "$CONTAINERD"
[plugins."io.containerd.internal.v1.opt"]
path = "$STATE/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "copal.test/pause:1"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "$STATE/cni"
CONF
    spawn "$STATE/containerd.log" containerd --config "$STATE/containerd.toml" --log-level warn
    wait_until 30 images version || die_with_log "containerd does not answer" "$STATE/containerd.log"
}

images() { ctr --address "$CONTAINERD" --namespace k8s.io "$@"; }

# import_images: those that are new or changed since they were imported.
import_images() {
    local archive mark
    for archive in "$IMAGES"/*.tar; do
        mark=$STATE/imported.$(basename "$archive")
        [ "$archive" -nt "$mark" ] || continue
        images images import "$archive" >>"$STATE/setup.log"
        touch --reference "$archive" "$mark"
    done
}

start_kubelet() {
    mkdir -p "$KUBELET"
    mount --bind "$KUBELET" "$KUBELET"
    mount --make-rshared "$KUBELET" # so that pods see volumes that are mounted after they started
    cat >"$STATE/kubelet.yaml" <<CONF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $ADDRESS
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.pem}}
authorization: {mode: Webhook}
tlsCertFile: $PKI/kubelet.pem
tlsPrivateKeyFile: $PKI/kubelet.key
containerRuntimeEndpoint: unix://$CONTAINERD
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
makeIPTablesUtilChains: false
resolvConf: ""
maxPods: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
CONF
    spawn "$STATE/kubelet.log" "$BIN/kubelet" --config "$STATE/kubelet.yaml" --kubeconfig "$STATE/kubelet.kubeconfig" \
        --hostname-override "$NODE" --node-ip "$ADDRESS" --root-dir "$KUBELET"
}

# Services are nftables of their own: nothing that the machine filters is touched.
start_proxy() {
    cat >"$STATE/proxy.yaml" <<CONF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: $STATE/proxy.kubeconfig}
hostnameOverride: $NODE
bindAddress: $ADDRESS
clusterCIDR: $PODS
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
CONF
    spawn "$STATE/kube-proxy.log" "$BIN/kube-proxy" --config "$STATE/proxy.yaml"
}

# stop_node: in this order. A process that writes to a frozen volume cannot be killed, and a mount that a process uses
# cannot be undone.
stop_node() {
    thaw_volumes
    kill_all
    kill_pods
    kill_shims
    unmount_below "$KUBELET"
    unmount_below "$STATE"
    unmount_below "$RUN"
    detach_disks
    remove_cgroups
    nft delete table ip kube-proxy 2>/dev/null || true
    nft delete table ip6 kube-proxy 2>/dev/null || true
    rm -rf --one-file-system "$KUBELET"
    find /var/lib/cni/results -maxdepth 1 -name 'copal-*' -delete 2>/dev/null || true
    rmdir /var/lib/cni/results /var/lib/cni /run/containerd/s /run/containerd 2>/dev/null || true
}

stop_network() {
    ! ip link show "$BRIDGE" >/dev/null 2>&1 || ip link delete "$BRIDGE"
    [ ! -f "$STATE/sysctls" ] || while read -r name value; do
        [ "$(cat "/proc/sys/$name")" = "$value" ] || echo "$value" >"/proc/sys/$name"
    done <"$STATE/sysctls"
}

thaw_volumes() {
    local mount
    for mount in $(mounts_below "$KUBELET/plugins/kubernetes.io/csi"); do
        timeout 10 fsfreeze --unfreeze "$mount" 2>/dev/null || true
    done
}

# kill_pods: every process of the pods' control groups.
kill_pods() {
    local pid
    for pid in $(cat /dev/null $(find /sys/fs/cgroup -path '*/kubepods/*' -name cgroup.procs) | sort -u); do
        kill -KILL "$pid" 2>/dev/null || true
    done
    wait_until 10 pods_gone || say "some processes of pods do not end"
}

pods_gone() { [ -z "$(cat /dev/null $(find /sys/fs/cgroup -path '*/kubepods/*' -name cgroup.procs))" ]; }

# kill_shims: containerd's helpers are not its children; each names the socket of its containerd.
kill_shims() {
    local process
    for process in /proc/[0-9]*; do
        tr '\0' ' ' 2>/dev/null <"$process/cmdline" | grep -q "^[^ ]*containerd-shim.* -address $CONTAINERD " || continue
        kill -KILL "${process#/proc/}" || true
    done
}

# mounts_below PATH: mount points at or below it, the latest first.
mounts_below() {
    local path
    tac /proc/self/mounts | while read -r _ path _; do
        case $path in "$1" | "$1"/*) printf '%b\n' "$path" ;; esac
    done
}

unmount_below() {
    local mount
    for mount in $(mounts_below "$1"); do umount "$mount" 2>/dev/null || umount --lazy "$mount"; done
}

detach_disks() {
    local disk device
    for disk in "$STATE"/disks/*.img; do
        [ -e "$disk" ] || continue
        for device in $(losetup --noheadings --output NAME --associated "$disk"); do losetup --detach "$device"; done
    done
}

remove_cgroups() {
    local round
    for round in 1 2 3 4 5; do
        find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} + 2>/dev/null || true
        [ -n "$(find /sys/fs/cgroup -maxdepth 2 -name kubepods)" ] || return 0
        sleep 0.2
    done
    say "control groups of pods are left in /sys/fs/cgroup"
}
