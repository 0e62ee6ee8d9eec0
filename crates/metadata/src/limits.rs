//! The limits of the tree's content, in one table. A request above a limit is refused on arrival, with one of Kafka's
//! errors. `docs/limits.md` shows the same table for operators.
//!
//! The reasons meet in one: an entry that is proposed must be readable by every member, and every change must fit the
//! messages by which it travels to other coordinators and to brokers (16 MiB).

use ottla_model::CoordinatorId;

/// A Raft entry: half of the largest gRPC message, so that it fits with its frame, and as a watch event, which repeats
/// each node's revisions.
pub const MAX_TRANSACTION_BYTES: usize = 8 * 1024 * 1024;

/// The payload of one node: half of a transaction, so that a node may change together with others. A topic of 100,000
/// partitions with 3 replicas each has a node of 2 MiB.
pub const MAX_NODE_BYTES: usize = 4 * 1024 * 1024;

/// All nodes together. Every coordinator holds the tree and an image of it, and sends it to each watcher; a cluster of
/// 100,000 partitions has about 40 MiB.
pub const MAX_TREE_BYTES: usize = 256 * 1024 * 1024;

/// A path of the tree. The longest of a topic has 300 bytes; a configuration's name may be three times as long as its
/// entity's, percent-encoded.
pub const MAX_PATH_BYTES: usize = 1024;

/// The name of a group, client, user or address that a configuration is for: percent-encoded and with its parents it
/// still is a path.
pub const MAX_ENTITY_NAME_BYTES: usize = 300;

/// All configurations of one entity together. The longest useful value is a list of throttled replicas: 100,000 of
/// them.
pub const MAX_CONFIG_BYTES: usize = 1024 * 1024;

/// The name of one configuration. Kafka's own have at most 60 bytes; plugins choose theirs.
pub const MAX_CONFIG_NAME_BYTES: usize = 1024;

/// Configurations of one entity. Kafka has fewer than 300 for a broker; the rest is for listeners and plugins.
pub const MAX_CONFIGS_PER_ENTITY: usize = 2_000;

/// All configurations of one subscription to metrics of clients: a hundred names of metrics, which each client gets.
pub const MAX_CLIENT_METRICS_BYTES: usize = 8 * 1024;

/// Subscriptions to metrics of clients. Each broker compares each client with all of them, and holds their compiled
/// expressions.
pub const MAX_CLIENT_METRICS_SUBSCRIPTIONS: usize = 100;

/// Topics, partitions or entities in one request: Kafka's bound on the records of one operation.
pub const MAX_ITEMS_PER_REQUEST: usize = 10_000;

/// Filters in one request to delete rules: each looks at all rules of the authorizer.
pub const MAX_FILTERS_PER_REQUEST: usize = 1_000;

/// Rules of the authorizer. Each is in every image and in a response to DescribeAcls; with the longest names they take
/// 150 MB, with usual ones 20 MB.
pub const MAX_ACLS: usize = 100_000;

/// The rules about one resource pattern, which are one node: 10,000 of them with usual names.
pub const MAX_ACL_NODE_BYTES: usize = 1024 * 1024;

/// The principal of a rule with its type: distinguished names of certificates have some hundred bytes.
pub const MAX_PRINCIPAL_BYTES: usize = 1024;

/// Delegation tokens. A request that names one by its HMAC derives those of all, at a microsecond each, and a
/// description without names has all of them.
pub const MAX_TOKENS: usize = 10_000;

/// Who may renew one delegation token.
pub const MAX_TOKEN_RENEWERS: usize = 100;

/// The owner, requester and renewers of one delegation token, with their types: 40 MB for [`MAX_TOKENS`].
pub const MAX_TOKEN_PRINCIPALS_BYTES: usize = 4096;

/// Delegation tokens that one principal has asked for: it cannot keep all others from getting one.
pub const MAX_TOKENS_PER_REQUESTER: usize = 5_000;

/// The id of a delegation token: brokers make ids of 22 bytes.
pub const MAX_TOKEN_ID_BYTES: usize = 64;

/// Replicas of one partition: the states of 500 partitions, which change in one entry when a broker is fenced, stay
/// within [`MAX_TRANSACTION_BYTES`] with it.
pub const MAX_REPLICATION_FACTOR: i32 = 256;

/// Registered brokers, live or not: each is in every Metadata response.
pub const MAX_BROKERS: usize = 10_000;

/// Endpoints of one broker: one for each listener.
pub const MAX_ENDPOINTS: usize = 64;

