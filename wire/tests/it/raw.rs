//! Callers that do not keep to the rules: what the transports do with them. They speak TLS
//! and QUIC with the libraries alone.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wire::frame::{Frame, FrameKind, Head};
use wire::handshake::{Hello, PROTOCOL_VERSION};
use wire::net::{Credential, Role, Service};

use crate::support::*;

fn client_config(credential: &Credential, with_certificate: bool) -> ClientConfig {
    let text = credential.to_pem().as_bytes();
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificates[1].clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = if with_certificate {
        let key = PrivateKeyDer::from_pem_slice(text).unwrap();
        config.with_client_auth_cert(vec![certificates[0].clone()], key).unwrap()
    } else {
        config.with_no_client_auth()
    };
    config.alpn_protocols = vec![b"brickyard/1".to_vec()];
    config
}

fn hello(credential: &Credential) -> Vec<u8> {
    let hello =
        Hello { version: PROTOCOL_VERSION, service: Service::Brick, caller: credential.identity() }.encode();
    let mut bytes = (hello.len() as u16).to_le_bytes().to_vec();
    bytes.extend(hello);
    bytes
}

async fn tls(pair: &Pair, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(pair.to.address().unwrap()).await?;
    let name = ServerName::try_from(format!("{}.brickyard", pair.brick.identity().cluster));
    TlsConnector::from(Arc::new(config)).connect(name.unwrap(), tcp).await
}

async fn quic(
    pair: &Pair,
    config: ClientConfig,
) -> (quinn::Endpoint, Result<quinn::Connection, quinn::ConnectionError>) {
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let name = format!("{}.brickyard", pair.brick.identity().cluster);
    let connecting = endpoint.connect_with(config, pair.to.address().unwrap(), &name).unwrap();
    (endpoint, connecting.await)
}

/// Reads whatever the service says until it hangs up.
async fn all_it_says(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut said = Vec::new();
    // Ends in an error where the service cuts the connection.
    let _ = soon("the service hangs up", stream.read_to_end(&mut said)).await;
    said
}

/// Without a certificate of the cluster there is not one byte of an answer: not over TLS, not
/// over QUIC, and not to those who do not even speak TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_no_answer() {
    let over_tls = pair(any_tls()).await;
    let member = over_tls.cluster.credential(Role::Client);
    let refusals = || over_tls.brick.counters().callers_refused.get();
    if let Ok(mut stream) = tls(&over_tls, client_config(&member, false)).await {
        let _ = stream.write_all(&hello(&member)).await;
        assert_eq!(all_it_says(&mut stream).await, b"");
    }
    until("the refusal is counted", || refusals() == 1).await;

    let mut plain = TcpStream::connect(over_tls.to.address().unwrap()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: brick\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let _ = soon("the service hangs up", plain.read_to_end(&mut said)).await;
    // At most the alert with which TLS ends: a record of type 21.
    assert!(said.is_empty() || said[0] == 21, "{said:?}");
    until("the refusal is counted", || refusals() == 2).await;
    assert_eq!(over_tls.watched.begun(), 0);
    over_tls.echo("members are served").await;

    let over_quic = pair(any_quic()).await;
    let member = over_quic.cluster.credential(Role::Client);
    let (_endpoint, connected) = quic(&over_quic, client_config(&member, false)).await;
    if let Ok(connection) = connected {
        let closed = soon("the service hangs up", connection.closed()).await;
        assert!(matches!(closed, quinn::ConnectionError::ConnectionClosed(_)), "{closed:?}");
    }
    until("the refusal is counted", || over_quic.brick.counters().callers_refused.get() == 1).await;
    assert_eq!(over_quic.watched.begun(), 0);
    over_quic.echo("members are served").await;
}

/// A member that does not finish its handshake is let go after a while, one that speaks
/// nonsense in it at once; others are served meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_end() {
    let config = wire::net::NetConfig { handshake_timeout: Duration::from_millis(300), ..Default::default() };
    let pair = pair_with(any_tls(), config).await;
    let member = pair.cluster.credential(Role::Client);
    let mut mute = tls(&pair, client_config(&member, true)).await.unwrap();
    let mut rude = tls(&pair, client_config(&member, true)).await.unwrap();
    rude.write_all(b"\x05\x00hello").await.unwrap();
    pair.echo("served meanwhile").await;
    assert_eq!(all_it_says(&mut rude).await, b"");
    assert_eq!(all_it_says(&mut mute).await, b"");
    assert_eq!(pair.brick.counters().callers_refused.get(), 2);
}

