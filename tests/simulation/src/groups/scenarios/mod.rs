//! Groups step by step: the scenarios that have cost others data, each under its name, and seeds.

mod commits;
mod handing_over;
mod rules;
mod seeds;
mod stage;
mod stale;
