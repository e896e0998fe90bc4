"""Everything that stands in a repository, read and verified object by object; what is refused becomes a finding.

What the objects say of each other is judge.py's. Nothing here trusts a LIST or a name: whatever is no key of docs/format.md is listed as a note.
"""
import argparse
import re
from collections import namedtuple

import check
import maintenance
from elements import Cursor, H, Refused, Session, require
from reader import STANZA, Pack, Repository, fits, origin, pack_stem, packs_and_stanzas, parse_config

ERROR, NOTE = "error", "note"
Finding = namedtuple("Finding", "weight object text")
Listing = namedtuple("Listing", "packs stanzas entries")

NUMBER, WRITER, HASH = "([0-9a-f]{16})", "([0-9a-f]{32})", "([0-9a-f]{64})"
SESSION = NUMBER + "-" + NUMBER
FORMS = {
    "config": f"cfg/{NUMBER}", "slot": f"key/{WRITER}", "pin": f"pin/{WRITER}/{SESSION}", "ack": f"pin/{WRITER}/{SESSION}[.]{NUMBER}",
    "pack": f"pack/{WRITER}/{SESSION}/{NUMBER}-{HASH}", "segment": f"idx/{WRITER}/{SESSION}/{NUMBER}-{HASH}",
    "snapshot": f"snap/{WRITER}/{SESSION}", "base": f"base/{NUMBER}", "verdict": f"check/{NUMBER}", "condemn": f"gc/{NUMBER}",
    "fence": f"gc/{NUMBER}[.]fence", "sweep": f"gc/{NUMBER}[.]sweep", "forget": f"forget/{NUMBER}", "probe": "probe/([0-9a-f]+)"}
FORMS = {kind: re.compile(form) for kind, form in FORMS.items()}


def who(writer, session):
    return f"{writer.hex()}/{session}"


def parts(match):
    """What a key says: (writer, session) and numbers and hashes as bytes or int."""
    found = [bytes.fromhex(g) if len(g) != 16 else int(g, 16) for g in match.groups()]
    return (found[0], Session(found[1], found[2]), *found[3:]) if len(found) > 2 else tuple(found)


