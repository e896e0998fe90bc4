"""A store that is full, unreachable, misnamed or refuses: what the program says, how it ends, that nothing is lost, and that
the next backup works once the cause is gone."""

import http.server
import os
import secrets
import socket
import subprocess
import threading
import time
import unittest
import urllib.parse

from buckets import Place, address, admin, contents, new_bucket, server

MIB = 1 << 20


class BadSetUp(unittest.TestCase):
    """Nothing is stored yet, and something about the way to the bucket is wrong."""

    def setUp(self):
        self.server = server()
        self.keys = (self.server["access_key"], self.server["secret_key"])
        self.place = Place()
        self.addCleanup(self.place.close)
        self.repo = address(self.server, self.server["bucket"], f"bad-{secrets.token_hex(4)}")

    def fails(self, *words, repo=None, seconds=20, code=1, **more):
        """`init` fails within some seconds, in one message that says this."""
        more = {"keys": self.keys, **more}
        started = time.monotonic()
        ran = self.place.run("-r", repo or self.repo, *more.pop("flags", []), "init", "--key-out", "key", **more)
        took = time.monotonic() - started
        self.assertEqual(ran.code, code, ran)
        for word in words:
            self.assertIn(word, ran.err)
        self.assertNotIn("panicked", ran.err)
        self.assertLess(took, seconds, ran)
        self.assertFalse((self.place.dir / "key").exists(), "a key was written though there is no repository")
        return ran

    def test_wrong_keys(self):
        self.fails("the secret key does not belong to the access key", keys=(self.keys[0], "wrong"))
        self.fails("the server does not know the access key", keys=("NOBODY", "wrong"))
        ran = self.fails("no usable AWS credentials were found", keys=None)
        self.assertIn("AWS_ACCESS_KEY_ID", ran.err)

    def test_wrong_bucket(self):
        self.fails('there is no bucket "no-such-bucket"', repo=address(self.server, "no-such-bucket"))

    def test_no_server(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        ran = self.fails("refused", f"http://127.0.0.1:{port} cannot be reached", repo=f"s3:http://127.0.0.1:{port}/bucket", seconds=45)
        self.assertIn("tries", ran.err)
        self.fails("https://no-such-host.invalid cannot be reached", repo="s3:https://no-such-host.invalid/bucket", seconds=45)

    def test_wrong_certificate(self):
        tls = urllib.parse.urlsplit(self.server["tls_endpoint"])
        repo = f"{self.server['tls_endpoint']}/{self.server['bucket']}"
        self.fails("certificate is not trusted", "--cacert", repo=f"s3:{repo}")
        self.fails("cannot read the CA file", repo=f"s3:{repo}", flags=["--cacert", "absent.pem"])
        self.fails("always verifies certificates", "--cacert", repo=f"s3:{repo}", flags=["--insecure-tls"])
        plain = urllib.parse.urlsplit(self.server["endpoint"])
        self.fails("does not speak TLS", repo=f"s3:https://localhost:{plain.port}/{self.server['bucket']}")
        # The certificate is for localhost and 127.0.0.1; this is the same address under another name.
        self.fails("certificate", "the name it is issued for", repo=f"s3:https://[::ffff:127.0.0.1]:{tls.port}/{self.server['bucket']}",
                   flags=["--cacert", self.server["ca_file"]])
        good = self.place.good("-r", f"s3:{repo}/tls-{secrets.token_hex(4)}", "--cacert", self.server["ca_file"], "init",
                               "--key-out", "key", keys=self.keys)
        self.assertIn("created repository", good.out)

    def test_wrong_clock(self):
        if not any(os.path.exists(f"{path}/faketime") for path in os.environ["PATH"].split(":")):
            self.skipTest("needs faketime")
        library = subprocess.run(["faketime", "now", "printenv", "LD_PRELOAD"], capture_output=True, text=True, check=True)
        self.fails("clock", "NTP", LD_PRELOAD=library.stdout.strip(), FAKETIME="-2h")

    def test_wrong_region(self):
        """Ceph takes any region, so a server of six lines refuses as AWS does."""
        with Refusing(400, "AuthorizationHeaderMalformed",
                      "the region 'us-east-1' is wrong; expecting 'eu-central-1'") as endpoint:
            self.fails("AWS_REGION=eu-central-1", repo=f"s3:{endpoint}/bucket")
        with Refusing(301, "PermanentRedirect", "must be addressed using another endpoint") as endpoint:
            self.fails("another region or under another endpoint", repo=f"s3:{endpoint}/bucket")

    def test_no_s3_server(self):
        with Refusing(404, None, "<html>not found</html>") as endpoint:
            self.fails("check endpoint, bucket and path style", repo=f"s3:{endpoint}/bucket")
        with Refusing(200, None, "<html>welcome</html>") as endpoint:
            self.fails("bucket", repo=f"s3:{endpoint}/bucket", seconds=45)


class Refusing:
    """A server that gives one answer to everything; in a `with` block its address."""

    def __init__(self, status, code, message):
        body = message if code is None else f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            do_GET = do_PUT = do_DELETE = answer

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.http.server_port}"

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


