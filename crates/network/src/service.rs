//! What answers the requests of connections.

use std::sync::Arc;

use bytes::BytesMut;

use crate::context::RequestContext;
use crate::response::Reply;

/// A service behind connections. A [`crate::Gate`] holds requests back until there is one.
pub trait Service: Send + Sync + Sized + 'static {
    /// What is known before there is a service, and all that [`Service::handle_early`] needs.
    type Identity: Send + Sync + 'static;

    /// Handles one frame (without its length prefix). Synchronous: what can be done at once is done when this returns,
    /// in the order of the frames of a connection; what has to wait is the answer's future.
    fn handle(self: &Arc<Self>, context: &RequestContext, frame: BytesMut) -> Reply;

    /// The answer to a frame that came before the gate has opened; none if the frame has to wait for that.
    fn handle_early(identity: &Self::Identity, context: &RequestContext, frame: &BytesMut) -> Option<Reply>;
}
