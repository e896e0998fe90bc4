# Certificates, etcd, the API server, controllers, scheduler, and what every cluster here holds: storage classes, CSI.
# Sourced by tests/cluster.

PKI=$STATE/pki

start_control_plane() {
    mkdir "$PKI"
    certificates
    spawn "$STATE/etcd.log" "$BIN/etcd" --name "$NODE" --data-dir "$STATE/etcd" --unsafe-no-fsync --log-level warn \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380
    wait_until 30 port_open 2379 || die_with_log "etcd does not answer" "$STATE/etcd.log"
    spawn "$STATE/kube-apiserver.log" "$BIN/kube-apiserver" --etcd-servers http://127.0.0.1:2379 \
        --bind-address "$ADDRESS" --advertise-address "$ADDRESS" --service-cluster-ip-range "$SERVICES" \
        --tls-cert-file "$PKI/apiserver.pem" --tls-private-key-file "$PKI/apiserver.key" --client-ca-file "$PKI/ca.pem" \
        --kubelet-client-certificate "$PKI/apiserver-kubelet.pem" --kubelet-client-key "$PKI/apiserver-kubelet.key" \
        --kubelet-certificate-authority "$PKI/ca.pem" --kubelet-preferred-address-types InternalIP \
        --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$PKI/accounts.pem" \
        --service-account-signing-key-file "$PKI/accounts.key" \
        --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged --profiling=false
    wait_until 60 kubectl get --raw /readyz || die_with_log "the API server does not get ready" "$STATE/kube-apiserver.log"
    spawn "$STATE/kube-controller-manager.log" "$BIN/kube-controller-manager" --kubeconfig "$STATE/controller-manager.kubeconfig" \
        --bind-address 127.0.0.1 --leader-elect=false --use-service-account-credentials --root-ca-file "$PKI/ca.pem" \
        --service-account-private-key-file "$PKI/accounts.key" \
        --cluster-signing-cert-file "$PKI/ca.pem" --cluster-signing-key-file "$PKI/ca.key"
    spawn "$STATE/kube-scheduler.log" "$BIN/kube-scheduler" --kubeconfig "$STATE/scheduler.kubeconfig" \
        --bind-address 127.0.0.1 --leader-elect=false
}

# One CA; each component its own certificate, and rights by what the certificate calls it.
certificates() {
    new_key ca
    openssl req -x509 -new -key "$PKI/ca.key" -days 30 -subj "/CN=Copal test cluster" -out "$PKI/ca.pem" \
        -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign"
    new_key accounts
    openssl pkey -in "$PKI/accounts.key" -pubout -out "$PKI/accounts.pem"
    certificate apiserver /CN=kube-apiserver \
        "IP:$ADDRESS,IP:$FIRST_SERVICE,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
    certificate apiserver-kubelet /O=system:masters/CN=kube-apiserver-kubelet-client
    certificate kubelet "/O=system:nodes/CN=system:node:$NODE" "IP:$ADDRESS,DNS:$NODE"
    certificate admin /O=system:masters/CN=admin
    certificate controller-manager /CN=system:kube-controller-manager
    certificate scheduler /CN=system:kube-scheduler
    certificate proxy /CN=system:kube-proxy
    for user in kubelet admin controller-manager scheduler proxy; do kubeconfig "$user"; done
}

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$PKI/$1.key"; }

# certificate NAME SUBJECT [ALTERNATIVE-NAMES]
certificate() {
    local usage='extendedKeyUsage=clientAuth,serverAuth'
    new_key "$1"
    openssl req -new -key "$PKI/$1.key" -subj "$2" |
        openssl x509 -req -CA "$PKI/ca.pem" -CAkey "$PKI/ca.key" -days 30 -out "$PKI/$1.pem" \
            -extfile <(printf '%s\n' "$usage" ${3:+"subjectAltName=$3"}) 2>>"$STATE/setup.log"
}

# kubeconfig NAME: as the user that the certificate NAME says, with everything in one file.
kubeconfig() {
    cat >"$STATE/$1.kubeconfig" <<CONFIG
apiVersion: v1
kind: Config
clusters:
  - name: copal
    cluster: {server: "https://$ADDRESS:6443", certificate-authority-data: $(base64 -w0 "$PKI/ca.pem")}
users:
  - name: $1
    user: {client-certificate-data: $(base64 -w0 "$PKI/$1.pem"), client-key-data: $(base64 -w0 "$PKI/$1.key")}
contexts:
  - name: copal
    context: {cluster: copal, user: $1}
current-context: copal
CONFIG
    chmod 600 "$STATE/$1.kubeconfig"
}

# The released sidecars run on the host, as the admin; the driver is ours (csi/driver).
start_storage() {
    kubectl apply --filename "$CLUSTER/crds" >>"$STATE/setup.log"
    kubectl wait --for condition=Established --timeout 30s --filename "$CLUSTER/crds" >>"$STATE/setup.log"
    kubectl apply --filename "$HERE/storage.yaml" >>"$STATE/setup.log"
    local socket=$KUBELET/plugins/$DRIVER/csi.sock
    spawn "$STATE/csi-driver.log" "$BIN/driver" -images "$STATE/disks" -node "$NODE" -kubelet "$KUBELET"
    wait_until 10 test -S "$socket" || die_with_log "the CSI driver does not start" "$STATE/csi-driver.log"
    spawn "$STATE/csi-provisioner.log" "$BIN/csi-provisioner" --kubeconfig "$KUBECONFIG" --csi-address "$socket" \
        --extra-create-metadata --default-fstype ext4
    spawn "$STATE/csi-snapshotter.log" "$BIN/csi-snapshotter" --kubeconfig "$KUBECONFIG" --csi-address "$socket" \
        --extra-create-metadata
    spawn "$STATE/snapshot-controller.log" "$BIN/snapshot-controller" --kubeconfig "$KUBECONFIG" --leader-election=false
}

# The node is Ready, and pods that ask for a volume can be placed there.
wait_ready() {
    wait_until 60 driver_registered || die_with_log "the CSI driver is not registered" "$STATE/kubelet.log"
    kubectl wait --for condition=Ready --timeout 60s "node/$NODE" >>"$STATE/setup.log" ||
        die_with_log "the node is not Ready" "$STATE/kubelet.log"
    wait_until 30 kubectl get serviceaccount default || die_with_log "no service accounts" "$STATE/kube-controller-manager.log"
}

driver_registered() { kubectl get csinode "$NODE" -o jsonpath='{.spec.drivers[*].name}' | grep -q "$DRIVER"; }

# What the project ships for clusters, as its users apply it.
install_copal() {
    [ -d "$ROOT/deploy" ] || return 0
    kubectl apply --server-side --filename "$ROOT/deploy" --recursive >>"$STATE/setup.log"
}
