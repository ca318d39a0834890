//! A store in memory, for histories by the thousand.

use std::collections::BTreeMap;
use std::sync::Mutex;

use namespace::Error;
use namespace::store::{Read, Visit, Write};

#[derive(Default)]
pub struct MemStore(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl MemStore {
    pub fn dump(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.0.lock().unwrap().clone()
    }

    pub fn spoil(&self, key: &[u8], value: Option<Vec<u8>>) {
        match value {
            Some(value) => self.0.lock().unwrap().insert(key.to_vec(), value),
            None => self.0.lock().unwrap().remove(key),
        };
    }
}

impl Read for MemStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.lock().unwrap().get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        // Visitors read on, so nothing is locked while they do.
        let pairs: Vec<_> = {
            let map = self.0.lock().unwrap();
            map.range(from.to_vec()..to.to_vec()).map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        for (key, value) in pairs {
            if visit(&key, &value)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Write for MemStore {
    fn write(&self, changes: &BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Result<(), Error> {
        let mut map = self.0.lock().unwrap();
        for (key, value) in changes {
            match value {
                Some(value) => map.insert(key.clone(), value.clone()),
                None => map.remove(key),
            };
        }
        Ok(())
    }
}
