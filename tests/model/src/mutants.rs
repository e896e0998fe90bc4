//! The rules of both halves, each with the mutant that lacks it and the configuration that must then fail.

use crate::config::{Config, First, Fold};

macro_rules! rules {
    ($($id:literal $mutant:ident $text:literal $config:expr;)*) => {
        /// A rule that a run may lack.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Mutant {
            $(#[doc = $text] $mutant,)*
        }

        /// Every rule, in the order of docs/protocol.md.
        pub const RULES: &[Rule] = &[$(Rule { id: $id, text: $text, mutant: Mutant::$mutant, config: $config },)*];
    };
}

/// One rule of the protocol.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its number in docs/protocol.md.
    pub id: &'static str,
    /// Its text there, word for word.
    pub text: &'static str,
    /// The model without it.
    pub mutant: Mutant,
    /// A configuration that is clean with the rule and must fail without it.
    pub config: Config,
}

const SMALL: Config = Config { name: "rule", ..Config::SMALL };
const TWICE: Config = Config { prunes: 2, attempts: 2, crash: true, adopt: true, ..SMALL };
const ZOMBIE: Config = Config { prunes: 2, forgets: 0, late: true, ..SMALL };
const FOLD: Config = Config { fold: Fold::Plain, ..SMALL };
const MERGE: Config = Config { fold: Fold::Merge, ..SMALL };
const SHARED: Config = Config { writers: 2, shared_writer: true, forgets: 0, ..SMALL };
/// Two executors beside a writer.
const BESIDE: Config = Config { executors: 2, ..SMALL };
/// Two executors, no writer.
const PAIR: Config = Config { executors: 2, writers: 0, all_subsets: true, split: false, ..SMALL };
/// Two executors whose generations overlap.
const LEAVES: Config = Config { prunes: 2, leaves: true, ..PAIR };
/// A late snapshot of a fenced session.
const FENCED: Config = Config { first: First::Fenced, late: true, forgets: 0, split: true, writers: 1, ..LEAVES };
/// A session that may adopt what a crashed one left, beside two executors.
const NEXT: Config = Config { first: First::Fenced, attempts: 2, adopt: true, ..BESIDE };
/// A run with a part.
const PARTS: Config = Config { parts: true, writers: 2, shared_writer: true, ..SMALL };
/// A store that ignores create-only.
const NAMED: Config = Config { by_name: true, late: true, ..SMALL };
/// The same, and a session may build upon the late snapshot of one that was fenced.
const BUILDS: Config = Config { first: First::Crashed, attempts: 2, ..NAMED };

