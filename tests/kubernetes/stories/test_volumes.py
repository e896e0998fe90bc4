"""The cluster itself: volumes outlive pods, snapshots are of one moment, and what is full is full."""

from cluster import BASE_IMAGE, Failed, Story, claim, deployment, mount_claim, pod, pod_spec, snapshot

SLEEP = ["sleep", "infinity"]


class Volumes(Story):
    def sleeper(self, namespace, name, claim_name, **how):
        """A pod that does nothing, with a claim at /data."""
        namespace.create(pod(name, pod_spec(BASE_IMAGE, SLEEP, [mount_claim(claim_name, "/data", **how)])))
        namespace.wait_pod_ready(name)

    def test_data_survives_a_pods_death(self):
        namespace = self.namespace()
        namespace.create(claim("data"), deployment("app", pod_spec(BASE_IMAGE, SLEEP, [mount_claim("data", "/data")])))
        available = lambda found: found.get("status", {}).get("availableReplicas") == 1
        namespace.wait("deployment", "app", 60, available, "available")
        first = namespace.list("pods", "app=app")[0]["metadata"]["name"]
        namespace.exec(first, "sh", "-c", "echo kept >/data/file")
        namespace.delete("pod", first)
        namespace.wait("deployment", "app", 60, available, "available again")
        (second,) = [found["metadata"]["name"] for found in namespace.list("pods", "app=app")]
        self.assertNotEqual(first, second)
        self.assertEqual(namespace.exec(second, "cat", "/data/file"), "kept\n")

    def test_a_snapshot_is_of_one_moment_and_becomes_a_claim(self):
        namespace = self.namespace()
        namespace.create(claim("data"))
        self.sleeper(namespace, "writer", "data")
        namespace.exec("writer", "sh", "-c", "echo before >/data/file")
        namespace.create(snapshot("moment", "data"))
        namespace.wait("volumesnapshot", "moment", 60, lambda found: found.get("status", {}).get("readyToUse"), "ready")
        namespace.exec("writer", "sh", "-c", "echo after >/data/file")
        namespace.create(claim("copy", source=("VolumeSnapshot", "moment")), claim("clone", source=("PersistentVolumeClaim", "data")))
        self.sleeper(namespace, "from-snapshot", "copy")
        self.sleeper(namespace, "from-claim", "clone")
        self.assertEqual(namespace.exec("from-snapshot", "cat", "/data/file"), "before\n")
        self.assertEqual(namespace.exec("from-claim", "cat", "/data/file"), "after\n")

    def test_a_claim_may_be_a_raw_device(self):
        namespace = self.namespace()
        namespace.create(claim("raw", mode="Block"))
        self.sleeper(namespace, "first", "raw", device=True)
        namespace.exec("first", "sh", "-c", "echo bytes | dd of=/data bs=512 seek=1000 conv=notrunc,fsync status=none")
        namespace.delete("pod", "first")
        self.sleeper(namespace, "second", "raw", device=True)
        self.assertEqual(namespace.exec("second", "sh", "-c", "dd if=/data bs=512 skip=1000 count=1 status=none | head -c 6"), "bytes\n")

    def test_a_volume_has_its_own_file_system_and_size(self):
        namespace = self.namespace()
        namespace.create(claim("small", size="32Mi"), claim("other", size="400Mi", storage_class="disk-xfs"))
        self.sleeper(namespace, "small", "small")
        self.assertIn("lost+found", namespace.exec("small", "ls", "/data"))
        with self.assertRaisesRegex(Failed, "No space left on device"):
            namespace.exec("small", "dd", "if=/dev/zero", "of=/data/file", "bs=1M", "count=100")
        self.sleeper(namespace, "other", "other")
        self.assertEqual(namespace.exec("other", "stat", "--file-system", "--format=%T", "/data"), "xfs\n")

    def test_read_only_is_so_for_every_container(self):
        namespace = self.namespace()
        namespace.create(claim("data"))
        self.sleeper(namespace, "reader", "data", read_only=True)
        with self.assertRaisesRegex(Failed, "Read-only file system"):
            namespace.exec("reader", "touch", "/data/file")
