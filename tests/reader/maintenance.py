"""The objects of docs/format.md that a plain reader can do without: bases, what stands under gc/, tombstones, acks, verdicts, key slots.

Each function takes an unlocked Repository, the key of the object and its bytes, and gives what they say or raises Refused.
"""
from collections import namedtuple

from elements import Cursor, H, padme, require, rising, u64, verify
from reader import STANZA

Base = namedtuple("Base", "n id before segments snapshots forgotten dropped floors dead done forgets")
Segment = namedtuple("Segment", "writer session n id size")
Named = namedtuple("Named", "writer session id")
Condemned = namedtuple("Condemned", "id writer session seq size")

# Bounds of whole objects, by what their keys begin with; a tombstone is told apart by its magic.
MIB = 1 << 20
BOUNDS = {"cfg": 16 * MIB, "key": MIB >> 4, "pin": MIB >> 4, "snap": 64 * MIB, "forget": 16 * MIB}
MAINTENANCE, MOST_NAMED, MOST_FLOORS = 1024 * MIB, 1 << 22, 1 << 16


def bounded(key, data):
    require(len(data) <= BOUNDS.get(key.split("/")[0], MAINTENANCE), "an object above its bound")


def signed(r, magic, context, data, revoked_may):
    """The signer and the sealed record of an object that a maintainer or ROOT signed; `revoked_may` judges a revocation."""
    c = Cursor(data)
    c.magic(magic)
    signer, record = c.writer(), c.take(c.u32())
    member = r.config.members.get(signer)
    require(not any(signer) or member and member.maintainer, f"{signer.hex()} is no maintainer")
    verify(member.public if any(signer) else r.config.root, context, data[:-64], c.end(c.take(64)))
    require(not any(signer) or not member.revoked or revoked_may(member.revoked), f"{signer.hex()} was revoked before this")
    return record


def in_padme(data, c):
    """Zeros follow the fields that `c` has read, so that the object has a size of PADME."""
    require(len(data) == padme(len(data) - (len(c.data) - c.at)), "another padding")
    c.zeros()


def sessions(c):
    return sorted_list(c, lambda: (c.writer(), c.session()), "sessions")


def floors(c):
    found = sorted_list(c, lambda: (c.writer(), c.varint()), "floors", MOST_FLOORS)
    require(len({writer for writer, _ in found}) == len(found), "two floors of one writer")
    return dict(found)


def sorted_list(c, read, what, most=MOST_NAMED):
    found = c.list(read)
    rising(found, what)
    require(len(found) <= most, f"more {what} than may be")
    return found


def base(r, key, data):
    n = int(key.split("/")[1], 16)
    require(n >= 1, "a base without a number")
    record = signed(r, b"copalba1", b"copal 1 base", data, lambda revoked: n <= revoked[0])
    c = r.record(b"base", key, 0, record)
    def named(what): return sorted_list(c, lambda: Named(c.writer(), c.session(), c.id()), what)
    found = Base(
        n, H(data), c.option(c.id),
        sorted_list(c, lambda: Segment(c.writer(), c.session(), c.varint(), c.id(), c.varint()), "segments"),
        named("snapshots"), named("forgotten snapshots"), sorted_list(c, c.id, "dropped packs"), floors(c), sessions(c),
        sorted_list(c, c.varint, "generations done"), c.varint())
    in_padme(data, c)
    require((found.before is None) == (n == 1), "a first base with one before it, or a later one without")
    return found


def maintenance(r, magic, kind, fields, key, data, revoked_may=lambda _: True):
    c = r.record(kind, key, 0, signed(r, magic, b"copal 1 maintenance", data, revoked_may))
    found = fields(c)
    in_padme(data, c)
    return found


def condemned_packs(c):
    packs = sorted_list(c, lambda: Condemned(c.id(), c.writer(), c.session(), c.varint(), c.varint()), "packs")
    require(len({p.id for p in packs}) == len(packs), "a pack twice")
    return packs


def condemn(r, key, data):
    """(floors, packs)."""
    return maintenance(r, b"copalgc1", b"condemn", lambda c: (floors(c), condemned_packs(c)), key, data)


def sweep(r, key, data):
    """(dead sessions, packs)."""
    return maintenance(r, b"copalsw1", b"sweep", lambda c: (sessions(c), condemned_packs(c)), key, data)


def fence(r, key, data):
    return maintenance(r, b"copalfe1", b"fence", sessions, key, data)


def forget(r, key, data):
    def fields(c):
        c.time()
        return sorted_list(c, lambda: Named(c.writer(), c.session(), c.id()), "forgotten snapshots")
    return maintenance(r, b"copalfo1", b"forget", fields, key, data, lambda _: False)


def tombstone(r, key, data):
    """The generation that fenced the session, or 0."""
    require(len(data) <= 64 << 10, "an object above its bound")
    return maintenance(r, b"copalto1", b"tombstone", lambda c: c.varint(), key, data)


def ack(r, key, data, writer):
    """The packs that the session claims; its own writer signs, revoked or not."""
    c = Cursor(data)
    c.magic(b"copalak1")
    signer, record = c.writer(), c.take(c.u32())
    require(signer == writer and signer in r.config.members, "an ack by somebody else")
    verify(r.config.members[signer].public, b"copal 1 maintenance", data[:-64], c.end(c.take(64)))
    c = r.record(b"ack", key, 0, record)
    claimed = sorted_list(c, c.id, "claims")
    in_padme(data, c)
    return claimed


def pin(r, key, data):
    """The epoch of the config that the session saw."""
    c = Cursor(data)
    c.magic(b"copalpn1")
    c = r.record(b"pin", key, 0, c.take(len(data) - c.at))
    epoch, _, _, _, _ = c.varint(), c.id(), c.id(), c.u64(), c.u64()
    in_padme(data, c)
    return epoch


def verdict(r, key, data):
    c = Cursor(data)
    c.magic(b"copalck1")
    c = r.record(b"verdict", key, 0, c.take(len(data) - c.at))
    raw = c.take(c.u32())
    # The signature is the last of the record; the zeros stand before it.
    zeros, signature = c.data[c.at:-64], c.data[-64:]
    require(not any(zeros), "padding is not zero")
    require(len(data) == padme(len(data) - len(zeros)), "another padding")
    verify(r.config.root, b"copal 1 verdict", r.id + u64(int(key.split("/")[1], 16)) + raw, signature)
    listed = Cursor(raw)
    found = listed.end(listed.list(lambda: (listed.id(), listed.varint())))
    rising([id for id, _ in found], "packs of a verdict")
    return found


def slot(r, key, data):
    """The form of a key slot, which opens only with its secret: whether it is of this repository."""
    c = Cursor(data)
    c.magic(b"copalks1")
    repository, number, _, role, label, lock = c.id(), c.take(16), c.time(), c.u8(), c.bytes(), c.u8()
    require(key == f"key/{number.hex()}" and role in (1, 2) and len(label) <= 255 and lock in (1, 2, 3), "not a key slot's form")
    if lock == 1:
        c.take(16)
        kib, passes, lanes = c.u32(), c.u32(), c.u32()
        require(64 << 10 <= kib <= 4 << 20 and 3 <= passes <= 64 and 1 <= lanes <= 16, "a key slot with a cost out of range")
    elif lock == 2:
        c.take(STANZA)
    c.id(), c.bytes(), c.end()
    return repository == r.id
