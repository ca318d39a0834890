//! The laws of `plan`, tried on random histories.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::law::{Host, Queue};
use super::record::{Exit, UNBEGUN_RUNS_MAX, failed};
use super::*;

pub(crate) fn new_job(id: u64, array: Option<TaskRange>) -> NewJob {
    NewJob {
        id: JobId(id),
        name: format!("job{id}"),
        owner: "ann".into(),
        uid: 1000,
        group: "staff".into(),
        submitted_ms: 0,
        array,
        task_limit: 0,
        priority: 0,
        rerun: false,
        hold: false,
        account: "sge".into(),
        digest: String::new(),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Submit { id: u64, tasks: u64, rerun: bool, hold: bool, limit: u32, priority: i32 },
    Abandon(u64),
    Dispatch,
    Started(usize),
    Ended(usize, i32, bool),
    StaleEnded(usize),
    Delete { id: u64, only: Option<u64>, force: bool, uid: u32 },
    Hold(u64, bool),
    Clear(u64),
    Host(u8, u32, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..12, 0u64..5, any::<bool>(), prop::bool::weighted(0.2), 0u32..3, -2i32..2).prop_map(
            |(id, tasks, rerun, hold, limit, priority)| Step::Submit { id, tasks, rerun, hold, limit, priority }
        ),
        1 => (1u64..12).prop_map(Step::Abandon),
        12 => Just(Step::Dispatch),
        5 => any::<prop::sample::Index>().prop_map(|i| Step::Started(i.index(64))),
        9 => (any::<prop::sample::Index>(), prop::sample::select(vec![0, 0, 0, 1, 99, 100, 137]), prop::bool::weighted(0.1))
            .prop_map(|(i, status, lost)| Step::Ended(i.index(64), status, lost)),
        3 => any::<prop::sample::Index>().prop_map(|i| Step::StaleEnded(i.index(64))),
        2 => (1u64..12, prop::option::of(1u64..6), any::<bool>(), prop::sample::select(vec![0u32, 1000, 1001]))
            .prop_map(|(id, only, force, uid)| Step::Delete { id, only, force, uid }),
        1 => (1u64..12, any::<bool>()).prop_map(|(id, hold)| Step::Hold(id, hold)),
        1 => (1u64..12).prop_map(Step::Clear),
        2 => (0u8..3, 0u32..4, prop::bool::weighted(0.8)).prop_map(|(h, slots, up)| Step::Host(h, slots, up)),
    ]
}

/// What an outsider who sees only records and effects can say.
#[derive(Default)]
struct Witness {
    records: Vec<Record>,
    submitted: BTreeSet<JobId>,
    given: BTreeSet<RunKey>,
    given_in_order: Vec<RunKey>,
    over: BTreeMap<(JobId, TaskId), u32>,
    live: BTreeMap<(JobId, TaskId), RunKey>,
}

impl Witness {
    fn take(&mut self, queue: &mut Queue, record: Record) {
        match &record {
            Record::Submitted(new) => assert!(self.submitted.insert(new.id), "accepted twice"),
            Record::Dispatched { key, host, .. } => {
                let place = (key.job, key.task);
                assert!(self.given.insert(*key), "{key} given out twice");
                self.given_in_order.push(*key);
                assert!(!self.over.contains_key(&place), "{key} runs after its end");
                assert!(self.live.insert(place, *key).is_none(), "{key} runs beside another run");
                let host_state = &queue.hosts()[host];
                assert!(host_state.up && queue.used(host) < host_state.slots, "{key} has no slot");
                assert!(!queue.jobs[&key.job].new.hold, "{key} is held");
            }
            Record::Ended { key, verdict, .. } => {
                assert_eq!(self.live.remove(&(key.job, key.task)), Some(*key), "ended but not live");
                if matches!(verdict, Verdict::Done | Verdict::Deleted | Verdict::Lost) {
                    *self.over.entry((key.job, key.task)).or_default() += 1;
                }
            }
            _ => {}
        }
        let effects = queue.apply(&record).unwrap();
        if let Record::Deleted { force: true, .. } = &record {
            for effect in &effects {
                if let Effect::Withdraw(key, _) = effect {
                    assert_eq!(self.live.remove(&(key.job, key.task)), Some(*key));
                    *self.over.entry((key.job, key.task)).or_default() += 1;
                }
            }
        }
        self.records.push(record);
    }

