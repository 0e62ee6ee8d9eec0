//! Refusals as gRPC statuses: a code, a line for people, and `google.rpc.ErrorInfo` for programs.

use std::collections::HashMap;

use ottla_metadata::controller::Refusal;
use ottla_metadata::limits;
use ottla_model::ErrorCode;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Of every `ErrorInfo` of the admin API.
const DOMAIN: &str = "ottla";

/// A status whose `ErrorInfo` has this reason. The text may quote a client's input: it is cut at
/// [`limits::MAX_ERROR_TEXT_BYTES`], because a status travels in HTTP/2 headers, twice, and a client that gets more
/// than 16 KiB of headers ends the stream with INTERNAL.
pub fn status(code: Code, reason: &str, text: impl Into<String>) -> Status {
    let text = limits::cut(text.into(), limits::MAX_ERROR_TEXT_BYTES);
    Status::with_error_details(code, text, ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new()))
}

/// The answer to an impossible field.
pub fn invalid(reason: &str, text: impl Into<String>) -> Status {
    status(Code::InvalidArgument, reason, text)
}

/// A refusal in Kafka's terms.
pub fn refused(refusal: &Refusal) -> Status {
    of_kafka(refusal.error, &refusal.message)
}

/// A status for one of Kafka's errors; an empty text stands for the error's name.
pub fn of_kafka(error: ErrorCode, text: &str) -> Status {
    let name = name(error);
    status(code(error), &name, if text.is_empty() { name.as_str() } else { text })
}

/// The name of the protocol: `TOPIC_ALREADY_EXISTS`.
pub fn name(error: ErrorCode) -> String {
    let mut name = String::new();
    for letter in format!("{error:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

fn code(error: ErrorCode) -> Code {
    use ErrorCode as Error;
    match error {
        Error::TopicAlreadyExists | Error::DuplicateVoter => Code::AlreadyExists,
        Error::UnknownTopicOrPartition
        | Error::UnknownTopicId
        | Error::GroupIdNotFound
        | Error::BrokerIdNotRegistered
        | Error::ResourceNotFound
        | Error::VoterNotFound => Code::NotFound,
        Error::TopicAuthorizationFailed
        | Error::GroupAuthorizationFailed
        | Error::ClusterAuthorizationFailed
        | Error::TopicDeletionDisabled => Code::PermissionDenied,
        Error::RequestTimedOut => Code::DeadlineExceeded,
        // A limit of the cluster: the same call is refused again, by every coordinator, until something is deleted.
        // RESOURCE_EXHAUSTED is left to what one coordinator lacks for the moment, so that clients may try again.
        Error::PolicyViolation
        | Error::ElectionNotNeeded
        | Error::PreferredLeaderNotAvailable
        | Error::EligibleLeadersNotAvailable
        | Error::NoReassignmentInProgress
        | Error::UnsupportedVersion => Code::FailedPrecondition,
        Error::UnknownServerError => Code::Internal,
        error if error.is_retriable() => Code::Unavailable,
        _ => Code::InvalidArgument,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_kafkas_error() {
        let refusal = Refusal::new(ErrorCode::TopicAlreadyExists, "Topic 'a' already exists.");
        let status = refused(&refusal);
        assert_eq!((status.code(), status.message()), (Code::AlreadyExists, "Topic 'a' already exists."));
        let info = status.get_details_error_info().expect("details");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("TOPIC_ALREADY_EXISTS", "ottla"));
        let status = of_kafka(ErrorCode::NotCoordinator, "");
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "NOT_COORDINATOR"));
    }

    /// Clients repeat calls that end with RESOURCE_EXHAUSTED: a refusal by a limit of the cluster must not be one.
    #[test]
    fn no_refusal_of_the_quorum_asks_for_another_try_elsewhere() {
        let status = of_kafka(ErrorCode::PolicyViolation, "too many topics");
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "too many topics"));
        for error in (-1..200).filter_map(ErrorCode::from_code) {
            assert_ne!(code(error), Code::ResourceExhausted, "{error:?}");
        }
    }

    #[test]
    fn a_status_that_quotes_a_long_name_fits_into_headers() {
        let long = format!("no group {}", "漢".repeat(20_000));
        for status in [invalid("NAME", &long), of_kafka(ErrorCode::GroupIdNotFound, &long)] {
            let headers = status.into_http::<()>().into_parts().0.headers;
            let size_bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
            assert!(size_bytes < 16 * 1024, "{size_bytes}");
        }
    }
}
