//! The controller's rules, on a small cluster: a controller, a tree that applies its proposals, brokers that send
//! heartbeats.

mod acls;
mod admin;
mod brokers;
mod client_metrics;
mod delegation_tokens;
mod elections;
mod features;
mod fenced;
pub(in crate::controller) mod harness;
mod hostile;
mod once;
mod random;
mod reach;
mod reassignment;
mod registration;
mod replication;
mod requests;
mod shutdown;
mod term;
