//! A client that is above a quota is not read for a while.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// The time until which a connection reads no request, if there is one. What was asked before is answered.
#[derive(Default)]
pub(super) struct Muting {
    until: Option<Pin<Box<Sleep>>>,
}

impl Muting {
    /// Reads no request for so long, from now on; a longer wait stays.
    pub fn mute(&mut self, wait: Duration) {
        if wait.is_zero() {
            return;
        }
        let until = Instant::now() + wait;
        if self.until.as_ref().is_none_or(|muted| muted.deadline() < until) {
            self.until = Some(Box::pin(tokio::time::sleep_until(until)));
        }
    }

    pub fn is_muted(&self) -> bool {
        self.until.is_some()
    }

    /// Ready once requests may be read.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(until) = &mut self.until {
            if until.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.until = None;
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_wait_holds() {
        let (mut muting, began) = (Muting::default(), Instant::now());
        muting.mute(Duration::ZERO);
        assert!(!muting.is_muted(), "within its quota");
        for wait_s in [2, 60, 1] {
            muting.mute(Duration::from_secs(wait_s));
            assert!(muting.is_muted());
        }
        poll_fn(|context| muting.poll(context)).await;
        // Timers have a resolution of a millisecond.
        assert_eq!(began.elapsed().as_secs(), 60);
        assert!(!muting.is_muted());
    }
}
