"""Retention against an attacker: buckets with versioning and Object Lock, under the policies that `copal policy s3 --lock` prints,
on Ceph's gateway. What the bucket says is asked of it by another client than ours."""

import base64
import collections
import hashlib
import json
import os
import unittest
import xml.etree.ElementTree as xml
from datetime import datetime, timedelta, timezone

from buckets import Place, address, as_user, contents, new_bucket, new_user, outcome, put_policy, server
from s3client import Bucket, Refused

PREFIX = "backups/here"
ROLES = ("owner", "writer", "maintainer")
VERSIONING = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
# This server replaces what is to be created only if a bucket has versioning, so nobody else may work beside a prune there.
ALONE = ("--exclusive", "--max-unused", "0")


def locked_bucket(described):
    """A bucket with Object Lock, which is chosen when it is made, and has versioning by that."""
    bucket = Bucket({**described, "bucket": f"t-{os.urandom(6).hex()}"})
    bucket.request("PUT", "", headers={"x-amz-bucket-object-lock-enabled": "true"})
    return bucket


def retention(bucket, key):
    """(mode, until) of the newest version of a key; (None, None): there is none."""
    try:
        told = xml.fromstring(bucket.request("GET", key, query={"retention": ""}))
    except Refused as refused:
        if b"ObjectLockConfigurationNotFoundError" in refused.body:
            return None, None
        raise
    until = datetime.fromisoformat(told.findtext("{*}RetainUntilDate")[:19]).replace(tzinfo=timezone.utc)
    return told.findtext("{*}Mode"), until


def set_retention(bucket, key, mode, until, bypass=False):
    """The status of the answer."""
    body = f"<Retention><Mode>{mode}</Mode><RetainUntilDate>{until:%Y-%m-%dT%H:%M:%SZ}</RetainUntilDate></Retention>"
    headers = {"x-amz-bypass-governance-retention": "true"} if bypass else {}
    return outcome(bucket.request, "PUT", key, query={"retention": ""}, body=body.encode(), headers=headers)


Version = collections.namedtuple("Version", "key version newest size modified")


def versions(bucket, prefix):
    """Versions and delete markers: two lists of Version."""
    found, after = ([], []), {}
    while True:
        page = xml.fromstring(bucket.request("GET", "", query={"versions": "", "prefix": prefix, **after}))
        for kind, into in zip(("Version", "DeleteMarker"), found, strict=True):
            for v in page.iterfind("{*}" + kind):
                text = lambda name, v=v: v.findtext("{*}" + name)
                modified = datetime.fromisoformat(text("LastModified").removesuffix("Z")).replace(tzinfo=timezone.utc)
                into.append(Version(text("Key"), text("VersionId"), text("IsLatest") == "true", int(text("Size") or 0), modified))
        if page.findtext("{*}IsTruncated") != "true":
            return found
        after = {"key-marker": page.findtext("{*}NextKeyMarker"), "version-id-marker": page.findtext("{*}NextVersionIdMarker")}


class World:
    """A bucket with a repository of three snapshots, a user and a key file for each role, under the printed policies."""

    def __init__(self, bucket, described, lock=()):
        self.server, self.bucket, self.lock, self.ids = described, bucket, lock, {}
        self.place = Place()
        self.repo = address(described, bucket.name, PREFIX)
        self.users = {role: new_user(described, role) for role in ROLES}
        put_policy(bucket, self.policy("owner"))
        self.told = self.run("owner", "init", "--key-out", "owner.key", "--json", key=None).lines()[0]
        for role in ("writer", "maintainer"):
            made = self.run("owner", "key", "export", "--role", role, "--out", f"{role}.key", "--json").lines()[0]
            self.ids[role] = made["id"]
        put_policy(bucket, [statement for role in ROLES for statement in self.policy(role)])
        self.source = self.place.fill("source")
        self.snapshots, self.content = [], []
        for n in range(3):
            (self.source / "changes").write_bytes(os.urandom(1_500_000))
            done = self.run("writer", "backup", self.source, "--json").lines()[-1]
            self.snapshots.append(done["snapshot_id"])
            self.content.append(contents(self.source))

    def policy(self, role):
        words = ["-r", self.repo, "--role", role, "--principal", f"arn:aws:iam:::user/{self.users[role][0]}", *self.lock]
        words += ["--writer", self.ids[role]] if role in self.ids else []
        return json.loads(self.place.good("policy", "s3", *words).out)["Statement"]

    def run(self, role, *words, key="", good=True):
        """Runs the program with a role's credentials and key file."""
        with_key = [] if key is None else ["--key-file", f"{key or role}.key"]
        run = self.place.good if good else self.place.run
        return run("-r", self.repo, *words, *with_key, keys=self.users[role][1])

    def prune(self, role, *words, good=True):
        """A prune with --json: how it ran, and its summary."""
        ran = self.run(role, "prune", "--json", "--no-progress", *words, good=good)
        return ran, (ran.lines()[-1] if ran.out else None)

    def raw(self, role):
        return as_user(self.bucket, self.users[role][1])

    def objects(self):
        return self.bucket.list(PREFIX + "/")

    def restores(self, test, *which):
        """These snapshots, by their number, and no others, come back to the byte."""
        listed = self.run("owner", "snapshots", "--json").lines()[0]
        test.assertEqual({s["id"] for s in listed}, {self.snapshots[n] for n in which})
        for n in which:
            target = self.place.dir / f"out-{os.urandom(4).hex()}"
            self.run("owner", "restore", self.snapshots[n], "--target", target)
            test.assertEqual(contents(target / str(self.source).lstrip("/")), self.content[n])
        test.assertEqual(self.run("owner", "check", "--read-data", "--json").lines()[-1]["num_errors"], 0)


