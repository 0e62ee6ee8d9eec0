//! One replica of a partition: its log, its role, and the acknowledgements that wait for it.
//!
//! Layer 2: synchronous, generic over the file system. The broker puts a [`Replica`] behind a lock and executes the
//! effects ([`Effects`], [`FollowerEffects`]): wake fetches, answer producers, send ISR proposals. `tests/simulation`
//! runs the same code on a disk that loses unsynced writes. Start with [`Replica`].
//!
//! Where things are decided:
//! - [`replica`]: which role a replica takes when the tree has a new state;
//! - [`leading`]: what a leader appends, how far it serves, when an acknowledgement is complete, what it proposes as
//!   the ISR;
//! - [`isr_changes`]: how a proposal is put to the quorum, and what its answer means;
//! - [`following`]: what a follower does with its leader's answers;
//! - [`reading`]: how a read goes on that waits for the disk;
//! - [`retention`]: what is deleted;
//! - [`placement`]: which replicas a broker has, and in which order they come and go;
//! - [`found`]: the logs that were found at the start; [`opening`]: how a replica gets its log;
//! - [`hosting`]: the decision about a log that was found at the start, and about a replica without one;
//! - [`moving`]: how a replica gets from one log directory to another;
//! - [`checkpointing`]: when checkpoints are written; [`closing`]: how the directories are left at the end;
//! - [`resignation`]: when a replica asks the quorum to remove it from ISR and ELR;
//! - [`contention`]: who waits for a replica whose disk does not answer, and who does not;
//! - [`upkeep`]: what is done about a log directory whose disk fails, fills or does not answer.

pub mod ack_waiters;
pub mod checkpointing;
pub mod closing;
pub mod contention;
pub mod effects;
pub mod following;
pub mod found;
pub mod hosting;
pub mod isr_changes;
pub mod leading;
pub mod moving;
pub mod opening;
pub mod placement;
pub mod reading;
pub mod replica;
pub mod resignation;
pub mod retention;
pub mod rules;
pub mod upkeep;

pub use ack_waiters::{Ack, AckWaiters};
pub use checkpointing::{CheckpointIntervals, CheckpointSchedule, DueCheckpoints, take_flushed, write_checkpoints};
pub use closing::{ClosedReplicas, Shutdown};
pub use contention::{Errand, WhenHeld};
pub use effects::{Effects, FollowerEffects, Truncated};
pub use found::{FoundLog, OpeningContext, ReopeningPause, open_log};
pub use hosting::{AbsentLog, Hosting, LogFacts, choose_log, host};
pub use isr_changes::{Decided, IsrProposals};
pub use leading::{
    Append, AppendError, Appended, ConsumerTerms, Fetch, Fetched, FoundOffset, IsNear, OffsetLookup, OffsetQuery,
    OffsetSearch, OwnRead, ReadError, Reader, Visible,
};
pub use opening::{LogPlace, NotOpened, open_in};
pub use placement::{
    BrokerNews, DirectoryUse, Fate, Found, Local, LogLocation, Place, Placement, Replicas, directory_for_new_log,
    eligible_epoch, least_used,
};
pub use reading::{MayWait, OwnPiece, finish_cold, finish_fetch, read_own};
pub use replica::{LogState, Replica, ReplicaConfig};
pub use resignation::{DirectoryState, Impairment, places_to_give_up, resignation};
pub use rules::BrokenRules;
pub use upkeep::{DirectoryLook, DirectoryWatch, WATCH_INTERVAL};
