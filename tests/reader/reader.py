#!/usr/bin/env python3
"""A reader of copal repositories, written from docs/format.md alone: it proves that the document suffices to get data back.

    reader.py --key-file F REPO snapshots | ls SNAPSHOT [PATH] | extract SNAPSHOT PATH DEST
    reader.py --passphrase-file F REPO ...      opens a key slot of the repository instead, as does --recovery-code-file

Slow on purpose where that keeps it short: the index is a dict, and what is small is read whole.
"""
import argparse
import os
import stat
import sys
import time
from collections import namedtuple

import zstandard
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from elements import (Cursor, H, Refused, XWing, aead_open, derive, keyed, open_record, open_stanza, padme, require, rising, short,
                      u64, verify)

DATA, META, TREE, MAP = range(4)
FILE, DIRECTORY, SYMLINK, FIFO, SOCKET, CHARACTER, BLOCK, MAPPED, LARGE = range(9)
WHOLE, PART, NONE = range(3)
ROLES = {1: "owner", 2: "reader", 3: "writer", 4: "maintainer"}
STANZA, ENTRY, PAGE = 1200, 52, 1260
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


# ---- bundles ----

Bundle = namedtuple("Bundle", "role repository fingerprint d_idx d_id d_chunk root read own")


def parse_bundle(data):
    c = Cursor(data)
    require(c.u8() == 1, "a bundle of another version")
    b = Bundle(c.u8(), c.id(), c.id(), c.id(), *(c.option(c.id) for _ in range(4)), c.option(lambda: (c.writer(), c.id())))
    c.end()
    require(b.role in ROLES, "a bundle of an unknown role")
    held = (b.d_id, b.d_chunk, b.root, b.read, b.own)
    holders = ((1, 2, 3), (1, 2, 3), (1,), (1, 2), (3, 4))
    require(all((x is not None) == (b.role in h) for x, h in zip(held, holders)), "a bundle that holds what its role does not")
    return b


def bundle_from_file(path):
    with open(path, encoding="ascii", errors="replace") as f:
        first, *lines = f.read().removesuffix("\n").split("\n")
    require(all(len(x) == 64 for x in lines[:-1]) and len(lines[-1]) <= 64, "a key file with lines of another length")
    digits = "".join(lines)
    require(set(digits) <= set("0123456789abcdef") and len(digits) % 2 == 0, "a key file that is not lower-case hex")
    raw, checksum = bytes.fromhex(digits)[:-8], bytes.fromhex(digits)[-8:]
    require(H(b"copal key bundle" + raw)[:8] == checksum, "the checksum of the key file is false")
    bundle = parse_bundle(raw)
    require(first == f"copal key bundle 1: {ROLES[bundle.role]}", "the first line of the key file is false")
    return bundle


def recovery_code(text):
    """55 digits of Crockford's base32: 256 bits, and 19 of checksum."""
    digits = text.translate(str.maketrans("OIL", "011", "- \n"))
    require(len(digits) == 55 and set(digits) <= set(CROCKFORD), "not a recovery code")
    number = 0
    for digit in digits:
        number = number << 5 | CROCKFORD.index(digit)
    code = (number >> 19).to_bytes(32, "big")
    checksum = int.from_bytes(keyed(code, b"copal 2026 recovery code checksum v1")[:4], "big") >> 13
    require(number & (1 << 19) - 1 == checksum, "the recovery code has a typo")
    return code


def bundle_from_slots(store, passphrase=None, code=None):
    for slot in store.list("key/"):
        c = Cursor(store.read(slot))
        c.magic(b"copalks1")
        repository, number, _, role, _, lock = c.id(), c.take(16), c.time(), c.u8(), c.bytes(), c.u8()
        require(slot == f"key/{number.hex()}", "a key slot under another key")
        if lock == 1 and passphrase is not None:
            salt, kib, passes, lanes = c.take(16), c.u32(), c.u32(), c.u32()
            require(64 << 10 <= kib <= 4 << 20 and 3 <= passes <= 64 and 1 <= lanes <= 16, "a key slot with a cost out of range")
            opener = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=kib).derive(passphrase)
        elif lock == 3 and code is not None:
            opener = code
        else:
            continue  # a slot for an X-Wing key, or another way
        commitment, record = c.id(), c.bytes()
        c.end()
        kek = derive("copal 1 key slot", opener + repository + number)
        if keyed(kek, b"commit") == commitment:
            bundle = parse_bundle(open_record(kek, b"key slot", repository, slot, 0, record))
            require((bundle.role, bundle.repository) == (role, repository), "a key slot that belies its bundle")
            return bundle
    raise Refused("that opens no key slot")


