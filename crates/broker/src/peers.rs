//! Connections to the other brokers, for what coordinators and leaders ask each other. One for each broker, made when
//! it is needed; requests of all partitions share it. A broker that refuses one is a suspect: answers to clients wait
//! for its successor.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ottla_client::{ClientError, Connection, ConnectionConfig};
use ottla_model::{BrokerId, ListenerName};
use ottla_replica_manager::metadata_cache::MetadataCache;
use ottla_replica_manager::suspects;
use ottla_secure_stream::StreamSecurity;
use tokio::sync::Mutex;

use crate::request::topology;

/// How long a connection may take to be made, and an answer to come. A leader answers a marker when its followers have
/// it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Answers are as large as their requests, which the brokers themselves bound.
const RESPONSE_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Why a broker was not asked.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("broker {0} is not there")]
    Unknown(BrokerId),
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Where a broker's connection is kept.
type Place = Arc<Mutex<Option<Arc<Connection>>>>;

pub struct Peers {
    metadata: Arc<MetadataCache>,
    inter_broker: ListenerName,
    security: StreamSecurity,
    /// Each broker's connection behind a lock of its own: one that does not accept holds up nobody else.
    connections: parking_lot::Mutex<BTreeMap<BrokerId, Place>>,
}

impl Peers {
    pub fn new(metadata: Arc<MetadataCache>, inter_broker: ListenerName, security: StreamSecurity) -> Arc<Self> {
        Arc::new(Self { metadata, inter_broker, security, connections: parking_lot::Mutex::default() })
    }

    /// The connection to a broker, as the image says where it is now.
    pub async fn connection(&self, id: BrokerId) -> Result<Arc<Connection>, PeerError> {
        let (address, epoch) = {
            let image = self.metadata.peek();
            let endpoint = topology::live_endpoint(&image, id, &self.inter_broker).ok_or(PeerError::Unknown(id))?;
            let epoch = image.broker_epoch(id).ok_or(PeerError::Unknown(id))?;
            (format!("{}:{}", endpoint.host, endpoint.port), epoch)
        };
        let place = Arc::clone(self.connections.lock().entry(id).or_default());
        let mut connection = place.lock().await;
        if let Some(open) = connection.as_ref().filter(|open| open.address() == address && !open.is_closed()) {
            return Ok(Arc::clone(open));
        }
        let config = ConnectionConfig {
            client_id: None,
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: ANSWER_TIMEOUT,
            response_max_bytes: RESPONSE_MAX_BYTES,
            security: self.security.clone(),
            ..ConnectionConfig::default()
        };
        let made = Connection::connect(&address, config).await.inspect_err(|error| {
            if let ClientError::Connect { reason, .. } = error
                && suspects::is_gone(reason)
            {
                self.metadata.suspects().suspect(id, epoch);
            }
        })?;
        self.metadata.suspects().reached(id);
        let made = Arc::new(made);
        *connection = Some(Arc::clone(&made));
        Ok(made)
    }
}
