//! Dates of the proleptic Gregorian calendar and days since 1970-01-01, in UTC; times and durations as Kafka's tools
//! take them.

/// Counted from 0000-03-01, so that a leap day is the last of its year.
const DAYS_BEFORE_EPOCH: i64 = 719_468;
const ERA_DAYS: i64 = 146_097;
const DAY_MS: i64 = 86_400_000;

/// Year, month and day of a number of days since 1970-01-01.
pub fn civil(days: u64) -> (i64, i64, i64) {
    let shifted = i64::try_from(days).unwrap_or(i64::MAX - DAYS_BEFORE_EPOCH) + DAYS_BEFORE_EPOCH;
    let (era, of_era) = (shifted / ERA_DAYS, shifted % ERA_DAYS);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Days since 1970-01-01; none if there is no such date. Years 0 to 9999.
fn days_of(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(0..=9_999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year_from_march = year - i64::from(month <= 2);
    let (era, of_era) = (year_from_march.div_euclid(400), year_from_march.rem_euclid(400));
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let days = era * ERA_DAYS + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - DAYS_BEFORE_EPOCH;
    // A day that the month does not have would be another date.
    match u64::try_from(days) {
        Ok(since_epoch) if civil(since_epoch) != (year, month, day) => None,
        _ => Some(days),
    }
}

/// Milliseconds since 1970 of `2026-11-21T09:16:58.656`, with `Z`, `+01`, `+0100` or `+01:00` behind it; without, it is
/// UTC.
pub fn timestamp_ms(text: &str) -> Option<i64> {
    let (date, rest) = text.split_once('T')?;
    let (time, offset_ms) = match rest.find(['+', '-', 'Z']) {
        None => (rest, 0),
        Some(at) => (rest.get(..at)?, offset_ms(rest.get(at..)?)?),
    };
    let mut date = date.splitn(3, '-').map(number);
    let days = days_of(date.next()??, date.next()??, date.next()??)?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = clock.splitn(3, ':').map(number);
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let fraction_ms = number(fraction)?;
    let valid = hour < 24 && minute < 60 && second < 60 && fraction_ms < 1_000;
    let of_day_ms = ((hour * 60 + minute) * 60 + second) * 1_000 + fraction_ms;
    valid.then_some(days * DAY_MS + of_day_ms - offset_ms)
}

/// Digits alone.
fn number(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// `Z`, `+01`, `+0100`, `+01:00`.
fn offset_ms(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let digits = text.get(1..)?.replace(':', "");
    let (hours, minutes) = match digits.len() {
        2 => (number(&digits)?, 0),
        4 => (number(digits.get(..2)?)?, number(digits.get(2..)?)?),
        _ => return None,
    };
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes) * 60_000)
}

/// Milliseconds of an ISO 8601 duration of days and below, as Java reads it: `P1DT2H3M4.5S`, `PT15M`, `-PT1H`.
pub fn duration_ms(text: &str) -> Option<i64> {
    let text = text.to_ascii_uppercase();
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let text = text.strip_prefix('P')?;
    let (days, time) = match text.split_once('T') {
        Some((_, "")) => return None,
        Some((days, time)) => (days, time),
        None => (text, ""),
    };
    if days.is_empty() && time.is_empty() {
        return None;
    }
    let mut total = 0_i64;
    if !days.is_empty() {
        total = days.strip_suffix('D')?.parse::<i64>().ok()?.checked_mul(DAY_MS)?;
    }
    let mut rest = time;
    for (unit, unit_ms) in [('H', 3_600_000), ('M', 60_000)] {
        if let Some((count, after)) = rest.split_once(unit) {
            total = total.checked_add(count.parse::<i64>().ok()?.checked_mul(unit_ms)?)?;
            rest = after;
        }
    }
    if !rest.is_empty() {
        let seconds: f64 = rest.strip_suffix('S')?.parse().ok()?;
        if !seconds.is_finite() || seconds.abs() > 1e12 {
            return None;
        }
        total = total.checked_add((seconds * 1_000.0).round() as i64)?;
    }
    total.checked_mul(sign)
}

/// Milliseconds of `10m`, `2h`, `7d`, or of Java's `PT10M`.
pub fn short_duration_ms(text: &str) -> Option<i64> {
    let iso = match text.to_ascii_uppercase() {
        upper if upper.contains('P') => upper,
        upper if upper.ends_with('D') => format!("P{upper}"),
        upper => format!("PT{upper}"),
    };
    duration_ms(&iso)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_found_back() {
        for days in (0..60_000).step_by(13) {
            let (year, month, day) = civil(days);
            assert_eq!(days_of(year, month, day), Some(days as i64), "{year}-{month}-{day}");
        }
        assert_eq!(
            (days_of(2026, 2, 29), days_of(2024, 2, 29).is_some(), days_of(1900, 2, 28)),
            (None, true, Some(-25_509))
        );
    }

    #[test]
    fn times_are_read_as_kafka_reads_them() {
        assert_eq!(timestamp_ms("1970-01-01T00:00:00.000"), Some(0));
        assert_eq!(timestamp_ms("2026-11-21T09:16:58.656"), Some(1_795_252_618_656));
        assert_eq!(timestamp_ms("2026-11-21T10:16:58.656+01:00"), Some(1_795_252_618_656));
        assert_eq!(timestamp_ms("2026-11-21T08:46:58.656-0030"), Some(1_795_252_618_656));
        assert_eq!(timestamp_ms("2026-11-21T09:16:58Z"), Some(1_795_252_618_000));
        for wrong in [
            "",
            "2026-11-21",
            "2026-13-01T00:00:00.000",
            "2026-11-21T24:00:00.000",
            "2026-11-21T00:00:00.000+1",
            "soonTlater",
        ] {
            assert_eq!(timestamp_ms(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_are_read_as_java_reads_them() {
        assert_eq!(duration_ms("P1DT2H3M4.5S"), Some(93_784_500));
        assert_eq!(
            (duration_ms("PT15M"), duration_ms("pt0s"), duration_ms("-PT1H")),
            (Some(900_000), Some(0), Some(-3_600_000))
        );
        assert_eq!(duration_ms("P2D"), Some(172_800_000));
        for wrong in ["", "P", "PT", "1H", "P1H", "PTS", "PT1H2", "P99999999999999999D"] {
            assert_eq!(duration_ms(wrong), None, "{wrong}");
        }
    }
}
