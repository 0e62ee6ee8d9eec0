//! Rows: the measured value, the machine's limit, and the ratio of both, round by round.

/// One figure of ours and the machine's own, taken in the same round.
#[derive(Clone, Copy)]
pub struct Round {
    pub ours: f64,
    pub machine: f64,
}

/// Prints the medians of a row. `unit` is of both figures; more is better.
pub fn row(what: &str, beside: &str, unit: &str, rounds: &[Round]) {
    let ours = median(rounds.iter().map(|round| round.ours));
    let machine = median(rounds.iter().map(|round| round.machine));
    let ratio = median(rounds.iter().map(|round| round.ours / round.machine));
    println!("{what:<44} {ours:>10.0} {unit:<10} {beside:<34} {machine:>10.0} {unit:<10} ratio {ratio:.3}");
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// MiB per second.
pub fn mib_per_s(bytes: usize, elapsed: std::time::Duration) -> f64 {
    bytes as f64 / (1024.0 * 1024.0) / elapsed.as_secs_f64()
}
