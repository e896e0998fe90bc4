"""An application, manifests and volumes in one snapshot, and back again: by requests of its own namespace."""

import base64
import os

from cluster import Story, claim, kubectl, secret
from test_database import database

ROWS = "select count(*), sum(id), max(text) from shop.orders"


def repository(place):
    """The Repository `main` of a place in the test's bucket."""
    return {
        "apiVersion": "copal.dev/v1alpha1",
        "kind": "Repository",
        "metadata": {"name": "main"},
        "spec": {
            "s3": {"bucket": place.server["bucket"], "prefix": place.prefix, "endpoint": os.environ["S3_ENDPOINT"]},
            "credentialsSecretRef": {"name": "shop-backup"},
            "writerKeySecretRef": {"name": "copal-key"},
            "readerKeySecretRef": {"name": "copal-reader"},
        },
    }


class Application(Story):
    def opt_in(self, namespace, place):
        """What a tenant does to be backed up: an account, its rights, keys, a Repository."""
        keys = {role: (place.path / role).read_text() for role in ("writer", "reader")}
        credentials = {"AWS_ACCESS_KEY_ID": place.server["access_key"], "AWS_SECRET_ACCESS_KEY": place.server["secret_key"]}
        namespace.kubectl("create", "serviceaccount", "copal")
        namespace.kubectl("create", "rolebinding", "copal", "--clusterrole=edit", f"--serviceaccount={namespace.name}:copal")
        namespace.kubectl("create", "role", "copal-roles", "--verb=get,list", "--resource=roles,rolebindings")
        namespace.kubectl("create", "rolebinding", "copal-roles", "--role=copal-roles", f"--serviceaccount={namespace.name}:copal")
        namespace.create(secret("shop-backup", **credentials), secret("copal-key", key=keys["writer"]))
        namespace.create(secret("copal-reader", key=keys["reader"]), repository(place))
        namespace.wait("repository", "main", 60, lambda r: r.get("status", {}).get("phase") == "Available", "Available")

    def repository_keys(self):
        """A new repository in the bucket, and its keys for two roles beside it."""
        place = self.place(self.server())
        place.init()
        for role in ("writer", "reader"):
            place.ok("key", "export", "--role", role, "--out", place.path / role)
        return place

    def ask(self, namespace, statement):
        """The answer of the database."""
        namespace.wait("deployment", "database", 120, lambda d: d.get("status", {}).get("availableReplicas") == 1, "available")
        (pod,) = namespace.list("pods", "app=database")
        return namespace.exec(pod["metadata"]["name"], "mariadb", "--batch", "--skip-column-names", "--execute", statement)

    def files(self, namespace):
        """Checksums of the two files on the database's volume."""
        (pod,) = namespace.list("pods", "app=database")
        return namespace.exec(pod["metadata"]["name"], "sh", "-c", "cd /var/lib/mysql && sha256sum 1000.txt 2000.txt && stat -c '%U %a %n' . 1000.txt")

    def over(self, namespace, kind, name, seconds=180):
        """Waits until a request is over; its status."""
        ended = ("Completed", "PartiallyFailed", "Failed", "FailedValidation", "Canceled")
        return namespace.wait(kind, name, seconds, lambda r: r.get("status", {}).get("phase") in ended, "over")["status"]

    def request(self, namespace, kind, name, **spec):
        """Makes a request; its status once it is over."""
        spec = {"storageLocation": "main", **spec}
        namespace.create({"apiVersion": "copal.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
        return self.over(namespace, kind.lower(), name)

    def test_a_database_comes_back_after_its_namespace_was_deleted(self):
        place = self.repository_keys()
        shop = self.namespace()
        self.opt_in(shop, place)
        annotated = database()
        annotated["spec"]["template"]["metadata"]["annotations"] = {"backup.velero.io/backup-volumes": "database"}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "database"}, "spec": {"selector": {"app": "database"}, "ports": [{"port": 3306}]}}
        shop.create(claim("database", size="512Mi"), secret("password", password="hunter2"), service, annotated)
        self.ask(shop, "create database shop; create table shop.orders (id int primary key, text varchar(50)) engine=innodb")
        self.ask(shop, "use shop; insert into orders select seq, concat('row ', seq) from seq_1_to_10000")
        (pod,) = shop.list("pods", "app=database")
        shop.exec(pod["metadata"]["name"], "sh", "-c", "cd /var/lib/mysql && seq 1000 >1000.txt && seq 2000 >2000.txt")
        rows, files = self.ask(shop, ROWS), self.files(shop)
        status = self.request(shop, "Backup", "before", ttl="720h")
        self.assertEqual(status["phase"], "Completed", status)
        self.assertEqual([v["claim"] for v in status["volumes"]], ["database"], status)
        self.assertEqual(status["volumes"][0]["phase"], "Completed", status)

        # From the bucket alone, without a cluster.
        listed = place.ok("ls", "--json", "latest").out
        for path in ("/manifests/apps/v1/Deployment/database.json", "/manifests/core/v1/Secret/password.json", "/volumes/database/1000.txt"):
            self.assertIn(f'"{path}"', listed)
        for key in ("copal-key", "copal-reader", "shop-backup"):
            self.assertNotIn(key, listed)

        shop.close()
        kubectl("create", "namespace", shop.name)
        self.opt_in(shop, place)
        plan = self.request(shop, "Restore", "look", backupName="before", plan=True)
        self.assertEqual(plan["phase"], "Completed", plan)
        text = shop.get("configmap", plan["plan"]["configMap"])["data"]["plan.json"]
        self.assertIn('"Deployment/database"', text)
        self.assertNotIn(base64.b64encode(b"hunter2").decode(), text)
        self.assertEqual(shop.list("deployments"), [])
        status = self.request(shop, "Restore", "back", backupName="before")
        self.assertEqual((status["phase"], status.get("problems")), ("Completed", None), status)
        self.assertEqual((self.ask(shop, ROWS), self.files(shop)), (rows, files))
        password = shop.get("secret", "password")["data"]["password"]
        self.assertEqual(base64.b64decode(password), b"hunter2")
        self.assertEqual([p["metadata"]["name"] for p in shop.list("pods", "copal.dev/helper")], [])

        # Into another namespace.
        copy = self.namespace()
        self.opt_in(copy, place)
        status = self.request(copy, "Restore", "elsewhere", snapshot="latest", source={"namespace": shop.name})
        self.assertEqual((status["phase"], status.get("problems")), ("Completed", None), status)
        self.assertEqual((self.ask(copy, ROWS), self.files(copy)), (rows, files))
