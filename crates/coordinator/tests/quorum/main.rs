//! Coordinators in one process, on loopback, with their own disks.

mod admin;
mod certificates;
mod chroots;
mod clients;
mod disks;
mod elections;
mod forming;
mod harness;
mod secure;
mod strangers;