    fn check(&self, queue: &Queue) {
        let mut used: BTreeMap<&str, u32> = BTreeMap::new();
        for job in queue.jobs.values() {
            let range = job.new.tasks();
            let mut places: BTreeMap<u64, u32> = BTreeMap::new();
            for index in job.waiting.iter() {
                *places.entry(index).or_default() += 1;
            }
            for task in job.runs.keys().chain(job.errors.keys()) {
                *places.entry(range.index(*task).unwrap()).or_default() += 1;
            }
            assert!(places.values().all(|n| *n == 1), "a task in two places: {job:?}");
            assert_eq!(places.len() as u64 + job.over, range.count(), "a task in no place: {job:?}");
            for (task, run) in &job.runs {
                *used.entry(&run.host).or_default() += 1;
                assert_eq!(self.live.get(&(job.new.id, *task)).map(|k| k.run), Some(run.run));
            }
        }
        for (host, n) in used {
            assert_eq!(queue.used(host), n);
        }
        assert!(self.over.values().all(|n| *n == 1), "a task ended twice");
        assert_eq!(queue.runs().count(), self.live.len());
    }
}

fn play(steps: &[Step]) -> (Queue, Witness) {
    let mut queue = Queue::default();
    let mut witness = Witness::default();
    queue.set_host("h0", Host { slots: 2, up: true });
    for step in steps {
        let record = match step {
            Step::Submit { id, tasks, rerun, hold, limit, priority } => {
                let mut new = new_job(*id, TaskRange::new(1, *tasks, 1));
                (new.rerun, new.hold, new.task_limit, new.priority) = (*rerun, *hold, *limit, *priority);
                queue.submit(new)
            }
            Step::Abandon(id) => queue.abandon(JobId(*id)),
            Step::Dispatch => queue.next_dispatch(0),
            Step::Started(i) => {
                let keys: Vec<RunKey> = queue.runs().map(|(k, _)| k).collect();
                keys.get(i % keys.len().max(1)).and_then(|key| queue.report_started(*key, 1))
            }
            Step::Ended(i, status, lost) => {
                let keys: Vec<RunKey> = queue.runs().map(|(k, _)| k).collect();
                keys.get(i % keys.len().max(1)).and_then(|key| {
                    let exit =
                        Exit { started_ms: Some(1), exit_status: *status, lost: *lost, ..Exit::default() };
                    queue.report_ended(*key, exit)
                })
            }
            Step::StaleEnded(i) => {
                let keys = &witness.given_in_order;
                let key = keys.get(i % keys.len().max(1)).copied();
                key.filter(|k| queue.live(*k).is_none()).and_then(|key| {
                    let record = queue.report_ended(key, Exit::default());
                    assert!(record.is_none(), "a stale report means something");
                    record
                })
            }
            Step::Delete { id, only, force, uid } => {
                let tasks = only.map(|t| Ranges::from(vec![(t, t)]));
                let record = queue.delete((*uid, "x"), JobId(*id), tasks, *force, 2);
                assert!(*uid != 1001 || record.is_err(), "somebody else deleted it");
                record.ok()
            }
            Step::Hold(id, hold) => queue.hold(1000, JobId(*id), *hold).ok(),
            Step::Clear(id) => queue.clear(1000, JobId(*id), None).ok(),
            Step::Host(h, slots, up) => {
                queue.set_host(&format!("h{h}"), Host { slots: *slots, up: *up });
                None
            }
        };
        if let Some(record) = record {
            witness.take(&mut queue, record);
        }
        witness.check(&queue);
    }
    (queue, witness)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn laws_hold_in_any_order_of_events(steps in prop::collection::vec(step(), 0..160)) {
        let (mut queue, mut witness) = play(&steps);
        // Heal: hosts work, nothing is held or in error, every run ends well. Then everything accepted must end.
        queue.set_host("h0", Host { slots: 2, up: true });
        for id in queue.jobs.keys().copied().collect::<Vec<_>>() {
            for record in [queue.hold(0, id, false), queue.clear(0, id, None)].into_iter().flatten() {
                witness.take(&mut queue, record);
            }
        }
        for _ in 0..1000 {
            if let Some(record) = queue.next_dispatch(0) { witness.take(&mut queue, record); }
            let first = queue.runs().map(|(key, _)| key).next();
            if let Some(key) = first {
                let record = queue.report_ended(key, Exit { started_ms: Some(1), ..Exit::default() }).unwrap();
                witness.take(&mut queue, record);
            }
            witness.check(&queue);
        }
        prop_assert!(queue.jobs.is_empty(), "accepted but never over: {:?}", queue.jobs);
        for id in &witness.submitted {
            prop_assert!(queue.finished.iter().any(|f| f.new.id == *id));
        }
    }

    #[test]
    fn replaying_the_records_gives_the_same_queue(steps in prop::collection::vec(step(), 0..120)) {
        let (queue, witness) = play(&steps);
        let mut again = Queue::default();
        for record in &witness.records {
            let json = serde_json::to_vec(record).unwrap();
            again.apply(&serde_json::from_slice(&json).unwrap()).unwrap();
        }
        for (name, host) in queue.hosts() { again.set_host(name, host.clone()); }
        prop_assert_eq!(&again, &queue);
        let mut restored = Queue::restore(again.jobs, again.accepted, again.finished);
        for (name, host) in queue.hosts() { restored.set_host(name, host.clone()); }
        prop_assert_eq!(&restored, &queue);
    }
}

