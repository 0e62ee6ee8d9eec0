//! Requests to an identity provider: the keys of its tokens, and tokens. One connection for each: they are rare.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ottla_sasl::oauth::settings::TlsOptions;
use ottla_tls::{ClientTls, TlsError, TlsSettings};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// From the connection to the last byte of the answer; Kafka's are five times ten seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// A set of keys with their certificates has some ten kilobytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Why a provider gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be built: {0}")]
    Request(#[from] http::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Slow,
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("the answer ends too early, or has more than {ANSWER_BYTES_MAX} bytes")]
    Body,
}

/// An URL of a provider, and how it is spoken to.
pub struct Endpoint {
    uri: Uri,
    tls: Option<ClientTls>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.uri)
    }
}

impl Endpoint {
    /// Reads the files of certificates.
    pub fn new(uri: Uri, tls: &TlsOptions) -> Result<Self, TlsError> {
        let is_secured = uri.scheme_str() == Some("https");
        let settings = TlsSettings::read(|name| tls.get(name))?;
        Ok(Self { uri, tls: is_secured.then(|| ClientTls::new(settings)).transpose()? })
    }

    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    pub async fn get(&self) -> Result<Bytes, WebError> {
        let request = self.request("GET").body(String::new())?;
        self.exchange(request).await
    }

    pub async fn post_form(&self, authorization: &str, form: String) -> Result<Bytes, WebError> {
        let request = self
            .request("POST")
            .header(AUTHORIZATION, authorization)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form)?;
        self.exchange(request).await
    }

    fn request(&self, method: &str) -> http::request::Builder {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self.uri.authority().map_or("", |authority| authority.as_str());
        Request::builder().method(method).uri(path).header(HOST, host).header(ACCEPT, "application/json")
    }

    async fn exchange(&self, request: Request<String>) -> Result<Bytes, WebError> {
        let host = self.uri.host().unwrap_or_default();
        let port = self.uri.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let exchange = async {
            let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
            match &self.tls {
                None => send(stream, request).await,
                Some(tls) => {
                    let name = ClientTls::server_name(host)?;
                    send(tls.connect(name, stream).await?, request).await
                }
            }
        };
        tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| WebError::Slow)?
    }
}

async fn send<S>(stream: S, request: Request<String>) -> Result<Bytes, WebError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            return Err(WebError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        Ok(body.collect().await.map_err(|_| WebError::Body)?.to_bytes())
    };
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection may be over before its last bytes were taken.
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// The answer of a server that says this, and the request that it saw.
    async fn answered(answer: &'static str) -> (Result<Bytes, WebError>, String) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let uri = format!("http://{}/path?x=1", listener.local_addr().expect("bound")).parse().expect("a URI");
        let endpoint = Endpoint::new(uri, &TlsOptions::default()).expect("no TLS");
        let server = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut seen = vec![0; 4096];
            let length = stream.read(&mut seen).await.expect("a request");
            stream.write_all(answer.as_bytes()).await.expect("sent");
            String::from_utf8_lossy(&seen[..length]).into_owned()
        };
        tokio::join!(endpoint.post_form("Basic abc", "a=b".to_owned()), server)
    }

    #[tokio::test]
    async fn answers_are_read_and_refusals_told() {
        let (answer, seen) = answered("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        assert_eq!(answer.expect("an answer"), "{}");
        assert!(seen.starts_with("POST /path?x=1 HTTP/1.1\r\n") && seen.ends_with("\r\n\r\na=b"), "{seen}");
        assert!(seen.contains("authorization: Basic abc\r\n") && seen.contains("host: 127.0.0.1:"), "{seen}");
        let (answer, _) = answered("HTTP/1.0 200 OK\r\n\r\n{}").await;
        assert_eq!(answer.expect("up to the end of the connection"), "{}");
        let (answer, _) = answered("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await;
        assert!(matches!(answer, Err(WebError::Status(StatusCode::UNAUTHORIZED))));
        assert!(answered("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{}").await.0.is_err());
        assert!(answered("SSH-2.0-x\r\n").await.0.is_err());
    }
}
