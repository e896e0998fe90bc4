#!/usr/bin/env python3
"""Judges the state in which a repository was left, by docs/format.md and docs/protocol.md alone.

    judge.py REPO --key-file F      an owner's or reader's key

Every object is read and verified, then what they say of each other: the chains, who publishes what, whether each snapshot can be restored
from it, and whether what a prune began can be finished without harm. An error is against a document. A note is what the documents allow
and nobody needs: left-overs, and what explains itself only by a crash or by somebody else's hand. Exits with 1 if there are errors.
"""
import argparse
import sys

import reader
from elements import H, Refused, require
from inventory import ERROR, Finding, Inventory, by_pack, who
from reader import DIRECTORY, FILE, bundle_from_file


def snap(named):
    return f"snap/{who(named.writer, named.session)}"


class Judge(Inventory):
    def read_all(self):
        super().read_all()
        self.base = self.bases[max(self.bases)] if self.bases else None
        self.avoid = set()
        self.sort_sessions()
        self.judge_epochs()
        self.judge_bases()
        self.judge_base_lists()
        self.judge_commits()
        self.judge_forgets()
        self.judge_generations()
        self.publish()
        self.judge_content()
        self.explain_packs()
        self.explain_twice()
        self.explain_the_rest()

    # -- sessions --

    def floor(self, writer): return self.base.floors.get(writer, 0) if self.base else 0
    def below(self, writer, session): return session.n < self.floor(writer)

    def open_session(self, at):
        return at in self.pins and at not in self.committed and at not in self.tombstones and not self.below(*at)

    def sort_sessions(self):
        """`listed_at`, `folded` (forgotten in base), `newer` (committed and not in base), `forgotten` by record or base; the rest is dead."""
        base = self.base
        self.in_base = {(s.writer, s.session): s.id for s in base.snapshots} if base else {}
        self.folded = {(s.writer, s.session): s.id for s in base.forgotten} if base else {}
        dead = set(base.dead) if base else set()
        self.newer, done = {}, base.forgets if base else 0
        for at, s in self.committed.items():
            if at not in self.in_base and at not in self.folded:
                if at in dead or self.below(*at):
                    self.note(snap(s), "a dead session's: below the floor or ended by a prune, and base does not list it")
                else:
                    self.newer[at] = s
        self.forgotten = {tuple(named) for n, record in self.forgets.items() if n > done for named in record}
        self.forgotten |= {(*at, id) for at, id in self.folded.items()}
        self.live = [s for at, s in self.committed.items()
                     if s.root and (self.in_base.get(at) == s.id or at in self.newer) and (*at, s.id) not in self.forgotten]

    # -- the config and who relies on it --

    def judge_epochs(self):
        newest = max(self.epochs)
        for at, epoch in self.pins.items():
            if epoch not in self.epochs:
                self.error(f"pin/{who(*at)}", f"saw config {epoch}, which is gone")
        for s in self.committed.values():
            if s.epoch not in self.epochs:
                self.error(snap(s), f"saw config {s.epoch}, which is gone")
            elif s.stanza[:32] != H(self.epochs[s.epoch].recipients[-1][0]):
                self.error(snap(s), "is not sealed to the last recipient of its config")
        for writer, member in self.config.members.items():
            if member.revoked and member.revoked[0] > (self.base.n if self.base else 0):
                self.error(f"cfg/{newest:016x}", f"{writer.hex()} was revoked after base {member.revoked[0]}, which is gone")

    # -- bases --

    def judge_bases(self):
        for n in range(min(self.bases, default=0), max(self.bases, default=0)):
            a, b = self.bases.get(n), self.bases.get(n + 1)
            if b and not a and n >= 1:
                self.note(f"base/{n:016x}", "is gone, and the ones on both sides stand")
            if a and b:
                self.judge_step(a, b, f"base/{b.n:016x}")

    def judge_step(self, a, b, key):
        """What may change from one base to the next."""
        if b.before != a.id:
            self.error(key, "is not chained to the one before")
        for writer, n in a.floors.items():
            if b.floors.get(writer, 0) < n:
                self.error(key, f"the floor of {writer.hex()} fell from {n}")
        if b.forgets < a.forgets or max(b.done, default=0) < max(a.done, default=0):
            self.error(key, "counts fewer forgets or generations as done than the one before")
        passed = lambda writer, session: session.n < b.floors.get(writer, 0)
        kept = {tuple(x) for x in b.forgotten}
        for x in a.snapshots:
            if tuple(x) not in kept and x not in b.snapshots and not (passed(x.writer, x.session) and b.forgets > a.forgets):
                self.error(key, f"no longer lists snapshot {who(x.writer, x.session)}, which no record of it forgets")
        for what, x in [("forgotten snapshot", x) for x in a.forgotten] + [("dead session", x) for x in a.dead]:
            if (tuple(x) not in kept if len(x) == 3 else x not in b.dead) and not passed(*x[:2]):
                self.error(key, f"the {what} {who(*x[:2])} is above the floor and no longer recorded")
        again = (set(a.dropped) - set(b.dropped)) & self.mentioned(b)
        for id in sorted(again):
            self.error(key, f"pack {id.hex()} was dropped, and counts again")

    def segment_at(self, s): return (s.writer, s.session, s.n, s.id)

    def mentioned(self, base):
        """The packs that its segments list."""
        return {p.id for s in base.segments if self.segment_at(s) in self.segments for p in self.segments[self.segment_at(s)].packs}

    def judge_base_lists(self):
        """The newest base: what it lists stands, and its segments hold what its snapshots have published."""
        if not self.base:
            return
        key, union = f"base/{self.base.n:016x}", {}
        for s in self.base.segments:
            at = self.segment_at(s)
            if at not in self.keys_of["segment"]:
                self.error(f"idx/{who(s.writer, s.session)}/{s.n:016x}-{s.id.hex()}", f"is missing, and {key} lists it")
            elif len(self.store.read(self.keys_of["segment"][at])) != s.size:
                self.error(key, f"lists {self.keys_of['segment'][at]} with another size")
            elif at in self.segments:
                for id, entries in by_pack(self.segments[at]).items():
                    union.setdefault(id, set()).update(entries)
        for at, id in (self.in_base | self.folded).items():
            s, listed = self.committed.get(at), at in self.in_base
            if s and s.id != id:
                self.error(snap(s), f"is not the one of {key}")
            elif s and listed:
                self.judge_folded(key, s, union)
            elif s:
                continue  # a sweep may have taken what only forgotten snapshots published
            elif listed and (*at, id) in self.forgotten:
                self.note(f"snap/{who(*at)}", f"is missing: forgotten, but {key} does not know it yet")
            elif listed:
                self.error(f"snap/{who(*at)}", f"is missing or damaged, and {key} lists it")
            elif not self.below(*at):
                self.note(f"snap/{who(*at)}", "is gone: forgotten, but not yet below its writer's floor")

    def judge_folded(self, key, s, union):
        listed = set(map(self.segment_at, self.base.segments))
        own = [(s.writer, s.session, n, id) for n, id in s.segments]
        listings = [self.segments[at] for at in own if at in self.segments and at not in listed] + [s.inline] * bool(s.inline)
        for id, entries in (x for listing in listings for x in by_pack(listing).items()):
            lost = len(entries - union.get(id, set()))
            if lost and id in self.standing and id not in self.base.dropped:
                self.error(key, f"lists {snap(s)}, and its segments lack {lost} entries of pack {id.hex()}")

    # -- snapshots --

    def judge_commits(self):
        known = {s.id for s in self.committed.values()} | {id for _, _, id in self.forgotten}
        for s in self.committed.values():
            base, hash = s.base
            if (base == 0) != (hash is None):
                self.error(snap(s), "names a base without its hash, or a hash without a base")
            elif base > (self.base.n if self.base else 0):
                self.error(snap(s), f"saw base {base}, which is gone")
            elif base in self.bases and self.bases[base].id != hash:
                self.error(snap(s), f"saw another base {base}")
            if len({n for n, _ in s.segments}) != len(s.segments):
                self.error(snap(s), "names two segments with one number")
            for writer, session, id in s.view:
                self.judge_named(s, writer, session, id)
            seen = known | {id for _, _, id in s.view}
            if s.previous and s.previous not in seen and not (self.base and self.base.floors):
                self.error(snap(s), f"follows snapshot {s.previous.hex()}, which is gone and was not forgotten")

    def judge_named(self, s, writer, session, id):
        at = writer, session
        if at in self.committed and self.committed[at].id == id or (*at, id) in self.forgotten:
            return
        if at in self.committed or at in self.tombstones:
            self.error(snap(s), f"saw another snap/{who(*at)}")
        elif not self.below(*at):
            self.error(f"snap/{who(*at)}", f"is missing, damaged or another, was not forgotten, and {snap(s)} names it")

    def judge_forgets(self):
        done = self.base.forgets if self.base else 0
        numbers = {n for n, in self.keys_of["forget"]}
        for n in range(done + 1, max(numbers, default=0)):
            if n not in numbers:
                self.error(f"forget/{n:016x}", "is gone, and no base has taken it in")
        for n in sorted(x for x in numbers if x <= done):
            self.note(f"forget/{n:016x}", "is left over: base has taken it in")

    # -- generations --

    def judge_generations(self):
        self.doomed, done = {}, set(self.base.done) if self.base else set()
        for g, (dead, packs) in self.sweeps.items():
            key = f"gc/{g:016x}.sweep"
            if (g,) not in self.keys_of["condemn"]:
                self.error(key, "its condemn is gone, which is deleted last")
            elif g in self.condemns and not set(packs) <= set(self.condemns[g][1]):
                self.error(key, "names packs that its condemn does not")
            self.judge_dead(key, dead)
            self.judge_claims(key, g, dead, packs)
            if g in done:
                self.judge_done(key, packs)
            else:
                self.doomed |= {p.id: key for p in packs}
        for g, in self.keys_of["condemn"]:
            left = "is left over: base counts it as done" if g in done else "is not finished"
            self.note(f"gc/{g:016x}", f"a prune {left}")
        for g in self.fences:
            if (g,) not in self.keys_of["condemn"]:
                self.note(f"gc/{g:016x}.fence", "is left without its condemn")
        for (writer, session, g), claims in self.acks.items():
            key = f"pin/{who(writer, session)}.{g:016x}"
            if (writer, session) not in self.keys_of["pin"]:
                self.note(key, "is left without the pin of its session")
            if g in self.condemns and not set(claims) <= {p.id for p in self.condemns[g][1]}:
                self.error(key, "claims packs that its generation does not condemn")

    def judge_dead(self, key, dead):
        for at in dead:
            if at in self.committed and at not in self.in_base:
                self.error(key, f"ended session {who(*at)}, which is committed")
            elif at not in self.tombstones and at not in self.in_base and not self.below(*at):
                self.error(key, f"ended session {who(*at)}, where no tombstone stands")

    def judge_claims(self, key, g, dead, packs):
        names = {p.id for p in packs}
        for (writer, session, generation), claims in self.acks.items():
            if generation == g and (writer, session) not in dead and names & set(claims):
                self.error(key, f"names a pack that session {who(writer, session)} claims")

    def judge_done(self, key, packs):
        """A5, and that no listed segment publishes what was swept; what a session has committed is not for adoption."""
        mentioned, dropped = self.mentioned(self.base), set(self.base.dropped)
        for p in packs:
            adoptable = (p.writer, p.session) not in self.committed and not self.below(p.writer, p.session)
            if p.id not in dropped and (p.id in mentioned or adoptable):
                self.error(f"base/{self.base.n:016x}", f"counts {key} as done, and holds pack {p.id.hex()} not as dropped")

    # -- publication --

    def publish(self):
        """The index, without what is dropped, doomed or missing; `unpublished`: why a copy does not count."""
        self.publishers, self.published_segments, self.unpublished = {}, set(), {}
        dropped = set(self.base.dropped) if self.base else set()
        for key, listing in self.published():
            for pack in listing.packs:
                self.publishers.setdefault(pack.id, key)
            for id, why in self.not_counting(listing, dropped).items():
                if why == "missing" and id not in self.unpublished:
                    self.error(self.pack_key_text(id), f"is missing, and {key} publishes it")
                self.unpublished[id] = why
            counting = [e for e in listing.entries if listing.packs[e.pack].id not in self.unpublished]
            self.add(listing.packs, listing.stanzas, counting)
        self.judge_tables()

    def published(self):
        """(key, listing) of all segments and inline entries that base or a committed snapshot names."""
        named = [(self.segment_at(x), None) for x in (self.base.segments if self.base else [])]
        for s in self.newer.values():
            named += [((s.writer, s.session, n, id), s) for n, id in s.segments]
            if s.inline:
                yield snap(s), s.inline
        for at, s in named:
            writer, session, n, id = at
            key = f"idx/{who(writer, session)}/{n:016x}-{id.hex()}"
            if at not in self.keys_of["segment"] and s:
                self.error(key, f"is missing, and {snap(s)} names it")
            if at in self.segments and at not in self.published_segments:
                yield key, self.segments[at]
            self.published_segments.add(at)

    def not_counting(self, listing, dropped):
        def why(id):
            if id in dropped:
                return "dropped"
            if self.standing.get(id) != self.pack_key_text(id):
                return "missing"
            return f"named by {self.doomed[id]}" if id in self.doomed else None
        return {p.id: why(p.id) for p in listing.packs if why(p.id)}

    def pack_key_text(self, id):
        return reader.pack_stem(self.listed[id]) + id.hex()

    def judge_tables(self):
        """I6: the entries of a pack in the index are those of its table."""
        entries = {}
        for pack, _, _, e in (x for copies in self.index.values() for x in copies):
            entries.setdefault(pack.id, set()).add((e.id, e.offset, e.kind, e.stored, e.length, e.at, e.origin))
        for id, found in entries.items():
            if id in self.tables and found != self.tables[id]:
                self.error(self.standing[id], f"holds {len(self.tables[id] - found)} blobs that are not in the index")

    # -- content --

    def copies(self, kind, id):
        return [c for c in super().copies(kind, id) if c[0].id not in self.avoid]

    def blob(self, kind, id):
        if not self.copies(kind, id):
            of = {p.id: self.unpublished.get(p.id, "condemned" if p.id in self.avoid else "not published")
                  for at in self.segments.values() for p in at.packs if any(x[0] == id for x in self.tables.get(p.id, ()))}
            where = "; ".join(f"pack {p.hex()}: {why}" for p, why in of.items()) or "no sound pack that a segment lists holds it"
            raise Refused(f"blob {kind} {id.hex()} is not in the index ({where})")
        return super().blob(kind, id)

    def judge_content(self):
        seen = set()
        for s in self.live:
            self.walk(s, seen, "")
        for s in self.live:
            for g in (g for g in self.condemns if g not in self.sweeps and (s.writer, s.session, g) in self.acks):
                # An active generation's packs are not in the view, and what was reused before is claimed (W3c, W4).
                condemned = {p.id for p in self.condemns[g][1]}
                self.avoid = condemned - set(self.acks[s.writer, s.session, g])
                self.walk(s, set(), f" without the packs that gc/{g:016x} condemns and its ack does not claim")
        self.avoid = set()

    def walk(self, s, seen, without):
        """Every blob below the root opens; `seen` holds what was walked already."""
        todo = [(s.root, b"/")]
        while todo:
            tree, path = todo.pop()
            if tree in seen:
                continue
            seen.add(tree)
            for n in self.attempt(f"{snap(s)} {path.decode(errors='replace')}{without}", self.directory, tree) or []:
                at, content = path + n.name, (n.kind, n.meta.kind == FILE and n.meta.size, *n.children)
                if n.kind == DIRECTORY:
                    todo.append((n.children[0], at + b"/"))
                elif n.meta.kind == FILE and content not in seen:
                    seen.add(content)
                    self.attempt(f"{snap(s)} {at.decode(errors='replace')}{without}", lambda: all(True for _ in self.content(n)))

    # -- what is left --

    def explain_twice(self):
        """A frame that a pack holds twice is room lost, and nothing worse."""
        for id, table in self.tables.items():
            frames = {(blob, kind, stored, at, o): offset for blob, offset, kind, stored, _, at, o in table}
            if len(frames) < len(table):
                self.note(self.standing[id], f"holds {len(table) - len(frames)} of its blobs twice, sealed alike")

    def explain_packs(self):
        dropped = set(self.base.dropped) if self.base else set()
        for (writer, session, _, id), key in self.keys_of["pack"].items():
            if id in dropped:
                self.note(key, "stands though base has dropped it")
            elif self.publishers.get(id) is None and not self.open_session((writer, session)):
                self.note(key, "nobody publishes it and its session is not open")

    def explain_the_rest(self):
        for (writer, session, *rest), key in self.keys_of["segment"].items():
            if (writer, session, *rest) not in self.published_segments and not self.open_session((writer, session)):
                self.note(key, "nobody publishes it and its session is not open")
        for at in self.pins:
            if self.below(*at):
                self.note(f"pin/{who(*at)}", "stands below its writer's floor")
        for at in self.tombstones:
            if self.below(*at):
                self.note(f"snap/{who(*at)}", "a tombstone below its writer's floor")
        for at in self.keys_of["snapshot"]:
            if at not in self.keys_of["pin"] and not self.below(*at):
                self.note(f"pin/{who(*at)}", "is gone, though its session is not below the floor")
        for at in {(s.writer, s.session) for s in self.base.segments} if self.base else ():
            if self.open_session(at):
                self.note(f"snap/{who(*at)}", "no tombstone ends this session, whose segments base lists")
        for at, s in self.committed.items():
            if self.below(*at) and at in self.folded:
                self.note(snap(s), "is left over: forgotten and below the floor")


def judge(repo, bundle):
    """All findings; a repository that cannot be unlocked has one."""
    try:
        require(bundle.read, "only an owner's or reader's key opens all that is judged")
        return Judge(reader.Store(repo), bundle).findings
    except Refused as e:
        return [Finding(ERROR, "cfg/", str(e))]


def main():
    parser = argparse.ArgumentParser(description="Judges the state of a copal repository in a local directory.")
    parser.add_argument("--key-file", required=True)
    parser.add_argument("repo")
    args = parser.parse_args()
    findings = judge(args.repo, bundle_from_file(args.key_file))
    for f in findings:
        print(f"{f.weight}: {f.object}: {f.text}")
    sys.exit(any(f.weight == ERROR for f in findings))


if __name__ == "__main__":
    main()
