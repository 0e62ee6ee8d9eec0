//! How much a shard does at a time, and how long it pauses, beside its requests.

use std::time::Duration;

/// What one piece of the sweep, or of a round of deletions, looks at: groups, and offsets. A piece takes about a
/// millisecond.
pub(super) const GROUPS_PER_PIECE: usize = 256;
pub(super) const OFFSETS_PER_PIECE: usize = 10_000;

/// How long timers wait while the log refuses writes. Sessions that end meanwhile get their grace afterwards: their
/// tick is late.
pub(super) const PAUSE_WHILE_REFUSED: Duration = Duration::from_millis(500);
/// How long a timer waits whose step would write a batch that is too large: what is too large now will mostly be so in
/// a moment.
pub(super) const PAUSE_AFTER_TOO_LARGE: Duration = Duration::from_secs(10);
