"""The test cluster as stories see it: a namespace of their own, objects as plain dictionaries, and waits that end.

The environment is what `tests/cluster up` prints. Names do not resolve in pods, and images are never pulled.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
import unittest
import uuid

import place

STORAGE_CLASS = os.environ["STORAGE_CLASS"]
BASE_IMAGE = "copal.test/base:1"
COPAL_IMAGE = "copal.test/copal:1"
DATABASE_IMAGE = os.environ["DATABASE_IMAGE"]


class Failed(Exception):
    """kubectl ended with an exit code other than 0: `code`, `out` and `err` say how."""

    def __init__(self, words, ran):
        super().__init__(f"kubectl {' '.join(words)}: exit code {ran.returncode}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}")
        self.code, self.out, self.err = ran.returncode, ran.stdout, ran.stderr


def kubectl(*words, stdin=None, seconds=60):
    """Runs kubectl as the cluster's admin; what it printed."""
    command = [os.environ["KUBECTL"], "--kubeconfig", os.environ["KUBECONFIG"], *words]
    ran = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds)
    if ran.returncode:
        raise Failed(words, ran)
    return ran.stdout


def wait(what, seconds, look, every=0.2):
    """Calls `look` until what it returns is true, and returns that; after so many seconds it is an error about `what`."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(every)
    return found


class Namespace:
    """A namespace that is removed at the end of the test, with all that is in it."""

    def __init__(self, name=None):
        self.name = name or f"story-{uuid.uuid4().hex[:8]}"
        kubectl("create", "namespace", self.name)
        wait("the namespace's service account", 30, lambda: self.find("serviceaccount", "default"))

    def close(self, seconds=90):
        """Deletes the namespace and waits until it is gone: what hangs there is a finding."""
        kubectl("delete", "namespace", self.name, f"--timeout={seconds}s", seconds=seconds + 10)

    def kubectl(self, *words, **options):
        """kubectl in this namespace."""
        return kubectl("--namespace", self.name, *words, **options)

    def create(self, *objects):
        """Creates objects in this namespace."""
        self.kubectl("create", "--filename", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def get(self, kind, name):
        """One object."""
        return json.loads(self.kubectl("get", kind, name, "--output", "json"))

    def list(self, kind, selector=""):
        """All objects of a kind, or those with certain labels."""
        return json.loads(self.kubectl("get", kind, "--selector", selector, "--output", "json"))["items"]

    def find(self, kind, name):
        """One object, or None."""
        try:
            return self.get(kind, name)
        except Failed as error:
            if "NotFound" in error.err:
                return None
            raise

    def delete(self, kind, name, seconds=60):
        """Deletes an object and waits until it is gone."""
        self.kubectl("delete", kind, name, f"--timeout={seconds}s", seconds=seconds + 10)

    def wait(self, kind, name, seconds, true, what="as wanted"):
        """Waits until an object exists and `true` holds for it; returns the object."""
        return wait(
            f"{kind} {name} is not {what}", seconds, lambda: (found := self.find(kind, name)) and true(found) and found
        )

    def wait_pod_ready(self, name, seconds=60):
        """Waits until a pod is ready; one that failed is not waited for."""

        def ready(found):
            if found["status"]["phase"] in ("Failed", "Succeeded"):
                raise AssertionError(f"pod {name} has ended: {found['status']}\n{self.kubectl('logs', name)}")
            return is_true(found, "Ready")

        return self.wait("pod", name, seconds, ready, "ready")

    def exec(self, pod, *command, stdin=None, seconds=60):
        """Runs a command in a pod; what it printed."""
        interactive = ["--stdin"] if stdin is not None else []
        return self.kubectl("exec", *interactive, pod, "--", *command, stdin=stdin, seconds=seconds)

    def run(self, job, seconds=120):
        """Creates a Job of one pod and waits for its end: exit code and log."""
        name = job["metadata"]["name"]
        self.create(job)

        def ended():
            pods = self.list("pods", f"job-name={name}")
            return pods and pods[0]["status"]["phase"] in ("Succeeded", "Failed") and pods[0]

        pod = wait(f"job {name} has not ended", seconds, ended)
        state = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        return state["exitCode"], self.kubectl("logs", pod["metadata"]["name"])

    def report(self):
        """Prints what a reader needs to see why a story failed."""
        with contextlib.suppress(Failed, subprocess.TimeoutExpired):
            print(self.kubectl("get", "all,pvc,volumesnapshots", "--output", "wide"), file=sys.stderr)
            print(self.kubectl("get", "events", "--sort-by", ".lastTimestamp"), file=sys.stderr)
            for pod in self.list("pods"):
                name = pod["metadata"]["name"]
                with contextlib.suppress(Failed):
                    print(f"--- log of {name}\n{self.kubectl('logs', name, '--tail', '50')}", file=sys.stderr)


def is_true(found, condition):
    """Whether an object's status has a condition that is True."""
    conditions = found.get("status", {}).get("conditions", [])
    return any(c["type"] == condition and c["status"] == "True" for c in conditions)


