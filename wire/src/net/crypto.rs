//! TLS as both transports use it: version 1.3, certificates on both sides, one authority.
//!
//! 1. No connection without a certificate of the cluster's authority, in either direction
//!    (`strangers_get_no_answer` in the integration tests).
//! 2. Nothing depends on a process-wide provider of cryptography: every configuration names
//!    its own.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use quinn::crypto::{CryptoError, HmacKey};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256};
use rustls::crypto::tls13::HkdfExpander;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

use crate::handshake::Identity;
use crate::id::ClusterId;
use crate::join::{Fingerprint, Token};
use crate::net::endpoint::Endpoint;
use crate::net::error::{NetError, Whose};
use crate::net::pki::{Credential, CredentialError, cluster_name, identity_of};

/// Offered beside the versioned name, so that two versions still meet for long enough to
/// tell each other their versions in the handshake.
const ALPN_ANY: &[u8] = b"brickyard";
/// What a caller without a certificate asks for, who wants to join and nothing else.
pub(crate) const ALPN_JOIN: &[u8] = b"brickyard-join";

/// Keeps the secret of resets apart from other uses of the same key.
const RESET_SALT: &[u8] = b"brickyard quic reset 1";
const RESET_SIGNATURE_BYTES: usize = 32;

fn alpn(version: u16) -> Vec<Vec<u8>> {
    vec![format!("brickyard/{version}").into_bytes(), ALPN_ANY.to_vec()]
}

fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // AES-128-GCM first: with AES-NI it costs a third of ChaCha20 (measured), and the larger
    // key of AES-256 buys nothing here.
    provider.cipher_suites = vec![TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256];
    Arc::new(provider)
}

fn unusable(error: impl std::fmt::Display) -> CredentialError {
    CredentialError::Crypto(error.to_string())
}

/// Both configurations of one credential.
#[derive(Clone)]
pub(crate) struct Crypto {
    cluster: ClusterId,
    resets: Arc<dyn HkdfExpander>,
    server: Arc<ServerConfig>,
    joining: Arc<ServerConfig>,
    client: ClientConfig,
    verifier: Arc<WebPkiServerVerifier>,
}

impl Crypto {
    pub(crate) fn new(credential: &Credential, version: u16) -> Result<Crypto, CredentialError> {
        let provider = provider();
        let mut roots = RootCertStore::empty();
        roots.add(credential.authority().clone()).map_err(unusable)?;
        let roots = Arc::new(roots);
        let chain = vec![credential.certificate().clone()];

        let callers = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(unusable)?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(callers)
            .with_single_cert(chain.clone(), credential.key().clone_key())
            .map_err(unusable)?;
        server.alpn_protocols = alpn(version);
        // No resumption: connections are few and long, and every one shows its certificate.
        server.send_tls13_tickets = 0;

        // Joiners have no certificate, and know the authority's by its fingerprint: it is sent along.
        let mut joining = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(
                vec![credential.certificate().clone(), credential.authority().clone()],
                credential.key().clone_key(),
            )
            .map_err(unusable)?;
        joining.alpn_protocols = vec![ALPN_JOIN.to_vec()];
        joining.send_tls13_tickets = 0;

        let verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(unusable)?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, credential.key().clone_key())
            .map_err(unusable)?;
        client.alpn_protocols = alpn(version);
        client.resumption = rustls::client::Resumption::disabled();
        let cluster = credential.identity().cluster;
        let hkdf = TLS13_AES_128_GCM_SHA256
            .tls13()
            .ok_or_else(|| unusable("the cipher suite is not of TLS 1.3"))?
            .hkdf_provider;
        let secret = credential.key().secret_der();
        let resets = hkdf.extract_from_secret(Some(RESET_SALT), secret).into();
        Ok(Crypto { cluster, resets, server: Arc::new(server), joining: Arc::new(joining), client, verifier })
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For callers who want to join: they show no certificate.
    pub(crate) fn joining(&self) -> Arc<ServerConfig> {
        self.joining.clone()
    }

    /// The secret with which a service proves over QUIC that it has forgotten a connection. It
    /// survives a restart, so that callers of the life before learn of it at once and not by
    /// silence; it differs between services at different addresses.
    pub(crate) fn reset_key(&self, address: SocketAddr) -> Arc<dyn HmacKey> {
        Arc::new(ResetKey { secret: self.resets.clone(), address: address.to_string() })
    }

    /// The name every server of the cluster proves.
    pub(crate) fn server_name(&self) -> String {
        cluster_name(self.cluster)
    }

    /// A configuration for one connection, and where its verdict on the server will be.
    pub(crate) fn client(&self) -> (Arc<ClientConfig>, Verdict) {
        let verdict = Verdict::default();
        let mut config = self.client.clone();
        config.dangerous().set_certificate_verifier(Arc::new(Witness {
            verifier: self.verifier.clone(),
            verdict: verdict.clone(),
        }));
        (Arc::new(config), verdict)
    }

    /// What to tell the caller when the secure connection to `to` failed.
    pub(crate) fn explain(&self, to: &Endpoint, verdict: &Verdict, failure: Failure) -> NetError {
        match (verdict.get(), failure) {
            (Some(Objection::OtherAuthority { theirs }), _) => {
                NetError::OtherCluster { to: *to, ours: self.cluster, theirs }
            }
            (Some(Objection::Expired), _) => NetError::Expired { to: *to, whose: Whose::Theirs },
            (_, Failure::Alert(45)) => NetError::Expired { to: *to, whose: Whose::Ours },
            // 48 is "unknown authority". The server judged us before we could judge it, or it
            // trusts another authority than it was certified by.
            (_, Failure::Alert(48)) => NetError::OtherCluster { to: *to, ours: self.cluster, theirs: None },
            (_, Failure::Alert(116)) => {
                NetError::Tls { to: *to, detail: "the peer wants a certificate".to_owned() }
            }
            (_, Failure::Alert(120)) => {
                NetError::Tls { to: *to, detail: "the peer does not speak Brickyard's protocol".to_owned() }
            }
            (_, Failure::Alert(alert)) => NetError::Tls {
                to: *to,
                detail: format!("the peer rejected this program's certificate (alert {alert})"),
            },
            (_, Failure::Other(detail)) => NetError::Tls { to: *to, detail },
        }
    }
}

