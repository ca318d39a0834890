//! Times on command lines: a number and its unit.

use std::time::Duration;

/// The longest there is: a year.
const MOST_S: u64 = 365 * 86_400;

/// A time such as `90s`, `5m`, `2h`, `1d`.
///
/// # Errors
/// If it is none, with the form it is to have.
pub fn any(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: give a number and s, m, h or d, such as 90s, 30m, 2h or 1d");
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    if number.is_empty() {
        return Err(wrong());
    }
    // What does not fit into a number is too long, too.
    let total = number.parse().ok().and_then(|number: u64| number.checked_mul(seconds));
    let total = total.filter(|total| *total <= MOST_S);
    total.map(Duration::from_secs).ok_or_else(|| format!("{text} is too long: give 365d at most"))
}

/// The same, and more than none.
///
/// # Errors
/// See [`any`].
pub fn some(text: &str) -> Result<Duration, String> {
    any(text).and_then(|time| if time.is_zero() { Err("give 1s or more".to_owned()) } else { Ok(time) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times need their unit, and nonsense is refused by its text with the form that is wanted.
    #[test]
    fn times_have_units() {
        for (text, seconds) in
            [("90s", 90), ("5m", 300), ("2h", 7200), ("2d", 172_800), ("0s", 0), ("365d", MOST_S)]
        {
            assert_eq!(any(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "h", "5", "-1h", "+1h", "5 m", "1w", "1\u{fc}", "1hm", "1.5h"] {
            let said = any(wrong).err().unwrap_or_default();
            assert!(said.contains("is no time") && said.contains("2h or 1d"), "{wrong}: {said}");
        }
        for long in ["366d", "99999999999999999999s", "9999999h", "9999999999999999999d"] {
            assert_eq!(any(long), Err(format!("{long} is too long: give 365d at most")));
        }
        assert!(some("0s").is_err() && some("1s").is_ok());
    }
}
