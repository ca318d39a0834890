//! Who is let in, and what those are told who are not.

use std::time::{Duration, SystemTime};

use wire::frame::Frame;
use wire::id::NodeId;
use wire::net::{Delivery, Endpoint, Net, NetConfig, NetError, Refusal, Role, Service, Whose};

use crate::support::*;

async fn refused(client: &Net, to: &Endpoint, service: Service) -> NetError {
    let call = client.call(to, service, Frame::new("let me in"), deadline());
    let error = soon("a refusal", call).await.unwrap_err();
    assert_eq!(error.delivery(), Delivery::NotSent, "{error}");
    assert!(!error.is_transient(), "{error}");
    error
}

/// A program of another cluster is told so, whichever side notices first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_is_refused_by_name() {
    for listen in everywhere() {
        let pair = pair(listen).await;
        let mut other = Cluster::new(2);
        other.hub = pair.cluster.hub.clone();
        let stranger = other.net(Role::Client);
        let error = refused(&stranger, &pair.to, Service::Brick).await;
        let text = error.to_string();
        assert!(text.contains("cluster 0101010101"), "{text}");
        assert!(text.contains("cluster 0202020202"), "{text}");
        if listen != any_memory() {
            assert!(matches!(error, NetError::OtherCluster { .. }), "{error:?}");
            assert!(text.contains("belongs to another cluster"), "{text}");
        }
        assert_eq!(pair.watched.begun(), 0);
        pair.echo("our own are served").await;
    }
}

/// Two authorities of the same cluster id are still two clusters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_authority_is_refused() {
    for listen in sockets() {
        let pair = pair(listen).await;
        let forged = Cluster::new(1).net(Role::Client);
        let error = refused(&forged, &pair.to, Service::Brick).await;
        assert!(matches!(error, NetError::OtherCluster { .. }), "{error:?}");
        assert_eq!(pair.watched.begun(), 0);
    }
}

/// A program of another version learns both versions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_version_is_refused_with_both_numbers() {
    for listen in everywhere() {
        let pair = pair(listen).await;
        let config = NetConfig { protocol_version: 7, ..NetConfig::default() };
        let newer = pair.cluster.net_with(Role::Client, config);
        let error = refused(&newer, &pair.to, Service::Brick).await;
        let NetError::Refused { refusal, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*refusal, Refusal::OtherVersion { theirs: 1 });
        assert_eq!(
            error.to_string(),
            format!(
                "{} refused the connection: it speaks protocol version 1, and this program \
                 version 7; upgrade the older one",
                pair.to
            )
        );
    }
}

/// An address of another service is named as such; a role that may not call is told so; and a
/// role that may not serve is found out by the caller.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_services_and_roles_are_refused() {
    for listen in everywhere() {
        let pair = pair(listen).await;
        let error = refused(&pair.client, &pair.to, Service::Namespace).await;
        assert!(
            error
                .to_string()
                .contains("it serves the brick service, and the namespace service was asked for"),
            "{error}"
        );
        let agent = pair.cluster.net(Role::Agent);
        let error = refused(&agent, &pair.to, Service::Brick).await;
        let NetError::Refused { refusal: Refusal::Forbidden, .. } = error else { panic!("{error:?}") };
        let posing = pair.client.serve(&listen, Service::Brick, pair.watched.clone()).await.unwrap();
        let error = refused(&pair.client, &posing.endpoint(), Service::Brick).await;
        assert!(matches!(error, NetError::Impostor { role: Role::Client, .. }), "{error:?}");
        assert_eq!(pair.watched.begun(), 0);
    }
}

/// A certificate that has run out opens no door, on either side.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_certificates_are_refused() {
    let day = Duration::from_secs(86_400);
    for listen in sockets() {
        let pair = pair(listen).await;
        let now = SystemTime::now();
        let expired = |role| {
            let credential = pair
                .cluster
                .authority
                .issue_between(role, NodeId([9; 16]), now - 3 * day, now - day)
                .unwrap();
            // An expired credential still loads: the message belongs to the connection.
            let text = credential.to_pem().to_owned();
            let credential = wire::net::Credential::from_pem(&text).unwrap();
            Net::new(&credential, pair.cluster.hub.clone(), NetConfig::default()).unwrap()
        };
        let error = refused(&expired(Role::Client), &pair.to, Service::Brick).await;
        assert!(matches!(error, NetError::Expired { whose: Whose::Ours, .. }), "{error:?}");
        let refusals = pair.brick.counters().callers_refused.get();
        assert_eq!(refusals, 1, "the server has noticed");
        let old = expired(Role::Brick);
        let serving = old.serve(&listen, Service::Brick, pair.watched.clone()).await.unwrap();
        let error = refused(&pair.client, &serving.endpoint(), Service::Brick).await;
        assert!(matches!(error, NetError::Expired { whose: Whose::Theirs, .. }), "{error:?}");
        assert_eq!(pair.watched.begun(), 0);
    }
}

/// A port somebody listens at is named, and becomes free with its service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named() {
    for listen in everywhere() {
        let pair = pair(listen).await;
        let again = pair.brick.serve(&pair.to, Service::Brick, pair.watched.clone()).await;
        let error = again.unwrap_err();
        assert!(matches!(error, NetError::AddressInUse { .. }), "{error:?}");
        assert!(error.to_string().contains(&pair.to.to_string()), "{error}");
        pair.echo("the first is unharmed").await;
        pair.serving.stop(STUCK).await;
        let again = pair.brick.serve(&pair.to, Service::Brick, pair.watched.clone()).await;
        assert_eq!(again.unwrap().endpoint(), pair.to);
    }
}
