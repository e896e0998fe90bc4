"""Objects of maintenance, sealed and signed as docs/format.md says: what a faulty or hostile program with the right keys could store."""
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from elements import keyed, padme, short, u32

OVERHEAD = 8 + 1 + 16 + 4 + 32 + 16 + 64  # of an object of maintenance: all but the record's text


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def listed(items): return varint(len(items)) + b"".join(items)
def session(writer, s): return writer + s.raw()
def named(x): return session(x.writer, x.session) + x.id
def pack(p): return p.id + session(p.writer, p.session) + varint(p.seq) + varint(p.size)


def sealed(r, magic, kind, context, key, fields, signer=bytes(16), seed=None):
    """By ROOT, or by a member with its seed."""
    text = fields + bytes(padme(OVERHEAD + len(fields)) - OVERHEAD - len(fields))
    digest = keyed(r.graph_records, short(kind) + r.id + short(key.encode()) + u32(0) + text)
    record = digest + AESGCM(keyed(r.graph_records, b"key" + digest)).encrypt(bytes(12), text, None)
    data = magic + b"\1" + signer + u32(len(record)) + record
    return data + Ed25519PrivateKey.from_private_bytes(seed or r.bundle.root).sign(short(context) + data)


def base(r, key, b):
    fields = (b"\1" + b.before if b.before else b"\0") + listed([
        session(s.writer, s.session) + varint(s.n) + s.id + varint(s.size) for s in b.segments])
    fields += listed(list(map(named, b.snapshots))) + listed(list(map(named, b.forgotten))) + listed(b.dropped)
    fields += listed([w + varint(n) for w, n in sorted(b.floors.items())]) + listed([session(*s) for s in b.dead])
    return sealed(r, b"copalba1", b"base", b"copal 1 base", key, fields + listed(list(map(varint, b.done))) + varint(b.forgets))


def maintenance(r, magic, kind, key, fields, **by):
    return sealed(r, magic, kind, b"copal 1 maintenance", key, fields, **by)


def condemn(r, key, floors, packs):
    floors = listed([w + varint(n) for w, n in sorted(floors.items())])
    return maintenance(r, b"copalgc1", b"condemn", key, floors + listed([pack(p) for p in sorted(packs)]))


def sweep(r, key, dead, packs):
    return maintenance(r, b"copalsw1", b"sweep", key, listed([session(*s) for s in sorted(dead)]) + listed([pack(p) for p in sorted(packs)]))


def ack(r, key, claims, writer, seed):
    return maintenance(r, b"copalak1", b"ack", key, listed(sorted(claims)), signer=writer, seed=seed)
