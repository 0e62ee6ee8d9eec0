//! The requests of one connection that have no answer yet, in order: which answer leaves next, and which requests have
//! to wait for those before them.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;
use ottla_protocol::Api;

use crate::response::Response;

type LaterResponse = Pin<Box<dyn Future<Output = Response> + Send>>;

enum Outcome {
    Ready(Response),
    Waiting(LaterResponse),
}

/// A request whose response has not been handed to the writer.
struct Pending {
    /// None: no API that is served.
    api: Option<Api>,
    arrived: Instant,
    outcome: Outcome,
    /// What it holds in memory.
    bytes: usize,
}

/// A request and its response, which leaves next.
pub(super) struct Answered {
    pub api: Option<Api>,
    pub arrived: Instant,
    pub response: Response,
}

#[derive(Default)]
pub(super) struct PendingRequests {
    requests: VecDeque<Pending>,
    /// What `requests` hold in memory: responses that are ready, and requests that wait.
    held_bytes: usize,
}

impl PendingRequests {
    pub fn push_ready(&mut self, api: Option<Api>, arrived: Instant, response: Response) {
        let bytes = response.memory_bytes();
        self.held_bytes += bytes;
        self.requests.push_back(Pending { api, arrived, outcome: Outcome::Ready(response), bytes });
    }

    /// `frame_bytes`: of the request.
    pub fn push_waiting(&mut self, api: Option<Api>, arrived: Instant, frame_bytes: u32, response: LaterResponse) {
        let bytes = if api.is_some_and(holds_little) { 0 } else { frame_bytes as usize };
        self.held_bytes += bytes;
        self.requests.push_back(Pending { api, arrived, outcome: Outcome::Waiting(response), bytes });
    }

    pub fn len(&self) -> usize {
        self.requests.len()
    }

    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// What the responses that are ready, and the requests that wait, hold in memory.
    pub fn memory_bytes(&self) -> usize {
        self.held_bytes
    }

    /// The oldest request, if its answer is complete. Only that one is polled: the others cannot leave before it.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Option<Answered> {
        let front = self.requests.front_mut()?;
        let response = match &mut front.outcome {
            Outcome::Ready(response) => std::mem::take(response),
            Outcome::Waiting(future) => match future.as_mut().poll(context) {
                Poll::Ready(response) => response,
                Poll::Pending => return None,
            },
        };
        let Pending { api, arrived, bytes, .. } = self.requests.pop_front()?;
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
        Some(Answered { api, arrived, response })
    }

    /// Whether the next request has to see the effects of writes that this connection asked for before and that are not
    /// done.
    pub fn holds_up(&self, next: Option<Api>) -> bool {
        let mut unfinished = self.requests.iter().filter(|pending| matches!(pending.outcome, Outcome::Waiting(_)));
        unfinished.any(|pending| pending.api.is_some_and(|earlier| waits_for(next, earlier)))
    }
}

pub(super) fn api_of(frame: &BytesMut) -> Option<Api> {
    frame.first_chunk().and_then(|key| Api::from_key(i16::from_be_bytes(*key)))
}

/// Whether little is held of a request while its answer waits: writes are held one at a time, and the sessions of
/// fetches and the groups count what is theirs. Any other may be held whole, behind a fetch that waits for minutes.
fn holds_little(api: Api) -> bool {
    api.is_write() || matches!(api, Api::Fetch | Api::JoinGroup | Api::SyncGroup)
}

