"""A real database on a volume: what later stories back up while it runs."""

from cluster import DATABASE_IMAGE, Story, claim, deployment, mount_claim, pod_spec

# lost+found of the volume's root is no database.
START = """
set -e
mkdir -p /run/mysqld
chown mysql: /run/mysqld /var/lib/mysql
[ -d /var/lib/mysql/mysql ] || mariadb-install-db --user=mysql --skip-test-db --ignore-db-dirs=lost+found >/dev/null
exec mariadbd --user=mysql --ignore-db-dirs=lost+found --skip-networking
"""


def database():
    """A Deployment of one MariaDB on the claim `database`, ready when it answers."""
    probe = {"exec": {"command": ["mariadb-admin", "ping"]}, "periodSeconds": 1, "timeoutSeconds": 5}
    mounts = [mount_claim("database", "/var/lib/mysql")]
    return deployment("database", pod_spec(DATABASE_IMAGE, ["sh", "-c", START], mounts, readinessProbe=probe))


class Database(Story):
    def pod(self, namespace):
        """The one pod that serves, once it does."""
        namespace.wait("deployment", "database", 120, lambda found: found.get("status", {}).get("availableReplicas") == 1, "available")
        (found,) = namespace.list("pods", "app=database")
        return found["metadata"]["name"]

    def ask(self, namespace, statement):
        """The answer of the database, as lines of fields."""
        return namespace.exec(self.pod(namespace), "mariadb", "--batch", "--skip-column-names", "--execute", statement)

    def test_rows_survive_a_kill(self):
        namespace = self.namespace()
        namespace.create(claim("database", size="512Mi"), database())
        self.ask(namespace, "create database shop; create table shop.orders (id int primary key, text varchar(50)) engine=innodb")
        self.ask(namespace, "use shop; insert into orders select seq, concat('row ', seq) from seq_1_to_10000")
        first = self.pod(namespace)
        namespace.kubectl("delete", "pod", first, "--grace-period=0", "--force")
        namespace.wait("deployment", "database", 30, lambda found: not found["status"].get("availableReplicas"), "without a pod")
        self.assertEqual(self.ask(namespace, "select count(*), sum(id), max(text) from shop.orders"), "10000\t50005000\trow 9999\n")
        self.assertEqual(self.ask(namespace, "check table shop.orders"), "shop.orders\tcheck\tstatus\tOK\n")
        self.assertNotEqual(self.pod(namespace), first)