rules! {
    "W1" PinFirst
        "A session creates its pin before it reads or writes anything else."
        SMALL;
    "W2a" GcBeforeView
        "gc is read before base, snapshots and segments."
        SMALL;
    "W2b" AckAtOpen
        "A generation that is active when the session opens is acknowledged, without claims."
        SMALL;
    "W2c" ProposedFloor
        "A session whose number is below a floor that an active condemn proposes gives way to a new one."
        SHARED;
    "W2d" GcTwice
        "The first look at gc is two LISTs, and their union holds: one short answer must not hide a condemn."
        Config { short_lists: 1, ..SMALL };
    "W3a" Published
        "Only what base or a committed snapshot publishes counts: a segment of a session without a commit is not in \
         the view."
        Config { attempts: 2, crash: true, ..SMALL };
    "W3b" Descendants
        "A tree is reused only after every descendant was looked up in the view by its own id."
        SMALL;
    "W3c" Condemned
        "Packs that an active generation condemns are not in the view."
        SMALL;
    "W3d" Dropped
        "Packs that base holds as dropped are not in the view."
        SMALL;
    "W3e" ReadAgain
        "A 404 on a segment means that the view is read again, once per new base; it ends no session."
        Config { prunes: 0, ..MERGE };
    "W3f" BaseAgain
        "After the snapshots base n+1 is asked for once more; if it stands, the view is read again: what was listed \
         may be dead in it."
        Config { prunes: 2, attempts: 2, late: true, ..SMALL };
    "W4a" Poll
        "gc is listed again and again while the session is open, and each new generation acknowledged."
        SMALL;
    "W4b" StopReusing
        "From the look that finds a new generation its packs are reused no more; only then it is acknowledged."
        SMALL;
    "W4c" ClaimReused
        "The ack claims every condemned pack that the session has reused."
        SMALL;
    "W4d" ClaimAdopted
        "The ack claims every condemned pack that the session has adopted."
        TWICE;
    "W4e" ClaimWritten
        "The ack claims every condemned pack that the session has written."
        Config { prunes: 2, short_lists: 1, ..SMALL };
    "W5" ListOwn
        "Before the commit the session's own packs are listed; a missing or short one is put again."
        Config { losses: 1, ..SMALL };
    "W6a" CreateOnly
        "The snapshot is created, never overwritten; where a tombstone stands the session starts over."
        SMALL;
    "W6b" EqualBytes
        "After an unknown result, a snapshot that stands with equal bytes is success."
        Config { unknown: true, attempts: 2, ..SMALL };
    "W6c" UnknownIsNotSuccess
        "An unknown result is not success: the put is repeated until it is answered."
        Config { unknown: true, ..SMALL };
    "W6d" SecondLook
        "After the commit base is read once more: a number below the floor that base does not know is not committed, \
         and the session starts over."
        ZOMBIE;
    "W7a" PacksBeforeSnapshot
        "The snapshot is put only after every pack that its segments list is acknowledged."
        Config { crash: true, ..SMALL };
    "W7b" SegmentsBeforeSnapshot
        "The snapshot is put only after every segment that it names is acknowledged."
        Config { crash: true, ..SMALL };
    "W8" DeadBelowFloor
        "A snapshot below its writer's floor that base does not know is dead for ever, for every reader of views."
        ZOMBIE;
    "A2" AdoptNoCondemned
        "A condemned pack is not adopted."
        TWICE;
    "A3" AdoptNoDropped
        "A pack that base holds as dropped is not adopted, though it stands in the store."
        Config { first: First::Crashed, short_lists: 1, ..NEXT };
    "A4" UnlistedOnlyCondemned
        "An unlisted pack is deleted only by a generation that condemned it, for a session may be adopting it."
        TWICE;
    "A5" UnlistedDropped
        "Base holds as dropped the unlisted packs of a sweep too, until their session is below its writer's floor."
        Config { first: First::Crashed, short_lists: 1, ..NEXT };
    "A6" AdoptAboveFloor
        "Nothing is adopted from a session that is below the floor."
        NEXT;
    "F1" FoldForgotten
        "A fold lists the segments of forgotten snapshots too: only a sweep drops packs."
        Config { unfolded: true, ..FOLD };
    "F2" BaseCreateOnly
        "Base n+1 is created from base n, never overwritten."
        FOLD;
    "F3" ApplyOnceMore
        "After the create the bases are listed again: to a higher one that lacks the change it is applied once more."
        Config { writers: 0, prunes: 2, ..MERGE };
    "F4" InputsListed
        "A replacement of segments applies only while base lists all its inputs."
        Config { writers: 0, prunes: 2, rewrite: true, ..MERGE };
    "F5" OwnKey
        "Before each create of a base the executor looks at its own snapshot key: a tombstone ends it."
        Config { writers: 0, ..MERGE };
    "F6" FoldNoFloor
        "A fold raises no floor."
        FOLD;
    "F7" GoneUntilFloor
        "A forgotten snapshot that was folded stays recorded in base until the floor passes it."
        FOLD;
    "P1" NumberAboveDone
        "A new generation's number is above all in gc/ and all that base says are done."
        Config { prunes: 2, ..SMALL };
    "P2" CondemnCreateOnly
        "The condemn is created, never overwritten."
        BESIDE;
    "P3a" PinsAfterCondemn
        "The pins are listed after the condemn stands."
        SMALL;
    "P3b" Drain
        "Every session that is open then ends, acknowledges, or is fenced."
        SMALL;
    "P3c" FenceByTombstone
        "To fence is to create a tombstone at the session's snapshot key."
        SMALL;
    "P4a" Claimed
        "What an ack claims is kept."
        SMALL;
    "P4b" GcBeforeBase
        "gc is read before base."
        LEAVES;
    "P4c" OtherGenerations
        "A blob is alive only through packs that no other active generation condemns."
        LEAVES;
    "P4d" MarkBaseAgain
        "After the snapshots base is looked for once more; if a higher one stands, all is read and marked again."
        FENCED;
    "P4e" PublishedCopies
        "A copy counts only if base or a committed snapshot publishes it."
        Config { attempts: 2, crash: true, ..SMALL };
    "P4f" LastCopy
        "A pack that holds the last such copy of a live blob is kept."
        SMALL;
    "P5a" SweepCreateOnly
        "The sweep is created, never overwritten."
        PAIR;
    "P5b" StandingSweep
        "Where a sweep stands, its list holds and nobody's own."
        PAIR;
    "P6a" DoneIsDone
        "Base is read after the condemn and the sweep were created or read: a generation that is done there is only tidied up."
        PAIR;
    "P6b" FloorBelowDrained
        "A floor rises above no session that was open in P3."
        SHARED;
    "P6c" OpenAgain
        "Who takes on a generation whose sweep stands lists the pins again for that."
        Config { prune_crash: true, ..SHARED };
    "P7" ObsoleteInHead
        "Replaced segments are deleted only if the newest base holds the replacement, or was made by the one who deletes."
        Config { rewrite: true, prunes: 2, split: true, all_subsets: false, forgets: 0, ..PAIR };
    "P8a" PinsBelowFloor
        "Pins are deleted only below the floor."
        Config { prunes: 2, ..SMALL };
    "P8b" TombstonesBelowFloor
        "Tombstones are deleted only below the floor."
        SMALL;
    "P8c" DeadBeforeOwnBase
        "Unlisted segments of a fenced session are deleted only by who created a base after it had listed the tombstone."
        Config { prunes: 2, fold: Fold::Merge, split: true, all_subsets: false, forgets: 0, ..PAIR };
    "P8d" RecordsCounted
        "A forget record is deleted only once base counts it as done."
        Config { prunes: 2, ..PAIR };
    "R1" RepackPin
        "A session that repacks has a pin before its pack."
        Config { repack: true, split: true, all_subsets: false, forgets: 0, ..LEAVES };
    "S1" PartsCount
        "A part counts as live, in P4 and in the next base, until its run has ended without a whole, or its whole is forgotten."
        PARTS;
    "S2" OwnParts
        "A whole takes only parts that name its own session."
        Config { attempts: 2, prunes: 2, ..PARTS };
    "S3" PartsReported
        "A whole takes a part only once its commit is reported."
        PARTS;
    "N1" FenceBeforeKey
        "The fence stands before the snapshot keys of the sessions that it names are read; who has none then is dead."
        NAMED;
    "N2" NoTombstones
        "Nobody puts a tombstone at another's snapshot key: it might overwrite a snapshot."
        NAMED;
    "N3" FenceGrows
        "A fence only grows while it is decided: who names one more session names all that it has named before."
        Config { writers: 2, late: false, ..NAMED };
    "N4" DeadLeftOut
        "What arrives of a dead session counts no more: not in P4, and not in the next base."
        NAMED;
    "N5" SweepTells
        "The sweep lists the dead, and who takes on its generation goes by that list."
        Config { prune_crash: true, ..NAMED };
    "N6" DeadRemembered
        "Base keeps the dead until the floor passes them, and nobody counts what they publish."
        NAMED;
    "N7" FenceUntilBase
        "The fence is deleted only once a base holds the dead."
        BUILDS;
    "N8" LookAgain
        "Once its snapshot stands the session lists gc again: if a fence names it, it is not committed and starts over."
        NAMED;
    "N9" LookAgainTwice
        "That look is two LISTs, and their union holds."
        Config { short_lists: 1, late: false, ..NAMED };
    "N10" LookBeforeBase
        "That look comes before base is read once more (W6d)."
        NAMED;
    "N11" FencedLeftOut
        "Who builds upon a view leaves out what sessions have published that a fence names, unless base lists it."
        BUILDS;
    "N12" FencesAfterSnapshots
        "For that the fences are read after the snapshots."
        BUILDS;
    "N13" FencesTwice
        "For that, too, gc is listed twice, and the union holds."
        Config { short_lists: 1, ..BUILDS };
    "N14" FencesBeforeBase
        "For that the fences are read before base n+1 is asked for (W3f)."
        BUILDS;
}