/// Whether a request must wait until an earlier request of its connection is done. Kafka handles one request of a
/// connection at a time. Here only writes are waited for, and a Produce does not wait for a Produce, nor do markers for
/// markers: producers pipeline, and so do transaction coordinators. Both append when they are handled, in order.
fn waits_for(next: Option<Api>, earlier: Api) -> bool {
    match (earlier, next) {
        (_, Some(Api::ApiVersions))
        | (Api::Produce, Some(Api::Produce))
        | (Api::WriteTxnMarkers, Some(Api::WriteTxnMarkers)) => false,
        _ => earlier.is_write(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// A commit is seen by the OffsetFetch behind it, an acknowledged append by ListOffsets; producers still pipeline.
    #[test]
    fn requests_wait_for_the_writes_of_their_own_connection() {
        for (earlier, next) in [
            (Api::OffsetCommit, Api::OffsetFetch),
            (Api::Produce, Api::ListOffsets),
            (Api::Produce, Api::Fetch),
            (Api::DeleteRecords, Api::ListOffsets),
            (Api::CreateTopics, Api::Metadata),
            (Api::IncrementalAlterConfigs, Api::DescribeConfigs),
            (Api::OffsetCommit, Api::Produce),
            (Api::CreateAcls, Api::DescribeAcls),
            (Api::DeleteAcls, Api::DescribeAcls),
            (Api::AlterClientQuotas, Api::DescribeClientQuotas),
            (Api::TxnOffsetCommit, Api::OffsetFetch),
            (Api::EndTxn, Api::ListOffsets),
            (Api::WriteTxnMarkers, Api::Fetch),
            (Api::UpdateFeatures, Api::Metadata),
            (Api::LeaveGroup, Api::DescribeGroups),
        ] {
            assert!(waits_for(Some(next), earlier), "{next:?} after {earlier:?}");
        }
        assert!(waits_for(None, Api::Produce), "what is not known here is refused in its turn");
        for (earlier, next) in [
            (Api::Produce, Api::Produce),
            (Api::WriteTxnMarkers, Api::WriteTxnMarkers),
            (Api::Fetch, Api::OffsetCommit),
            (Api::JoinGroup, Api::Heartbeat),
            (Api::ListOffsets, Api::Produce),
            (Api::Produce, Api::ApiVersions),
        ] {
            assert!(!waits_for(Some(next), earlier), "{next:?} after {earlier:?}");
        }
    }

    /// Writes that follow each other: every pair of the table, so that no new API is left out.
    #[test]
    fn whatever_follows_a_write_waits_for_it_but_what_is_pipelined() {
        for &earlier in Api::ALL {
            for &next in Api::ALL {
                let is_pipelined = next == earlier && matches!(next, Api::Produce | Api::WriteTxnMarkers);
                let overtakes = next == Api::ApiVersions || is_pipelined;
                let expected = earlier.is_write() && !overtakes;
                assert_eq!(waits_for(Some(next), earlier), expected, "{next} after {earlier}");
            }
        }
    }

    /// Behind a fetch that waited for minutes a thousand requests of each connection were held, and not counted.
    #[tokio::test]
    async fn what_waits_is_counted_until_it_is_answered() {
        let mut pending = PendingRequests::default();
        let answer = || Box::pin(async { Response::default() });
        pending.push_waiting(Some(Api::Fetch), Instant::now(), 1_000, answer());
        assert_eq!(pending.memory_bytes(), 0);
        pending.push_waiting(Some(Api::DescribeLogDirs), Instant::now(), 1_000, answer());
        assert_eq!(pending.memory_bytes(), 1_000);
        poll_fn(|context| {
            while pending.poll_next(context).is_some() {}
            Poll::Ready(())
        })
        .await;
        assert!(pending.is_empty() && pending.memory_bytes() == 0);
    }

    #[tokio::test]
    async fn a_read_is_held_up_until_the_write_before_it_is_done() {
        let mut pending = PendingRequests::default();
        let (done, wait) = tokio::sync::oneshot::channel::<()>();
        let response = Box::pin(async move {
            let _ = wait.await;
            Response::default()
        });
        pending.push_waiting(Some(Api::OffsetCommit), Instant::now(), 100, response);
        assert!(pending.holds_up(Some(Api::OffsetFetch)));
        assert!(!pending.holds_up(Some(Api::ApiVersions)));
        pending.push_ready(Some(Api::ApiVersions), Instant::now(), Response::bytes(vec![0; 100]));
        assert!(pending.memory_bytes() >= 100);
        done.send(()).expect("it waits");
        let mut next = async || {
            let answered = poll_fn(|context| match pending.poll_next(context) {
                Some(answered) => Poll::Ready(answered),
                None => Poll::Pending,
            });
            answered.await.api
        };
        assert_eq!(next().await, Some(Api::OffsetCommit), "in order");
        assert_eq!(next().await, Some(Api::ApiVersions));
        assert!(pending.is_empty() && pending.memory_bytes() == 0);
        assert!(!pending.holds_up(Some(Api::OffsetFetch)));
    }
}
