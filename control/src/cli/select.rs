//! Which jobs a command means: numbers, `ID.T`, names and patterns, users.

use std::io::Write;

use crate::layout::Layout;
use crate::plan::ids::plain_number;
use crate::plan::{JobId, Queue, Ranges, TaskRange};
use crate::store::recover;

use super::options::tasks;
use super::{Failure, Output, rows};

/// One entry of a list of jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A job, or tasks of it.
    Job(JobId, Option<TaskRange>),
    /// All jobs whose name matches.
    Name(String),
}

/// Parses `ID`, `ID.T[-T[:S]]`, or a name or pattern.
pub(crate) fn parse(word: &str) -> Result<Target, Failure> {
    let (id, range) = match word.split_once('.') {
        Some((id, range)) => (id, Some(range)),
        None => (word, None),
    };
    match (plain_number(id), range) {
        (Some(id), None) => Ok(Target::Job(JobId(id), None)),
        (Some(id), Some(range)) => Ok(Target::Job(JobId(id), Some(tasks(range).map_err(Failure::new)?))),
        (None, _) if word.starts_with(|c: char| c.is_ascii_digit()) || word.is_empty() => {
            Err(Failure::new(format!("{word:?} is neither a job number nor a job name")))
        }
        (None, _) => Ok(Target::Name(word.to_owned())),
    }
}

/// Splits comma-separated lists and parses each entry.
pub(crate) fn parse_list(words: &[String]) -> Result<Vec<Target>, Failure> {
    words.iter().flat_map(|w| w.split(',')).map(parse).collect()
}

/// Does `pattern` (`*`, `?`, `[a-z]`) match all of `text`?
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // Where to go on when a star has to take one more character.
    let mut retry: Option<(usize, usize)> = None;
    let (mut i, mut j) = (0, 0);
    while j < t.len() {
        let step = match p.get(i) {
            Some('*') => {
                retry = Some((i + 1, j));
                i += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('[') => class(&p[i..], t[j]),
            Some(c) if *c == t[j] => Some(1),
            _ => None,
        };
        match (step, retry) {
            (Some(n), _) => {
                i += n;
                j += 1;
            }
            (None, Some((after, from))) => {
                retry = Some((after, from + 1));
                (i, j) = (after, from + 1);
            }
            (None, None) => return false,
        }
    }
    p[i.min(p.len())..].iter().all(|c| *c == '*')
}

/// Length of the class at the beginning of `p` if `c` is in it.
fn class(p: &[char], c: char) -> Option<usize> {
    let end = p.iter().skip(2).position(|x| *x == ']')? + 2;
    let (negated, body) = match p.get(1) {
        Some('!' | '^') => (true, &p[2..end]),
        _ => (false, &p[1..end]),
    };
    let mut inside = false;
    let mut k = 0;
    while k < body.len() {
        if k + 2 < body.len() && body[k + 1] == '-' {
            inside |= (body[k]..=body[k + 2]).contains(&c);
            k += 3;
        } else {
            inside |= body[k] == c;
            k += 1;
        }
    }
    (inside != negated).then_some(end + 1)
}

/// Task numbers of a range.
pub(crate) fn numbers(range: &TaskRange) -> Ranges {
    let mut out = Ranges::default();
    if range.step == 1 {
        out.insert_range(range.first, range.last);
    } else {
        for index in 0..range.count() {
            out.insert(range.task(index).0);
        }
    }
    out
}

/// The queue with what the master hasn't taken in yet, which is there all the same.
pub(crate) fn all_jobs(layout: &Layout) -> Result<Queue, Failure> {
    // Incoming first: a submission the master takes between the two looks is then seen in one of them.
    let incoming = rows::incoming(layout);
    let mut queue = recover::view(layout)?.queue;
    for new in incoming {
        if let Some(record) = queue.submit(new) {
            queue.apply(&record).map_err(|c| Failure::new(c.0))?;
        }
    }
    Ok(queue)
}

/// Says that a job, by number or name, is not there.
pub(crate) fn no_such_job(out: &mut Output, job: impl std::fmt::Display) -> Result<(), Failure> {
    Ok(writeln!(out, "denied: job \"{job}\" does not exist")?)
}

/// Says that a job is somebody else's.
pub(crate) fn not_yours(out: &mut Output, user: &str, verb: &str, job: JobId) -> Result<(), Failure> {
    Ok(writeln!(out, "{user} - you do not have the necessary privileges to {verb} the job \"{job}\"")?)
}

/// Jobs of these users, in order.
pub(crate) fn of_users(queue: &Queue, users: &[String]) -> Vec<JobId> {
    queue.jobs.values().filter(|j| users.iter().any(|u| matches(u, &j.new.owner))).map(|j| j.new.id).collect()
}

/// Jobs whose name matches, in order.
pub(crate) fn of_name(queue: &Queue, pattern: &str) -> Vec<JobId> {
    queue.jobs.values().filter(|j| matches(pattern, &j.new.name)).map(|j| j.new.id).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_the_shells() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbb", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("n[1-4]x", "n3x", true),
            ("n[1-4]x", "n5x", false),
            ("n[!1-4]", "n5", true),
            ("*ab*ab", "ababab", true),
            ("abc", "abcd", false),
            ("[", "[", false),
            ("", "", true),
            ("a**", "a", true),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
    }

    #[test]
    fn targets_are_numbers_tasks_or_names() {
        assert_eq!(parse("7").unwrap(), Target::Job(JobId(7), None));
        assert_eq!(parse("7.3-7:2").unwrap(), Target::Job(JobId(7), TaskRange::new(3, 7, 2)));
        assert_eq!(parse("my.job").unwrap(), Target::Name("my.job".into()));
        for bad in ["7x", "", "7.x", "0"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