# ---- the store ----

class Store:
    def __init__(self, path):
        self.path = path

    def list(self, prefix):
        found = []
        for base, _, files in os.walk(os.path.join(self.path, prefix)):
            found += [os.path.relpath(os.path.join(base, f), self.path) for f in files]
        return sorted(found)

    def read(self, key, at=0, length=None):
        try:
            with open(os.path.join(self.path, key), "rb") as f:
                f.seek(at)
                data = f.read() if length is None else f.read(length)
        except FileNotFoundError:
            raise Refused(f"{key} is missing") from None
        require(length is None or len(data) == length, f"{key} is too short")
        return data

    def hashed(self, stem, id):
        data = self.read(stem + id.hex())
        require(H(data) == id, f"{stem}{id.hex()} has another hash")
        return data


# ---- the repository ----

Config = namedtuple("Config", "repository epoch before root recipients members")
Member = namedtuple("Member", "public maintainer revoked")
Pack = namedtuple("Pack", "id writer session seq size origins")
Origin = namedtuple("Origin", "writer session raw")
Entry = namedtuple("Entry", "id pack offset kind stored length at origin")
Meta = namedtuple("Meta", "kind size target rdev mode uid gid user group mtime atime ctime birth inode link xattrs flags project")
Node = namedtuple("Node", "name meta kind children tags")


def parse_config(data, key):
    c = Cursor(data)
    c.magic(b"copalcf1")
    repository, epoch, before, root = c.id(), c.u64(), c.option(c.id), c.id()
    c.time(), c.u32(), c.u32(), c.u32(), c.u8()  # the chunker's numbers concern writers alone
    features = c.list(lambda: (c.bytes(), c.u8()))
    c.u8(2), c.u8(1)
    recipients = c.list(lambda: (c.take(1216), c.option(lambda: c.take(STANZA))))
    members = c.list(lambda: (c.writer(), Member(c.id(), c.u8(1), c.option(lambda: (c.varint(), c.option(c.session))))))
    verify(root, b"copal 1 config", data[:c.at], c.take(64))
    c.end()
    require(key == f"cfg/{epoch:016x}", "a config under another key")
    require(not any(refuse & 1 for _, refuse in features), "a feature that this reader does not know refuses reading")
    require(recipients and [s is None for _, s in recipients] == [False] * (len(recipients) - 1) + [True], "recipients are not chained")
    rising([id for id, _ in members], "members")
    return Config(repository, epoch, before, root, recipients, dict(members))


def origin(c):
    at = c.at
    writer, session, _ = c.writer(), c.session(), c.id()
    return Origin(writer, session, c.data[at:c.at])


def packs_and_stanzas(c):
    """The two lists with which a segment's head and an inline part begin."""
    packs = c.list(lambda: Pack(c.id(), c.writer(), c.session(), c.varint(), c.varint(), c.list(lambda: origin(c))))
    stanzas = c.list(lambda: ((c.writer(), c.session()), c.take(STANZA)))
    rising([who for who, _ in stanzas], "stanzas")
    require({(o.writer, o.session) for p in packs for o in p.origins} == {who for who, _ in stanzas}, "stanzas are not those of the origins")
    return packs, dict(stanzas)


def entry(c):
    id, pack, kind, offset, stored, length, at, origin = c.id(), c.u24(), c.u8(3), c.u32(), c.u32(), c.u32(), c.u24(), c.u8()
    return Entry(id, pack, offset, kind, stored, length, at, origin)