/// The name of a listener, a host, a rack, a security protocol: host names have at most 253 bytes, and Kafka's strings
/// at most 32,767, which a longer rack would break in every Metadata response.
pub const MAX_REGISTRATION_TEXT_BYTES: usize = 255;

/// The address that a coordinator shows to operators; a longer one is cut.
pub const MAX_ADDRESS_BYTES: usize = 300;

/// Why there can be no such coordinator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidCoordinator {
    /// Kafka's clients know ids of 32 bits.
    #[error("The coordinator id {0} is not between 1 and 2147483647")]
    Id(CoordinatorId),
    #[error("A coordinator needs an address, of at most {MAX_ADDRESS_BYTES} bytes")]
    Address,
}

/// Checks a coordinator that is to be a member of a quorum.
pub fn check_coordinator(id: CoordinatorId, address: &str) -> Result<(), InvalidCoordinator> {
    if id.0 == 0 || i32::try_from(id.0).is_err() {
        return Err(InvalidCoordinator::Id(id));
    }
    if address.is_empty() || address.len() > MAX_ADDRESS_BYTES {
        return Err(InvalidCoordinator::Address);
    }
    Ok(())
}

/// Decided admin requests that the tree keeps, so that a retry gets the first response. A thousand requests per minute
/// would be many, and a retry follows within seconds.
pub const MAX_REMEMBERED_REQUESTS: usize = 256;

/// All of these together. The largest single one, of 10,000 topics deleted by their ids, has 3 MB.
pub const MAX_REMEMBERED_BYTES: usize = 1024 * 1024;

/// The text of an error. It quotes a client's input, and a response must not be a multiple of its request.
pub const MAX_ERROR_TEXT_BYTES: usize = 1024;

/// The text, cut at a character boundary if it is longer.
pub fn cut(mut text: String, max_bytes: usize) -> String {
    if text.len() > max_bytes {
        let end = (0..=max_bytes).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_shows_every_limit() {
        let document = include_str!("../../../docs/limits.md");
        let limits = [
            ("one entry", MAX_TRANSACTION_BYTES),
            ("one node", MAX_NODE_BYTES),
            ("all nodes together", MAX_TREE_BYTES),
            ("path of a node", MAX_PATH_BYTES),
            ("name of a group", MAX_ENTITY_NAME_BYTES),
            ("configurations of one topic", MAX_CONFIG_BYTES),
            ("name of a configuration", MAX_CONFIG_NAME_BYTES),
            ("number of configurations", MAX_CONFIGS_PER_ENTITY),
            ("configurations of one subscription", MAX_CLIENT_METRICS_BYTES),
            ("subscriptions to metrics", MAX_CLIENT_METRICS_SUBSCRIPTIONS),
            ("topics, partitions or resources", MAX_ITEMS_PER_REQUEST),
            ("filters in one request", MAX_FILTERS_PER_REQUEST),
            ("rules of the authorizer", MAX_ACLS),
            ("rules about one resource", MAX_ACL_NODE_BYTES),
            ("principal of a rule", MAX_PRINCIPAL_BYTES),
            ("delegation tokens", MAX_TOKENS),
            ("delegation tokens that one principal asked for", MAX_TOKENS_PER_REQUESTER),
            ("renewers of one delegation token", MAX_TOKEN_RENEWERS),
            ("owner, requester and renewers of one delegation token", MAX_TOKEN_PRINCIPALS_BYTES),
            ("id of a delegation token", MAX_TOKEN_ID_BYTES),
            ("replicas of one partition", usize::try_from(MAX_REPLICATION_FACTOR).unwrap_or(0)),
            ("registered brokers", MAX_BROKERS),
            ("endpoints", MAX_ENDPOINTS),
            ("listener name", MAX_REGISTRATION_TEXT_BYTES),
            ("address of a coordinator", MAX_ADDRESS_BYTES),
            ("admin requests", MAX_REMEMBERED_REQUESTS),
            ("outcomes of admin requests", MAX_REMEMBERED_BYTES),
            ("text of an error", MAX_ERROR_TEXT_BYTES),
        ];
        for (what, limit) in limits {
            let row = document.lines().find(|line| line.starts_with(&format!("| {what}"))).expect("a row");
            assert!(row.contains(&format!("| {limit} ")), "{row} does not say {limit}");
        }
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        assert_eq!(cut("abc".to_owned(), 3), "abc");
        assert_eq!(cut("aüc".to_owned(), 2), "a");
        assert_eq!(cut("ü".to_owned(), 0), "");
    }
}
