# Ceph's object gateway, the real server of every run: one monitor, one OSD in memory, one radosgw, no manager.
# Sourced by tests/servers/s3. Packages: radosgw ceph-mon ceph-osd ceph-common (tests/run packages).

start_rgw() {
    local dir=$1 mon_port http_port tls_port fsid
    mon_port=$(free_port)
    http_port=$(free_port)
    tls_port=$(free_port)
    fsid=$(uuidgen)
    rgw_certificates "$dir"
    rgw_config "$dir" "$fsid" "$mon_port" "$http_port" "$tls_port"
    export CEPH_CONF=$dir/ceph.conf

    rgw_monitor "$dir" "$fsid" "$mon_port"
    rgw_osd "$dir"
    spawn "$dir/radosgw.log" radosgw -f -n client.rgw --no-mon-config
    wait_until 60 port_open "$http_port" || die_with_log "radosgw does not answer" "$dir/radosgw.log"
    rgw_user admin "$ACCESS_KEY" "$SECRET_KEY"
    rgw_user stranger "$STRANGER_ACCESS_KEY" "$STRANGER_SECRET_KEY"
    describe rgw "http://127.0.0.1:$http_port" atomic \
        tls_endpoint "https://localhost:$tls_port" ca_file "$dir/ca.pem" \
        ceph_conf "$dir/ceph.conf" \
        stranger_access_key "$STRANGER_ACCESS_KEY" stranger_secret_key "$STRANGER_SECRET_KEY"
}

# No authentication between the daemons: they listen on 127.0.0.1 only and hold nothing. Users of S3 are checked as always.
rgw_config() {
    local dir=$1 fsid=$2 mon_port=$3 http_port=$4 tls_port=$5
    cat >"$dir/ceph.conf" <<CONF
[global]
fsid = $fsid
mon host = v1:127.0.0.1:$mon_port
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr2 = false
auth cluster required = none
auth service required = none
auth client required = none
mon allow pool size one = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
run dir = $dir
admin socket = $dir/\$name.\$pid.asok
keyring = $dir/keyring
log file =
log to stderr = true
[mon]
mon data = $dir/mon
# A monitor ends at once where less than 5 % of the disk is free, whatever that is in bytes; it needs some megabytes.
mon data avail warn = 1
mon data avail crit = 0
# Clients and the OSD know the cluster's fsid from this file (the daemons only with --no-mon-config). One that only knows
# "mon host" may send its first command with an fsid of zeros, before it was told; the monitor drops that command and the
# sender waits for ever.
[client]
monmap = $dir/monmap
[osd]
monmap = $dir/monmap
[osd.0]
osd data = $dir/osd
osd objectstore = memstore
memstore device bytes = 6442450944
[client.rgw]
rgw data = $dir/rgw
rgw frontends = beast endpoint=127.0.0.1:$http_port ssl_endpoint=127.0.0.1:$tls_port ${ALSO_ON:+endpoint=$ALSO_ON:$http_port ssl_endpoint=$ALSO_ON:$tls_port }ssl_certificate=$dir/server.pem ssl_private_key=$dir/server.key
# Encryption with keys that the client sends is refused over plain http otherwise.
rgw crypt require ssl = false
CONF
}

# A CA and a leaf: rustls takes no certificate that is both.
rgw_certificates() {
    local dir=$1
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=Copal test CA" \
        -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign" \
        -keyout "$dir/ca.key" -out "$dir/ca.pem" 2>/dev/null
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=localhost" \
        -keyout "$dir/server.key" -out "$dir/server.csr" 2>/dev/null
    openssl x509 -req -in "$dir/server.csr" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -set_serial 2 -days 2 \
        -extfile <(printf 'basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1%s\n' "${ALSO_ON:+,IP:$ALSO_ON}") \
        -out "$dir/server.pem" 2>/dev/null
}

rgw_monitor() {
    local dir=$1 fsid=$2 port=$3
    ceph-authtool --create-keyring "$dir/keyring" --gen-key -n mon. --cap mon 'allow *' >"$dir/setup.log"
    ceph-authtool "$dir/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' >>"$dir/setup.log"
    monmaptool --create --addv a "v1:127.0.0.1:$port" --fsid "$fsid" "$dir/monmap" >>"$dir/setup.log"
    ceph-mon --mkfs -i a --monmap "$dir/monmap" --keyring "$dir/keyring" >>"$dir/setup.log" 2>&1
    spawn "$dir/mon.log" ceph-mon -f -i a
    wait_until 30 port_open "$port" || die_with_log "ceph-mon does not answer" "$dir/mon.log"
}

rgw_osd() {
    local dir=$1 uuid
    uuid=$(uuidgen)
    mkdir "$dir/osd"
    with_retries timeout 15 ceph osd new "$uuid" >>"$dir/setup.log" 2>&1
    ceph-osd --mkfs -i 0 --osd-uuid "$uuid" --no-mon-config >>"$dir/setup.log" 2>&1
    spawn "$dir/osd.log" ceph-osd -f -i 0 --no-mon-config
    wait_until 60 rgw_osd_up || die_with_log "ceph-osd does not come up" "$dir/osd.log"
}

rgw_osd_up() { timeout 10 ceph osd stat | grep -q '1 up'; }

rgw_user() {
    timeout 60 radosgw-admin --no-mon-config user create --uid="$1" --display-name="$1" --access-key="$2" --secret-key="$3" \
        >>"$CEPH_CONF.users.log" 2>&1
}
