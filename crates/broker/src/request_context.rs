//! Who asks, and by which way: what every handler may know of the connection that a request came in on.

use std::net::SocketAddr;

use ottla_model::ListenerName;

/// Who a connection speaks for. Anonymous until listeners authenticate; it travels with each request from the first day so
/// that authorization finds it where it needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Principal {
    Anonymous,
}

/// One per connection; shared by all its requests.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The listener that the connection came in on: Metadata answers with the endpoints of this one.
    pub listener: ListenerName,
    /// Only here may a fetch speak as a replica.
    pub is_inter_broker_listener: bool,
    pub principal: Principal,
    pub peer: SocketAddr,
    /// Unique within the process; for the log.
    pub connection_id: u64,
}
