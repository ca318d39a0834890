//! Names of files on the bricks that have their chunks.

use std::time::Duration;

use brick_server::Config;

use crate::support::{Cluster, key, until};

/// Lines of a brick's hints that count, without their checksums.
fn hints(cluster: &Cluster, brick: u32) -> Vec<String> {
    let text = std::fs::read_to_string(cluster.dir_of(brick).join("hints")).unwrap();
    text.lines().filter(|line| !line.is_empty()).map(|line| line[9..].to_owned()).collect()
}

/// Names of new files are noted, those of renamed ones when all are noted anew, and nothing is asked for files that
/// are gone or known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bricks_learn_the_names_of_their_files() {
    let mut cluster = Cluster::pair().await;
    let patient = |config: Config| Config {
        names_pause: Duration::from_millis(20),
        names_period: Duration::from_secs(3600),
        ..config
    };
    cluster.down(0).await;
    cluster.up_with(0, patient(cluster.config(0))).await;
    for (ino, index) in [(2, 0), (3, 0), (4, 0), (4, 1), (6, 5)] {
        cluster.write(key(ino, index), 0, b"bytes").await;
    }
    let wanted = ["2 /old/2", "4 /old/4", "6 /old/6"];
    until("the names are noted", || async { hints(&cluster, 0).iter().any(|line| line == wanted[2]) }).await;
    assert_eq!(
        hints(&cluster, 0).into_iter().collect::<std::collections::BTreeSet<_>>(),
        wanted.map(str::to_owned).into()
    );
    // What is known is not asked for again.
    let asked = cluster.namespace.asked_for_paths();
    cluster.write(key(4, 0), 3, b"more").await;
    cluster.write(key(8, 0), 0, b"bytes").await;
    until("the next name is noted", || async { hints(&cluster, 0).iter().any(|line| line == "8 /old/8") })
        .await;
    assert_eq!(cluster.namespace.asked_for_paths(), asked + 1);
    // A life in which rounds come quickly: names that are new, and only those.
    cluster.namespace.rename_directory("new");
    cluster.down(0).await;
    let hasty = Config { names_period: Duration::from_millis(100), ..patient(cluster.config(0)) };
    cluster.up_with(0, hasty).await;
    let renamed = ["2 /new/2", "4 /new/4", "6 /new/6", "8 /new/8"];
    until("all names are new", || async { hints(&cluster, 0) == renamed }).await;
}

/// A namespace that does not answer for a moment costs no name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_answered_is_asked_again() {
    let mut cluster = Cluster::pair().await;
    cluster.down(0).await;
    let patient = Config {
        names_pause: Duration::from_millis(20),
        names_period: Duration::from_secs(3600),
        ..cluster.config(0)
    };
    cluster.up_with(0, patient).await;
    cluster.write(key(2, 0), 0, b"bytes").await;
    until("the name is noted", || async { hints(&cluster, 0) == ["2 /old/2"] }).await;
    cluster.namespace.be_silent(true);
    let asked = cluster.namespace.asked_for_paths();
    cluster.write(key(4, 0), 0, b"bytes").await;
    until("it was asked in vain", || async { cluster.namespace.asked_for_paths() > asked }).await;
    cluster.namespace.be_silent(false);
    until("the name is noted after all", || async { hints(&cluster, 0) == ["2 /old/2", "4 /old/4"] }).await;
}
