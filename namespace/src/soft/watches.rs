//! Who waits for changes of which directory.
//!
//! 1. Whoever begins to wait and looks then hears of every change after its look (`a_change_wakes_who_waits_for_it`).
//! 2. There are no more than so many; those beyond look by themselves (`there_is_room_for_so_many`).

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Notify;
use wire::id::Ino;

/// See the module's head.
#[derive(Debug)]
pub struct Watches {
    most: usize,
    count: usize,
    next: u64,
    waiting: HashMap<Ino, Vec<(u64, Arc<Notify>)>>,
}

impl Watches {
    /// Room for so many.
    pub fn new(most: usize) -> Self {
        Self { most, count: 0, next: 0, waiting: HashMap::new() }
    }

    /// Somebody begins to wait: its number, and what tells it that something has changed. `None`: there is no room.
    pub fn begin(&mut self, dir: Ino) -> Option<(u64, Arc<Notify>)> {
        if self.count == self.most {
            return None;
        }
        self.count += 1;
        self.next += 1;
        let changed = Arc::new(Notify::new());
        self.waiting.entry(dir).or_default().push((self.next, changed.clone()));
        Some((self.next, changed))
    }

    /// It waits no more.
    pub fn end(&mut self, dir: Ino, number: u64) {
        let Some(of_dir) = self.waiting.get_mut(&dir) else { return };
        let before = of_dir.len();
        of_dir.retain(|(other, _)| *other != number);
        self.count -= before - of_dir.len();
        if of_dir.is_empty() {
            self.waiting.remove(&dir);
        }
    }

    /// Something changed in directories.
    pub fn changed(&self, dirs: &[Ino]) {
        if self.waiting.is_empty() {
            return;
        }
        for (_, changed) in dirs.iter().filter_map(|dir| self.waiting.get(dir)).flatten() {
            // One permit is kept for who is about to wait.
            changed.notify_one();
        }
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_woken(changed: &Notify) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        pin!(changed.notified()).as_mut().poll(&mut context).is_ready()
    }

    /// Those of the directory are woken, once for whatever happened, also if it came before they waited.
    #[test]
    fn a_change_wakes_who_waits_for_it() {
        let mut watches = Watches::new(9);
        let (first, a) = watches.begin(Ino(1)).unwrap();
        let (_, b) = watches.begin(Ino(1)).unwrap();
        let (_, c) = watches.begin(Ino(2)).unwrap();
        watches.changed(&[Ino(1), Ino(3), Ino(1)]);
        assert_eq!([&a, &b, &c].map(|one| is_woken(one)), [true, true, false]);
        assert!(!is_woken(&a));
        watches.end(Ino(1), first);
        watches.changed(&[Ino(1), Ino(2)]);
        assert_eq!([&a, &b, &c].map(|one| is_woken(one)), [false, true, true]);
    }

    /// One too many is told so; room that was given back is there again, once.
    #[test]
    fn there_is_room_for_so_many() {
        let mut watches = Watches::new(2);
        let (first, _) = watches.begin(Ino(1)).unwrap();
        let (second, _) = watches.begin(Ino(2)).unwrap();
        assert!(watches.begin(Ino(1)).is_none());
        watches.end(Ino(1), first);
        watches.end(Ino(1), first);
        assert_eq!(watches.count(), 1);
        assert!(watches.begin(Ino(2)).is_some() && watches.begin(Ino(2)).is_none());
        watches.end(Ino(2), second);
        assert_eq!(watches.count(), 1);
    }
}
