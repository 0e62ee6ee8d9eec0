//! Requests in a broker's own name. Ids, epochs and incarnations of brokers are in the tree, which everybody may read:
//! only the key of its incarnation proves that the broker itself sent a request (ADR 0033).

use ottla_model::{BrokerId, ErrorCode, IncarnationId, IncarnationKey, Revision, incarnation_key};

use super::shutdown::shutdown_progress;
use super::{AlteredPartitions, Answer, Controller, Refusal, Request, RequestId, Resigned};

const NOT_PROVED: &str = "The request does not show the key of the incarnation in whose name it is.";

impl Request {
    /// Whether a broker sends this in its own name, and shows its key with it.
    pub fn is_in_own_name(&self) -> bool {
        sender(self).is_some()
    }

    /// The broker in whose name this is; none if anybody may send it.
    pub fn broker(&self) -> Option<BrokerId> {
        match self {
            Self::Register(register) => Some(register.broker),
            Self::AlterPartitions(alter) => Some(alter.broker),
            Self::ResignLeadership(resign) => Some(resign.broker),
            Self::ControlledShutdown(shutdown) => Some(shutdown.broker),
            Self::AllocateProducerIds(allocate) => Some(allocate.broker),
            Self::Once(_, request) | Self::Proved(_, request) => request.broker(),
            Self::CreateTopics(_)
            | Self::DeleteTopics(_)
            | Self::CreatePartitions(_)
            | Self::AlterConfigs(_)
            | Self::AdmitCoordinator(_)
            | Self::SetMember(_)
            | Self::ChangeQuorum(_)
            | Self::UnregisterBroker(_)
            | Self::ElectLeaders(_)
            | Self::CreateAcls(_)
            | Self::DeleteAcls(_)
            | Self::AlterReassignments(_)
            | Self::AlterDelegationToken(_)
            | Self::UpdateFeatures(_) => None,
        }
    }
}

/// In whose name a request is.
enum Sender {
    /// The incarnation that it names: it is not registered yet.
    Incarnation(IncarnationId),
    /// The registered incarnation of this broker.
    Registered(BrokerId),
}

/// None: anybody may send it. A request that is wrapped is asked about without its wrapping.
fn sender(request: &Request) -> Option<Sender> {
    match request {
        Request::Register(register) => Some(Sender::Incarnation(register.incarnation)),
        Request::Once(..) | Request::Proved(..) => None,
        request => request.broker().map(Sender::Registered),
    }
}

impl Controller {
    /// Decides a request unless it is in the name of a broker that has not sent it.
    pub(super) fn decide_own(
        &mut self,
        id: RequestId,
        request: Request,
        entropy: [u8; 16],
        key: Option<&IncarnationKey>,
    ) {
        match self.is_proved(&request, key) || self.config.rules.unproved_is_decided {
            true => self.decide(id, request, entropy, None),
            false => {
                self.warn(format!("{} is refused: it does not show its broker's key", request.name()));
                self.answer(id, refusal(&request));
            }
        }
    }

    /// A broker that is not registered is refused for that.
    fn is_proved(&self, request: &Request, key: Option<&IncarnationKey>) -> bool {
        let incarnation = match sender(request) {
            Some(Sender::Incarnation(incarnation)) => Some(incarnation),
            Some(Sender::Registered(broker)) => self.ledger.ahead().broker(broker).map(|broker| broker.incarnation),
            None => None,
        };
        incarnation.is_none_or(|incarnation| incarnation_key::is_proved(incarnation, key))
    }
}

fn refusal(request: &Request) -> Answer {
    let error = ErrorCode::ClusterAuthorizationFailed;
    match request {
        Request::Register(_) => Answer::Register(Err(Refusal::new(error, NOT_PROVED))),
        Request::AlterPartitions(_) => {
            let (partitions, revision) = (Vec::new(), Revision(0));
            Answer::AlterPartitions(AlteredPartitions { error, partitions, revision })
        }
        Request::ResignLeadership(_) => Answer::ResignLeadership(Resigned { error, revision: Revision(0) }),
        Request::ControlledShutdown(_) => shutdown_progress(error, 0, false),
        Request::AllocateProducerIds(_) => Answer::AllocateProducerIds(Err(error)),
        _ => Answer::Unavailable,
    }
}
