"""A repository in a bucket of a real server, from `init` to `mount`, and what is said when the way to it is set up wrong."""

import os
import shutil
import signal
import subprocess
import time
import unittest

import trees
from place import KIB, Case, s3_url


class S3(Case):
    def new(self):
        """A repository with two snapshots of a tree, and the states of it; everything by path style."""
        place = self.place(self.server())
        place.init("--chunk-size", "64K", "--s3-path-style", "path")
        tree, states = place.path / "tree", []
        trees.noise(tree, 30, 300 * KIB, seed=1)
        for _ in range(2):
            place.ok("backup", tree, "--s3-path-style", "path")
            states.append(trees.manifest(tree))
            trees.change(tree, seed=2)
        shutil.rmtree(tree)
        return place, tree, states

    def test_backup_check_and_restore(self):
        place, tree, states = self.new()
        found = place.json("check", "--read-data")
        self.assertEqual((found["num_errors"], found["snapshots"], found["unchecked"]), (0, 2, []))
        # Once with what this machine remembers, and once as on another one.
        for n, options in enumerate([[], ["--no-cache"]]):
            for which, state in zip(("latest~1", "latest"), states, strict=True):
                out = place.path / f"out {n} {which}"
                place.ok("restore", f"{which}:{tree}", "--target", out, *options)
                self.assertEqual(trees.manifest(out), state)

    def test_mount(self):
        if not os.path.exists("/dev/fuse"):
            self.skipTest("NOT TESTED: there is no /dev/fuse")
        place, tree, states = self.new()
        at = place.path / "mount"
        at.mkdir()
        process = place.start("mount", at)
        try:
            deadline = time.monotonic() + 60
            while not os.path.ismount(at):
                self.assertLess(time.monotonic(), deadline, "it is not mounted")
                self.assertIsNone(process.poll(), "mount ended")
                time.sleep(0.05)
            self.assertEqual(trees.manifest(f"{at}/snapshots/latest{tree}"), states[1])
        finally:
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(60), 0)
        self.assertFalse(os.path.ismount(at))

    def assert_fails(self, place, code, words, env=None, options=()):
        ran = place.run("snapshots", *options, env=env)
        self.assertEqual(ran.code, code, repr(ran))
        for word in words:
            self.assertIn(word, ran.err)
        self.assertEqual(ran.out, "")

    def test_wrong_credentials_are_told_apart(self):
        place = self.place(self.server())
        place.init()
        self.assert_fails(place, 1, ["does not know the access key"], {"AWS_ACCESS_KEY_ID": "nobody"})
        self.assert_fails(place, 1, ["secret key does not belong"], {"AWS_SECRET_ACCESS_KEY": "wrong"})
        nothing = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
        self.assert_fails(place, 1, ["no usable AWS credentials", "AWS_ACCESS_KEY_ID"], nothing)
        if "stranger_access_key" in place.server:
            server = place.server
            stranger = {"AWS_ACCESS_KEY_ID": server["stranger_access_key"], "AWS_SECRET_ACCESS_KEY": server["stranger_secret_key"]}
            self.assert_fails(place, 1, ["AccessDenied", "policy"], stranger)

    def test_wrong_places_are_told_apart(self):
        place = self.place(self.server())
        place.init()
        place.repo = s3_url(place.server, place.prefix, bucket="no-such-bucket")
        self.assert_fails(place, 1, ["no-such-bucket", "check its name"])
        place.repo = s3_url(place.server, "nothing-there")
        self.assert_fails(place, 10, ["there is no repository at", "copal init"])

    def test_a_wrong_region_is_accepted_or_explained(self):
        """Ceph's gateway takes any, MinIO and AWS do not."""
        place = self.place(self.server())
        place.init()
        ran = place.run("snapshots", env={"AWS_REGION": "eu-nowhere-7"})
        self.assertTrue(ran.code == 0 or (ran.code == 1 and "region" in ran.err), repr(ran))

    def test_certificates_are_verified(self):
        place = self.place(self.server())
        if "tls_endpoint" not in place.server:
            self.skipTest("NOT TESTED: this server has no TLS")
        place.init()
        place.repo = s3_url(place.server, place.prefix, endpoint=place.server["tls_endpoint"])
        self.assert_fails(place, 1, ["certificate is not trusted", "--cacert"])
        other = place.path / "other.pem"
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        subprocess.run([*make, "-subj", "/CN=other", "-keyout", "/dev/null", "-out", other], check=True, capture_output=True)
        self.assert_fails(place, 1, ["certificate is not trusted", "--cacert"], options=["--cacert", other])
        self.assert_fails(place, 1, ["missing.pem"], options=["--cacert", place.path / "missing.pem"])
        self.assertEqual(place.json("snapshots", "--cacert", place.server["ca_file"]), [])

    def test_a_wrong_key_opens_nothing(self):
        place = self.place(self.server())
        place.init()
        other = self.place()
        other.init()
        place.key = other.key
        self.assert_fails(place, 12, [])


if __name__ == "__main__":
    unittest.main()
