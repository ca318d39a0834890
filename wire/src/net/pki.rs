//! The cluster's own certificate authority and the credentials it issues.
//!
//! A certificate names its holder in DNS names, because that is what TLS libraries carry
//! everywhere: `NODE.ROLE.CLUSTER.brickyard` says who it is, and `CLUSTER.brickyard` is what
//! callers verify, so that a certificate of another cluster fails in TLS already.
//!
//! A credential file is text: a first line with its format version, a line a fact, then the
//! certificate, its private key and the authority's certificate as PEM blocks.
//!
//! 1. A credential file is whole or absent, and readable by its owner only
//!    (`a_saved_credential_is_private_and_loads_again`).
//! 2. A file of another format version is refused by number
//!    (`files_of_another_version_are_refused`).

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SignatureAlgorithm,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::handshake::{Identity, Role};
use crate::id::{ClusterId, NodeId};
use crate::join::{Fingerprint, PublicKey};
use crate::net::endpoint::Endpoint;

const CREDENTIAL_HEADER: &str = "brickyard credential 1";
const AUTHORITY_HEADER: &str = "brickyard authority 1";
/// A credential file is about 2 KiB; anything far larger is something else.
const MAX_FILE_BYTES: u64 = 64 << 10;

const DAY: Duration = Duration::from_secs(86_400);
/// How far before its making a certificate is valid, for clocks that are behind.
const CLOCK_SKEW: Duration = DAY;
/// How long the authority and the credentials it issues are valid unless told otherwise.
const AUTHORITY_LIFE: Duration = Duration::from_secs(86_400 * 365 * 30);
const CREDENTIAL_LIFE: Duration = Duration::from_secs(86_400 * 365 * 10);

/// A credential or an authority can't be made, read or written. The message has the cause in it, so that there is none
/// behind it to be told again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CredentialError {
    /// The file system said no.
    #[error("can't {doing} {}: {why}", path.display())]
    Io {
        /// `read` or `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What it said.
        why: Arc<io::Error>,
    },
    /// The text is no credential or authority.
    #[error("not a Brickyard {what}: {detail}")]
    Malformed {
        /// `credential`, `authority` or `certificate`.
        what: &'static str,
        /// What is missing or wrong.
        detail: String,
    },
    /// What a file holds can't be used.
    #[error("{}: {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: Box<CredentialError>,
    },
    /// The file was written by another version of the program.
    #[error("the {what} is in format {found:?}, and this program reads {ours:?}")]
    OtherFormat {
        /// `credential` or `authority`.
        what: &'static str,
        /// Its first line.
        found: String,
        /// The first line this program writes.
        ours: &'static str,
    },
    /// The cryptographic library refused.
    #[error("can't make or use a certificate: {0}")]
    Crypto(String),
}

impl CredentialError {
    /// The same, of what a file holds.
    fn in_file(self, path: &Path) -> CredentialError {
        CredentialError::Content { path: path.to_owned(), why: Box::new(self) }
    }
}

fn crypto(error: impl fmt::Display) -> CredentialError {
    CredentialError::Crypto(error.to_string())
}

fn malformed(what: &'static str, detail: impl Into<String>) -> CredentialError {
    CredentialError::Malformed { what, detail: detail.into() }
}

/// Sixteen random bytes, fit for an id that must never be drawn twice.
pub fn random_id() -> Result<[u8; 16], CredentialError> {
    let mut bytes = [0; 16];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| CredentialError::Crypto("no randomness from the system".to_owned()))?;
    Ok(bytes)
}

/// The DNS name every certificate of a cluster carries.
pub(crate) fn cluster_name(cluster: ClusterId) -> String {
    format!("{cluster}.brickyard")
}

fn holder_name(identity: &Identity) -> String {
    let Identity { cluster, node, role } = identity;
    format!("{node}.{role}.{}", cluster_name(*cluster))
}

