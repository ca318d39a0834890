//! The cluster's authority and the certificates of the roles that run in this process.

use anyhow::{Context, Result};
use wire::id::{ClusterId, NodeId};
use wire::net::pki::random_id;
use wire::net::{Authority, Credential, MemoryHub, Net, NetConfig, Role};

use super::home::{Home, State};
use crate::roles::place;

/// The authority, made at the first start.
pub struct Credentials {
    authority: Authority,
}

impl Credentials {
    /// Loads the authority or makes it, and the administrator's credential with it.
    ///
    /// # Errors
    /// If it is another cluster's, damaged, lost, or cannot be written.
    pub fn open(home: &Home, cluster: ClusterId) -> Result<Self> {
        let (path, admin) = (home.join("ca.pem"), home.join("admin.cred"));
        let authority = if path.exists() {
            let mend = format!(
                "put its backup back and start again (without one, remove it and {}: both are then made anew, and every \
                 credential given out before is void)",
                admin.display()
            );
            place::loaded(Authority::load(&path), &mend)?
        } else {
            if home.identity.state == State::Ready {
                // Whoever has a credential of the lost one would be shut out without a word.
                anyhow::ensure!(
                    !admin.exists(),
                    "{} is missing: it is the cluster's authority, and every credential comes from it; put its \
                     backup back and start again (without one, remove {} too: both are then made anew, and every \
                     credential given out before is void)",
                    path.display(),
                    admin.display()
                );
                tracing::warn!(
                    authority = %path.display(),
                    "the cluster's authority and the administrator's credential are gone: both are made anew, and \
                     credentials given out before are void"
                );
            }
            let made = Authority::create(cluster)?;
            made.save(&path)?;
            made
        };
        anyhow::ensure!(
            authority.cluster() == cluster,
            "{} is the authority of cluster {}, not of {cluster}: put the right file back",
            path.display(),
            authority.cluster()
        );
        if !admin.exists() {
            authority.issue(Role::Admin, NodeId(random_id()?))?.save(&admin)?;
        }
        Ok(Self { authority })
    }

    /// A net for one role of this process: a certificate for as long as the process lives.
    ///
    /// # Errors
    /// If the certificate cannot be made.
    pub fn net(&self, role: Role, node: NodeId) -> Result<Net> {
        let credential: Credential = self.authority.issue(role, node)?;
        Net::new(&credential, MemoryHub::new(), NetConfig::default())
            .with_context(|| format!("cannot set up the network for role {role}"))
    }
}
