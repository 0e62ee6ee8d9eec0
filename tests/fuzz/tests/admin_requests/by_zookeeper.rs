//! Writes of ZooKeeper's protocol, as Kafka's old tools make them, with absurd names, data and flags.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, bail, ensure};
use ottla_e2e::cluster::PATIENCE;
use ottla_e2e::wait;
use ottla_fuzz::mutation::Random;
use ottla_model::ErrorCode;

use crate::words::{broker, config, number, pick, text, topic};

const XID: i32 = 7;
const CREATE: i32 = 1;
const SET_DATA: i32 = 5;

fn string(out: &mut Vec<u8>, text: &str) -> Result<()> {
    out.extend(i32::try_from(text.len())?.to_be_bytes());
    out.extend(text.as_bytes());
    Ok(())
}

fn send_frame(stream: &mut TcpStream, body: &[u8]) -> Result<()> {
    stream.write_all(&u32::try_from(body.len())?.to_be_bytes())?;
    Ok(stream.write_all(body)?)
}

fn read_frame(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; usize::try_from(u32::from_be_bytes(length))?];
    stream.read_exact(&mut body)?;
    Ok(body)
}

/// A session, as soon as the coordinator knows a leader: until then it closes connections, as ZooKeeper does.
fn session(at: &str) -> Result<TcpStream> {
    wait::until_ok("a session of ZooKeeper", || connect(at))
}

fn connect(at: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = vec![0; 4 + 8];
    request.extend(10_000_i32.to_be_bytes());
    request.extend([0; 8]);
    request.extend(16_i32.to_be_bytes());
    request.extend([0; 17]);
    send_frame(&mut stream, &request)?;
    read_frame(&mut stream)?;
    Ok(stream)
}

fn path(random: &mut Random) -> String {
    match random.below(12) {
        // Of nobody: whoever sends requests here must not be throttled.
        8 => format!("/config/users/nobody {}", text(random)),
        9 => match random.below(2) {
            0 => format!("/config/clients/nobody {}", text(random)),
            _ => format!("/config/users/nobody {}/clients/{}", random.below(3), text(random)),
        },
        10 => format!("/config/ips/{}", pick(random, &["10.9.8.7", "nobody", "10.9.8", "fe80::1", "10.9.8.7/8"])),
        11 => "/admin/reassign_partitions".to_owned(),
        0 => format!("/admin/delete_topics/{}", topic(random)),
        1 | 2 => "/admin/preferred_replica_election".to_owned(),
        3 => format!("/config/brokers/{}", pick(random, &["1", "2", "<default>", "900", "-1", "x", ""])),
        4 => format!("/{}", text(random)),
        5 => "/config/changes/config_change_".to_owned(),
        _ => format!("/config/topics/{}", topic(random)),
    }
}

fn json_text(text: &str) -> String {
    let escaped =
        |c: char| if c.is_control() || "\"\\".contains(c) { format!("\\u{:04x}", c as u32) } else { c.into() };
    text.chars().map(escaped).collect()
}

fn data(random: &mut Random) -> String {
    match random.below(9) {
        0 => text(random),
        8 => {
            let key = pick(random, &["producer_byte_rate", "request_percentage", "connection_creation_rate", "x"]);
            let value = pick(random, &["1000", "1.5", "0", "-1", "NaN", "", "1e300"]);
            format!(r#"{{"version":1,"config":{{"{key}":"{value}"}}}}"#)
        }
        1..=3 => {
            let with_replicas = random.below(2) == 0;
            let named = |random: &mut Random| {
                let replicas: Vec<String> = (0..random.below(4)).map(|_| broker(random).to_string()).collect();
                let replicas =
                    if with_replicas { format!(r#","replicas":[{}]"#, replicas.join(",")) } else { String::new() };
                format!(r#"{{"topic":"{}","partition":{}{replicas}}}"#, json_text(&topic(random)), number(random))
            };
            let partitions: Vec<String> = (0..random.below(4)).map(|_| named(random)).collect();
            format!(r#"{{"version":1,"partitions":[{}]}}"#, partitions.join(","))
        }
        _ => {
            let entries: Vec<String> = (0..random.below(4))
                .map(|_| {
                    let (name, value) = config(random);
                    format!(r#""{}":"{}""#, json_text(&name), json_text(&value))
                })
                .collect();
            format!(r#"{{"version":{},"config":{{{}}}}}"#, broker(random), entries.join(","))
        }
    }
}

/// Sends one random write in a session of its own; returns its name, and whether it was done, as Kafka's error code.
pub fn send(random: &mut Random, at: &str) -> Result<(&'static str, Vec<i16>)> {
    let is_create = random.below(2) == 0;
    let mut body = XID.to_be_bytes().to_vec();
    body.extend((if is_create { CREATE } else { SET_DATA }).to_be_bytes());
    string(&mut body, &path(random))?;
    string(&mut body, &data(random))?;
    if is_create {
        body.extend(1_i32.to_be_bytes());
        body.extend(0x1f_i32.to_be_bytes());
        string(&mut body, "world")?;
        string(&mut body, "anyone")?;
        body.extend(pick(random, &[0_i32, 0, 0, 2, 1, 6, -1]).to_be_bytes());
    } else {
        body.extend(pick(random, &[-1_i32, -1, -1, 0, 3]).to_be_bytes());
    }
    let mut stream = session(at)?;
    send_frame(&mut stream, &body)?;
    let answer = read_frame(&mut stream).context("no answer to a write")?;
    ensure!(answer.starts_with(&XID.to_be_bytes()), "an answer to something else: {answer:?}");
    let error = answer.get(12..16).and_then(|bytes| bytes.try_into().ok()).context("no error code")?;
    let outcome = match i32::from_be_bytes(error) {
        0 => ErrorCode::None,
        -7 => ErrorCode::RequestTimedOut,
        -8 | -101 | -110 | -119 => ErrorCode::InvalidRequest,
        other => bail!("ZooKeeper's error {other}"),
    };
    Ok((if is_create { "create" } else { "setData" }, vec![outcome.code()]))
}
