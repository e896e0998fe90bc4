#!/usr/bin/env python3
"""Verifies all of a repository that docs/format.md describes and a reader does not need: whole packs, pins, tags.

    check.py KEY_FILE REPO
"""
import sys

from elements import Cursor, H, Refused, aead_open, derive, keyed, padme, require, u32, u64
from reader import DATA, DIRECTORY, FILE, STANZA, TREE, Repository, Store, bundle_from_file, origin, pack_stem


def check_pin(r, key):
    data = r.store.read(key)
    c = Cursor(data)
    c.magic(b"copalpn1")
    c = r.record(b"pin", key, 0, c.take(len(data) - c.at))
    c.varint(), c.id(), c.id(), c.u64(), c.u64()
    require(len(data) == padme(len(data) - len(c.data) + c.at), "a pin with another padding")
    c.zeros()


def check_pack(r, pack, stanzas):
    """Invariants I6 and I7 of one pack; the set of the entries that its table gives."""
    stem = pack_stem(pack)
    data = r.store.hashed(stem, pack.id)
    require(len(data) == pack.size and (len(data) % (256 << 10) == 0 or len(data) == padme(len(data))), "a pack of another size")
    c = Cursor(data)
    c.magic(b"copalpk1")
    require((c.id(), c.writer(), c.session(), c.u64()) == (r.id, pack.writer, pack.session, pack.seq), "a pack under another key")
    origins = [(origin(c), c.id(), c.id(), c.take(STANZA)) for _ in range(c.u8(64))]
    require(origins and [o for o, _, _, _ in origins] == pack.origins, "a pack's origins are not those of the index")
    header = data[:c.at]
    t = r.record(b"pack trailer", stem, 0, data[-196:])
    end, start, length, header_hash, table_hash = t.u64(), t.u64(), t.u32(), t.id(), t.id()
    r.verify_member(pack.writer, pack.session, b"copal 1 pack", t.data[:t.at], t.end(t.take(64)))
    sealed = data[start:-196]
    require((len(sealed), H(header), H(sealed)) == (length, header_hash, table_hash) and c.at <= end <= start, "a trailer that belies its pack")
    keys = {}
    for i, (o, graph, content, stanza) in enumerate(origins):
        require(stanza == stanzas[o.writer, o.session], "a pack's stanza is not that of the index")
        for kind, commitment in ((TREE, graph), (DATA, content))[:2 if r.keys else 1]:
            keys[i, kind == TREE] = key = r.pack_key(kind, o, stanza)
            require(keyed(key, b"commit") == commitment, "a pack key with another commitment")
    require(data[end:start] == keyed(keys[0, True], b"padding", start - end), "a pack with another padding")
    t = r.record(b"pack table", stem, 0, sealed)
    listed = Cursor(t.take(t.u32()))
    require(len(t.data) % 4096 == 0 and len(t.data) - t.at < 4096, "a table with another padding")
    t.zeros()
    frames = listed.end(listed.list(lambda: (
        listed.u8(63), listed.varint(), listed.u8(3), listed.varint(), listed.list(lambda: (listed.id(), listed.varint())))))
    found, offset, ordinals = set(), c.at, {}
    for o, ordinal, kind, stored, blobs in frames:
        key, text, at = keys.get((o, kind == TREE)), None, 0
        # The very same frame may be there twice: a repack takes frames as they are, from packs that both hold it.
        tag = data[offset:offset + 32]
        require(ordinals.setdefault((o, kind == TREE, ordinal), tag) == tag, "an ordinal that is not unique")
        if key:
            text = check_frame(r, key, kind, ordinal, [id for id, _ in blobs], data[offset:offset + stored])
        for id, n in blobs:
            require(text is None or r.blob_id(kind, text[at:at + n]) == id, "a blob has another id")
            found.add((id, offset, kind, stored, n, at, o))
            at += n
        require(text is None or at == len(text), "a frame of another length")
        offset += stored
    require(offset == end, "the frames are not those of the table")
    return found


def check_frame(r, key, kind, ordinal, ids, frame):
    count, text = r.open_frame(key, kind, frame)
    require(count == len(ids), "a frame of another number of blobs")
    digest = ids[0] if count == 1 else keyed(key, b"group" + b"".join(ids))
    plain = aead_open(keyed(key, b"key" + frame[:32]), frame[32:])
    tag = keyed(key, b"frame" + u32(ordinal) + digest + plain[:9] + u32(len(plain) - 9))
    require(tag == frame[:32], "a frame with another tag")
    return text


def check_tree(r, source, tree, path):
    """Every child opens, and tags are those that the metadata gives. Returns how many tags were compared."""
    t = keyed(derive("copal 1 directory tags", r.bundle.d_id), source + path)
    compared = 0
    for node in r.directory(tree):
        m = node.meta
        def tag(x): return max(1, int.from_bytes(keyed(t, x)[:8], "little"))
        def clock(ns): return (ns // 10**9).to_bytes(8, "little", signed=True) + u32(ns % 10**9)
        name = tag(b"n" + bytes([m.kind]) + node.name)
        expected = [name, tag(b"m" + u64(name) + u64(m.size) + clock(m.mtime)), tag(b"c" + u64(name) + clock(m.ctime)),
                    tag(b"i" + u64(name) + u64(m.inode or 0))]
        for i, (a, b) in enumerate(zip(node.tags, expected)):
            require(a in (0, b), f"tag {i} of {path + b'/' + node.name!r} is another")
            compared += a != 0
        if node.kind == DIRECTORY:
            compared += check_tree(r, source, node.children[0], path + b"/" + node.name)
        elif m.kind == FILE:
            for _ in r.content(node):
                pass
    return compared


def check(r):
    packs, stanzas, entries = {}, {}, {}
    for pack, o, stanza, e in (x for copies in r.index.values() for x in copies):
        packs[pack.id] = pack
        stanzas[o.writer, o.session] = stanza
        entries.setdefault(pack.id, set()).add((e.id, e.offset, e.kind, e.stored, e.length, e.at, e.origin))
    for pack in packs.values():
        require(entries[pack.id] == check_pack(r, pack, stanzas), "a pack's table is not what the index says")
    pins = r.store.list("pin/")
    for key in pins:
        check_pin(r, key)
    tags = sum(check_tree(r, s.source, s.root, b"") for s in r.snapshots if r.keys and s.root)
    return f"{len(r.snapshots)} snapshots, {len(packs)} packs, {len(r.index)} blobs, {len(pins)} pins, {tags} tags"


if __name__ == "__main__":
    try:
        print(check(Repository(Store(sys.argv[2]), bundle_from_file(sys.argv[1]))))
    except Refused as e:
        sys.exit(f"refused: {e}")
