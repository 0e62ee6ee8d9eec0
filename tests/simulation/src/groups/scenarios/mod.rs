//! Groups step by step: the scenarios that have cost others data, each under its name, and seeds.

mod commits;
mod handing_over;
mod mended;
mod rules;
mod seeds;
mod stage;
mod stale;
mod stalled;
