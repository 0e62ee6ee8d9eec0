//! Both sides against each other, over sockets.

use std::path::Path;

use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKeyChain};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::server::ServerTls;

struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

struct Identity {
    key_pem: String,
    key_der: Vec<u8>,
    certificate: rcgen::Certificate,
}

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "an authority");
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    Authority { certificate, issuer: Issuer::new(params, key) }
}

fn identity(authority: &Authority, name: &str) -> Identity {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &authority.issuer).expect("a certificate");
    Identity { key_pem: key.serialize_pem(), key_der: key.serialize_der(), certificate }
}

fn settings(pairs: &[(&str, String)]) -> TlsSettings {
    TlsSettings::read(|name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str()))
        .expect("settings")
}

fn pem_key(identity: &Identity) -> Vec<(&'static str, String)> {
    vec![
        ("ssl.keystore.type", "PEM".to_owned()),
        ("ssl.keystore.key", identity.key_pem.clone()),
        ("ssl.keystore.certificate.chain", identity.certificate.pem()),
    ]
}

fn pem_trust(authority: &Authority) -> Vec<(&'static str, String)> {
    vec![("ssl.truststore.type", "PEM".to_owned()), ("ssl.truststore.certificates", authority.certificate.pem())]
}

/// The client's certificate as the server saw it, or the first error of either side.
async fn shake_hands(
    server: &ServerTls,
    client: &ClientTls,
    host: &str,
) -> io::Result<Option<CertificateDer<'static>>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (ours, accepted) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
    let (ours, (theirs, _)) = (ours?, accepted?);
    let name = ClientTls::server_name(host)?;
    let connecting = async {
        let mut stream = client.connect(name, ours).await?;
        // With TLS 1.3 a client learns only by reading that its certificate was refused.
        let mut byte = [0; 1];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut byte).await
    };
    let accepting = async {
        let mut stream = server.accept(theirs).await.map_err(|refused| refused.error)?;
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"x").await?;
        tokio::io::AsyncWriteExt::flush(&mut stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        Ok(certificates.and_then(|chain| chain.first()).map(|certificate| certificate.clone().into_owned()))
    };
    let (connected, accepted) = tokio::join!(connecting, accepting);
    connected?;
    accepted
}

#[tokio::test]
async fn both_versions_with_and_without_certificates_of_clients() {
    let authority = authority();
    let (broker, alice) = (identity(&authority, "localhost"), identity(&authority, "alice"));
    for versions in ["TLSv1.2", "TLSv1.3"] {
        for auth in ["none", "requested", "required"] {
            let own = vec![("ssl.client.auth", auth.to_owned()), ("ssl.enabled.protocols", versions.to_owned())];
            let server = [pem_key(&broker), pem_trust(&authority), own].concat();
            let server = ServerTls::new(settings(&server)).expect("a server");
            let anonymous = ClientTls::new(settings(&pem_trust(&authority))).expect("a client");
            let known = ClientTls::new(settings(&[pem_key(&alice), pem_trust(&authority)].concat())).expect("a client");
            let seen = shake_hands(&server, &known, "localhost").await.expect("trusted");
            let expected = (auth != "none").then(|| alice.certificate.der().clone());
            assert_eq!(seen, expected, "{versions} {auth}");
            let name = seen.and_then(|certificate| server.principal_name(&certificate));
            assert_eq!(name.as_deref(), (auth != "none").then_some("CN=alice"));
            let without = shake_hands(&server, &anonymous, "localhost").await;
            assert_eq!(without.is_ok(), auth != "required", "{versions} {auth}");
        }
    }
}

#[tokio::test]
async fn other_authorities_and_names_are_refused() {
    let (ours, other) = (authority(), authority());
    let broker = identity(&ours, "broker-1");
    let server = [pem_key(&broker), pem_trust(&ours), vec![("ssl.client.auth", "requested".to_owned())]].concat();
    let server = ServerTls::new(settings(&server)).expect("a server");
    let trusting = |authority, host: &str| {
        let unchecked = ("ssl.endpoint.identification.algorithm", host.to_owned());
        ClientTls::new(settings(&[pem_trust(authority), vec![unchecked]].concat())).expect("a client")
    };
    assert!(shake_hands(&server, &trusting(&other, "https"), "broker-1").await.is_err());
    assert!(shake_hands(&server, &trusting(&ours, "https"), "broker-1").await.is_ok());
    assert!(shake_hands(&server, &trusting(&ours, "https"), "broker-2").await.is_err());
    assert!(shake_hands(&server, &trusting(&ours, ""), "broker-2").await.is_ok());
    assert!(shake_hands(&server, &trusting(&other, ""), "broker-2").await.is_err());
    let stranger = identity(&other, "mallory");
    let stranger = ClientTls::new(settings(&[pem_key(&stranger), pem_trust(&ours)].concat())).expect("a client");
    assert!(shake_hands(&server, &stranger, "broker-1").await.is_err());
}

