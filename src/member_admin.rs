//! `brickyard namespace list|remove|lead|recover|adopt|free-lost`: who the members of the namespace are. A member is added by
//! starting it with `--join`. `brickyard namespace journal`: how much of its change journal it keeps.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use wire::id::BrickId;
use wire::meta::{AdoptRefusal, ClusterReply, ClusterRequest, JournalChange, MemberInfo, MemberRefusal};

use crate::admin::{self, Admin};
use crate::cli::ClusterOptions;
use crate::roles::member;
use crate::status::numbers;
use crate::times;

/// What can be asked of a running cluster's namespace.
#[derive(Debug, Clone, Subcommand)]
pub enum Order {
    /// Show all members; answered by any of them, also when most are away
    List(ClusterOptions),
    /// Take a member out for good: its directory cannot come back, an empty one may join in its place
    Remove(MemberOptions),
    /// Have another member lead
    Lead(MemberOptions),
    /// Show what the change journal holds, and change how much it keeps for `brickyard watch --since`
    Journal(JournalOptions),
    /// Make a cluster of one of the stopped member in a directory: when most members are lost for good
    ///
    /// It keeps everything this member has; what only the others had is lost. The others must never be started
    /// again: empty their directories.
    Recover(RecoverOptions),
    /// Go on without bricks that may know more than this state, which was set back: when they are lost
    ///
    /// A namespace that was restored from a backup, or recovered from a member that had missed the last changes, asks the bricks what
    /// was done since and goes on by itself when all of them have said it. This goes on with what those know that are there. What
    /// only the others know is given up: where their copies are the only ones, `brickyard status` says so afterwards.
    Adopt(AdoptOptions),
    /// Free what bricks hold of files whose names were lost when the namespace was set back
    FreeLost(ClusterOptions),
}

/// Options of `brickyard namespace adopt`.
#[derive(Debug, Clone, Args)]
pub struct AdoptOptions {
    /// Bricks that are lost, as `brickyard status` names those it waits for
    #[arg(long, value_name = "BRICK,...", value_delimiter = ',')]
    pub without: Vec<u32>,
    #[command(flatten)]
    pub cluster: ClusterOptions,
}

/// Options of `brickyard namespace recover`.
#[derive(Debug, Clone, Args)]
pub struct RecoverOptions {
    /// Directory of the member that is left
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Say that the others are lost and will not be started again
    #[arg(long, required = true)]
    pub others_are_lost: bool,
}

/// Options of `brickyard namespace journal`.
#[derive(Debug, Clone, Args)]
pub struct JournalOptions {
    /// Entries to keep [in a new cluster: 1048576]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(256..=1 << 32))]
    pub entries: Option<u64>,
    /// Keep none that are older, such as 12h [in a new cluster: 720h, 30 days]
    #[arg(long, value_name = "TIME", value_parser = times::some, allow_hyphen_values = true)]
    pub age: Option<Duration>,
    #[command(flatten)]
    pub cluster: ClusterOptions,
}

/// Options of `brickyard namespace remove` and `lead`.
#[derive(Debug, Clone, Args)]
pub struct MemberOptions {
    /// Its number or its address, as `list` shows them
    #[arg(value_name = "MEMBER")]
    pub member: String,
    #[command(flatten)]
    pub cluster: ClusterOptions,
}

