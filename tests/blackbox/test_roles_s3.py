"""What each role's credentials and key file can do in a bucket, and what they cannot: by trying, on Ceph's gateway, under the
policies that `copal policy s3` prints."""

import json
import os
import secrets
import subprocess
import time
import unittest
import xml.etree.ElementTree as xml

from buckets import Place, address, as_user, contents, new_bucket, new_user, outcome, put_policy, server

ROLES = ("owner", "reader", "writer", "other", "maintainer")
PREFIX = "backups/here"
VERSIONING = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"


class World:
    """A bucket with a repository, a user for each role under its policy, and each role's key file."""

    def __init__(self):
        self.server = server()
        self.place = Place()
        self.bucket = new_bucket(self.server)
        self.repo = address(self.server, self.bucket.name, PREFIX)
        self.users = {role: new_user(self.server, role) for role in ROLES}
        self.keys = {role: keys for role, (_, keys) in self.users.items()}
        self.ids = {}
        put_policy(self.bucket, self.policy("owner"))
        run = self.as_role
        run("owner", "init", "--key-out", "owner.key", bundle=None)
        for who, role in (("writer", "writer"), ("other", "writer"), ("maintainer", "maintainer"), ("reader", "reader")):
            made = run("owner", "key", "export", "--role", role, "--out", f"{who}.key", "--json").lines()[0]
            self.ids[who] = made["id"]
        put_policy(self.bucket, [statement for role in ROLES for statement in self.policy(role)])
        self.source = self.place.fill("source")
        run("writer", "backup", self.source)

    def policy(self, who):
        """The statements that the program prints for a user of this role."""
        role = "writer" if who == "other" else who
        words = ["policy", "s3", "-r", self.repo, "--role", role, "--principal", f"arn:aws:iam:::user/{self.users[who][0]}"]
        if who in self.ids:
            words += ["--writer", self.ids[who]] if self.ids[who] else []
        return json.loads(self.place.good(*words).out)["Statement"]

    def as_role(self, who, *words, bundle="", good=True):
        """Runs the program with a role's credentials, and with its key file or that of `bundle`."""
        words = ["-r", self.repo, *words]
        if bundle is not None:
            words += ["--key-file", f"{bundle or who}.key"]
        run = self.place.good if good else self.place.run
        return run(*words, keys=self.keys[who])

    def raw(self, who):
        """The bucket with a role's credentials, without the program."""
        return as_user(self.bucket, self.keys[who])

    def objects(self):
        """Keys within the repository, with their sizes."""
        return {key.removeprefix(PREFIX + "/"): size for key, size in self.bucket.list(PREFIX + "/").items()}

    def key(self, text):
        return f"{PREFIX}/{text}"