class Maintainer(unittest.TestCase):
    """Its own key file and credentials, in a plain bucket, under the printed policy."""

    def test_it_forgets_and_prunes(self):
        described = server()
        world = World(new_bucket(described), described)
        self.addCleanup(world.place.close)
        before = world.objects()
        self.assertEqual(world.told["bucket"], {"versioning": "off", "object_lock": None})
        world.run("maintainer", "forget", world.snapshots[0])
        world.restores(self, 1, 2)
        _, done = world.prune("maintainer", "--max-unused", "0")
        self.assertGreater(done["deleted_bytes"], 1_400_000)
        self.assertEqual((done["retention"], done["still_locked"]["objects"], done["bucket"]["held"]), (None, 0, None))
        after = world.objects()
        kind = lambda key: key.removeprefix(PREFIX + "/").split("/")[0]
        of = lambda objects, kinds: {key: size for key, size in objects.items() if kind(key) in kinds}
        self.assertEqual(of(after, ("cfg", "key")), of(before, ("cfg", "key")))
        self.assertEqual(of(after, ("forget", "gc")), {})
        packs = sum(of(before, ("pack",)).values()) - sum(of(after, ("pack",)).values())
        self.assertGreater(packs, 1_400_000, "the space is back")
        self.assertTrue(all(f"/{world.ids['writer']}/" in k or f"/{world.ids['maintainer']}/" in k for k in of(after, ("pack",))))
        world.restores(self, 1, 2)
        # Backups go on, and a repeat has nothing to do.
        world.run("writer", "backup", world.source)
        self.assertEqual(world.prune("maintainer")[1]["deleted_packs"], 0)

    def test_without_object_lock_it_is_refused(self):
        described = server()
        world = World(new_bucket(described), described)
        self.addCleanup(world.place.close)
        before = world.objects()
        ran, _ = world.prune("maintainer", "--lock-extend", "30d", good=False)
        self.assertEqual(ran.code, 1)
        for words in ("has no Object Lock", "copal copy"):
            self.assertIn(words, ran.err)
        self.assertEqual(world.objects(), before)
        place = world.place
        place.good("-r", "dir", "init", "--key-out", "dir.key")
        ran = place.run("-r", "dir", "--key-file", "dir.key", "prune", "--lock-extend", "30d")
        self.assertEqual(ran.code, 1)
        self.assertIn("is no bucket", ran.err)


