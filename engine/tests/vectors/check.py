"""Computes crypto.json and chunker.json once more, with other people's code. Prints what it checked; any difference is an
AssertionError. Needs Python 3.11 and, in a venv: pip install blake3 cryptography. Takes some 15 s,
for the chunker in plain Python. From this directory: python check.py
"""

import hashlib
import json
from pathlib import Path

from blake3 import blake3
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HERE = Path(__file__).parent
unhex = bytes.fromhex


def hashed(label):
    return blake3(label.encode()).digest()


def check_hash(v, context):
    key, parts = unhex(v["key"]), b"".join(map(unhex, v["parts"]))
    assert key == hashed(v["key_label"])
    assert unhex(v["derive"]) == blake3(parts, derive_key_context=context).digest()
    assert unhex(v["keyed"]) == unhex(v["keyed_secret"]) == blake3(parts, key=key).digest()
    assert unhex(v["blake3"]) == blake3(parts).digest()
    stream = blake3(unhex(v["keystream_label"]), key=key).digest(length=len(v["keystream"]) // 2)
    assert unhex(v["keystream"]) == stream
    rng_key = blake3(unhex(v["seeded_rng_seed"]), derive_key_context="copal 2026 seeded rng v1").digest()
    assert unhex(v["seeded_rng"]) == blake3(b"", key=rng_key).digest(length=40)


def check_aead(v):
    key = unhex(v["key"])
    assert key == hashed(v["key_label"])
    assert unhex(v["sealed"]) == AESGCM(key).encrypt(bytes(12), unhex(v["text"]), None)


def check_stanza(v, context):
    seed, secret = unhex(v["read_seed"]), unhex(v["secret"])
    assert (seed, secret) == (hashed(v["read_seed_label"]), hashed(v["secret_label"]))
    assert unhex(v["eseed"]) == b"".join(map(hashed, v["eseed_labels"]))
    expanded = hashlib.shake_256(seed).digest(96)
    ml_kem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
    dh = x25519.X25519PrivateKey.from_private_bytes(expanded[64:])
    pk_x = dh.public_key().public_bytes_raw()
    public = ml_kem.public_key().public_bytes_raw() + pk_x
    assert public == unhex(v["public"])
    stanza = unhex(v["stanza"])
    recipient, ciphertext, wrapped = stanza[:32], stanza[32:1152], stanza[1152:]
    assert len(wrapped) == 48 and recipient == unhex(v["recipient"]) == blake3(public).digest()
    ct_m, ct_x = ciphertext[:1088], ciphertext[1088:]
    ephemeral = x25519.X25519PrivateKey.from_private_bytes(unhex(v["eseed"])[32:])
    assert ct_x == ephemeral.public_key().public_bytes_raw()
    ss_m = ml_kem.decapsulate(ct_m)
    ss_x = dh.exchange(x25519.X25519PublicKey.from_public_bytes(ct_x))
    shared = hashlib.sha3_256(ss_m + ss_x + ct_x + pk_x + rb"\.//^" + b"\\").digest()
    assert shared == unhex(v["shared"])
    wrap_key = blake3(shared + recipient + ciphertext, derive_key_context=context).digest()
    assert AESGCM(wrap_key).decrypt(bytes(12), wrapped, None) == secret


def check_sign(v, context):
    key = ed25519.Ed25519PrivateKey.from_private_bytes(unhex(v["seed"]))
    public = key.public_key().public_bytes_raw()
    assert unhex(v["seed"]) == hashed(v["seed_label"])
    assert public == unhex(v["public"]) and blake3(public).hexdigest() == v["fingerprint"]
    framed = bytes([len(context)]) + context.encode() + unhex(v["message"])
    assert unhex(v["signature"]) == key.sign(framed)


def check_argon2id(v):
    salt = unhex(v["salt"])
    assert salt == hashed(v["salt_label"])[:16]
    kdf = Argon2id(salt=salt, length=32, iterations=v["passes"], lanes=v["lanes"], memory_cost=v["memory_kib"])
    key = kdf.derive(unhex(v["passphrase"]))
    assert unhex(v["key"]) == key


def check_recovery_code(v):
    key = unhex(v["key"])
    assert key == hashed(v["key_label"])
    check = int.from_bytes(blake3(b"copal 2026 recovery code checksum v1", key=key).digest()[:4], "big") >> 13
    bits = int.from_bytes(key, "big") << 19 | check
    digits = ["0123456789ABCDEFGHJKMNPQRSTVWXYZ"[bits >> 5 * i & 31] for i in reversed(range(55))]
    assert v["text"] == "-".join("".join(digits[i : i + 5]) for i in range(0, 55, 5))


# FastCDC 2020: ones of the masks by their number, as the paper's authors chose them (destor, and beyond 128 KiB restic's).
MASKS = {
    13: 0x0000D90303530000, 14: 0x0000D90313530000, 15: 0x0000D90F03530000, 16: 0x0000D90303537000,
    17: 0x0000D90703537000, 18: 0x0000D90707537000, 19: 0x0000D91707537000, 20: 0x0000D91747537000,
    21: 0x0000D91767537000, 22: 0x0000D93767537000,
}  # fmt: skip


def chunker_input(kind, noise):
    quarter = len(noise) // 4
    if kind == "noise":
        return noise
    if kind == "letters":
        return noise.translate(bytes(b"etaoin s"[byte & 7] for byte in range(256)))
    if kind == "period":
        return (noise[:4099] * (len(noise) // 4099 + 1))[: len(noise)]
    if kind == "zero":
        return bytes(len(noise))
    assert kind == "mixed"
    mixed = bytearray(noise)
    mixed[quarter : 2 * quarter] = bytes(quarter)
    mixed[3 * quarter : 4 * quarter] = noise[:quarter]
    return bytes(mixed)


def cut(data, start, table, v):
    strict, loose = (MASKS[v["avg"].bit_length() - 1 + sign * v["normalization"]] for sign in (1, -1))
    end = min(len(data), start + v["max"])
    turn = min(start + v["avg"], end)
    gear, wide = 0, (1 << 64) - 1
    # A last odd byte of the input is no candidate.
    for i in range(start + v["min"], start + (end - start) // 2 * 2):
        gear = (gear << 1) + table[data[i]] & wide
        if not gear & (strict if i < turn else loose):
            return i
    return end


def check_chunker(file):
    key = unhex(file["d_chunk"])
    assert key == hashed(file["d_chunk_label"])
    stream = blake3(b"copal 2026 gear table v1", key=key).digest(length=2048)
    table = [int.from_bytes(stream[i : i + 8], "little") for i in range(0, 2048, 8)]
    assert file["table"] == [f"{word:016x}" for word in table]
    for v in file["cuts"]:
        noise = blake3(file["input_label"].encode()).digest(length=v["input_len"])
        data = chunker_input(v["input"], noise)
        start, lengths = 0, []
        while start < len(data):
            end = cut(data, start, table, v)
            lengths.append(end - start)
            start = end
        assert lengths == [int(length) for length in v["lengths"].split()], v
        print("chunker", v["input"], v["avg"], v["normalization"], len(lengths), "chunks")


if __name__ == "__main__":
    crypto = json.loads((HERE / "crypto.json").read_text())
    context = crypto["context"]
    check_hash(crypto["hash"], context)
    check_aead(crypto["aead"])
    check_stanza(crypto["stanza"], context)
    check_sign(crypto["sign"], context)
    check_argon2id(crypto["argon2id"])
    check_recovery_code(crypto["recovery_code"])
    print("crypto.json agrees")
    check_chunker(json.loads((HERE / "chunker.json").read_text()))
    print("chunker.json agrees")
