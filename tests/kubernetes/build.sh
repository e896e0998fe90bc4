# `build`: Kubernetes, etcd and the CSI sidecars from Go modules, images from Debian packages and from our own programs.
# Each part is made again only when what it is made from has changed. Sourced by tests/cluster.

KUBERNETES=1.35.4
PROGRAMS=(etcd kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubelet kubectl)

build_all() {
    mkdir -p "$BIN" "$IMAGES" "$CLUSTER/tmp"
    part kube "$HERE/kube" "$HERE/build.sh"
    part csi "$HERE/csi" "$HERE/build.sh"
    part debian "$HERE/image.py" "$HERE/build.sh"
    (cd "$ROOT" && cargo build --workspace --bins --tests --examples --locked --quiet)
    part copal "$ROOT/target/debug/copal" "$ROOT/target/debug/copal-agent" "$HERE/image.py" "$HERE/build.sh"
}

# part NAME FILE-OR-DIRECTORY...: runs build_NAME unless it has succeeded with these very inputs.
part() {
    local name=$1 inputs started=$SECONDS
    inputs=$(find "${@:2}" -type f -print0 | sort -z | xargs -0 sha256sum | sed "s# $ROOT/# #" | sha256sum)
    [ "$inputs" != "$(cat "$CLUSTER/$name.built" 2>/dev/null)" ] || return 0
    say "building $name"
    "build_$name"
    printf '%s\n' "$inputs" >"$CLUSTER/$name.built"
    say "built $name in $((SECONDS - started)) s"
}

# One binary under many names. Without debugging information it links in half the memory.
build_kube() {
    local flags='-s -w' package value
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        for value in gitVersion=v$KUBERNETES gitMajor=1 gitMinor=35 gitTreeState=clean gitCommit=none buildDate=1970-01-01T00:00:00Z; do
            flags+=" -X $package.$value"
        done
    done
    go_build kube "$flags" "$BIN/kube" .
    for program in "${PROGRAMS[@]}"; do ln -sf kube "$BIN/$program"; done
}

build_csi() {
    local tools crds
    mapfile -t tools < <(cd "$HERE/csi" && go list tool)
    go_build csi '-s -w' "$BIN/" ./driver "${tools[@]}"
    crds=$(cd "$HERE/csi" && go list -m -f '{{.Dir}}' github.com/kubernetes-csi/external-snapshotter/client/v8)/config/crd
    rm -rf "$CLUSTER/crds"
    mkdir "$CLUSTER/crds"
    cp "$crds"/*.storage.k8s.io_*.yaml "$CLUSTER/crds"
}

# go_build MODULE LINKER-FLAGS OUTPUT PACKAGE...
go_build() (
    cd "$HERE/$1"
    export GOCACHE=${GOCACHE:-$CLUSTER/go-build} CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false"
    with_retries go mod download
    nice -n 10 go build -gcflags=all=-dwarf=false -ldflags "$2" -o "$3" "${@:4}"
)

# Debian's essential packages, and the same with MariaDB, in one go. pause, which holds a pod's namespaces, only has to sleep:
# containerd ends it by SIGKILL.
build_debian() {
    local work=$CLUSTER/tmp/debian sources=/etc/apt/sources.list.d/debian.sources
    [ -e "$sources" ] || sources=/etc/apt/sources.list
    rm -rf "$work"
    mkdir "$work"
    TMPDIR=$CLUSTER/tmp with_retries nice -n 5 mmdebstrap --quiet --variant=essential --include=mariadb-server \
        --essential-hook="tar -C \"\$1\" --one-file-system --exclude=./var/lib/apt/lists --exclude=./var/cache/apt -cf $work/base.tar ." \
        "${LEAN[@]}" bookworm "$work/mariadb.tar" "$sources"
    image debian.tar --layer "$work/base.tar" \
        --tag copal.test/pause:1 --entrypoint '["sleep", "infinity"]' --tag copal.test/base:1 --entrypoint '[]'
    image mariadb.tar --layer "$work/mariadb.tar" --tag copal.test/mariadb:1 --entrypoint '[]'
    mv "$work/base.tar" "$IMAGES/base.layer"
    rm -r "$work"
}

LEAN=(--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*')

# Our programs on top of the base.
build_copal() {
    local work=$CLUSTER/tmp/copal
    rm -rf "$work"
    mkdir -p "$work/root/usr/local/bin"
    for program in copal copal-agent; do
        strip -o "$work/root/usr/local/bin/$program" "$ROOT/target/debug/$program"
    done
    tar -C "$work/root" --owner=0 --group=0 --numeric-owner -cf "$work/copal.tar" .
    image copal.tar --layer "$IMAGES/base.layer" --layer "$work/copal.tar" \
        --tag copal.test/copal:1 --entrypoint '["copal-agent"]'
    rm -r "$work"
}

image() { python3 "$HERE/image.py" "$IMAGES/$1" "${@:2}"; }
