//! What the handlers share: who asks, admin changes on their way to the quorum, groups, transactions, brokers and
//! leaders as clients are told of them, and the model's types on the wire.

pub mod acls;
pub mod admin;
pub mod budget;
pub mod group;
pub mod heavy;
pub mod held_answers;
pub mod leader_hint;
pub mod meter;
pub mod shared_responses;
pub mod slices;
#[cfg(test)]
pub mod test_context;
#[cfg(test)]
pub mod test_image;
pub mod tokens;
pub mod topology;
pub mod transaction;
pub mod wire;

pub use budget::ResponseBudget;
pub use ottla_network::RequestContext;
