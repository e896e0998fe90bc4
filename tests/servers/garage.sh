# Garage, the degraded path: it answers 200 to every create-only put. Takes some minutes to build, so only tests/long uses it.
# Sourced by tests/servers/s3.

GARAGE_VERSION=2.5.0

# build_garage: once, into target/tools.
build_garage() {
    [ -x "$TOOLS/bin/garage" ] || with_retries cargo install garage --version "$GARAGE_VERSION" --locked \
        --no-default-features --features lmdb,bundled-libs --root "$TOOLS"
}

start_garage() {
    local dir=$1 s3_port rpc_port
    build_garage
    s3_port=$(free_port)
    rpc_port=$(free_port)
    garage_config "$dir" "$s3_port" "$rpc_port"
    export GARAGE_CONFIG_FILE=$dir/garage.toml
    spawn "$dir/garage.log" "$TOOLS/bin/garage" server
    wait_until 60 garage_ctl "$dir" status || die "garage does not answer: $dir/garage.log"
    garage_layout "$dir"
    garage_ctl "$dir" key import --yes -n admin "$GARAGE_ACCESS_KEY" "$GARAGE_SECRET_KEY"
    garage_ctl "$dir" key allow --create-bucket "$GARAGE_ACCESS_KEY"
    ACCESS_KEY=$GARAGE_ACCESS_KEY SECRET_KEY=$GARAGE_SECRET_KEY describe garage "http://127.0.0.1:$s3_port" ignored
}

# Garage wants its own form of keys.
GARAGE_ACCESS_KEY=GK0123456789abcdef01234567
GARAGE_SECRET_KEY=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff

garage_config() {
    local dir=$1 s3_port=$2 rpc_port=$3
    cat >"$dir/garage.toml" <<CONF
metadata_dir = "$dir/meta"
data_dir = "$dir/data"
db_engine = "lmdb"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:$rpc_port"
rpc_public_addr = "127.0.0.1:$rpc_port"
rpc_secret = "$(openssl rand -hex 32)"

[s3_api]
s3_region = "$REGION"
api_bind_addr = "127.0.0.1:$s3_port"
CONF
}

garage_ctl() { "$TOOLS/bin/garage" "${@:2}" >>"$1/setup.log" 2>&1; }

# One node, one zone: the layout that makes the server accept data.
garage_layout() {
    local dir=$1 node
    node=$("$TOOLS/bin/garage" node id -q 2>>"$dir/setup.log" | cut -d@ -f1)
    garage_ctl "$dir" layout assign -z here -c 10G "$node"
    garage_ctl "$dir" layout apply --version 1
}
