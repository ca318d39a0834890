//! How much memory a job's largest process had.
//!
//! The kernel's own number for a process that was waited for (`ru_maxrss`) includes what the process was before it became the
//! job: the supervisor and its second stage, which need more than many a job. So it is the job's only when it is larger than
//! what those had. Otherwise the job's processes are looked at while they live: each one's high-water mark, often at first, then
//! once a second. `the_memory_accounted_for_is_the_jobs`

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::family;
use crate::watch::POLL;

/// First word of the line in which the second stage tells what it had before it became the job.
const STAGE: &str = "stage ";
/// What the stage may still take on between telling and becoming the job.
const MARGIN_KIB: i64 = 512;
/// Time between the first two looks; doubled each time.
const FIRST_GAP: Duration = Duration::from_millis(1);

/// The high-water mark of a living process' resident memory in KiB; 0 if it can't be told.
fn high_water(status: &str) -> i64 {
    let kib = |line: &str| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok();
    std::fs::read_to_string(status).ok().and_then(|text| text.lines().find_map(kib)).unwrap_or(0)
}

fn own() -> i64 {
    high_water("/proc/self/status")
}

/// Tells the supervisor, who reads at the other end, what this stage has had.
pub(super) fn tell_stage(mut to: impl Write) -> std::io::Result<()> {
    writeln!(to, "{STAGE}{}", own())
}

/// What the second stage says: what it had, and then its end without a word (it has become the job) or a refusal.
#[derive(Debug)]
pub(super) struct Words {
    pipe: OwnedFd,
    heard: Vec<u8>,
    ended: bool,
}

impl Words {
    /// Reads from this end without ever waiting.
    pub fn new(pipe: OwnedFd) -> std::io::Result<Words> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Words { pipe, heard: Vec::new(), ended: false })
    }

    /// What to wait for; `None` when nothing is to come any more.
    pub fn pending(&self) -> Option<BorrowedFd<'_>> {
        (!self.ended).then(|| self.pipe.as_fd())
    }

    /// Takes what was said meanwhile; true once the stage is no more.
    pub fn ended(&mut self) -> bool {
        const MOST: usize = 4096;
        while !self.ended {
            let mut part = [0; 512];
            match rustix::io::read(&self.pipe, &mut part) {
                Ok(0) => self.ended = true,
                Ok(n) => self.heard.extend_from_slice(&part[..n]),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => {
                    eprintln!("shepherd: can't hear the first stage: {error}");
                    self.ended = true;
                }
            }
            if self.heard.len() > MOST {
                self.ended = true;
            }
        }
        self.ended
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.heard).into_owned()
    }

    /// What the stage had, in KiB.
    fn stage_kib(&self) -> Option<i64> {
        self.text().lines().find_map(|line| line.strip_prefix(STAGE)?.trim().parse().ok())
    }

    /// The rest: why it did not become the job.
    pub fn refusal(&self) -> String {
        self.text().lines().filter(|line| !line.starts_with(STAGE)).collect::<Vec<_>>().join("\n")
    }
}

/// The largest process seen so far.
#[derive(Debug)]
pub(super) struct Looks {
    seen_kib: i64,
    next: Instant,
    gap: Duration,
}

impl Looks {
    /// Nothing was seen yet.
    pub fn new() -> Looks {
        Looks { seen_kib: 0, next: Instant::now(), gap: FIRST_GAP }
    }

    /// How long until the next look.
    pub fn wait(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Looks at all processes of the job, if it is time to.
    pub fn look(&mut self) {
        if !self.wait().is_zero() {
            return;
        }
        for pid in family::descendants_seen() {
            self.see(pid);
        }
        self.next = Instant::now() + self.gap;
        self.gap = (self.gap * 2).min(POLL);
    }

    fn see(&mut self, pid: Pid) {
        self.seen_kib = self.seen_kib.max(high_water(&format!("/proc/{}/status", pid.as_raw_nonzero())));
    }

    /// What is accounted for, where the kernel says `kernel_kib` of all that were waited for.
    pub fn verdict(&self, kernel_kib: i64, words: &Words) -> i64 {
        judge(kernel_kib, own().max(words.stage_kib().unwrap_or(0)), self.seen_kib)
    }
}

fn judge(kernel_kib: i64, before_kib: i64, seen_kib: i64) -> i64 {
    if kernel_kib > before_kib + MARGIN_KIB { kernel_kib } else { seen_kib.min(kernel_kib) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_number_counts_where_it_is_the_jobs() {
        assert_eq!(judge(70_000, 16_000, 3_000), 70_000);
        assert_eq!(judge(16_300, 16_000, 3_000), 3_000);
        assert_eq!(judge(16_000, 16_000, 0), 0);
        assert!(own() > 0, "the kernel tells no high-water mark");
    }

    #[test]
    fn a_refusal_is_told_from_what_the_stage_had() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut words = Words::new(reader).unwrap();
        assert!(!words.ended() && words.pending().is_some());
        let mut writer = std::fs::File::from(writer);
        tell_stage(&writer).unwrap();
        assert!(!words.ended());
        writer.write_all(b"refused 27 no such shell\n").unwrap();
        drop(writer);
        assert!(words.ended() && words.pending().is_none());
        assert!(words.stage_kib().unwrap() > 0);
        assert_eq!(words.refusal(), "refused 27 no such shell");
    }
}
