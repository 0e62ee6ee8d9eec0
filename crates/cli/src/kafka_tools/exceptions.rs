//! Errors as Java knows them: the class that scripts look for, and the text where a broker sends none.

use ottla_model::ErrorCode;

use super::ToolError;
use crate::kafka::KafkaError;

const PACKAGE: &str = "org.apache.kafka.common.errors.";

/// Class (without its package) and text.
fn known(code: ErrorCode) -> (&'static str, &'static str) {
    match code {
        ErrorCode::OffsetOutOfRange => (
            "OffsetOutOfRangeException",
            "The requested offset is not within the range of offsets maintained by the server.",
        ),
        ErrorCode::CorruptMessage => (
            "CorruptRecordException",
            "This message has failed its CRC checksum, exceeds the valid size, has a null key for a compacted topic, or is otherwise corrupt.",
        ),
        ErrorCode::MessageTooLarge => (
            "RecordTooLargeException",
            "The request included a message larger than the max message size the server will accept.",
        ),
        ErrorCode::InvalidTimestamp => {
            ("InvalidTimestampException", "The timestamp of the message is out of acceptable range.")
        }
        ErrorCode::InvalidRecord => (
            "InvalidRecordException",
            "This record has failed the validation on the broker and hence will be rejected.",
        ),
        ErrorCode::UnknownTopicOrPartition => {
            ("UnknownTopicOrPartitionException", "This server does not host this topic-partition.")
        }
        ErrorCode::LeaderNotAvailable => (
            "LeaderNotAvailableException",
            "There is no leader for this topic-partition as we are in the middle of a leadership election.",
        ),
        ErrorCode::RequestTimedOut => ("TimeoutException", "The request timed out."),
        ErrorCode::OffsetMetadataTooLarge => {
            ("OffsetMetadataTooLarge", "The metadata field of the offset request was too large.")
        }
        ErrorCode::CoordinatorLoadInProgress => {
            ("CoordinatorLoadInProgressException", "The coordinator is loading and hence can't process requests.")
        }
        ErrorCode::CoordinatorNotAvailable => ("CoordinatorNotAvailableException", "The coordinator is not available."),
        ErrorCode::NotCoordinator => ("NotCoordinatorException", "This is not the correct coordinator."),
        ErrorCode::InvalidTopicException => {
            ("InvalidTopicException", "The request attempted to perform an operation on an invalid topic.")
        }
        ErrorCode::NotEnoughReplicas => (
            "NotEnoughReplicasException",
            "Messages are rejected since there are fewer in-sync replicas than required.",
        ),
        ErrorCode::IllegalGeneration => ("IllegalGenerationException", "Specified group generation id is not valid."),
        ErrorCode::InconsistentGroupProtocol => (
            "InconsistentGroupProtocolException",
            "The group member's supported protocols are incompatible with those of existing members or first group member tried to join with empty protocol type or empty protocol list.",
        ),
        ErrorCode::InvalidGroupId => ("InvalidGroupIdException", "The configured groupId is invalid."),
        ErrorCode::UnknownMemberId => ("UnknownMemberIdException", "The coordinator is not aware of this member."),
        ErrorCode::InvalidSessionTimeout => (
            "InvalidSessionTimeoutException",
            "The session timeout is not within the range allowed by the broker (as configured by group.min.session.timeout.ms and group.max.session.timeout.ms).",
        ),
        ErrorCode::RebalanceInProgress => {
            ("RebalanceInProgressException", "The group is rebalancing, so a rejoin is needed.")
        }
        ErrorCode::TopicAuthorizationFailed => ("TopicAuthorizationException", "Topic authorization failed."),
        ErrorCode::GroupAuthorizationFailed => ("GroupAuthorizationException", "Group authorization failed."),
        ErrorCode::ClusterAuthorizationFailed => ("ClusterAuthorizationException", "Cluster authorization failed."),
        ErrorCode::ResourceNotFound => {
            ("ResourceNotFoundException", "A request illegally referred to a resource that does not exist.")
        }
        ErrorCode::DuplicateResource => {
            ("DuplicateResourceException", "A request illegally referred to the same resource twice.")
        }
        ErrorCode::UnacceptableCredential => {
            ("UnacceptableCredentialException", "Requested credential would not meet criteria for acceptability.")
        }
        ErrorCode::SecurityDisabled => ("SecurityDisabledException", "Security features are disabled."),
        ErrorCode::DelegationTokenAuthDisabled => {
            ("DelegationTokenDisabledException", "Delegation Token feature is not enabled.")
        }
        ErrorCode::DelegationTokenNotFound => {
            ("DelegationTokenNotFoundException", "Delegation Token is not found on server.")
        }
        ErrorCode::DelegationTokenOwnerMismatch => {
            ("DelegationTokenOwnerMismatchException", "Specified Principal is not valid Owner/Renewer.")
        }
        ErrorCode::DelegationTokenRequestNotAllowed => (
            "UnsupportedByAuthenticationException",
            "Delegation Token requests are not allowed on PLAINTEXT/1-way SSL channels and on delegation token authenticated channels.",
        ),
        ErrorCode::DelegationTokenAuthorizationFailed => {
            ("DelegationTokenAuthorizationException", "Delegation Token authorization failed.")
        }
        ErrorCode::DelegationTokenExpired => ("DelegationTokenExpiredException", "Delegation Token is expired."),
        ErrorCode::InvalidPrincipalType => {
            ("InvalidPrincipalTypeException", "Supplied principalType is not supported.")
        }
        ErrorCode::UnsupportedVersion => ("UnsupportedVersionException", "The version of API is not supported."),
        ErrorCode::TopicAlreadyExists => ("TopicExistsException", "Topic with this name already exists."),
        ErrorCode::NoReassignmentInProgress => {
            ("NoReassignmentInProgressException", "No partition reassignment is in progress.")
        }
        ErrorCode::BrokerIdNotRegistered => {
            ("BrokerIdNotRegisteredException", "The given broker ID was not registered.")
        }
        ErrorCode::InvalidPartitions => ("InvalidPartitionsException", "Number of partitions is below 1."),
        ErrorCode::InvalidReplicationFactor => (
            "InvalidReplicationFactorException",
            "Replication factor is below 1 or larger than the number of available brokers.",
        ),
        ErrorCode::InvalidReplicaAssignment => ("InvalidReplicaAssignmentException", "Replica assignment is invalid."),
        ErrorCode::InvalidConfig => ("InvalidConfigurationException", "Configuration is invalid."),
        ErrorCode::InvalidRequest => (
            "InvalidRequestException",
            "This most likely occurs because of a request being malformed by the client library or the message was sent to an incompatible broker. See the broker logs for more details.",
        ),
        ErrorCode::PolicyViolation => {
            ("PolicyViolationException", "Request parameters do not satisfy the configured policy.")
        }
        ErrorCode::KafkaStorageError => {
            ("KafkaStorageException", "Disk error when trying to access log file on the disk.")
        }
        ErrorCode::LogDirNotFound => {
            ("LogDirNotFoundException", "The user-specified log directory is not found in the broker config.")
        }
        ErrorCode::NonEmptyGroup => ("GroupNotEmptyException", "The group is not empty."),
        ErrorCode::GroupIdNotFound => ("GroupIdNotFoundException", "The group id does not exist."),
        ErrorCode::TopicDeletionDisabled => ("TopicDeletionDisabledException", "Topic deletion is disabled."),
        ErrorCode::GroupMaxSizeReached => {
            ("GroupMaxSizeReachedException", "The consumer group has reached its max size.")
        }
        ErrorCode::FencedInstanceId => (
            "FencedInstanceIdException",
            "The broker rejected this static consumer since another consumer with the same group.instance.id has registered with a different member.id.",
        ),
        ErrorCode::GroupSubscribedToTopic => (
            "GroupSubscribedToTopicException",
            "Deleting offsets of a topic is forbidden while the consumer group is actively subscribed to it.",
        ),
        ErrorCode::PreferredLeaderNotAvailable => {
            ("PreferredLeaderNotAvailableException", "The preferred leader was not available.")
        }
        ErrorCode::EligibleLeadersNotAvailable => {
            ("EligibleLeadersNotAvailableException", "Eligible topic partition leaders are not available.")
        }
        ErrorCode::UnknownServerError => {
            ("UnknownServerException", "The server experienced an unexpected error when processing the request.")
        }
        _ => ("ApiException", ""),
    }
}

