//! Times as users read them: in their own time zone.

use nix::libc;

/// A moment, taken apart in the local time zone.
struct Parts {
    year: i32,
    month: i32,
    day: i32,
    hour: i32,
    minute: i32,
    second: i32,
    weekday: i32,
}

#[allow(unsafe_code)]
fn parts(seconds: i64) -> Option<Parts> {
    let time: libc::time_t = seconds;
    // SAFETY: an all-zero `tm` is a valid value of this plain C structure.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values on this stack; `localtime_r` keeps neither. It reads the variable TZ, which nothing in
    // these single-threaded commands changes.
    let done = unsafe { libc::localtime_r(&raw const time, &raw mut tm) };
    if done.is_null() {
        return None;
    }
    Some(Parts {
        year: tm.tm_year + 1900,
        month: tm.tm_mon + 1,
        day: tm.tm_mday,
        hour: tm.tm_hour,
        minute: tm.tm_min,
        second: tm.tm_sec,
        weekday: tm.tm_wday,
    })
}

/// `MM/DD/YYYY HH:MM:SS`.
pub(crate) fn short(ms: i64) -> String {
    parts(ms.div_euclid(1000)).map_or_else(
        || "-".into(),
        |p| {
            format!("{:02}/{:02}/{:04} {:02}:{:02}:{:02}", p.month, p.day, p.year, p.hour, p.minute, p.second)
        },
    )
}

/// As `ctime`: `Sun Nov 22 08:07:25 2026`.
pub(crate) fn long(seconds: i64) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let name = |names: &[&'static str], i: i32| {
        usize::try_from(i).ok().and_then(|i| names.get(i).copied()).unwrap_or("?")
    };
    parts(seconds).map_or_else(
        || "-".into(),
        |p| {
            format!(
                "{} {} {:>2} {:02}:{:02}:{:02} {}",
                name(&DAYS, p.weekday),
                name(&MONTHS, p.month - 1),
                p.day,
                p.hour,
                p.minute,
                p.second,
                p.year
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_grid_engines() {
        let (date, time) =
            short(1_795_334_857_000).split_once(' ').map(|(a, b)| (a.len(), b.len())).unwrap_or_default();
        assert_eq!((date, time), (10, 8));
        assert!(long(1_795_334_857).ends_with(" 2026"));
    }
}