/// Reads who holds a certificate; does not check who signed it.
pub(crate) fn identity_of(certificate: &CertificateDer<'_>) -> Result<Identity, CredentialError> {
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(crypto)?;
    parsed
        .valid_dns_names()
        .find_map(|name| {
            let mut labels = name.split('.');
            let identity = Identity {
                node: labels.next()?.parse().ok()?,
                role: labels.next()?.parse().ok()?,
                cluster: labels.next()?.parse().ok()?,
            };
            (labels.next() == Some("brickyard") && labels.next().is_none()).then_some(identity)
        })
        .ok_or_else(|| malformed("certificate", "no name of the form NODE.ROLE.CLUSTER.brickyard"))
}

fn authority_params(cluster: ClusterId) -> CertificateParams {
    // Everything the authority's issuing depends on follows from the cluster id, so that an
    // authority read from a file signs exactly as the one that was made.
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Brickyard cluster {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn set_validity(params: &mut CertificateParams, from: SystemTime, until: SystemTime) {
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + seconds(from);
    params.not_after = epoch + seconds(until);
}

/// The key that makes a cluster: whoever has it can issue any credential.
pub struct Authority {
    cluster: ClusterId,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key: KeyPair,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes the authority of a new cluster.
    pub fn create(cluster: ClusterId) -> Result<Authority, CredentialError> {
        let key = KeyPair::generate().map_err(crypto)?;
        let mut params = authority_params(cluster);
        let now = SystemTime::now();
        set_validity(&mut params, now - CLOCK_SKEW, now + AUTHORITY_LIFE);
        let certificate = params.self_signed(&key).map_err(crypto)?;
        Ok(Authority { cluster, certificate_pem: certificate.pem(), certificate: certificate.into(), key })
    }

    /// The cluster it stands for.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Issues a credential for ten years.
    pub fn issue(&self, role: Role, node: NodeId) -> Result<Credential, CredentialError> {
        let now = SystemTime::now();
        self.issue_between(role, node, now - CLOCK_SKEW, now + CREDENTIAL_LIFE)
    }

    /// Issues a credential that is valid from one time until another, in whole seconds.
    pub fn issue_between(
        &self,
        role: Role,
        node: NodeId,
        from: SystemTime,
        until: SystemTime,
    ) -> Result<Credential, CredentialError> {
        let key = KeyPair::generate().map_err(crypto)?;
        let certificate = self.sign(&key, role, node, from, until)?;
        Credential::from_parts(&certificate, &key.serialize_pem(), &self.certificate_pem)
    }

    /// Certifies a key that somebody else holds, for ten years; the certificate in text form.
    ///
    /// That the holder has the private half is proven by every handshake made with the
    /// certificate, so it isn't asked for here.
    pub fn certify(&self, role: Role, key: &PublicKey) -> Result<String, CredentialError> {
        if !key.is_well_formed() {
            return Err(malformed("certificate", "this is not a public key of the kind that is certified"));
        }
        let now = SystemTime::now();
        self.sign(&Foreign(key), role, key.node(), now - CLOCK_SKEW, now + CREDENTIAL_LIFE)
    }

    /// The authority's own certificate, in text form.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        role: Role,
        node: NodeId,
        from: SystemTime,
        until: SystemTime,
    ) -> Result<String, CredentialError> {
        let identity = Identity { cluster: self.cluster, node, role };
        let mut params = CertificateParams::new(vec![holder_name(&identity), cluster_name(self.cluster)])
            .map_err(crypto)?;
        set_validity(&mut params, from, until);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("Brickyard {role} {node}"));
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Every holder calls, and most also serve; what a role may do is not decided by TLS.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let issuer = Issuer::new(authority_params(self.cluster), &self.key);
        Ok(params.signed_by(key, &issuer).map_err(crypto)?.pem())
    }

    /// The text form, which holds the private key.
    pub fn to_pem(&self) -> String {
        format!(
            "{AUTHORITY_HEADER}\ncluster {}\n{}{}",
            self.cluster,
            self.certificate_pem,
            self.key.serialize_pem(),
        )
    }

    /// Reads the text form.
    pub fn from_pem(text: &str) -> Result<Authority, CredentialError> {
        let what = "authority";
        check_header(text, what, AUTHORITY_HEADER)?;
        let cluster: ClusterId = fact(text, what, "cluster")?
            .parse()
            .map_err(|error: crate::id::ParseIdError| malformed(what, error.to_string()))?;
        let certificate_pem = pem_block(text, what, "CERTIFICATE", 0)?;
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|error| malformed(what, format!("bad certificate: {error}")))?;
        let key = KeyPair::from_pem(&pem_block(text, what, "PRIVATE KEY", 0)?)
            .map_err(|error| malformed(what, format!("bad private key: {error}")))?;
        let authority = Authority { cluster, certificate, certificate_pem, key };
        // A key that is not the certificate's would issue credentials nobody accepts.
        authority.issue(Role::Admin, NodeId([0; 16])).and_then(|probe| {
            super::crypto::check_signed(&probe, &authority.certificate)
                .map_err(|error| malformed(what, error))
        })?;
        Ok(authority)
    }

    /// Reads it from a file.
    pub fn load(path: &Path) -> Result<Authority, CredentialError> {
        Authority::from_pem(&read_text(path)?).map_err(|error| error.in_file(path))
    }

    /// Writes it to a file, whole or not at all, readable by its owner only.
    pub fn save(&self, path: &Path) -> Result<(), CredentialError> {
        write_private(path, &self.to_pem())
    }
}

