//! How a machine without a certificate gets one, and what those get who should not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::id::ClusterId;
use wire::join::{JoinAnswer, JoinRefusal, JoinRequest, Secret, Token};
use wire::net::{
    Authority, BoxFuture, Credential, JoinError, JoinKey, Joiner, MemoryHub, Net, NetConfig, NetError, Role,
    Service, Serving, join,
};

use crate::support::*;

/// Takes in whoever has the secret, as often as it may be used.
struct Keeper {
    authority: Authority,
    secret: Secret,
    role: Role,
    uses: AtomicUsize,
    heard: Mutex<Vec<JoinRequest>>,
}

impl Joiner for Keeper {
    fn join(self: Arc<Self>, request: JoinRequest, _from: String) -> BoxFuture<'static, JoinAnswer> {
        self.heard.lock().unwrap().push(request.clone());
        let answer = if request.secret != self.secret {
            JoinAnswer::Refused(JoinRefusal::Unknown)
        } else if request.role != self.role {
            JoinAnswer::Refused(JoinRefusal::OtherRole { theirs: self.role })
        } else if self.uses.fetch_add(1, Ordering::SeqCst) > 0 {
            JoinAnswer::Refused(JoinRefusal::UsedUp)
        } else {
            JoinAnswer::Granted {
                certificate: self.authority.certify(request.role, &request.key).unwrap(),
                authority: self.authority.certificate_pem().to_owned(),
            }
        };
        Box::pin(std::future::ready(answer))
    }
}

struct House {
    token: Token,
    keeper: Arc<Keeper>,
    watched: Arc<Watched>,
    serving: Serving,
}

impl House {
    async fn new(number: u8, role: Role) -> House {
        let authority = Authority::create(ClusterId([number; 16])).unwrap();
        let credential = authority.issue(Role::Namespace, wire::id::NodeId([1; 16])).unwrap();
        let secret = Secret([number; 16]);
        let token = Token { cluster: authority.cluster(), authority: credential.fingerprint(), secret };
        let net = Net::new(&credential, MemoryHub::new(), NetConfig::default()).unwrap();
        let watched = Arc::new(Watched::default());
        let keeper =
            Arc::new(Keeper { authority, secret, role, uses: AtomicUsize::new(0), heard: Mutex::default() });
        let serving = net
            .serve_and_take_in(&any_tls(), Service::Namespace, watched.clone(), keeper.clone())
            .await
            .unwrap();
        House { token, keeper, watched, serving }
    }

    fn address(&self) -> std::net::SocketAddr {
        self.serving.endpoint().address().unwrap()
    }

    async fn join(&self, token: &Token, role: Role, key: &JoinKey) -> Result<Credential, JoinError> {
        soon("joining", join(&[self.address()], token, role, key, "somewhere")).await
    }
}

/// A token becomes a credential that opens the doors its role may open; it survives its file and
/// says where the namespace is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_becomes_a_credential() {
    let house = House::new(1, Role::Brick).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    let key = JoinKey::load_or_create(&file).unwrap();
    assert_eq!(JoinKey::load_or_create(&file).unwrap().public(), key.public());
    let credential = house.join(&house.token, Role::Brick, &key).await.unwrap();
    assert_eq!(credential.identity().node, key.public().node());
    assert_eq!(credential.identity().role, Role::Brick);
    assert_eq!(credential.namespaces(), [house.serving.endpoint()]);
    let again = Credential::from_pem(credential.to_pem()).unwrap();
    assert_eq!(again.namespaces(), credential.namespaces());
    assert_eq!(again.to_pem(), credential.to_pem());
    let net = Net::new(&again, MemoryHub::new(), NetConfig::default()).unwrap();
    let frame = wire::frame::Frame::new("hello");
    let reply = net.call(&house.serving.endpoint(), Service::Namespace, frame.clone(), deadline()).await;
    assert_eq!(reply.unwrap(), frame);
    assert_eq!(house.keeper.heard.lock().unwrap()[0].host, "somewhere");
}

