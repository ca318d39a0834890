//! The cluster's authority and the certificates of the roles that run in this process.

use anyhow::{Context, Result};
use wire::id::{ClusterId, NodeId};
use wire::net::pki::random_id;
use wire::net::{Authority, Credential, MemoryHub, Net, NetConfig, Role};

use super::home::Home;

/// The authority, made at the first start.
pub struct Credentials {
    authority: Authority,
}

impl Credentials {
    /// Loads the authority or makes it, and the administrator's credential with it.
    ///
    /// # Errors
    /// If it is another cluster's, damaged, or cannot be written.
    pub fn open(home: &Home, cluster: ClusterId) -> Result<Self> {
        let path = home.join("ca.pem");
        let authority = if path.exists() {
            Authority::load(&path)?
        } else {
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
        let admin = home.join("admin.cred");
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