class Repository:
    def __init__(self, store, bundle):
        self.unlock(store, bundle)
        self.read_all()

    def unlock(self, store, bundle):
        """Everything behind which the rest is sealed: keys and the config."""
        self.store, self.bundle, self.id = store, bundle, bundle.repository
        graph, content = bundle.d_idx, bundle.d_id
        self.graph_packs, self.graph_records = derive("copal 1 graph packs", graph), derive("copal 1 graph records", graph)
        self.blob_ids = {TREE: derive("copal 1 tree blob id", graph)}
        if content:
            of = {DATA: "data", META: "meta", MAP: "map"}
            self.blob_ids |= {kind: derive(f"copal 1 {name} blob id", content) for kind, name in of.items()}
        self.config = self.read_configs()
        self.keys = self.read_recipients()
        self.secrets, self.index, self.frames = {}, {}, {}

    def read_all(self):
        require(not self.store.list("base/"), "something stands under base/, of which this reader knows nothing")
        forgotten = {at for key in self.store.list("forget/") for at in self.read_forget(key)}
        committed = [self.read_snapshot(key) for key in self.store.list("snap/")]
        for snapshot in committed:
            self.read_index(snapshot)
        self.snapshots = [s for s in committed if (s.writer, s.session, s.id) not in forgotten]

    def read_configs(self):
        config = before = None
        for key in self.store.list("cfg/"):
            data = self.store.read(key)
            last, config = config, parse_config(data, key)
            require(H(config.root) == self.bundle.fingerprint, "the config is signed by another ROOT than the bundle names")
            require(config.repository == self.id, "the config is of another repository")
            require(not last or (config.epoch, config.before) == (last.epoch + 1, before), "the configs are not chained")
            before = H(data)
        require(config, "there is no config")
        return config

    def read_recipients(self):
        """All READ keys: the bundle's, and from it back to the oldest."""
        keys = {}
        if self.bundle.read:
            key = XWing(self.bundle.read)
            for public, stanza in reversed(self.config.recipients):
                if keys and stanza:
                    key = XWing(open_stanza(keys, "copal 1 recipient", stanza))
                require(keys == {} or public == key.public, "a recipient's stanza holds another key")
                if public == key.public:
                    keys[H(public)] = key
            require(keys, "the config names another reader than the bundle's")
        return keys

    def session_secret(self, stanza):
        if stanza not in self.secrets:
            self.secrets[stanza] = open_stanza(self.keys, "copal 1 session", stanza)
        return self.secrets[stanza]

    def record(self, kind, obj, ordinal, sealed):
        return Cursor(open_record(self.graph_records, kind, self.id, obj, ordinal, sealed))

    def verify_member(self, writer, session, context, message, signature):
        member = self.config.members.get(writer)
        require(member, f"{writer.hex()} is no member")
        if member.revoked:
            require(member.revoked[1] and session <= member.revoked[1], f"{writer.hex()} was revoked before {session}")
        verify(member.public, context, message, signature)

    # -- snapshots and the index --

    def read_forget(self, key):
        data = self.store.read(key)
        c = Cursor(data)
        c.magic(b"copalfo1")
        signer, record = c.writer(), c.take(c.u32())
        member = self.config.members.get(signer)
        require(not any(signer) or member and member.maintainer, f"{signer.hex()} may not forget")
        verify(member.public if any(signer) else self.config.root, b"copal 1 maintenance", data[:-64], data[-64:])
        require(c.at + 64 == len(data), "trailing bytes")
        r = self.record(b"forget", key, 0, record)
        r.time()
        named = r.list(lambda: (r.writer(), r.session(), r.id()))
        rising(named, "forgotten snapshots")
        require(len(data) == padme(len(data) - len(r.data) + r.at), "a record of forgotten snapshots with another padding")
        r.zeros()
        return [] if any(signer) and member.revoked else named

    def read_snapshot(self, key):
        data = self.store.read(key)
        c = Cursor(data)
        c.magic(b"copalsn1")
        require(c.id() == self.id, "a snapshot of another repository")
        s = argparse.Namespace(id=H(data), writer=c.writer(), session=c.session(), stanza=c.take(STANZA), host=b"", paths=[])
        require(key == f"snap/{s.writer.hex()}/{s.session}", "a snapshot under another key")
        self.verify_member(s.writer, s.session, b"copal 1 snapshot", data[:-64], data[-64:])
        graph, names = c.take(c.u32()), c.take(c.u32())
        require(len(data) == padme(c.at + 64) and not any(data[c.at:-64]), "a snapshot with another padding")
        self.read_graph(s, self.record(b"snapshot graph", key, 0, graph))
        require((s.root is None) == (s.kind == NONE), "a snapshot with a root where none may be, or without one")
        if s.stanza[:32] in self.keys:  # else it is not for this role, or newer than this bundle
            names_key = derive("copal 1 snapshot names", self.session_secret(s.stanza) + self.id + s.writer + s.session.raw())
            self.read_names(s, Cursor(open_record(names_key, b"snapshot names", self.id, key, 0, names)))
        return s

    def read_graph(self, s, c):
        s.kind, s.time, s.epoch, s.root, s.source, s.host_hash = c.u8(2), c.time(), c.varint(), c.option(c.id), c.id(), c.id()
        s.path_hashes, s.label_hashes, s.previous, s.original = c.list(c.id), c.list(c.id), c.option(c.id), c.option(c.id)
        s.run, s.parts = c.option(lambda: (c.writer(), c.session())), c.list(c.id)
        s.base = c.varint(), c.option(c.id)
        s.view, s.segments = c.list(lambda: (c.writer(), c.session(), c.id())), c.list(lambda: (c.varint(), c.id()))
        s.packs, s.bytes = c.varint(), c.varint()
        s.inline = c.option(lambda: (packs_and_stanzas(c), c.list(lambda: entry(c))))
        c.end()

    def read_names(self, s, c):
        s.host, s.user, s.uid, s.gid, s.paths, s.labels = c.bytes(), c.bytes(), c.varint(), c.varint(), c.list(c.bytes), c.list(c.bytes)
        s.program, s.counts = c.bytes(), [c.varint() for _ in range(14)]
        s.problems = c.list(lambda: (c.bytes(), c.bytes(), c.bytes()))
        c.end()
        if s.kind == NONE and not any(s.source + s.host_hash):  # by a maintainer, say, who has no key for hashes
            return require(not (s.host or s.paths or s.labels or s.path_hashes or s.label_hashes), "names without their hashes")
        labels, sources = derive("copal 1 labels", self.bundle.d_id), derive("copal 1 source", self.bundle.d_id)
        def label(what, text): return keyed(labels, short(what) + text)
        require(s.host_hash == label(b"host", s.host) and s.path_hashes == [label(b"path", p) for p in s.paths]
                and s.label_hashes == [label(b"label", x) for x in s.labels], "a snapshot's hashes are not those of its names")
        require(s.source == keyed(sources, b"".join(u64(len(x)) + x for x in [s.host, *s.paths])), "a snapshot of another source")

    def read_index(self, s):
        require(not (s.inline and s.segments), "a snapshot with segments and an inline one")
        if s.inline:
            self.add(*s.inline[0], s.inline[1])
        for n, id in s.segments:
            self.add(*self.read_segment(f"idx/{s.writer.hex()}/{s.session}/{n:016x}-", s, n, id))

    def read_segment(self, stem, s, n, id):
        data = self.store.hashed(stem, id)
        c = Cursor(data)
        c.magic(b"copalix1")
        require((c.id(), c.writer(), c.session(), c.u64()) == (self.id, s.writer, s.session, n), "a segment under another key")
        head = self.record(b"segment head", stem, 0, c.take(c.u32()))
        packs, stanzas = packs_and_stanzas(head)
        pages = head.end(head.list(lambda: (head.id(), head.varint())))
        require(all(n == PAGE for _, n in pages[:-1]), "a page of another number of entries")
        entries = []
        for ordinal, (first, n) in enumerate(pages):
            require(0 < n <= PAGE, "a page of another number of entries")
            page = self.record(b"segment page", stem, ordinal, c.take(32 + n * ENTRY + 16))
            entries += [entry(page) for _ in range(n)]
            page.end()
            require(entries[-n].id == first, "a page that begins with another id")
        require(len(data) == padme(c.at), "a segment with another padding")
        c.zeros()
        return packs, stanzas, entries

    def add(self, packs, stanzas, entries):
        fits(packs, entries)
        for e in entries:
            o = packs[e.pack].origins[e.origin]
            self.index.setdefault((e.kind, e.id), []).append((packs[e.pack], o, stanzas[o.writer, o.session], e))

    # -- blobs --

    def pack_key(self, kind, origin, stanza):
        secret = self.graph_packs if kind == TREE else self.session_secret(stanza)
        return derive("copal 1 pack", secret + b"\1" + self.id + origin.raw)

    def blob_id(self, kind, text):
        return keyed(self.blob_ids[kind], text)

    def open_frame(self, key, kind, sealed):
        """The header's count and the text of a frame."""
        c = Cursor(aead_open(keyed(key, b"key" + sealed[:32]), sealed[32:]))
        require(c.u8() == kind, "a frame of another kind")
        codec, _, count, raw = c.u8(1), c.u8(), c.u16(), c.u32()
        text = c.take(len(c.data) - c.at)
        require(raw <= 16 << 20, "a frame above 16 MiB")
        if codec:
            try:
                require(zstandard.get_frame_parameters(text).content_size in (raw, zstandard.CONTENTSIZE_UNKNOWN), "a frame of another length")
                text = zstandard.ZstdDecompressor().decompress(text, max_output_size=raw, allow_extra_data=False)
            except zstandard.ZstdError as e:
                raise Refused(f"zstd: {e}") from None
        require(len(text) == raw, "a frame of another length")
        return count, text

    def copies(self, kind, id):
        return self.index.get((kind, id), [])

    def blob(self, kind, id):
        problem = Refused("not in the index")
        for pack, origin, stanza, e in self.copies(kind, id):
            try:
                where = pack.id, e.offset, e.stored
                if where not in self.frames:
                    if len(self.frames) > 16:
                        self.frames.clear()
                    sealed = self.store.read(pack_stem(pack) + pack.id.hex(), e.offset, e.stored)
                    self.frames[where] = self.open_frame(self.pack_key(kind, origin, stanza), kind, sealed)[1]
                text = self.frames[where][e.at:e.at + e.length]
                require(len(text) == e.length and self.blob_id(kind, text) == id, "a blob has another id")
                return text
            except Refused as e:  # another copy may be whole
                problem = e
        raise Refused(f"blob {kind} {id.hex()}: {problem}")

    # -- trees --

    def form(self, kind, id, most):
        c = Cursor(self.blob(kind, id))
        require(c.u8() == 1, "a tree or meta of another version")
        return c, c.u8(most)

    def directory(self, id, stretch=False):
        c, form = self.form(TREE, id, 2)
        m, meta_form = self.form(META, c.id(), 1)
        require(form == meta_form and not (form and stretch), "a tree that is no directory")
        if form == 1:
            trees, firsts = c.end(c.list(c.id)), m.end(m.list(m.bytes))
            require(len(trees) == len(firsts) >= 2, "a directory's stretches are not those of its meta")
            nodes = []
            for tree, first in zip(trees, firsts):
                nodes += (part := self.directory(tree, True))
                require(part and part[0].name == first, "a stretch begins with another name")
        else:
            entries = c.end(c.list(lambda: (c.u8(8), c.list(c.id), [c.u64() for _ in range(4)])))
            metas = m.end(m.list(lambda: (m.bytes(), metadata(m))))
            require(len(entries) == len(metas) <= 4096, "a tree's entries are not those of its meta")
            nodes = [Node(name, meta, *entry) for entry, (name, meta) in zip(entries, metas)]
        for n in nodes:
            require(0 < len(n.name) < 256 and not set(b"/\0") & set(n.name) and n.name not in (b".", b".."), "a name out of range")
            require((FILE if n.kind in (MAPPED, LARGE) else n.kind) == n.meta.kind, "a tree's kind is not that of its meta")
            count = len(n.children)
            fits = {FILE: count <= 1, DIRECTORY: count == 1, MAPPED: 1 <= count <= 1025, LARGE: count >= 2}
            require(fits.get(n.kind, count == 0), "an entry with another number of children")
        rising([n.name for n in nodes], "names")
        return nodes

    def runs(self, map_id, children, size):
        """(child or None for a hole, length) of every run."""
        c = Cursor(self.blob(MAP, map_id))
        require(c.u8() == 1 and c.u8() in (1, 2), "a map of another version")
        runs = [(x >> 1, x & 1) for x in c.end(c.list(c.varint))]
        require(all(n for n, _ in runs) and not any(a[1] and b[1] for a, b in zip(runs, runs[1:])), "a map with an empty run or split hole")
        require(sum(n for n, _ in runs) == size and sum(1 - hole for _, hole in runs) == len(children), "a map of another size")
        children = iter(children)
        return [(None if hole else next(children), n) for n, hole in runs]

    def content(self, node):
        """The pieces of a file: bytes, or the length of a hole."""
        size = node.meta.size
        if node.kind == FILE:
            require(bool(node.children) == bool(size), "a file of another size")
            parts = [[(child, size) for child in node.children]]
        elif node.kind == MAPPED:
            parts = [self.runs(node.children[0], node.children[1:], size)]
        else:
            parts = (self.part(tree, n) for tree, n in self.runs(node.children[0], node.children[1:], size))
        for child, n in (run for part in parts for run in part):
            piece = self.blob(DATA, child) if child else n
            require(child is None or len(piece) == n, "a chunk of another length")
            yield piece

    def part(self, tree, size):
        require(tree, "a hole among the parts of a file")
        c, form = self.form(TREE, tree, 2)
        require(form == 2, "a part of another form")
        map_id, data = c.id(), c.end(c.list(c.id))
        require(len(data) <= 1024, "a part of too many chunks")
        return self.runs(map_id, data, size)

    def find(self, snapshot, path):
        require(snapshot.root, "the snapshot has no root")
        node = Node(b"/", None, DIRECTORY, [snapshot.root], [])
        for name in filter(None, path.split(b"/")):
            require(node.kind == DIRECTORY, f"{path!r}: not a directory")
            node = next((n for n in self.directory(node.children[0]) if n.name == name), None)
            require(node, f"{path!r}: no such file")
        return node