class Inventory(Repository):
    def error(self, key, text): self.findings.append(Finding(ERROR, key, text))
    def note(self, key, text): self.findings.append(Finding(NOTE, key, text))

    def attempt(self, key, read, *args):
        """What `read` gives, or None and a finding."""
        try:
            return read(*args)
        except Refused as e:
            self.error(key, str(e))

    def unlock(self, store, bundle):
        self.findings = []
        super().unlock(store, bundle)
        self.epochs = {}
        for key in store.list("cfg/"):
            config = parse_config(store.read(key), key)
            self.epochs[config.epoch] = config
        first = self.epochs[min(self.epochs)]
        require((first.epoch, first.before) == (1, None), "the first configs are missing")

    def read_all(self):
        self.keys_of = {kind: {} for kind in FORMS}
        for key in self.store.list(""):
            kind, match = next(((k, m) for k, form in FORMS.items() if (m := form.fullmatch(key))), (None, None))
            if kind in (None, "probe"):
                self.note(key, "left by a test of the store" if kind else "no object that the format knows")
            else:
                self.keys_of[kind][parts(match)] = key
        self.read_small()
        self.read_listings()
        self.read_packs()

    def each(self, kind, read):
        """{parts of the key: what `read(key, bytes, *parts)` gives} of all objects of a kind that are not refused."""
        found = {}
        for at, key in self.keys_of[kind].items():
            def bounded_read():
                data = self.store.read(key)
                maintenance.bounded(key, data)
                return read(key, data, *at)
            value = self.attempt(key, bounded_read)
            if value is not None:
                found[at if len(at) > 1 else at[0]] = value
        return found

    def read_small(self):
        def simple(parse): return lambda key, data, *_: parse(self, key, data)
        self.pins = self.each("pin", simple(maintenance.pin))
        self.acks = self.each("ack", lambda key, data, writer, *_: maintenance.ack(self, key, data, writer))
        self.bases = self.each("base", simple(maintenance.base))
        self.condemns = self.each("condemn", simple(maintenance.condemn))
        self.sweeps = self.each("sweep", simple(maintenance.sweep))
        self.fences = self.each("fence", simple(maintenance.fence))
        self.forgets = self.each("forget", simple(maintenance.forget))
        self.each("verdict", simple(maintenance.verdict))
        for slot, ours in self.each("slot", simple(maintenance.slot)).items():
            if not ours:
                self.note(f"key/{slot.hex()}", "a slot of another repository, left by an interrupted init")
        committed = self.each("snapshot", self.read_commit)
        self.tombstones = {at: t for at, t in committed.items() if isinstance(t, int)}
        self.committed = {at: s for at, s in committed.items() if at not in self.tombstones}

    def read_commit(self, key, data, *_):
        """A snapshot, or the generation of a tombstone."""
        return maintenance.tombstone(self, key, data) if data.startswith(b"copalto1") else self.read_snapshot(key)

    def read_listings(self):
        """All segments and inline entries, published or not, and what they agree about: packs and stanzas."""
        self.segments = self.each("segment", self.read_one_segment)
        self.listed, self.session_stanzas = {}, {}
        for at, s in self.committed.items():
            key = self.keys_of["snapshot"][at]
            if s.inline:
                s.inline = Listing(*s.inline[0], s.inline[1])
                if self.attempt(key, fits, *s.inline[::2]) is None:
                    s.inline = None
                else:
                    self.agree(key, s.inline)
            self.stanza(key, (s.writer, s.session), s.stanza)
        for at, listing in self.segments.items():
            self.agree(self.keys_of["segment"][at], listing)

    def read_one_segment(self, key, data, writer, session, n, id):
        listing = Listing(*self.read_segment(key[:-64], argparse.Namespace(writer=writer, session=session), n, id))
        fits(listing.packs, listing.entries)
        return listing

    def agree(self, key, listing):
        for pack in listing.packs:
            if self.listed.setdefault(pack.id, pack) != pack:
                self.error(key, f"says of pack {pack.id.hex()} what another segment does not")
        for session, stanza in listing.stanzas.items():
            self.stanza(key, session, stanza)

    def stanza(self, key, session, stanza):
        if self.session_stanzas.setdefault(session, stanza) != stanza:
            self.error(key, f"has another stanza for session {who(*session)}")

    # -- packs --

    def read_packs(self):
        """`tables`: what each sound pack holds. A pack that a segment lists is held to that, any other to its own header."""
        self.tables, self.standing = {}, {}
        for (writer, session, seq, id), key in self.keys_of["pack"].items():
            self.standing[id] = key
            pack = self.listed.get(id)
            if pack and pack_stem(pack) + id.hex() == key:
                table = self.attempt(key, check.check_pack, self, pack, self.session_stanzas)
            else:
                table = self.attempt(key, self.unlisted_pack, key, id)
            if table is not None:
                self.tables[id] = table
        for at, listing in self.segments.items():
            self.compare_with_tables(self.keys_of["segment"][at], listing)
        for s in self.committed.values():
            if s.inline:
                self.compare_with_tables(f"snap/{who(s.writer, s.session)}", s.inline)

    def unlisted_pack(self, key, id):
        data = self.store.hashed(key[:-64], id)
        c = Cursor(data)
        c.magic(b"copalpk1")
        require(c.id() == self.id, "a pack of another repository")
        pack = Pack(id, c.writer(), c.session(), c.u64(), len(data), [])
        require(pack_stem(pack) + id.hex() == key, "a pack under another key")
        stanzas = {}
        for _ in range(c.u8(64)):
            o = origin(c)
            c.id(), c.id()
            pack.origins.append(o)
            stanzas[o.writer, o.session] = c.take(STANZA)
        for session, stanza in stanzas.items():
            self.stanza(key, session, stanza)
        return check.check_pack(self, pack, stanzas)

    def compare_with_tables(self, key, listing):
        """A segment may list a part of a pack, but nothing that its table does not hold."""
        for id, entries in by_pack(listing).items():
            if id in self.tables and not entries <= self.tables[id]:
                self.error(key, f"lists {len(entries - self.tables[id])} blobs that are not so in the table of pack {id.hex()}")


def by_pack(listing):
    """{pack id: entries in the form of a pack's table}."""
    found = {pack.id: set() for pack in listing.packs}
    for e in listing.entries:
        found[listing.packs[e.pack].id].add((e.id, e.offset, e.kind, e.stored, e.length, e.at, e.origin))
    return found