struct ResetKey {
    secret: Arc<dyn HkdfExpander>,
    address: String,
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let info: [&[u8]; 3] = [self.address.as_bytes(), b"/", data];
        // Fails only for outputs of many kilobytes.
        if self.secret.expand_slice(&info, signature_out).is_err() {
            signature_out.fill(0);
        }
    }

    fn signature_len(&self) -> usize {
        RESET_SIGNATURE_BYTES
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mut ours = [0; RESET_SIGNATURE_BYTES];
        self.sign(data, &mut ours);
        // Every byte is looked at, so that the time taken says nothing.
        let differences = ours.iter().zip(signature).fold(0, |sum, (a, b)| sum | (a ^ b));
        match signature.len() == RESET_SIGNATURE_BYTES && differences == 0 {
            true => Ok(()),
            false => Err(CryptoError),
        }
    }
}

/// How TLS failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The peer sent this alert.
    Alert(u8),
    /// Anything else.
    Other(String),
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        match error {
            Error::AlertReceived(alert) => Failure::Alert(u8::from(*alert)),
            other => Failure::Other(other.to_string()),
        }
    }
}

/// What was wrong with a server's certificate.
#[derive(Debug, Clone)]
pub(crate) enum Objection {
    OtherAuthority { theirs: Option<ClusterId> },
    Expired,
    Other,
}

/// Carries the verifier's objection past the transports, which keep only its text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdict(Arc<Mutex<Option<Objection>>>);

impl Verdict {
    fn set(&self, objection: Objection) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(objection);
    }

    fn get(&self) -> Option<Objection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The standard verification of servers, which also remembers why it failed.
#[derive(Debug)]
struct Witness {
    verifier: Arc<WebPkiServerVerifier>,
    verdict: Verdict,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if let Err(error) = &verified {
            self.verdict.set(match error {
                Error::InvalidCertificate(
                    CertificateError::UnknownIssuer
                    | CertificateError::BadSignature
                    | CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. },
                ) => Objection::OtherAuthority {
                    theirs: identity_of(end_entity).ok().map(|identity| identity.cluster),
                },
                Error::InvalidCertificate(
                    CertificateError::Expired
                    | CertificateError::ExpiredContext { .. }
                    | CertificateError::NotValidYet
                    | CertificateError::NotValidYetContext { .. },
                ) => Objection::Expired,
                _ => Objection::Other,
            });
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// How a joiner knows its cluster: by the fingerprint in its token, not by a certificate it has.
#[derive(Debug, Clone)]
pub(crate) struct JoinTrust {
    authority: Fingerprint,
    provider: Arc<CryptoProvider>,
    verdict: Verdict,
}

impl JoinTrust {
    pub(crate) fn new(token: &Token) -> JoinTrust {
        JoinTrust { authority: token.authority, provider: provider(), verdict: Verdict::default() }
    }

    /// For one connection.
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, CredentialError> {
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.clone()))
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// The server was of another authority; what cluster its certificate says it is of.
    pub(crate) fn other_authority(&self) -> Option<Option<ClusterId>> {
        match self.verdict.get() {
            Some(Objection::OtherAuthority { theirs }) => Some(theirs),
            _ => None,
        }
    }
}

impl ServerCertVerifier for JoinTrust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let trusted = intermediates.iter().find(|c| Fingerprint::of(c) == self.authority);
        let Some(trusted) = trusted else {
            let theirs = identity_of(end_entity).ok().map(|identity| identity.cluster);
            self.verdict.set(Objection::OtherAuthority { theirs });
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Who is at the other end of a connection, from the certificates TLS has verified.
pub(crate) fn peer_identity(
    certificates: Option<&[CertificateDer<'_>]>,
) -> Result<Identity, CredentialError> {
    let certificate = certificates.and_then(<[_]>::first).ok_or_else(|| CredentialError::Malformed {
        what: "certificate",
        detail: "there is none".to_owned(),
    })?;
    identity_of(certificate)
}

/// Whether `authority` signed the credential's certificate and its key is the certificate's.
/// Says nothing about its time of validity.
pub(crate) fn check_signed(credential: &Credential, authority: &CertificateDer<'_>) -> Result<(), String> {
    let provider = provider();
    let key = provider
        .key_provider
        .load_private_key(credential.key().clone_key())
        .map_err(|error| format!("bad private key: {error}"))?;
    rustls::sign::CertifiedKey::new(vec![credential.certificate().clone()], key)
        .keys_match()
        .map_err(|_| "the private key is not the certificate's".to_owned())?;
    let anchor = webpki::anchor_from_trusted_cert(authority)
        .map_err(|error| format!("bad authority certificate: {error}"))?;
    let parsed = webpki::EndEntityCert::try_from(credential.certificate())
        .map_err(|error| format!("bad certificate: {error}"))?;
    match parsed.verify_for_usage(
        provider.signature_verification_algorithms.all,
        &[anchor],
        &[],
        UnixTime::now(),
        webpki::KeyUsage::client_auth(),
        None,
        None,
    ) {
        Ok(_) | Err(webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. }) => Ok(()),
        Err(_) => Err("the certificate was not signed by the authority beside it".to_owned()),
    }
}