def fits(packs, entries):
    rising(entries, "entries")
    for e in entries:
        require(e.pack < len(packs) and e.origin < len(packs[e.pack].origins), "an entry of no pack or origin")
        require(e.offset + e.stored <= packs[e.pack].size, "an entry beyond its pack")
    return True


def pack_stem(pack):
    return f"pack/{pack.writer.hex()}/{pack.session}/{pack.seq:016x}-"


def metadata(c):
    kind = c.u8(6)
    size = c.varint() if kind == FILE else 0
    target = c.bytes() if kind == SYMLINK else b""
    rdev = c.varint() if kind in (CHARACTER, BLOCK) else 0
    m = Meta(kind, size, target, rdev, c.varint(), c.varint(), c.varint(), c.bytes(), c.bytes(), c.time(), c.time(), c.time(),
             c.option(c.time), c.option(c.varint), c.option(lambda: (c.varint(), c.varint(), c.varint())),
             c.list(lambda: (c.bytes(), c.bytes())), c.varint(), c.varint())
    require(m.mode <= 0o7777, "a mode out of range")
    rising([name for name, _ in m.xattrs], "extended attributes")
    return m


def extract(repository, node, dest, links):
    """Contents, modes, times, extended attributes and hard links; owners and devices are left to the real program."""
    m = node.meta
    if m and m.link:
        if first := links.get(m.link[:2]):
            return os.link(first, dest, follow_symlinks=False)
        links[m.link[:2]] = dest
    if node.kind == DIRECTORY:
        os.mkdir(dest, 0o700)
        for child in repository.directory(node.children[0]):
            extract(repository, child, os.path.join(dest, child.name), links)
    elif node.kind == SYMLINK:
        os.symlink(m.target, dest)
    elif node.kind == FIFO:
        os.mkfifo(dest)
    elif m.kind == FILE:
        with open(dest, "xb") as f:
            for piece in repository.content(node):
                f.seek(piece, os.SEEK_CUR) if isinstance(piece, int) else f.write(piece)
            f.truncate(m.size)
    else:
        return print(f"left out: {os.fsdecode(dest)}", file=sys.stderr)
    if m:
        for name, value in m.xattrs:
            try:
                os.setxattr(dest, name, value, follow_symlinks=False)
            except OSError as e:
                print(f"{os.fsdecode(dest)}: {os.fsdecode(name)}: {e.strerror}", file=sys.stderr)
        if node.kind != SYMLINK:
            os.chmod(dest, m.mode)
        os.utime(dest, ns=(m.atime, m.mtime), follow_symlinks=False)