/// What the cluster says is what the joiner is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_told() {
    let house = House::new(1, Role::Brick).await;
    let key = JoinKey::create().unwrap();
    let refusal = |joined: Result<Credential, JoinError>| match joined {
        Err(JoinError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    let wrong = Token { secret: Secret([9; 16]), ..house.token };
    assert_eq!(refusal(house.join(&wrong, Role::Brick, &key).await), JoinRefusal::Unknown);
    let role = refusal(house.join(&house.token, Role::Client, &key).await);
    assert_eq!(role, JoinRefusal::OtherRole { theirs: Role::Brick });
    house.join(&house.token, Role::Brick, &key).await.unwrap();
    assert_eq!(refusal(house.join(&house.token, Role::Brick, &key).await), JoinRefusal::UsedUp);
}

/// The joiner finds out before it has said anything, and both clusters are named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_cluster_is_refused_by_name() {
    let house = House::new(1, Role::Brick).await;
    let other = House::new(2, Role::Brick).await;
    let key = JoinKey::create().unwrap();
    // The second is of the same cluster by name only: the fingerprint decides.
    let forged = Token { cluster: house.token.cluster, ..other.token };
    for token in [other.token, forged] {
        let error = house.join(&token, Role::Brick, &key).await.unwrap_err();
        assert!(matches!(error, JoinError::OtherCluster { .. }), "{error:?}");
        assert!(error.to_string().contains(&token.cluster.to_string()), "{error}");
        assert!(error.to_string().contains(&house.token.cluster.to_string()), "{error}");
        assert!(!error.is_transient());
    }
    assert!(house.keeper.heard.lock().unwrap().is_empty(), "a secret was told to a stranger");
}

/// Whoever is not the namespace, or does not take anybody in, is called so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_do_not_take_in() {
    let house = House::new(1, Role::Brick).await;
    let key = JoinKey::create().unwrap();
    let pair = pair(any_tls()).await;
    let address = [pair.to.address().unwrap()];
    let error = soon("an answer", join(&address, &house.token, Role::Brick, &key, "h")).await.unwrap_err();
    assert!(matches!(error, JoinError::NotNamespace { .. }), "{error:?}");
    // A brick that would like to hear secrets is found out by its certificate.
    let credential = house.keeper.authority.issue(Role::Brick, wire::id::NodeId([2; 16])).unwrap();
    let net = Net::new(&credential, MemoryHub::new(), NetConfig::default()).unwrap();
    let posing = net
        .serve_and_take_in(&any_tls(), Service::Brick, house.watched.clone(), house.keeper.clone())
        .await
        .unwrap();
    let address = [posing.endpoint().address().unwrap()];
    let error = soon("an answer", join(&address, &house.token, Role::Brick, &key, "h")).await.unwrap_err();
    assert!(matches!(error, JoinError::NotNamespace { .. }), "{error:?}");
    // Nobody there: the next address is asked.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let addresses = [closed, house.address()];
    soon("joining", join(&addresses, &house.token, Role::Brick, &key, "h")).await.unwrap();
    let error = soon("an answer", join(&[closed], &house.token, Role::Brick, &key, "h")).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains(&closed.to_string()), "{error}");
}

/// The door for joiners leads nowhere else: garbage, calls and silence end the connection, and a
/// service that takes people in still wants to see the certificates of all others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joiners_get_nothing_but_an_answer() {
    let house = House::new(1, Role::Brick).await;
    let stranger = Cluster::new(2).net(Role::Client);
    let frame = wire::frame::Frame::new("let me in");
    let error =
        stranger.call(&house.serving.endpoint(), Service::Namespace, frame, deadline()).await.unwrap_err();
    assert!(matches!(error, NetError::OtherCluster { .. }), "{error:?}");
    for message in [&b"\x04\x00BRYJ"[..], b"\x08\x00BRYD\x01\x00\x00\x00", b"\xff\xff", b"\x00\x00", b""] {
        let mut stream = joining_stream(&house).await;
        stream.write_all(message).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // Ends, with an answer that is a refusal or with none; an abrupt end is an end, too.
        let _ = soon("an end", stream.read_to_end(&mut answer)).await;
        assert!(answer.len() < 32, "{answer:?}");
    }
    assert_eq!(house.watched.begun(), 0);
    assert!(house.keeper.heard.lock().unwrap().is_empty());
}

/// A TLS connection as a joiner makes it, by hand.
async fn joining_stream(house: &House) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut config =
        rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(house_roots(house))
            .with_no_client_auth();
    config.alpn_protocols = vec![b"brickyard-join".to_vec()];
    let tcp = tokio::net::TcpStream::connect(house.address()).await.unwrap();
    let name = format!("{}.brickyard", house.token.cluster).try_into().unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}

fn house_roots(house: &House) -> rustls::RootCertStore {
    use rustls::pki_types::pem::PemObject;
    let pem = house.keeper.authority.certificate_pem();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    roots
}
