//! End-to-end tests: a real cluster, a real mount, faults
