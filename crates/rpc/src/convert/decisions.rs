//! The requests of brokers to the controller, by kind.

use bytes::Bytes;
use ottla_metadata::controller::{Answer, IdempotencyKey, Request};

use super::brokers::{key_from_proto, key_to_proto};
use super::{InvalidField, Wire, id_16};
use crate::cluster::{DecideRequest, DecideResponse, decide_request, decide_response};

macro_rules! decisions {
    ($($name:ident,)+) => {
        pub fn request_to_proto(request: Request) -> DecideRequest {
            let request = match request {
                $(Request::$name(request) => Some(decide_request::Request::$name(request.into_proto())),)+
                Request::Once(key, request) => {
                    let message = request_to_proto(*request);
                    return DecideRequest { idempotency_key: Bytes::copy_from_slice(&key.0), ..message };
                }
                Request::Proved(key, request) => {
                    let message = request_to_proto(*request);
                    return DecideRequest { incarnation_key: key_to_proto(&key), ..message };
                }
                // Between coordinators, which ask their own controller.
                Request::AdmitCoordinator(_) | Request::SetMember(_) => None,
            };
            DecideRequest { request, ..DecideRequest::default() }
        }

        pub fn request_from_proto(message: DecideRequest) -> Result<Request, InvalidField> {
            let request = match message.request {
                $(Some(decide_request::Request::$name(request)) => Wire::from_proto(request).map(Request::$name),)+
                None => Err(InvalidField::new("request", "none that this release knows")),
            }?;
            let request = match key_from_proto(&message.incarnation_key)? {
                Some(key) => Request::Proved(key, Box::new(request)),
                None => request,
            };
            if message.idempotency_key.is_empty() {
                return Ok(request);
            }
            let key = IdempotencyKey(id_16("idempotency_key", &message.idempotency_key)?);
            Ok(Request::Once(key, Box::new(request)))
        }

        pub fn answer_to_proto(answer: Answer) -> DecideResponse {
            let response = match answer {
                $(Answer::$name(answer) => Some(decide_response::Response::$name(answer.into_proto())),)+
                Answer::AdmitCoordinator(_) | Answer::SetMember(()) | Answer::Unavailable => None,
            };
            DecideResponse { response }
        }

        pub fn answer_from_proto(message: DecideResponse) -> Result<Answer, InvalidField> {
            match message.response {
                $(Some(decide_response::Response::$name(answer)) => Wire::from_proto(answer).map(Answer::$name),)+
                None => Err(InvalidField::new("response", "none that this release knows")),
            }
        }
    };
}

decisions! {
    Register,
    AlterPartitions,
    ResignLeadership,
    ControlledShutdown,
    AllocateProducerIds,
    CreateTopics,
    DeleteTopics,
    CreatePartitions,
    AlterConfigs,
    UnregisterBroker,
    ElectLeaders,
    CreateAcls,
    DeleteAcls,
    AlterReassignments,
    ChangeQuorum,
    AlterDelegationToken,
    UpdateFeatures,
}

#[cfg(test)]
mod tests {
    use ottla_metadata::controller::{
        AllocateProducerIds, AlterReassignments, CreatePartitions, DeleteTopics, ElectLeaders, ElectionType,
        NewPartitions, TopicRef, UnregisterBroker,
    };
    use ottla_model::{BrokerEpoch, BrokerId, IncarnationKey, PartitionId, TopicId};

    use super::*;

    #[test]
    fn requests_and_their_keys_travel() {
        let topics = vec![TopicRef::Name("a".to_owned()), TopicRef::Id(TopicId([7; 16]))];
        let delete = Request::DeleteTopics(DeleteTopics { topics });
        let unregister = unregister_3();
        let named = Some(vec![("a".to_owned(), vec![PartitionId(0), PartitionId(2)])]);
        for topics in [None, Some(vec![]), named] {
            let elect = Request::ElectLeaders(ElectLeaders { election: ElectionType::Unclean, topics });
            assert_eq!(request_from_proto(request_to_proto(elect.clone())), Ok(elect));
        }
        for allow_replication_factor_change in [false, true] {
            let targets = vec![(PartitionId(0), Some(vec![BrokerId(3), BrokerId(1)])), (PartitionId(7), None)];
            let topics = vec![("a".to_owned(), targets), ("b".to_owned(), vec![(PartitionId(1), Some(vec![]))])];
            let alter = Request::AlterReassignments(AlterReassignments { topics, allow_replication_factor_change });
            assert_eq!(request_from_proto(request_to_proto(alter.clone())), Ok(alter));
        }
        for assignments in [None, Some(vec![]), Some(vec![vec![BrokerId(3)], vec![BrokerId(1), BrokerId(2)]])] {
            let topics = vec![NewPartitions { topic: "a".to_owned(), total: 4, assignments }];
            let create = Request::CreatePartitions(CreatePartitions { topics, validate_only: true });
            assert_eq!(request_from_proto(request_to_proto(create.clone())), Ok(create));
        }
        let once = Request::Once(IdempotencyKey([9; 16]), Box::new(delete.clone()));
        let proved = Request::Proved(IncarnationKey::new([9; 32]), Box::new(allocate_1()));
        for request in [delete, unregister, once, proved, allocate_1()] {
            assert_eq!(request_from_proto(request_to_proto(request.clone())), Ok(request));
        }
        let message = DecideRequest { idempotency_key: vec![1; 15].into(), ..request_to_proto(unregister_3()) };
        assert_eq!(request_from_proto(message).map_err(|error| error.field), Err("idempotency_key"));
        let message = DecideRequest { incarnation_key: vec![1; 31].into(), ..request_to_proto(allocate_1()) };
        assert_eq!(request_from_proto(message).map_err(|error| error.field), Err("incarnation_key"));
        assert!(request_from_proto(DecideRequest::default()).is_err());
    }

    fn allocate_1() -> Request {
        Request::AllocateProducerIds(AllocateProducerIds { broker: BrokerId(1), epoch: BrokerEpoch(5) })
    }

    fn unregister_3() -> Request {
        Request::UnregisterBroker(UnregisterBroker { broker: BrokerId(3) })
    }
}