/// Carries an order out.
///
/// # Errors
/// Why it was refused, or the namespace could not be asked, in one line.
pub fn run(order: Order) -> Result<ExitCode> {
    admin::runtime()?.block_on(async {
        match order {
            Order::Recover(options) => {
                let applied = member::recover(&options.dir).await?;
                println!(
                    "{} is a cluster of one now ({applied} entries of its log were applied); start it, then add members",
                    options.dir.display()
                );
            }
            Order::Journal(options) => journal(&options).await?,
            Order::Adopt(options) => adopt(&options).await?,
            Order::FreeLost(options) => {
                let admin = Admin::of(&options)?;
                done(admin.cluster(ClusterRequest::FreeLost).await?)?;
                println!(
                    "what bricks hold of files whose names were lost is freed in the next minutes; `brickyard check` calls it leaked until then"
                );
            }
            Order::List(options) => list(&options).await?,
            Order::Remove(options) => {
                let (admin, id) = find(&options).await?;
                done(admin.cluster(ClusterRequest::RemoveMember { id }).await?)?;
                println!("member {id:016x} is removed");
            }
            Order::Lead(options) => {
                let (admin, id) = find(&options).await?;
                done(admin.cluster(ClusterRequest::Lead { id }).await?)?;
                println!("member {id:016x} leads");
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn adopt(options: &AdoptOptions) -> Result<()> {
    let admin = Admin::of(&options.cluster)?;
    let without = options.without.iter().copied().map(BrickId).collect();
    match admin.cluster(ClusterRequest::Adopt { without }).await? {
        ClusterReply::Adopted(epoch) => {
            println!("goes on with what bricks knew by map {epoch}; see `brickyard status`");
            Ok(())
        }
        ClusterReply::AdoptRefused(AdoptRefusal::NotBehind) => {
            bail!(
                "there is nothing to adopt: no brick that was heard has seen more than the namespace's state knows"
            )
        }
        ClusterReply::AdoptRefused(AdoptRefusal::WaitsFor(bricks)) => {
            let bricks = numbers(&bricks);
            bail!(
                "not without bricks {bricks}, which may know what the namespace's state does not: start them, and it goes on by itself; \
                 if they are lost, give up what only they know with --without {bricks}"
            )
        }
        other => bail!("the namespace answered something else than was asked: {other:?}"),
    }
}

async fn members(admin: &Admin) -> Result<Vec<MemberInfo>> {
    match admin.cluster(ClusterRequest::Members).await? {
        ClusterReply::Members(members) => Ok(members),
        other => bail!("the namespace answered something else than its members: {other:?}"),
    }
}

async fn find(options: &MemberOptions) -> Result<(Admin, u64)> {
    let admin = Admin::of(&options.cluster)?;
    let wanted = options.member.as_str();
    for member in members(&admin).await? {
        let address = member.endpoint.address().map(|address| address.to_string());
        if format!("{:016x}", member.id) == wanted || address.as_deref() == Some(wanted) {
            return Ok((admin, member.id));
        }
    }
    bail!("there is no member {wanted}; see `brickyard namespace list`")
}

fn done(reply: ClusterReply) -> Result<()> {
    match reply {
        ClusterReply::Done => Ok(()),
        ClusterReply::MemberRefused(refusal) => bail!("{}", why(&refusal)),
        other => bail!("the namespace answered something else than was asked: {other:?}"),
    }
}

/// A refusal, for people.
pub fn why(refusal: &MemberRefusal) -> String {
    match refusal {
        MemberRefusal::Unknown => "no member that votes has this number".to_owned(),
        MemberRefusal::Leads => {
            "it leads: have another one lead first, with `brickyard namespace lead MEMBER`".to_owned()
        }
        MemberRefusal::Contradicts(known) => format!(
            "member {:016x} is at {} already: remove it first, with `brickyard namespace remove {0:016x}`",
            known.id, known.endpoint
        ),
        MemberRefusal::Alone => {
            "this namespace is that of `brickyard up`: it runs alone and takes no members".to_owned()
        }
        MemberRefusal::TimedOut => {
            "other members did not answer in time, or it is not up to date yet: try again".to_owned()
        }
    }
}

async fn journal(options: &JournalOptions) -> Result<()> {
    let change =
        JournalChange { most_entries: options.entries, most_age_s: options.age.map(|age| age.as_secs()) };
    let admin = Admin::of(&options.cluster)?;
    let ClusterReply::Journal(journal) = admin.cluster(ClusterRequest::Journal(change)).await? else {
        bail!("the namespace answered something else than its journal");
    };
    let kept = journal.next.0.saturating_sub(journal.first.0);
    if options.cluster.json {
        let value = json!({
            "oldest": journal.first.0,
            "newest": journal.newest().0,
            "kept": kept,
            "most_entries": journal.most_entries,
            "most_age_s": journal.most_age_s,
        });
        println!("{value:#}");
        return Ok(());
    }
    println!(
        "{kept} entries are kept, up to index {}; at most {} entries, none older than {} s",
        journal.newest(),
        journal.most_entries,
        journal.most_age_s
    );
    Ok(())
}

async fn list(options: &ClusterOptions) -> Result<()> {
    let members = members(&Admin::of(options)?).await?;
    if options.json {
        let members: Vec<_> = members
            .iter()
            .map(|member| {
                json!({
                    "member": format!("{:016x}", member.id),
                    "endpoint": member.endpoint.to_string(),
                    "votes": member.votes,
                    "leads": member.leads,
                    "has": member.has,
                })
            })
            .collect();
        println!("{}", json!({ "members": members }));
        return Ok(());
    }
    println!("{:<18}{:<28}{:<12}LOG", "MEMBER", "ADDRESS", "STATE");
    for member in &members {
        let state = match (member.leads, member.votes) {
            (true, _) => "leads",
            (false, true) => "follows",
            (false, false) => "is filled",
        };
        let has = member.has.map_or_else(|| "-".to_owned(), |has| has.to_string());
        println!("{:<18}{:<28}{state:<12}{has}", format!("{:016x}", member.id), member.endpoint.to_string());
    }
    if !members.iter().any(|member| member.leads) {
        println!("no member leads: most of them cannot be reached, and nothing can be read or changed");
    }
    Ok(())
}