/// In TLS 1.3 a client has sent its first request before the server can refuse its certificate: it can send all of it,
/// and hears why.
#[tokio::test]
async fn a_refused_client_can_send_its_request_and_hears_why() {
    let ours = authority();
    let broker = identity(&ours, "localhost");
    let server = [pem_key(&broker), pem_trust(&ours), vec![("ssl.client.auth", "required".to_owned())]].concat();
    let server = ServerTls::new(settings(&server)).expect("a server");
    let stranger = ClientTls::new(settings(&pem_trust(&ours))).expect("a client");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (socket, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().expect("an address")), listener.accept());
    let refusing = async {
        let refused = server.accept(accepted.expect("accepted").0).await.expect_err("refused");
        refused.say_farewell().await.to_string()
    };
    let asking = async {
        let name = ClientTls::server_name("localhost").expect("a name");
        let mut stream = stranger.connect(name, socket.expect("connected")).await.expect("the client's half is done");
        for _ in 0..50 {
            tokio::io::AsyncWriteExt::write_all(&mut stream, &[7; 1_000]).await.expect("somebody reads");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        let heard = tokio::io::AsyncReadExt::read_u8(&mut stream).await.expect_err("an alert");
        crate::handshake::explain(&heard)
    };
    let (why, heard) = tokio::join!(refusing, asking);
    assert!(why.starts_with("the other side shows no certificate"), "{why}");
    assert!(heard.is_some_and(|text| text.starts_with("the other side demands a certificate")), "{heard:?}");
}

/// Java trusts a certificate that is in the trust store itself.
#[tokio::test]
async fn a_certificate_that_signed_itself_is_trusted_where_it_is_listed() {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, "self");
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let own = Identity { key_pem: key.serialize_pem(), key_der: Vec::new(), certificate };
    let trust = vec![
        ("ssl.truststore.type", "PEM".to_owned()),
        ("ssl.truststore.certificates", own.certificate.pem()),
        ("ssl.client.auth", "required".to_owned()),
    ];
    let all = [pem_key(&own), trust].concat();
    let server = ServerTls::new(settings(&all)).expect("a server");
    let client = ClientTls::new(settings(&all)).expect("a client");
    assert!(shake_hands(&server, &client, "localhost").await.is_ok());
    assert!(shake_hands(&server, &client, "elsewhere").await.is_err());
}

fn pkcs12(identity: &Identity, authority: &Authority, path: &Path) {
    let certificate = |certificate: &rcgen::Certificate| Certificate::from_der(certificate.der()).expect("DER");
    let chain = [certificate(&identity.certificate), certificate(&authority.certificate)];
    let mut store = KeyStore::new();
    store.add_entry("key", KeyStoreEntry::PrivateKeyChain(PrivateKeyChain::new(&identity.key_der, [1; 4], chain)));
    store.add_entry("ca", KeyStoreEntry::Certificate(certificate(&authority.certificate)));
    std::fs::write(path, store.writer("changeit").write().expect("a store")).expect("written");
}

#[tokio::test]
async fn a_pkcs12_store_that_is_replaced_is_used_from_then_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("broker.p12");
    let (first, second) = (authority(), authority());
    pkcs12(&identity(&first, "localhost"), &first, &path);
    let at = path.display().to_string();
    let store = vec![
        ("ssl.keystore.location", at.clone()),
        ("ssl.keystore.password", "changeit".to_owned()),
        ("ssl.truststore.location", at),
        ("ssl.truststore.password", "changeit".to_owned()),
    ];
    let server = ServerTls::new(settings(&store)).expect("a server");
    let old = ClientTls::new(settings(&store)).expect("a client");
    assert!(shake_hands(&server, &old, "localhost").await.is_ok());
    assert!(!server.follow(&settings(&store)).expect("nothing new"));
    pkcs12(&identity(&second, "localhost"), &second, &path);
    // The same length within one tick of the file system's clock would look unchanged.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(10);
    std::fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(later)).expect("set");
    assert!(server.follow(&settings(&store)).expect("new certificates"));
    assert!(shake_hands(&server, &old, "localhost").await.is_err());
    let new = ClientTls::new(settings(&store)).expect("a client");
    assert!(shake_hands(&server, &new, "localhost").await.is_ok());
    // A broken file leaves the former certificates in use.
    std::fs::write(&path, "nothing").expect("written");
    assert!(server.follow(&settings(&store)).is_err());
    assert!(shake_hands(&server, &new, "localhost").await.is_ok());
    let mut wrong = store;
    wrong[1].1 = "hunter2".to_owned();
    let error = ServerTls::new(settings(&wrong)).err().expect("refused").to_string();
    assert!(!error.contains("hunter2") && error.contains("broker.p12"), "{error}");
}

/// A session that is resumed shows no certificate again: one that has expired would come in.
#[test]
fn who_shows_a_certificate_shows_it_every_time() {
    let authority = authority();
    let server = identity(&authority, "localhost");
    for (client_auth, is_resumed) in [("none", true), ("requested", false), ("required", false)] {
        let client_auth_setting = vec![("ssl.client.auth", client_auth.to_owned())];
        let pairs = [pem_key(&server), pem_trust(&authority), client_auth_setting].concat();
        let config = crate::server::server_config(&settings(&pairs)).expect("a configuration");
        let found = (config.session_storage.can_cache(), config.send_tls13_tickets > 0);
        assert_eq!(found, (is_resumed, is_resumed), "{client_auth}");
    }
}
