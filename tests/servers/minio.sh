# MinIO, the server that most other tools test against. Sourced by tests/servers/s3.

MINIO_VERSION=v0.0.0-20260212201848-7aac2a2c5b7c

# build_minio: once, into target/tools.
build_minio() {
    [ -x "$TOOLS/minio" ] || GOBIN=$TOOLS CGO_ENABLED=0 with_retries \
        go install -trimpath -ldflags '-s -w' "github.com/minio/minio@$MINIO_VERSION"
}

start_minio() {
    local dir=$1 port console
    build_minio
    port=$(free_port)
    console=$(free_port)
    mkdir "$dir/data"
    MINIO_ROOT_USER=$ACCESS_KEY MINIO_ROOT_PASSWORD=$SECRET_KEY MINIO_UPDATE=off HOME=$dir \
        spawn "$dir/minio.log" "$TOOLS/minio" server --quiet --address "127.0.0.1:$port" \
        --console-address "127.0.0.1:$console" "$dir/data"
    wait_until 60 port_open "$port" || die "minio does not answer: $dir/minio.log"
    describe minio "http://127.0.0.1:$port" atomic
}