class Versioned(unittest.TestCase):
    def test_a_prune_reports_what_the_bucket_holds_on_to(self):
        described = server()
        bucket = new_bucket(described)
        bucket.request("PUT", "", query={"versioning": ""}, body=VERSIONING)
        bucket.put("elsewhere", b"first")
        bucket.put("elsewhere", b"second")
        world = World(bucket, described)
        self.addCleanup(world.place.close)
        self.assertEqual(world.told["bucket"], {"versioning": "on", "object_lock": None})
        world.run("maintainer", "forget", world.snapshots[0])
        _, done = world.prune("maintainer", *ALONE)
        self.assertGreater(done["deleted_bytes"], 1_400_000)
        old, markers = versions(bucket, PREFIX + "/")
        old = [v for v in old if not v.newest]
        held = done["bucket"]["held"]
        self.assertEqual((held["versions"], held["delete_markers"], held["more"]), (len(old), len(markers), False))
        self.assertEqual(held["bytes"], sum(v.size for v in old))
        self.assertGreaterEqual(held["bytes"], done["deleted_bytes"])
        # The rule is one that the server takes, and holds nothing but the repository's prefix.
        rule = held["lifecycle_rule"]
        self.assertEqual(rule["Filter"]["Prefix"], PREFIX + "/")
        text = (f"<LifecycleConfiguration><Rule><ID>{rule['ID']}</ID><Status>{rule['Status']}</Status>"
                f"<Filter><Prefix>{rule['Filter']['Prefix']}</Prefix></Filter><NoncurrentVersionExpiration><NoncurrentDays>"
                f"{rule['NoncurrentVersionExpiration']['NoncurrentDays']}</NoncurrentDays></NoncurrentVersionExpiration>"
                "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration></Rule></LifecycleConfiguration>")
        self.assertEqual(outcome(bucket.request, "PUT", "", query={"lifecycle": ""}, body=text.encode(), headers=md5(text)), 200)
        text = world.run("maintainer", "prune", "--exclusive").out
        self.assertIn("old versions (", text)
        self.assertIn("NoncurrentVersionExpiration", text)
        self.assertIn("versioning on, Object Lock off", world.run("owner", "stats").out)
        self.assertEqual(world.run("owner", "check", "--json").lines()[-1]["bucket"]["versioning"], "on")
        world.restores(self, 1, 2)


def md5(text):
    return {"content-md5": base64.b64encode(hashlib.md5(text.encode()).digest()).decode()}