/// Somebody else's key, of which the public half is known.
struct Foreign<'a>(&'a PublicKey);

impl PublicKeyData for Foreign<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.0.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// The key a joiner has made for itself. Kept in a file until the certificate is there, so that
/// asking again after a lost answer is the same request.
pub struct JoinKey(KeyPair);

impl JoinKey {
    /// Reads the key from a file, or makes one and writes it there, for its owner only.
    pub fn load_or_create(path: &Path) -> Result<JoinKey, CredentialError> {
        match read_text(path) {
            Ok(text) => Ok(JoinKey(
                KeyPair::from_pem(&text).map_err(|error| malformed("private key", error.to_string()))?,
            )),
            Err(CredentialError::Io { why, .. }) if why.kind() == io::ErrorKind::NotFound => {
                let key = JoinKey::create()?;
                write_private(path, &key.0.serialize_pem())?;
                Ok(key)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a key.
    pub fn create() -> Result<JoinKey, CredentialError> {
        Ok(JoinKey(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(crypto)?))
    }

    /// What may be told.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key_raw().to_vec())
    }

    /// The credential that the key and an answer to joining make.
    pub(crate) fn credential(
        &self,
        certificate: &str,
        authority: &str,
        trusted: Fingerprint,
    ) -> Result<Credential, CredentialError> {
        let credential = Credential::from_parts(certificate, &self.0.serialize_pem(), authority)?;
        if credential.fingerprint() != trusted {
            return Err(malformed("credential", "it is of another authority than the join token's"));
        }
        super::crypto::check_signed(&credential, &credential.authority)
            .map_err(|error| malformed("credential", error))?;
        Ok(credential)
    }
}

/// What a program needs to take part: its certificate and key, and the authority's certificate.
/// It may say where the namespace answers, so that a file of it is all that an administrator needs.
pub struct Credential {
    identity: Identity,
    namespaces: Vec<Endpoint>,
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    text: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Clone for Credential {
    fn clone(&self) -> Self {
        Credential {
            identity: self.identity,
            namespaces: self.namespaces.clone(),
            certificate: self.certificate.clone(),
            authority: self.authority.clone(),
            key: self.key.clone_key(),
            text: self.text.clone(),
        }
    }
}

impl Credential {
    fn from_parts(certificate: &str, key: &str, authority: &str) -> Result<Credential, CredentialError> {
        let what = "credential";
        let read = |text: &str| {
            CertificateDer::from_pem_slice(text.as_bytes())
                .map_err(|error| malformed(what, format!("bad certificate: {error}")))
        };
        let certificate_der = read(certificate)?;
        let identity = identity_of(&certificate_der)?;
        let Identity { cluster, node, role } = identity;
        Ok(Credential {
            identity,
            namespaces: Vec::new(),
            certificate: certificate_der,
            authority: read(authority)?,
            key: PrivateKeyDer::from_pem_slice(key.as_bytes())
                .map_err(|error| malformed(what, format!("bad private key: {error}")))?,
            text: format!(
                "{CREDENTIAL_HEADER}\ncluster {cluster}\nnode {node}\nrole {role}\n\
                 {certificate}{key}{authority}"
            ),
        })
    }

    /// Whom it names.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Where the namespace answered when the credential was written; empty if it does not say.
    pub fn namespaces(&self) -> &[Endpoint] {
        &self.namespaces
    }

    /// The same, saying where the namespace answers.
    pub fn with_namespaces(mut self, namespaces: Vec<Endpoint>) -> Credential {
        let (head, blocks) = match self.text.find("-----") {
            Some(at) => self.text.split_at(at),
            None => (self.text.as_str(), ""),
        };
        let mut text: String = head
            .lines()
            .filter(|line| !line.starts_with("namespaces "))
            .flat_map(|line| [line, "\n"])
            .collect();
        if !namespaces.is_empty() {
            let list: Vec<String> = namespaces.iter().map(Endpoint::to_string).collect();
            text.push_str(&format!("namespaces {}\n", list.join(",")));
        }
        text.push_str(blocks);
        self.text = text;
        self.namespaces = namespaces;
        self
    }

    /// Of its authority.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.authority)
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(crate) fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    pub(crate) fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }

    /// The text form, which holds the private key.
    pub fn to_pem(&self) -> &str {
        &self.text
    }

    /// Reads the text form.
    pub fn from_pem(text: &str) -> Result<Credential, CredentialError> {
        let what = "credential";
        check_header(text, what, CREDENTIAL_HEADER)?;
        let credential = Credential::from_parts(
            &pem_block(text, what, "CERTIFICATE", 0)?,
            &pem_block(text, what, "PRIVATE KEY", 0)?,
            &pem_block(text, what, "CERTIFICATE", 1)?,
        )?;
        super::crypto::check_signed(&credential, &credential.authority)
            .map_err(|error| malformed(what, error))?;
        // The facts above the blocks are for people; they must not lie.
        let Identity { cluster, node, role } = credential.identity;
        for (name, value) in
            [("cluster", cluster.to_string()), ("node", node.to_string()), ("role", role.to_string())]
        {
            if fact(text, what, name)? != value {
                return Err(malformed(what, format!("its certificate is for {name} {value}")));
            }
        }
        let Ok(list) = fact(text, what, "namespaces") else { return Ok(credential) };
        let namespaces = list
            .split(',')
            .map(str::parse)
            .collect::<Result<Vec<Endpoint>, _>>()
            .map_err(|error: crate::id::ParseIdError| malformed(what, error.to_string()))?;
        Ok(credential.with_namespaces(namespaces))
    }

    /// Reads it from a file.
    pub fn load(path: &Path) -> Result<Credential, CredentialError> {
        Credential::from_pem(&read_text(path)?).map_err(|error| error.in_file(path))
    }

    /// Writes it to a file, whole or not at all, readable by its owner only.
    pub fn save(&self, path: &Path) -> Result<(), CredentialError> {
        write_private(path, &self.text)
    }
}

fn check_header(text: &str, what: &'static str, ours: &'static str) -> Result<(), CredentialError> {
    let found = text.lines().next().unwrap_or_default().trim_end();
    if found == ours {
        return Ok(());
    }
    // All but the version is as it should be: say so instead of calling it garbage.
    let name = ours.trim_end_matches(|c: char| c.is_ascii_digit());
    if found.strip_prefix(name).is_some_and(|rest| rest.parse::<u32>().is_ok()) {
        return Err(CredentialError::OtherFormat { what, found: found.to_owned(), ours });
    }
    Err(malformed(what, format!("the first line is not {ours:?}")))
}

fn fact<'a>(text: &'a str, what: &'static str, name: &str) -> Result<&'a str, CredentialError> {
    text.lines()
        .take_while(|line| !line.starts_with("-----"))
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .map(str::trim)
        .ok_or_else(|| malformed(what, format!("no line with its {name}")))
}

/// The `index`-th PEM block of that label, as text.
fn pem_block(text: &str, what: &'static str, label: &str, index: usize) -> Result<String, CredentialError> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let block = text.match_indices(&begin).nth(index).and_then(|(start, _)| {
        let rest = &text[start..];
        let stop = rest.find(&end)? + end.len();
        Some(format!("{}\n", &rest[..stop]))
    });
    block.ok_or_else(|| malformed(what, format!("no {} block", label.to_lowercase())))
}

