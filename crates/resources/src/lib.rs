//! Scarce things of a process: what the machine gives, how it is divided, how much is used, who was refused.
//!
//! - [`connections`]: how many connections there may be, in all and from one address;
//! - [`core_dumps`]: none with secrets;
//! - [`memory`]: how much memory the process may take;
//! - [`descriptors`]: the limit of open files, and its shares;
//! - [`giving_way`]: turns of a worker's tasks;
//! - [`handshakes`]: TLS handshakes under way;
//! - [`ledger`]: one resource with its ceiling, what is used of it, and refusals;
//! - [`table`]: how the metrics show them;
//! - [`network`]: what counts as one peer where shares are by address;
//! - [`private_directory`]: directories that no other user may look into;
//! - [`http_port`]: the port for metrics and health, with bounded connections;
//! - [`unauthenticated`]: connections whose client has not shown who it is.
//!
//! `docs/resources.md` lists every bounded resource of the services, its ceiling, and what gives way.

pub mod connections;
pub mod core_dumps;
pub mod descriptors;
pub mod giving_way;
pub mod handshakes;
pub mod http_port;
pub mod ledger;
pub mod memory;
pub mod network;
pub mod private_directory;
pub mod table;
pub mod unauthenticated;

pub use connections::{Caller, ConnectionLimits, ConnectionPermit, ConnectionRefused, Limits};
pub use descriptors::{BrokerDescriptors, CoordinatorDescriptors};
pub use ledger::{Ledger, Share};
pub use network::network_of;
pub use table::{ResourceTable, Usage};
