"""The elements of docs/format.md: its encoding, its algorithms, and the two ways in which everything is sealed."""
import hashlib
from collections import namedtuple

from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class Refused(Exception):
    """What the repository holds is not what the document allows."""


def require(condition, what):
    if not condition:
        raise Refused(what)


# ---- encoding ----

class Cursor:
    """The elements of the section Encoding; whatever is not the one encoding of a value is refused."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        require(n <= len(self.data) - self.at, "the bytes end too early")
        self.at += n
        return self.data[self.at - n:self.at]

    def number(self, width):
        return int.from_bytes(self.take(width), "little")

    def u8(self, most=255):
        value = self.number(1)
        require(value <= most, "a value is out of range")
        return value

    def u16(self): return self.number(2)
    def u24(self): return self.number(3)
    def u32(self): return self.number(4)
    def u64(self): return self.number(8)
    def id(self): return self.take(32)
    def writer(self): return self.take(16)
    def session(self): return Session(self.u64(), self.u64())
    def bytes(self): return self.take(self.varint())
    def option(self, read): return read() if self.u8(1) else None

    def varint(self):
        value = 0
        for shift in range(0, 70, 7):
            byte = self.u8()
            value |= (byte & 127) << shift
            if byte < 128:
                require(byte or not shift, "a varint is longer than it must be")
                require(value < 1 << 64, "a varint is above 64 bits")
                return value
        raise Refused("a varint is above 64 bits")

    def signed(self):
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def list(self, read):
        count = self.varint()
        require(count <= len(self.data) - self.at, "a list counts more than is there")
        return [read() for _ in range(count)]

    def time(self):
        seconds, nanoseconds = self.signed(), self.varint()
        require(nanoseconds < 10**9, "nanoseconds out of range")
        return seconds * 10**9 + nanoseconds

    def magic(self, expected):
        require(self.take(8) == expected and self.u8() == 1, f"not {expected.decode()} of suite 1")

    def end(self, value=None):
        require(self.at == len(self.data), "trailing bytes")
        return value

    def zeros(self):
        rest = self.take(len(self.data) - self.at)
        require(not any(rest), "padding is not zero")


class Session(namedtuple("Session", "n random")):
    def raw(self): return u64(self.n) + u64(self.random)
    def __str__(self): return f"{self.n:016x}-{self.random:016x}"


def u32(n): return n.to_bytes(4, "little")
def u64(n): return n.to_bytes(8, "little")


def short(data):
    """`bytes` of fewer than 128 bytes, which is all that a reader has to write."""
    assert len(data) < 128
    return bytes([len(data)]) + data


def rising(items, what):
    require(all(a < b for a, b in zip(items, items[1:])), f"{what} are out of order")


def padme(n):
    if n < 2:
        return n
    e = n.bit_length() - 1
    step = 1 << (e - e.bit_length())
    return -(-n // step) * step


# ---- algorithms ----

def H(x): return blake3(x).digest()
def derive(context, x): return blake3(x, derive_key_context=context).digest()
def keyed(k, x, length=32): return blake3(x, key=k).digest(length=length)


def aead_open(key, sealed):
    try:
        return AESGCM(key).decrypt(bytes(12), sealed, None)
    except (InvalidTag, ValueError):
        raise Refused("does not open") from None


# Keys and commitments of small order, which strict verification refuses (the sign bit taken away).
SMALL = {bytes.fromhex(x) for x in (
    "00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f", "ed" + "ff" * 30 + "7f", "ee" + "ff" * 30 + "7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")}


def verify(public, context, message, signature):
    for point in (public, signature[:32]):
        require(point[:31] + bytes([point[31] & 127]) not in SMALL, "a signature with a point of small order")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, short(context) + message)
    except (InvalidSignature, ValueError):
        raise Refused(f"the signature ({context.decode()}) is false") from None


class XWing:
    """A secret key of X-Wing, expanded from its seed."""

    def __init__(self, seed):
        expanded = hashlib.shake_256(seed).digest(96)
        self.m, self.x = MLKEM768PrivateKey.from_seed_bytes(expanded[:64]), X25519PrivateKey.from_private_bytes(expanded[64:])
        self.public_x = self.x.public_key().public_bytes_raw()
        self.public = self.m.public_key().public_bytes_raw() + self.public_x

    def decapsulate(self, ciphertext):
        shared_m, ct_x = self.m.decapsulate(ciphertext[:1088]), ciphertext[1088:]
        try:
            shared_x = self.x.exchange(X25519PublicKey.from_public_bytes(ct_x))
        except ValueError:  # the all-zero secret, which the library refuses
            raise Refused("an X25519 ciphertext of small order") from None
        return hashlib.sha3_256(shared_m + shared_x + ct_x + self.public_x + b"\\.//^\\").digest()


def open_stanza(keys, context, stanza):
    """`keys` maps H(public key) to the secret key."""
    recipient, ciphertext, wrapped = stanza[:32], stanza[32:1152], stanza[1152:]
    require(recipient in keys, "a stanza for somebody else")
    return aead_open(derive(context, keys[recipient].decapsulate(ciphertext) + recipient + ciphertext), wrapped)


def open_record(class_key, kind, repository, obj, ordinal, sealed):
    digest = sealed[:32]
    text = aead_open(keyed(class_key, b"key" + digest), sealed[32:])
    message = short(kind) + repository + short(obj.encode()) + u32(ordinal) + text
    require(keyed(class_key, message) == digest, f"the digest of a record ({kind.decode()}) is false")
    return text