/// The text of an error that a broker left without one.
pub fn message(code: ErrorCode) -> String {
    match known(code).1 {
        "" => format!("{code:?}"),
        text => text.to_owned(),
    }
}

/// The Java class of an error code.
pub fn class_of(code: ErrorCode) -> String {
    // The one that lies elsewhere.
    let package = if code == ErrorCode::InvalidRecord { "org.apache.kafka.common." } else { PACKAGE };
    format!("{package}{}", known(code).0)
}

/// The Java class that an error is known by.
pub fn class(error: &ToolError) -> String {
    match error {
        ToolError::Kafka(error) => class_of_kafka(error),
        ToolError::Quorum(_) => "kafka.zookeeper.ZooKeeperClientTimeoutException".to_owned(),
        ToolError::Config(_) => "org.apache.kafka.common.config.ConfigException".to_owned(),
        ToolError::Thrown { class, .. } => (*class).to_owned(),
        ToolError::Unconverted { .. } => "joptsimple.OptionArgumentConversionException".to_owned(),
        _ => "java.lang.IllegalArgumentException".to_owned(),
    }
}

fn class_of_kafka(error: &KafkaError) -> String {
    match error {
        KafkaError::Refused { code, .. } => class_of(*code),
        KafkaError::Failed(error) if error.is_distrust() => {
            let kind = if error.to_string().contains(": TLS: ") { "Ssl" } else { "Sasl" };
            format!("{PACKAGE}{kind}AuthenticationException")
        }
        KafkaError::Failed(_) => format!("{PACKAGE}TimeoutException"),
    }
}

/// As Java writes an exception: its class and its text.
pub fn shown(error: &KafkaError) -> String {
    format!("{}: {error}", class_of_kafka(error))
}
