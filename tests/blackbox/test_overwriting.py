"""Everything at once in a bucket that ignores create-only puts: Ceph's gateway does where a bucket has versioning."""

import os
import unittest

from buckets import new_bucket
from place import Case, figures
from stress import Stress

VERSIONING = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
SECONDS = 20


class Overwriting(Case):
    def test_backups_go_on_beside_one_prune_that_ends_who_was_killed(self):
        described = self.server()
        bucket = new_bucket(described)
        bucket.request("PUT", "", query={"versioning": ""}, body=VERSIONING)
        place = self.place({**described, "bucket": bucket.name}, gib=4)
        # One prune at a time, also of those that were killed: that is what such a store cannot do without.
        stress = Stress(place, seed=int.from_bytes(os.urandom(4), "big"), writers=3, pruners=["owner"], rest=1)
        stress.run(SECONDS)
        figures("stress where creating is not atomic", seed=stress.seed, **stress.summary())
        relied = {name for name in stress.counts if name.startswith("relied_on")}
        self.assertEqual(relied, {"relied_on one-prune-at-a-time"})
        self.assertGreater(stress.counts["sessions_ended"], 0)


if __name__ == "__main__":
    unittest.main()