class Roles(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World()

    @classmethod
    def tearDownClass(cls):
        cls.world.place.close()

    def denied(self, ran, *words, code=1):
        """Failed with this exit code and these words, in one line that is no list of causes of the SDK."""
        self.assertEqual(ran.code, code, ran)
        for word in words:
            self.assertIn(word, ran.err)
        self.assertNotIn("panicked", ran.err)

    def test_a_writer_backs_up_again_and_again(self):
        world = self.world
        before = world.objects()
        (world.source / "new").write_bytes(os.urandom(5000))
        world.as_role("writer", "backup", world.source)
        world.as_role("other", "backup", world.source)
        added = {key.split("/")[0] + "/" + key.split("/")[1] for key in set(world.objects()) - set(before)}
        allowed = {f"{kind}/{world.ids[who]}" for kind in ("pack", "idx", "snap", "pin") for who in ("writer", "other")}
        self.assertTrue(added and added <= allowed, added - allowed)
        self.assertEqual({key: size for key, size in world.objects().items() if key in before}, before)

    def test_a_writers_credentials_put_nothing_elsewhere_and_delete_nothing(self):
        world, writer = self.world, self.world.raw("writer")
        own, other = world.ids["writer"], world.ids["other"]
        for path in ("cfg/0000000000000002", "key/ab", "base/0000000000000001", "check/1", "gc/1", "forget/1", "lost/1",
                     "probe/1", f"snap/{other}/x", f"pack/{other}/x", f"pin/{other}/x", f"idx/{other}/x", "packs", "x"):
            self.assertEqual(outcome(writer.put, world.key(path), b"x"), 403, path)
            self.assertEqual(outcome(writer.put, path, b"x"), 403, f"outside of the repository: {path}")
        stored = world.bucket.list(PREFIX + "/")
        for key in stored:
            self.assertEqual(outcome(writer.delete, key), 403, key)
            self.assertEqual(outcome(writer.get, key), 200, key)
            if f"/{own}/" not in key:
                self.assertEqual(outcome(writer.put, key, b"x"), 403, key)
        self.assertEqual(world.bucket.list(PREFIX + "/"), stored)
        for query in ("policy", "versioning", "acl", "lifecycle"):
            body = b"<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>"
            self.assertEqual(outcome(writer.request, "PUT", "", query={query: ""}, body=body), 403, query)
        self.assertEqual(outcome(writer.request, "DELETE", ""), 403)
        self.assertEqual(outcome(writer.list, "elsewhere/"), 403)

    def test_a_writers_key_file_reads_nothing_and_changes_nothing(self):
        world = self.world
        for words in (["restore", "latest", "--target", "out"], ["ls", "latest"], ["key", "add", "--recovery-code"],
                      ["key", "export", "--role", "reader", "--out", "more.key"]):
            # With the owner's credentials too: it is the key that cannot.
            for who in ("writer", "owner"):
                before = world.objects()
                self.denied(world.as_role(who, *words, bundle="writer", good=False), "writer", code=12)
                self.assertEqual(world.objects(), before)
        self.assertFalse((world.place.dir / "out").exists() and any((world.place.dir / "out").iterdir()))

    def test_a_reader_restores_and_writes_nothing(self):
        world, before = self.world, self.world.objects()
        world.as_role("reader", "restore", "latest", "--target", "restored")
        self.assertEqual(contents(world.place.dir / "restored" / str(world.source).lstrip("/")), contents(world.source))
        for words in (["snapshots"], ["ls", "latest"], ["check", "--read-data"], ["stats"], ["key", "list"]):
            world.as_role("reader", *words)
        reader = world.raw("reader")
        for key in before:
            self.assertEqual(outcome(reader.put, world.key(key), b"x"), 403, key)
            self.assertEqual(outcome(reader.delete, world.key(key)), 403, key)
        self.assertEqual(outcome(reader.put, world.key("new"), b"x"), 403)
        self.denied(world.as_role("reader", "backup", world.source, good=False), "reader", code=12)
        self.assertEqual(world.objects(), before)

    def test_a_reader_mounts(self):
        if not os.path.exists("/dev/fuse"):
            self.skipTest("needs /dev/fuse")
        world, before = self.world, self.world.objects()
        point = world.place.dir / "mounted"
        point.mkdir()
        words = ["-r", world.repo, "--key-file", "reader.key", "mount", str(point)]
        process = subprocess.Popen(
            [os.environ["COPAL_BIN"], *words], env=world.place.environment(world.keys["reader"]), cwd=world.place.dir,
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        try:
            deadline = time.monotonic() + 60
            while not os.path.ismount(point):
                self.assertIsNone(process.poll(), "mount ended")
                self.assertLess(time.monotonic(), deadline, "mount does not come up")
                time.sleep(0.1)
            found = [p for p in point.rglob("file-1") if p.is_file()]
            self.assertTrue(found)
            self.assertEqual(found[0].read_bytes(), (world.source / "sub" / "file-1").read_bytes())
        finally:
            process.terminate()
            process.communicate(timeout=60)
        self.assertEqual(world.objects(), before)

    def test_a_maintainers_credentials_sweep_and_leave_keys_alone(self):
        world, maintainer = self.world, self.world.raw("maintainer")
        for path in ("gc/zz", "base/zz", "forget/zz", "lost/zz", f"snap/{world.ids['other']}/zz"):
            self.assertEqual(outcome(maintainer.put, world.key(path), b"x"), 200, path)
            self.assertEqual(outcome(maintainer.delete, world.key(path)), 200, path)
        for key in world.objects():
            if key.split("/")[0] in ("cfg", "key"):
                self.assertEqual(outcome(maintainer.delete, world.key(key)), 403, key)
                self.assertEqual(outcome(maintainer.put, world.key(key), b"x"), 403, key)
        self.assertEqual(outcome(maintainer.put, world.key(f"pack/{world.ids['other']}/zz"), b"x"), 403)
        for words in (["restore", "latest", "--target", "out"], ["backup", world.source], ["ls", "latest"]):
            self.denied(world.as_role("maintainer", *words, good=False), "maintainer", code=12)
        world.as_role("maintainer", "check")

    def test_an_owner_reads_what_others_stored(self):
        world = self.world
        world.as_role("owner", "backup", world.source)
        world.as_role("owner", "restore", "latest", "--target", "of-owner")
        self.assertEqual(contents(world.place.dir / "of-owner" / str(world.source).lstrip("/")), contents(world.source))
        world.as_role("owner", "check", "--read-data")

    def test_a_key_file_with_too_weak_credentials_says_so(self):
        world = self.world
        for bundle, who in (("owner", "reader"), ("writer", "reader"), ("writer", "other"), ("owner", "writer")):
            before = world.objects()
            ran = world.as_role(who, "backup", world.source, bundle=bundle, good=False)
            self.denied(ran, "AccessDenied", "the credentials are good but may not do this", "policy s3")
            self.assertEqual(world.objects(), before, f"{bundle}'s key with {who}'s credentials")
        for words in (["key", "add", "--recovery-code"], ["key", "rotate"]):
            ran = world.as_role("reader", *words, bundle="owner", good=False)
            self.denied(ran, "AccessDenied", "the credentials are good but may not do this")

    def test_who_has_no_right_sees_nothing(self):
        world = self.world
        stranger = (world.server["stranger_access_key"], world.server["stranger_secret_key"])
        ran = world.place.run("-r", world.repo, "--key-file", "owner.key", "snapshots", keys=stranger)
        self.denied(ran, "AccessDenied", "may not do this")


class Overwriting(unittest.TestCase):
    """A policy that allows to put cannot forbid to put over: that a store must keep, by versioning."""

    def test_versioning_keeps_what_a_writer_replaces(self):
        described = server()
        bucket = new_bucket(described)
        name, keys = new_user(described, "writer")
        writer_id = secrets.token_hex(16)
        place = Place()
        self.addCleanup(place.close)
        repo = address(described, bucket.name)
        words = ["--role", "writer", "--writer", writer_id, "--principal", f"arn:aws:iam:::user/{name}"]
        put_policy(bucket, json.loads(place.good("policy", "s3", "-r", repo, *words).out)["Statement"])
        bucket.request("PUT", "", query={"versioning": ""}, body=VERSIONING)
        writer, key = as_user(bucket, keys), f"pack/{writer_id}/x"
        writer.put(key, b"first", new=True)
        # With versioning this server ignores that an object shall be new (`init` finds out). No policy forbids to put over.
        created_over = outcome(writer.put, key, b"second", new=True)
        self.assertIn(created_over, (200, 412))
        self.assertEqual(outcome(writer.put, key, b"second"), 200)
        self.assertEqual(writer.get(key), b"second")
        versions = xml.fromstring(bucket.request("GET", "", query={"versions": "", "prefix": key}))
        ids = [v.findtext("{*}VersionId") for v in versions.iterfind("{*}Version")]
        self.assertEqual(len(ids), 3 if created_over == 200 else 2)
        # The writer may not read old versions by the policy, nor remove any.
        for version in ids:
            self.assertEqual(outcome(writer.request, "DELETE", key, query={"versionId": version}), 403)
        # The version is the writer's object: on this server the bucket's owner opens it after taking it over by policy.
        put_policy(bucket, [{"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam:::user/admin"},
                             "Action": ["s3:GetObject", "s3:GetObjectVersion"], "Resource": f"arn:aws:s3:::{bucket.name}/*"}])
        bodies = {bucket.request("GET", key, query={"versionId": version}) for version in ids}
        self.assertEqual(bodies, {b"first", b"second"})

    def test_init_finds_out_what_versioning_does_to_create_only(self):
        described = server()
        bucket, place = new_bucket(described), Place()
        self.addCleanup(place.close)
        bucket.request("PUT", "", query={"versioning": ""}, body=VERSIONING)
        with_version = outcome(bucket.put, "a", b"1", new=True), outcome(bucket.put, "a", b"2", new=True)
        keys = (described["access_key"], described["secret_key"])
        made = place.good("-r", address(described, bucket.name, "x"), "init", "--key-out", "key", "--json", keys=keys)
        store = made.lines()[0]["store"]
        if with_version == (200, 200):
            self.assertEqual((store["verdict"], store["sound"]), ("ignored", False))
            self.assertIn("replaces objects", made.err)
            self.assertIn("change keys on one machine at a time", made.err)
        else:
            self.assertEqual((store["verdict"], store["sound"]), ("atomic", True))


if __name__ == "__main__":
    unittest.main()
