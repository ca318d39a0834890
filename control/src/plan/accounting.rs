//! One line of the accounting file: 45 fields, separated by colons, as Grid Engine's accounting(5).

use super::ids::TaskId;
use super::record::{Exit, Job};

/// How many fields a line has.
pub const FIELDS: usize = 45;

fn clean(text: &str) -> String {
    text.chars().map(|c| if c == ':' || c.is_control() { '_' } else { c }).collect()
}

/// The line, with its newline, for a run of `job` that began. Times are whole seconds since 1970, memory is in bytes, CPU in seconds.
#[must_use]
pub fn line(queue: &str, host: &str, job: &Job, task: TaskId, exit: &Exit) -> String {
    let started_s = exit.started_ms.unwrap_or(exit.ended_ms) / 1000;
    let ended_s = exit.ended_ms / 1000;
    let new = &job.new;
    let usage = &exit.usage;
    let task = if new.array.is_some() { task.0 } else { 0 };
    let mut out = [
        clean(queue),
        clean(host),
        clean(&new.group),
        clean(&new.owner),
        clean(&new.name),
        new.id.to_string(),
        clean(&new.account),
        new.priority.to_string(),
        (new.submitted_ms / 1000).to_string(),
        started_s.to_string(),
        ended_s.to_string(),
        exit.failed.to_string(),
        exit.exit_status.to_string(),
        (ended_s - started_s).max(0).to_string(),
        format!("{:.6}", usage.utime_s),
        format!("{:.6}", usage.stime_s),
        format!("{:.6}", usage.maxrss_kib as f64),
        "0".into(), // ru_ixrss
        "0".into(), // ru_ismrss
        "0".into(), // ru_idrss
        "0".into(), // ru_isrss
        usage.minflt.to_string(),
        usage.majflt.to_string(),
        "0".into(), // ru_nswap
        format!("{:.6}", usage.inblock as f64),
        usage.oublock.to_string(),
        "0".into(), // ru_msgsnd
        "0".into(), // ru_msgrcv
        "0".into(), // ru_nsignals
        usage.nvcsw.to_string(),
        usage.nivcsw.to_string(),
        "NONE".into(),
        "defaultdepartment".into(),
        "NONE".into(),
        "1".into(),
        task.to_string(),
        format!("{:.6}", usage.utime_s + usage.stime_s),
        "0.000000".into(), // mem
        "0.000000".into(), // io
        "NONE".into(),     // category
        "0.000000".into(), // iow
        "NONE".into(),     // pe_taskid
        "0.000000".into(), // maxvmem
        "0".into(),        // ar_number
        "0".into(),        // ar_submission_time
    ]
    .join(":");
    out.push('\n');
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::law::Queue;
    use super::super::laws::new_job;
    use super::*;
    use crate::plan::{JobId, Usage};

    #[test]
    fn the_line_is_grid_engines_and_hostile_names_add_no_field() {
        let mut new = new_job(2054, None);
        new.name = "job.sh".into();
        (new.owner, new.group) = ("lab".into(), "lab".into());
        new.submitted_ms = 1_795_334_857_000;
        let mut queue = Queue::default();
        queue.apply(&queue.submit(new).unwrap()).unwrap();
        let job = queue.jobs.get_mut(&JobId(2054)).unwrap();
        let exit = Exit {
            started_ms: Some(1_795_334_867_000),
            ended_ms: 1_795_334_867_500,
            usage: Usage {
                utime_s: 0.00197,
                stime_s: 0.010_242,
                maxrss_kib: 4680,
                minflt: 509,
                majflt: 2,
                inblock: 1128,
                oublock: 16,
                nvcsw: 14,
                nivcsw: 5,
            },
            ..Exit::default()
        };
        assert_eq!(
            line("all.q", "node1", job, TaskId(1), &exit),
            "all.q:node1:lab:lab:job.sh:2054:sge:0:1795334857:1795334867:1795334867:0:0:0:0.001970:0.010242:4680.000000:0:0:0:0:509:2:0:\
             1128.000000:16:0:0:0:14:5:NONE:defaultdepartment:NONE:1:0:0.012212:0.000000:0.000000:NONE:0.000000:NONE:0.000000:0:0\n"
        );
        job.new.name = "a:b\nc".into();
        let hostile = line("all.q", "node1", job, TaskId(1), &exit);
        assert_eq!(hostile.trim_end().split(':').count(), FIELDS);
        assert_eq!(hostile.matches('\n').count(), 1);
    }
}