fn io_error(doing: &'static str, path: &Path, why: io::Error) -> CredentialError {
    CredentialError::Io { doing, path: path.to_owned(), why: Arc::new(why) }
}

fn read_text(path: &Path) -> Result<String, CredentialError> {
    let failed = |source| io_error("read", path, source);
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > MAX_FILE_BYTES {
        return Err(malformed("credential", format!("{} is {length} bytes long", path.display())));
    }
    fs::read_to_string(path).map_err(failed)
}

/// Writes beside, syncs, renames over, syncs the directory: whole or not at all.
fn write_private(path: &Path, text: &str) -> Result<(), CredentialError> {
    let attempt = || -> io::Result<()> {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".new.{}", std::process::id()));
        let beside = PathBuf::from(beside);
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        let written = file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&beside, path));
        if let Err(error) = written {
            // The first error is the one to tell; a leftover is harmless and owner-only.
            let _ = fs::remove_file(&beside);
            return Err(error);
        }
        fs::File::open(parent)?.sync_all()
    };
    attempt().map_err(|source| io_error("write", path, source))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn cluster() -> ClusterId {
        ClusterId([7; 16])
    }

    /// What is issued names its holder, also by an authority that was written and read.
    #[test]
    fn an_authority_issues_the_same_after_a_round_trip() {
        let authority = Authority::create(cluster()).unwrap();
        let again = Authority::from_pem(&authority.to_pem()).unwrap();
        for role in Role::ALL {
            let credential = again.issue(role, NodeId([3; 16])).unwrap();
            let identity = Identity { cluster: cluster(), node: NodeId([3; 16]), role };
            assert_eq!(credential.identity(), identity);
            super::super::crypto::check_signed(&credential, &authority.certificate).unwrap();
        }
    }

    /// A credential comes back from its file as it was, and nobody else may read the file.
    #[test]
    fn a_saved_credential_is_private_and_loads_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/node.cred");
        let credential = Authority::create(cluster()).unwrap().issue(Role::Brick, NodeId([3; 16])).unwrap();
        credential.save(&path).unwrap();
        credential.save(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let again = Credential::load(&path).unwrap();
        assert_eq!(again.identity(), credential.identity());
        assert_eq!(again.to_pem(), credential.to_pem());
        let absent = Credential::load(&directory.path().join("absent")).unwrap_err();
        assert!(absent.to_string().contains("absent"), "{absent}");
    }

    /// Later formats are named, other texts are called what they are, lies are found.
    #[test]
    fn files_of_another_version_are_refused() {
        let authority = Authority::create(cluster()).unwrap();
        let text = authority.issue(Role::Client, NodeId([3; 16])).unwrap().to_pem().to_owned();
        let later = text.replacen("credential 1", "credential 2", 1);
        let error = Credential::from_pem(&later).unwrap_err().to_string();
        assert_eq!(
            error,
            "the credential is in format \"brickyard credential 2\", and this program reads \
             \"brickyard credential 1\""
        );
        for broken in [
            String::new(),
            "hello".to_owned(),
            text[..text.len() / 2].to_owned(),
            text.replacen("role client", "role admin", 1),
            // The second block is another authority's certificate.
            text.replacen(
                &authority.certificate_pem,
                &Authority::create(cluster()).unwrap().certificate_pem,
                1,
            ),
        ] {
            let error = Credential::from_pem(&broken).unwrap_err();
            assert!(matches!(error, CredentialError::Malformed { .. }), "{error}");
        }
        // An authority whose key is another's would issue credentials nobody accepts.
        let other = Authority::create(cluster()).unwrap();
        let mixed = authority.to_pem().replace(&authority.key.serialize_pem(), &other.key.serialize_pem());
        assert!(matches!(Authority::from_pem(&mixed), Err(CredentialError::Malformed { .. })));
    }
}