fn request_bytes(text: &'static str, payload: usize) -> Vec<u8> {
    let frame = Frame::new(text).with_payload(vec![5; payload]);
    let mut bytes = Head::of(FrameKind::Request, 1, &frame).encode().to_vec();
    bytes.extend_from_slice(&frame.header);
    bytes.extend_from_slice(&frame.payload);
    bytes
}

/// Half a request is never run, however it ends; a whole one from the same caller is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_cut_short_is_never_executed() {
    let whole = request_bytes("whole", 50_000);
    let over_tls = pair(any_tls()).await;
    let member = over_tls.cluster.credential(Role::Client);
    for length in [1, 16, 17, 20, 30_000, whole.len() - 1] {
        let mut stream = tls(&over_tls, client_config(&member, true)).await.unwrap();
        stream.write_all(&hello(&member)).await.unwrap();
        stream.write_all(&whole[..length]).await.unwrap();
        // A proper end of TLS, as a program that exits in order would send.
        stream.shutdown().await.unwrap();
        all_it_says(&mut stream).await;
    }
    assert_eq!(over_tls.watched.begun(), 0);

    let over_quic = pair(any_quic()).await;
    let member = over_quic.cluster.credential(Role::Client);
    let (_endpoint, connection) = quic(&over_quic, client_config(&member, true)).await;
    let connection = connection.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&hello(&member)).await.unwrap();
    send.finish().unwrap();
    receive.read_to_end(1000).await.unwrap();
    for (length, finish) in [
        (1, true),
        (17, true),
        (30_000, true),
        (whole.len() - 1, true),
        (30_000, false),
        // Every byte, and then a reset in place of the end.
        (whole.len(), false),
    ] {
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&whole[..length]).await.unwrap();
        if finish {
            send.finish().unwrap();
        } else {
            // Time for the bytes to arrive before the reset does.
            let _ = timeout(Duration::from_millis(100), send.stopped()).await;
            send.reset(9u32.into()).unwrap();
        }
        assert!(soon("no answer", receive.read_to_end(1000)).await.is_err(), "{length}");
    }
    assert_eq!(over_quic.watched.begun(), 0);
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&whole).await.unwrap();
    send.finish().unwrap();
    soon("an answer", receive.read_to_end(100_000)).await.unwrap();
    assert_eq!(over_quic.watched.begun(), 1);
}

/// Members that send nonsense after the handshake lose their connection or their call; no
/// memory is set aside for what they claim, and others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_costs_the_sender_only() {
    let claims_too_much = {
        let mut head = request_bytes("x", 0)[..17].to_vec();
        head[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        head
    };
    let unknown_kind = {
        let mut head = request_bytes("x", 0)[..17].to_vec();
        head[16] = 200;
        head
    };
    let reply = {
        let mut bytes = request_bytes("x", 0);
        bytes[16] = FrameKind::Reply as u8;
        bytes
    };
    for nonsense in [claims_too_much, unknown_kind, reply] {
        let over_tls = pair(any_tls()).await;
        let member = over_tls.cluster.credential(Role::Client);
        let mut stream = tls(&over_tls, client_config(&member, true)).await.unwrap();
        stream.write_all(&hello(&member)).await.unwrap();
        stream.write_all(&nonsense).await.unwrap();
        all_it_says(&mut stream).await;
        over_tls.echo("unharmed").await;
        assert_eq!(over_tls.watched.begun(), 1);

        let over_quic = pair(any_quic()).await;
        let member = over_quic.cluster.credential(Role::Client);
        let (_endpoint, connection) = quic(&over_quic, client_config(&member, true)).await;
        let connection = connection.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&hello(&member)).await.unwrap();
        send.finish().unwrap();
        receive.read_to_end(1000).await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&nonsense).await.unwrap();
        let _ = send.finish();
        assert!(soon("a reset", receive.read_to_end(1000)).await.is_err());
        over_quic.echo("unharmed").await;
        assert_eq!(over_quic.watched.begun(), 1);
    }
}