#[test]
fn exit_codes_mean_what_grid_engine_users_know() {
    let mut queue = Queue::default();
    queue.set_host("h", Host { slots: 1, up: true });
    queue.apply(&queue.submit(new_job(1, None)).unwrap()).unwrap();
    let mut end = |status| {
        let dispatched = queue.next_dispatch(0).unwrap();
        let Record::Dispatched { key, .. } = dispatched else { panic!("{dispatched:?}") };
        queue.apply(&dispatched).unwrap();
        let record = queue
            .report_ended(key, Exit { started_ms: Some(0), exit_status: status, ..Exit::default() })
            .unwrap();
        queue.apply(&record).unwrap();
        let Record::Ended { verdict, exit, .. } = record else { panic!("{record:?}") };
        if matches!(verdict, Verdict::Error(_)) {
            assert!(queue.next_dispatch(0).is_none(), "a task in error doesn't run");
            queue.apply(&queue.clear(1000, JobId(1), None).unwrap()).unwrap();
        }
        (verdict, exit.failed)
    };
    assert_eq!(end(99), (Verdict::Requeued, 25));
    assert!(matches!(end(100), (Verdict::Error(_), 30)));
    assert_eq!(end(7), (Verdict::Done, 0));
    assert!(queue.jobs.is_empty());
    assert_eq!(queue.finished[0].bad_ends[&TaskId(1)].exit_status, 7);
}

#[test]
fn a_run_that_found_no_mount_runs_again_but_not_for_ever() {
    let mut queue = Queue::default();
    queue.set_host("h", Host { slots: 1, up: true });
    queue.apply(&queue.submit(new_job(1, None)).unwrap()).unwrap();
    for run in 1..=UNBEGUN_RUNS_MAX {
        let dispatched = queue.next_dispatch(0).unwrap();
        let Record::Dispatched { key, .. } = dispatched else { panic!("{dispatched:?}") };
        assert_eq!(key.run, run);
        queue.apply(&dispatched).unwrap();
        queue.apply(&queue.report_started(key, 0).unwrap()).unwrap();
        let exit = Exit { failed: failed::CHDIR, reason: "away".into(), unbegun: true, ..Exit::default() };
        let record = queue.report_ended(key, exit).unwrap();
        queue.apply(&record).unwrap();
        let Record::Ended { verdict, .. } = record else { panic!("{record:?}") };
        let last = run == UNBEGUN_RUNS_MAX;
        assert_eq!(verdict, if last { Verdict::Error("away".into()) } else { Verdict::Requeued });
    }
    assert!(queue.next_dispatch(0).is_none());
    assert!(queue.jobs[&JobId(1)].errors.contains_key(&TaskId(1)), "it waits for somebody to look into it");
}

#[test]
fn a_lost_run_is_run_again_only_if_the_job_may() {
    for rerun in [false, true] {
        let mut queue = Queue::default();
        queue.set_host("h", Host { slots: 1, up: true });
        queue.apply(&queue.submit(NewJob { rerun, ..new_job(1, None) }).unwrap()).unwrap();
        let dispatched = queue.next_dispatch(0).unwrap();
        let Record::Dispatched { key, .. } = dispatched else { panic!("{dispatched:?}") };
        queue.apply(&dispatched).unwrap();
        queue.apply(&queue.report_ended(key, Exit { lost: true, ..Exit::default() }).unwrap()).unwrap();
        assert_eq!(queue.jobs.len(), usize::from(rerun));
        assert_eq!(queue.next_dispatch(0).is_some(), rerun);
    }
}
