//! The administrators' page is true: its commands are run as they stand there.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use brickyard_tests::cluster::Workshop;
use brickyard_tests::machine::Machine;
use brickyard_tests::netns::World;
use brickyard_tests::{seed, status, wait};

const LIMIT: Duration = Duration::from_secs(90);

/// Something to do, from the page.
#[derive(Debug, PartialEq)]
enum Step {
    /// A line of a fenced block: on which machine, what.
    Run(String, String),
    /// The reader copies a file to other machines.
    Copy(String, Vec<String>),
    /// The reader puts an empty disk there.
    Empty(String, String),
    /// What the page promises has come true.
    Healthy,
}

/// The steps of the section on several machines.
fn steps(page: &str) -> Result<Vec<Step>> {
    let section = page.split("\n## ").find(|part| part.starts_with("Running a cluster on several machines"));
    let section = section.context("the section is not on the page")?;
    let mut steps = Vec::new();
    let mut block: Option<String> = None;
    for line in section.lines() {
        if let Some(machine) = line.strip_prefix("```sh ") {
            block = Some(machine.to_owned());
        } else if line.starts_with("```") {
            block = None;
        } else if let Some(machine) = &block {
            steps.push(Step::Run(machine.clone(), line.to_owned()));
        } else if let Some(comment) = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->")) {
            let words: Vec<String> = comment.split(' ').map(str::to_owned).collect();
            steps.push(match words.as_slice() {
                [verb, file, to @ ..] if verb == "copy" => Step::Copy(file.clone(), to.to_vec()),
                [verb, machine, dir] if verb == "empty" => Step::Empty(machine.clone(), dir.clone()),
                [verb] if verb == "healthy" => Step::Healthy,
                _ => bail!("a remark that is not understood: {line}"),
            });
        }
    }
    Ok(steps)
}

/// Set-up in six commands, adding a server, replacing a disk: done on five machines, with a file that must
/// survive all of it.
#[test]
fn the_admin_page_is_true() -> Result<()> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/admin.md");
    let steps = steps(&std::fs::read_to_string(&page)?)?;
    ensure!(steps.iter().filter(|step| matches!(step, Step::Run(..))).count() >= 15, "{steps:?}");
    let workshop = Workshop::new()?;
    let mut world = World::new()?;
    let mut machines = BTreeMap::new();
    // In the order of the addresses on the page.
    for name in ["master1", "disk1", "disk2", "disk3", "disk4", "node1"] {
        let dir = workshop.dir(name)?;
        let mut machine = Machine::new(name, &world.host()?, &dir)?;
        if name.starts_with("disk") {
            machine.shell("mkdir /srv/brickyard/disk1")?;
        }
        machines.insert(name.to_owned(), machine);
    }
    let content = workshop.path().join("content");
    std::fs::write(&content, seed::bytes(41, 0, 40_000_000))?;
    let mut stored = false;
    for step in steps {
        let machine = |name: &str| machines.get(name).with_context(|| format!("no machine {name}"));
        match step {
            Step::Run(name, line) => {
                let machine = machines.get_mut(&name).with_context(|| format!("no machine {name}"))?;
                let said = machine.shell(&line)?;
                if line.contains(" status ") {
                    ensure!(said.contains("healthy"), "status says:\n{said}");
                }
                if line.contains("mount -t brickyard") {
                    machine.shell(&format!(
                        "cp {} /mnt/brickyard/file && sync /mnt/brickyard/file",
                        content.display()
                    ))?;
                    stored = true;
                }
            }
            Step::Copy(file, to) => {
                let from = machine("master1")?.file(&file)?;
                for name in to {
                    std::fs::copy(&from, machine(&name)?.file(&file)?)?;
                }
            }
            Step::Empty(name, dir) => {
                let dir = machine(&name)?.file(&dir)?;
                std::fs::remove_dir_all(&dir)?;
                std::fs::create_dir(&dir)?;
            }
            Step::Healthy => wait::until_true("the cluster is healthy", LIMIT, || {
                let line = "--cred /srv/brickyard/namespace/admin.cred --json";
                let done = machine("master1")?.run("brickyard").arg("status").args(line.split(' ')).ok()?;
                let status = serde_json::from_slice(&done.stdout)?;
                status::all_whole(&status)
            })?,
        }
        if stored {
            let compare = format!("cmp {} /mnt/brickyard/file", content.display());
            machines.get_mut("node1").context("no client")?.shell(&compare)?;
        }
    }
    let master = machines.get_mut("master1").context("no master")?;
    master.shell("brickyard check --data-too --cred /srv/brickyard/namespace/admin.cred")?;
    machines.get_mut("node1").context("no client")?.shell("umount /mnt/brickyard")?;
    for name in ["node1", "disk1", "disk2", "disk3", "disk4", "master1"] {
        machines.get_mut(name).context("no machine")?.stop()?;
    }
    Ok(())
}
