"""describe.py FILE FIELD VALUE...: makes the bucket of a server that was just started, tries the server, and adds it to FILE.

The trial keeps the list honest: what FILE says of a server (create_only, tls_endpoint, stranger_*) was seen to be so.
"""

import json
import os
import sys
import time

from s3client import Bucket, Refused


def wait_ready(bucket, seconds=60):
    """Makes the bucket; a server that listens already may refuse for a moment."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return bucket.create()
        except (Refused, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def refused(code, verb, *arguments, **options):
    """Whether the call is refused with this error code of S3."""
    try:
        verb(*arguments, **options)
    except Refused as error:
        return f"<Code>{code}</Code>".encode() in error.body
    return False


def try_out(server, bucket):
    """Puts, lists, gets and deletes one object, and checks what the description says."""
    body = os.urandom(100_000)
    bucket.put("trial/a", body, new=True)
    second_is_refused = refused("PreconditionFailed", bucket.put, "trial/a", body, new=True)
    assert second_is_refused == (server["create_only"] == "atomic"), "create_only is not as described"
    assert bucket.list("trial/") == {"trial/a": len(body)}, "LIST does not show the object"
    if "tls_endpoint" in server:
        assert Bucket(server, endpoint=server["tls_endpoint"]).get("trial/a") == body, "other bytes over TLS"
    if "stranger_access_key" in server:
        stranger = Bucket(server, None, server["stranger_access_key"], server["stranger_secret_key"])
        assert refused("AccessDenied", stranger.get, "trial/a"), "the stranger can read"
    assert bucket.get("trial/a") == body, "GET returns other bytes"
    bucket.delete("trial/a")
    assert bucket.list("trial/") == {}, "DELETE left the object"


def main(path, *fields):
    server = dict(zip(fields[::2], fields[1::2], strict=True))
    bucket = Bucket(server)
    wait_ready(bucket)
    try_out(server, bucket)
    servers = []
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            servers = json.load(file)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(servers + [server], file, indent=2)


main(*sys.argv[1:])