class Locked(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        described = server()
        cls.bucket = locked_bucket(described)
        cls.world = World(cls.bucket, described, lock=["--lock"])

    @classmethod
    def tearDownClass(cls):
        cls.world.place.close()

    def live(self):
        """What a restore of all snapshots needs, by name."""
        return [k for k in self.world.objects() if k.removeprefix(PREFIX + "/").split("/")[0] in ("cfg", "key", "pack", "idx", "base")]

    def test_1_what_is_live_is_retained_and_a_repeat_extends_nothing(self):
        world, now = self.world, datetime.now(timezone.utc)
        self.assertEqual(world.told["bucket"], {"versioning": "on", "object_lock": {"default_mode": None, "default_days": None}})
        before = world.objects()
        _, would = world.prune("maintainer", "--lock-extend", "1d", "--dry-run", *ALONE)
        self.assertEqual(would["retention"]["extended"], would["retention"]["objects"])
        self.assertTrue(all(retention(self.reader(), key) == (None, None) for key in before))
        world.run("maintainer", "forget", world.snapshots[0])
        ran, done = world.prune("maintainer", "--lock-extend", "1d", *ALONE)
        told = done["retention"]
        self.assertEqual((ran.code, told["failed"], told["mode"]), (0, 0, "governance"))
        self.assertEqual(told["extended"], told["objects"])
        self.assertGreater(done["deleted_bytes"], 1_400_000)
        kept = {}
        for key in world.objects():
            mode, until = retention(self.reader(), key)
            if mode:
                kept[key] = until
                self.assertEqual(mode, "GOVERNANCE", key)
                self.assertLess(abs(until - now - timedelta(days=1)), timedelta(minutes=5), key)
        self.assertEqual(set(self.live()) - set(kept), set())
        snapshots = {k for k in kept if "/snap/" in k}
        self.assertEqual((len(kept), len(snapshots)), (told["objects"], 2))
        self.assertFalse([k for k in kept if any(f"/{kind}/" in k for kind in ("pin", "gc", "forget", "check", "probe"))])
        _, again = world.prune("maintainer", "--lock-extend", "1d", *ALONE)
        self.assertEqual((again["retention"]["objects"], again["retention"]["extended"]), (told["objects"], 0))
        self.assertEqual({key: retention(self.reader(), key)[1] for key in kept}, kept)
        world.restores(self, 1, 2)

    def reader(self):
        """Who may ask for retention: of others' objects the bucket's first user may not, on this server."""
        return self.world.raw("maintainer")

    def test_2_no_credentials_of_a_role_remove_or_free_what_is_retained(self):
        world = self.world
        found, _ = versions(self.bucket, PREFIX + "/")
        retained = {key: retention(self.reader(), key) for key in self.live()}
        for role in ROLES:
            raw = world.raw(role)
            for v in found:
                for headers in ({}, {"x-amz-bypass-governance-retention": "true"}):
                    gone = outcome(raw.request, "DELETE", v.key, query={"versionId": v.version}, headers=headers)
                    self.assertEqual(gone, 403, (role, v.key))
            soon = datetime.now(timezone.utc) + timedelta(hours=1)
            for key in retained:
                for bypass in (False, True):
                    self.assertEqual(set_retention(raw, key, "GOVERNANCE", soon, bypass), 403, (role, key))
        self.assertEqual({key: retention(self.reader(), key) for key in retained}, retained)

    def test_3_an_attackers_deletes_only_mark_and_all_comes_back(self):
        world = self.world
        before = {key: self.bucket_bytes(key) for key in world.objects()}
        maintainer, writer = world.raw("maintainer"), world.raw("writer")
        since = datetime.now(timezone.utc)
        for key in before:
            outcome(maintainer.delete, key)
        # And puts its own objects over.
        spoilt = [key for key in before if f"/pack/{world.ids['writer']}/" in key]
        for key in spoilt:
            self.assertEqual(outcome(writer.put, key, b"rubbish"), 200)
        self.assertEqual(world.run("owner", "snapshots", "--json").lines()[0], [], "all is gone")
        restore_bucket(self.bucket, PREFIX + "/", since)
        self.assertEqual({key: self.bucket_bytes(key) for key in world.objects() if key in before}, before)
        world.restores(self, 1, 2)

    def test_4_what_cannot_be_locked_as_asked_is_named(self):
        """This server does not take governance for compliance before the retention ends."""
        world = self.world
        ran, done = world.prune("maintainer", "--lock-extend", "1d", "--lock-mode", "compliance", *ALONE, good=False)
        told = done["retention"]
        self.assertEqual((ran.code, told["mode"]), (3, "compliance"), ran)
        named = [line for line in map(json.loads, ran.err.splitlines()) if line["message_type"] == "error"]
        self.assertEqual(len(named), min(told["failed"], 20), ran)
        self.assertGreater(told["failed"], 0)
        self.assertIn("its retention was not extended", ran.err)
        self.assertEqual(told["failed"] + told["extended"], told["objects"])
        # What went to compliance did: objects that had no retention yet. No bypass frees those.
        self.assertEqual(told["extended"], sum(retention(self.reader(), key)[0] == "COMPLIANCE" for key in world.objects()))

    def bucket_bytes(self, key):
        return self.reader().get(key)


class Default(unittest.TestCase):
    def test_a_default_retention_locks_new_objects_and_prunes_go_on(self):
        described = server()
        bucket = locked_bucket(described)
        text = ("<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE"
                "</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>")
        bucket.request("PUT", "", query={"object-lock": ""}, body=text.encode(), headers=md5(text))
        world = World(bucket, described, lock=["--lock"])
        self.addCleanup(world.place.close)
        self.assertEqual(world.told["bucket"]["object_lock"], {"default_mode": "compliance", "default_days": 1})
        world.run("maintainer", "forget", world.snapshots[0])
        _, done = world.prune("maintainer", "--lock-extend", "10d", *ALONE)
        told = done["retention"]
        self.assertEqual((told["mode"], told["failed"], told["extended"]), ("compliance", 0, told["objects"]))
        # This server marks what is locked as deleted, as Amazon's does.
        self.assertEqual(done["still_locked"], {"objects": 0, "pack_bytes": 0, "until": None})
        self.assertGreater(done["deleted_bytes"], 1_400_000)
        soon = datetime.now(timezone.utc) + timedelta(hours=1)
        for key in world.objects():
            self.assertEqual(retention(world.raw("maintainer"), key)[0], "COMPLIANCE", key)
            for role in ROLES:
                self.assertEqual(set_retention(world.raw(role), key, "COMPLIANCE", soon, bypass=True), 403, (role, key))
        self.assertIn("default retention 1 day (compliance)", world.run("owner", "stats").out)
        world.restores(self, 1, 2)


def restore_bucket(bucket, prefix, since):
    """The procedure of docs/threat-model.md, with the credentials of the bucket's first user: of each key that was there before
    `since`, all delete markers and versions that are younger are removed."""
    found, markers = versions(bucket, prefix)
    old = {v.key for v in found if v.modified < since}
    for v in found + markers:
        if v.modified >= since and v.key in old:
            bucket.request("DELETE", v.key, query={"versionId": v.version})


if __name__ == "__main__":
    unittest.main()