def line(node):
    types = {FILE: stat.S_IFREG, DIRECTORY: stat.S_IFDIR, SYMLINK: stat.S_IFLNK, FIFO: stat.S_IFIFO, SOCKET: stat.S_IFSOCK,
             CHARACTER: stat.S_IFCHR, BLOCK: stat.S_IFBLK}
    m, name = node.meta, os.fsdecode(node.name)
    if not m:
        return name
    return f"{stat.filemode(types[m.kind] | m.mode)} {m.size:>12} {stamp(m.mtime)} {name}" + (f" -> {os.fsdecode(m.target)}" if m.target else "")


def stamp(nanoseconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(nanoseconds // 10**9))


def main():
    parser = argparse.ArgumentParser(description="Reads a copal repository in a local directory.")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--key-file")
    how.add_argument("--passphrase-file", help="its first line opens a key slot")
    how.add_argument("--recovery-code-file")
    parser.add_argument("repo")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("snapshots")
    for name, more in (("ls", ()), ("extract", ("dest",))):
        command = commands.add_parser(name)
        command.add_argument("snapshot", help="an id, the beginning of one, or 'latest'")
        command.add_argument("path", nargs="?" if name == "ls" else None, default="/", type=os.fsencode)
        for x in more:
            command.add_argument(x, type=os.fsencode)
    args = parser.parse_args()
    try:
        store = Store(args.repo)
        if args.key_file:
            bundle = bundle_from_file(args.key_file)
        elif args.passphrase_file:
            with open(args.passphrase_file, "rb") as f:
                bundle = bundle_from_slots(store, passphrase=f.readline().rstrip(b"\n"))
        else:
            with open(args.recovery_code_file, encoding="ascii", errors="replace") as f:
                bundle = bundle_from_slots(store, code=recovery_code(f.read().upper()))
        repository = Repository(store, bundle)
        ordered = sorted(repository.snapshots, key=lambda s: s.time)
        if args.command == "snapshots":
            for s in ordered:
                kind = ("whole", "part", "none")[s.kind]
                print(s.id.hex(), stamp(s.time), kind, os.fsdecode(s.host), *map(os.fsdecode, s.paths))
            return
        require(bundle.read, f"a {ROLES[bundle.role]} reads no names or contents")
        matching = ordered[-1:] if args.snapshot == "latest" else [s for s in ordered if s.id.hex().startswith(args.snapshot)]
        require(len(matching) == 1, f"{len(matching)} snapshots match")
        node = repository.find(matching[0], os.fsencode(args.path))
        if args.command == "ls":
            for n in repository.directory(node.children[0]) if node.kind == DIRECTORY else [node]:
                print(line(n))
        else:
            extract(repository, node, args.dest, {})
    except Refused as e:
        sys.exit(f"refused: {e}")


if __name__ == "__main__":
    main()
