//! The little of `nc` that health checks use: `nc -z HOST PORT`, and `echo WORD | nc [-w SECONDS] HOST PORT`.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::Duration;

use super::usage;
use crate::{err, output};

const USAGE: &str = "nc [-z] [-v] [-w SECONDS] HOST PORT";
/// Without -w: a health check that hangs says nothing.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(PartialEq, Eq, Debug)]
struct Line {
    host: String,
    port: u16,
    timeout: Duration,
    only_connect: bool,
    verbose: bool,
}

pub fn run(arguments: &[String]) -> ExitCode {
    let Some(line) = parse(arguments) else { return usage(USAGE) };
    match talk(&line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if line.verbose || !line.only_connect {
                err!("nc: {}:{}: {error}", line.host, line.port);
            }
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Option<Line> {
    let mut line = Line { host: String::new(), port: 0, timeout: TIMEOUT, only_connect: false, verbose: false };
    let mut at = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            at.push(word);
            continue;
        };
        for (place, letter) in letters.char_indices() {
            match letter {
                'z' => line.only_connect = true,
                'v' => line.verbose = true,
                // Quietly as they are: no name service, IPv4, IPv6, TCP, and ending with the input.
                'n' | '4' | '6' | 't' | 'N' => {}
                'w' | 'q' | 'i' => {
                    let rest = &letters[place + 1..];
                    let seconds = if rest.is_empty() { words.next()?.as_str() } else { rest };
                    if letter == 'w' {
                        line.timeout = Duration::from_secs(seconds.parse().ok().filter(|seconds| *seconds > 0)?);
                    }
                    break;
                }
                _ => return None,
            }
        }
    }
    let [host, port] = at.as_slice() else { return None };
    line.host.clone_from(host);
    line.port = port.parse().ok()?;
    Some(line)
}

fn talk(line: &Line) -> std::io::Result<()> {
    let mut stream = connect(line)?;
    if line.only_connect {
        if line.verbose {
            err!("Connection to {} {} port [tcp/*] succeeded!", line.host, line.port);
        }
        return Ok(());
    }
    stream.set_read_timeout(Some(line.timeout))?;
    let mut said = Vec::new();
    std::io::stdin().lock().read_to_end(&mut said)?;
    stream.write_all(&said)?;
    stream.shutdown(Shutdown::Write)?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => output::bytes(&buffer[..count]),
            // What came before the time was up has been printed.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn connect(line: &Line) -> std::io::Result<TcpStream> {
    let mut last = None;
    for address in (line.host.as_str(), line.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, line.timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Option<Line> {
        parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_lines_of_health_checks_are_read() {
        let plain = |only_connect, verbose, seconds| {
            let timeout = Duration::from_secs(seconds);
            Some(Line { host: "localhost".into(), port: 2181, timeout, only_connect, verbose })
        };
        assert_eq!(line("-z localhost 2181"), plain(true, false, 10));
        assert_eq!(line("-w 2 localhost 2181"), plain(false, false, 2));
        assert_eq!(line("-vz -w5 localhost 2181"), plain(true, true, 5));
        assert_eq!(line("-q 1 localhost 2181"), plain(false, false, 10));
        for bad in ["localhost", "-l localhost 2181", "-w", "-w 0 localhost 2181", "localhost port"] {
            assert_eq!(line(bad), None, "{bad}");
        }
    }
}
