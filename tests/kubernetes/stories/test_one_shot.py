"""One volume by a Job: `copal-agent volume backup` and `volume restore`, with a bundle of keys in a Secret."""

import json
import os

from cluster import BASE_IMAGE, COPAL_IMAGE, Story, claim, job, mount_claim, mount_secret, pod_spec, secret
from place import s3_environment, s3_url

# Names with blanks and line ends, links, owners, modes, a hole, a fifo, and enough to be cut into chunks.
FILL = r"""
set -e
cd /data
mkdir -p shop/images 'a name' empty
head -c 3000000 /dev/urandom >shop/images/one
head -c 200000 /dev/urandom >"$(printf 'a name/with\na line')"
for n in $(seq 300); do echo "order $n" >shop/order$n; done
truncate --size 5M shop/hole
ln -s ../shop/images/one 'a name/link'
ln shop/order1 shop/hard
mkfifo shop/fifo
chown -R 1000:2000 shop
chmod 2750 shop
chmod 4711 shop/order2
touch --no-dereference --date '2001-02-03 04:05:06.789' shop/order3 'a name/link'
"""

# Everything below /data but the file system's own directory: attributes of each entry, then the checksum of each file.
LOOK = r"""
set -e
cd /data
find . -path ./lost+found -prune -o -printf '%P %y %m %U %G %n %T@ %l\0' | sort -z | tr '\0\n' '\n?'
find . -path ./lost+found -prune -o -type f -print0 | sort -z | xargs -0 sha256sum
"""


class OneShot(Story):
    def repository(self, namespace):
        """A repository in the bucket, made here; its keys for two roles go into the namespace. How pods name it."""
        place = self.place(self.server())
        place.init()
        for role in ("writer", "reader"):
            place.ok("key", "export", "--role", role, "--out", place.path / role)
        keys = {role: (place.path / role).read_text() for role in ("writer", "reader")}
        namespace.create(secret("copal-keys", **keys))
        return place, s3_url(place.server, place.prefix, endpoint=os.environ["S3_ENDPOINT"])

    def agent(self, namespace, name, place, words, role, mount):
        """Runs copal-agent in a Job with one volume: exit code and log."""
        command = ["copal-agent", "volume", *words, "--key-file", f"/keys/{role}", "/data"]
        env = s3_environment(place.server)
        return namespace.run(job(name, pod_spec(COPAL_IMAGE, command, [mount, mount_secret("copal-keys", "/keys")], env)))

    def shell(self, namespace, name, script, claim_name, read_only=False):
        """Runs a script in a Job with a claim at /data; what it printed."""
        spec = pod_spec(BASE_IMAGE, ["bash", "-c", script], [mount_claim(claim_name, "/data", read_only)])
        code, log = namespace.run(job(name, spec))
        self.assertEqual(code, 0, log)
        return log

    def test_backup_and_restore(self):
        namespace = self.namespace()
        place, repo = self.repository(namespace)
        namespace.create(claim("data"), claim("back-again"))
        self.shell(namespace, "fill", FILL, "data")
        before = self.shell(namespace, "look", LOOK, "data")
        self.assertIn("shop/order300", before)

        words = ["backup", "--repo", repo, "--host", "data"]
        code, log = self.agent(namespace, "backup", place, words, "writer", mount_claim("data", "/data", read_only=True))
        self.assertEqual(code, 0, log)
        done = json.loads(log.splitlines()[-1])
        self.assertEqual(done["errors"], 0)
        self.assertEqual([found["id"] for found in place.json("snapshots")], [done["snapshot_id"]])

        words = ["restore", "--repo", repo, "--snapshot", done["snapshot_id"]]
        code, log = self.agent(namespace, "restore", place, words, "reader", mount_claim("back-again", "/data"))
        self.assertEqual(code, 0, log)
        self.assertEqual(self.shell(namespace, "look-again", LOOK, "back-again").splitlines(), before.splitlines())

    def test_who_may_write_may_not_read(self):
        namespace = self.namespace()
        place, repo = self.repository(namespace)
        namespace.create(claim("data"), claim("stolen"))
        self.shell(namespace, "fill", "echo secret >/data/file", "data")
        mount = mount_claim("data", "/data", read_only=True)
        code, log = self.agent(namespace, "backup", place, ["backup", "--repo", repo], "writer", mount)
        self.assertEqual(code, 0, log)
        code, log = self.agent(namespace, "restore", place, ["restore", "--repo", repo], "writer", mount_claim("stolen", "/data"))
        self.assertEqual(code, 12, log)
        self.assertNotIn("file", self.shell(namespace, "look", "ls /data", "stolen", read_only=True).split())
        code, log = self.agent(namespace, "write", place, ["backup", "--repo", repo], "reader", mount)
        self.assertEqual(code, 12, log)
