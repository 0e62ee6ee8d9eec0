//! Switches for the simulation, which proves that it would notice if a rule was missing.

/// Everything except those tests uses the default, in which every rule holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BrokenRules {
    /// Broken: the state is served as soon as the log is read, although its end may not be replicated.
    pub serves_before_replicated: bool,
    /// Broken: a log that could not be read once is not read again in the same leader epoch.
    pub gives_up_loading: bool,
    /// Broken: a request is processed although others wait that came before it.
    pub requests_overtake: bool,
    /// Broken: what is due is done before the requests that wait.
    pub ticks_overtake: bool,
    /// Broken: a log that could not be read keeps its place among those that are read.
    pub failed_loads_keep_places: bool,
}