def claim(name, size="64Mi", source=None, mode="Filesystem", storage_class=STORAGE_CLASS):
    """A claim of one node; `source` is (kind, name) of a VolumeSnapshot or another claim."""
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "volumeMode": mode,
        "storageClassName": storage_class,
        "resources": {"requests": {"storage": size}},
    }
    if source:
        group = {"apiGroup": "snapshot.storage.k8s.io"} if source[0] == "VolumeSnapshot" else {}
        spec["dataSource"] = {"kind": source[0], "name": source[1], **group}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def snapshot(name, of):
    """A VolumeSnapshot of a claim."""
    spec = {"volumeSnapshotClassName": "disk", "source": {"persistentVolumeClaimName": of}}
    return {"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": name}, "spec": spec}


def secret(name, **data):
    """A Secret of texts."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


def pod_spec(image, command, mounts=(), env=None, **more):
    """The spec of a pod with one container `main`. `mounts` are made by mount_claim and mount_secret."""
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": command,
        "env": [{"name": name, "value": value} for name, value in (env or {}).items()],
        "volumeMounts": [mount for mount, _ in mounts if "mountPath" in mount],
        "volumeDevices": [mount for mount, _ in mounts if "devicePath" in mount],
        **more,
    }
    return {
        "containers": [container],
        "volumes": [volume for _, volume in mounts],
        "dnsPolicy": "Default",
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
    }


def mount_claim(name, path, read_only=False, device=False):
    """A claim's directory, or its raw device, at `path`; read-only already where the volume is mounted, not only in the container."""
    source = {"claimName": name, "readOnly": read_only}
    mount = {"name": name, "devicePath": path} if device else {"name": name, "mountPath": path}
    return mount, {"name": name, "persistentVolumeClaim": source}


def mount_secret(name, path):
    """A Secret's keys as files of a directory."""
    return {"name": name, "mountPath": path}, {"name": name, "secret": {"secretName": name}}


def pod(name, spec, labels=None):
    """A bare pod."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels or {}}, "spec": spec}


def job(name, spec):
    """A Job that is tried once."""
    template = {"spec": {**spec, "restartPolicy": "Never"}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"backoffLimit": 0, "template": template}}


def deployment(name, spec):
    """A Deployment of one pod, which is ended before the next one starts, as a claim of one node wants it."""
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {"replicas": 1, "strategy": {"type": "Recreate"}, "selector": {"matchLabels": labels}, "template": template},
    }


def long(test):
    """Marks a story that only `run --all` tells."""
    test.is_long = True
    return test


class Story(place.Case):
    """A story: what it makes is removed at its end, and where it fails the namespace is shown."""

    def namespace(self):
        """A new namespace."""
        made = Namespace()
        self.addCleanup(made.close)
        self.addCleanup(self.show_if_failed, made)
        return made

    def show_if_failed(self, namespace):
        outcome = self._outcome
        problems = outcome.result.failures + outcome.result.errors if outcome else []
        if not (outcome and outcome.success) or any(test is self for test, _ in problems):
            namespace.report()
