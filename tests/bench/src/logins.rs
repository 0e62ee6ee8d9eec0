//! Logins by SCRAM: how many a broker takes with one core, each on a connection of its own, beside how many salted
//! passwords a core derives. Clients derive one for each login; a server that did so too could not take more.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::{Cluster, ClusterOptions, Node, clients};
use ottla_sasl::{ClientCredentials, ClientSession, Mechanism, ScramHash};

use crate::report::{self, Round};

const LOGINS: usize = 2_000;
/// Clients at a time.
const CLIENTS: usize = 4;
const PASSWORDS: u32 = 200;
const ITERATIONS: u32 = 4_096;
const USER: &str = "scram-user";
const PASSWORD: &str = "scram-secret";
const SASL_HANDSHAKE: i16 = 17;
const SASL_AUTHENTICATE: i16 = 36;

pub fn run(rounds: usize) -> Result<()> {
    let options = ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() }
        .listening("LOGIN", "SASL_PLAINTEXT")
        .with("sasl.enabled.mechanisms", "SCRAM-SHA-256,SCRAM-SHA-512");
    let cluster = Cluster::start_with(options)?;
    for hash in ScramHash::ALL {
        let password = format!("{}=[password={PASSWORD}]", hash.mechanism_name());
        let user = ["--alter", "--entity-type", "users", "--entity-name", USER, "--add-config", &password];
        clients::run(&mut clients::tool("kafka-configs", &cluster.bootstrap(), &user)?)?;
    }
    let address = cluster.bootstrap_of("LOGIN").parse()?;
    for hash in ScramHash::ALL {
        let mut figures = Vec::new();
        for _ in 0..rounds.max(1) {
            let before = cluster.cpu_time(Node::Broker(1))?;
            log_in_often(address, hash)?;
            let spent = cluster.cpu_time(Node::Broker(1))? - before;
            // The kernel counts in hundredths of a second.
            let spent = spent.max(Duration::from_millis(10));
            figures.push(Round { ours: LOGINS as f64 / spent.as_secs_f64(), machine: passwords_per_s(hash) });
        }
        let what = format!("logins by {}, a core of the broker", hash.mechanism_name());
        report::row(&what, "salted passwords, a core", "1/s", &figures);
    }
    Ok(())
}

fn passwords_per_s(hash: ScramHash) -> f64 {
    let began = Instant::now();
    for _ in 0..PASSWORDS {
        std::hint::black_box(hash.salted_password(PASSWORD.as_bytes(), b"of sixteen bytes", ITERATIONS));
    }
    f64::from(PASSWORDS) / began.elapsed().as_secs_f64()
}

fn log_in_often(address: SocketAddr, hash: ScramHash) -> Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let client = || {
        let next = next.clone();
        std::thread::spawn(move || -> Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= LOGINS {
                    return Ok(());
                }
                log_in(address, hash, number)?;
            }
        })
    };
    let running: Vec<_> = (0..CLIENTS).map(|_| client()).collect();
    for client in running {
        client.join().ok().context("a client ended")??;
    }
    Ok(())
}

fn log_in(address: SocketAddr, hash: ScramHash, number: usize) -> Result<()> {
    let mut stream = clients::connect(address)?;
    let mechanism = hash.mechanism_name();
    let mut body = i16::try_from(mechanism.len())?.to_be_bytes().to_vec();
    body.extend(mechanism.as_bytes());
    stream.write_all(&clients::request_frame(SASL_HANDSHAKE, 1, 1, &body))?;
    let answer = clients::read_frame(&mut stream)?;
    ensure!(answer.get(4..6) == Some(&[0, 0]), "{answer:?}");
    let credentials = ClientCredentials {
        mechanism: Mechanism::Scram(hash),
        user: USER.to_owned(),
        password: PASSWORD.to_owned(),
        is_token: false,
    };
    let mut nonce = [0; 18];
    nonce[..8].copy_from_slice(&number.to_be_bytes());
    let mut session = ClientSession::new(credentials, &nonce);
    let mut token = Vec::new();
    while let Some(message) = session.step(&token)? {
        let mut body = i32::try_from(message.len())?.to_be_bytes().to_vec();
        body.extend(message);
        stream.write_all(&clients::request_frame(SASL_AUTHENTICATE, 0, 2, &body))?;
        // Correlation id, error, its text (empty or none after a success), and the token behind its length.
        let answer = clients::read_frame(&mut stream)?;
        let has_no_error = matches!(answer.get(4..8), Some([0, 0, 0, 0] | [0, 0, 0xff, 0xff]));
        ensure!(has_no_error, "{answer:?}");
        token = answer.get(12..).context("a token")?.to_vec();
    }
    Ok(())
}