class Full(unittest.TestCase):
    def setUp(self):
        self.place = Place()
        self.addCleanup(self.place.close)

    def no_room(self, run):
        """A backup that does not fit, one that does after `make_room`, and what was there before is there still."""
        source = self.place.fill("source", files=10, size=100_000)
        run("init", "--key-out", "key")
        run("--key-file", "key", "backup", source)
        before = contents(source)
        (source / "large").write_bytes(os.urandom(40 * MIB))
        for _ in range(2):
            ran = run("--key-file", "key", "backup", source, good=False)
            self.assertEqual(ran.code, 1, ran)
            self.assertNotIn("panicked", ran.err)
            self.assertIn("no space left in the store", ran.err)
            self.assertIn("make room", ran.err)
            self.assertNotIn("snapshot", ran.out, "a snapshot is said to be saved")
        self.assertEqual(len(run("--key-file", "key", "snapshots", "--json").lines()[0]), 1)
        run("--key-file", "key", "check", "--read-data")
        run("--key-file", "key", "restore", "latest", "--target", self.place.dir / "before")
        self.assertEqual(contents(self.place.dir / "before" / str(source).lstrip("/")), before)
        return source

    def room_again(self, run, source):
        run("--key-file", "key", "backup", source)
        run("--key-file", "key", "check", "--read-data")
        run("--key-file", "key", "restore", "latest", "--target", self.place.dir / "after")
        self.assertEqual(contents(self.place.dir / "after" / str(source).lstrip("/")), contents(source))

    def runner(self, repo, **more):
        def run(*words, good=True):
            return (self.place.good if good else self.place.run)("-r", repo, *words, **more)
        return run

    def test_a_bucket_at_its_quota(self):
        described = server()
        bucket = new_bucket(described)
        limit = ["--quota-scope=bucket", f"--bucket={bucket.name}"]
        admin(described, "quota", "set", *limit, f"--max-size={20 * MIB}")
        admin(described, "quota", "enable", *limit)
        run = self.runner(address(described, bucket.name), keys=(described["access_key"], described["secret_key"]))
        source = self.no_room(run)
        admin(described, "quota", "disable", *limit)
        self.room_again(run, source)

    def test_a_full_disk(self):
        if os.geteuid() != 0:
            self.skipTest("needs root, to mount")
        mount = self.place.dir / "small"
        mount.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", mount], check=True)
        self.addCleanup(subprocess.run, ["umount", mount], check=True)
        run = self.runner(mount / "repository")
        source = self.no_room(run)
        subprocess.run(["mount", "-o", "remount,size=100m", mount], check=True)
        self.room_again(run, source)
        left = list((mount / "repository" / "tmp").glob("*")) if (mount / "repository" / "tmp").exists() else []
        self.assertEqual(left, [], "temporaries are left")

    def test_no_room_for_the_cache(self):
        if os.geteuid() != 0:
            self.skipTest("needs root, to mount")
        cache = self.place.dir / "cache"
        cache.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", cache], check=True)
        self.addCleanup(subprocess.run, ["umount", cache], check=True)
        described = server()
        bucket = new_bucket(described)
        run = self.runner(address(described, bucket.name), keys=(described["access_key"], described["secret_key"]))
        run("init", "--key-out", "key")
        source = self.place.fill("source", files=3000, size=100)
        ran = run("--cache-dir", cache, "--key-file", "key", "backup", source, good=False)
        if ran.code != 0:
            # It may need the space, but then says which.
            self.assertEqual(ran.code, 1, ran)
            self.assertIn(str(cache), ran.err)
        run("--no-cache", "--key-file", "key", "backup", source)
        run("--no-cache", "--key-file", "key", "check", "--read-data")


if __name__ == "__main__":
    unittest.main()
