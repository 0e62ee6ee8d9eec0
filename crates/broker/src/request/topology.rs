//! What clients are told of brokers and partitions, by the listener that they came in on.

use ottla_metadata::{BrokerRegistration, Endpoint, Image, PartitionState};
use ottla_model::{BrokerId, ErrorCode, ListenerName};

/// A broker that clients may be told of: registered, with an image that has reached its registration.
pub fn live(image: &Image, id: BrokerId) -> Option<&BrokerRegistration> {
    image.broker(id).map(|broker| &**broker).filter(|broker| broker.ready)
}

/// Where a live broker is reached by the same listener.
pub fn live_endpoint<'a>(image: &'a Image, id: BrokerId, listener: &ListenerName) -> Option<&'a Endpoint> {
    live(image, id)?.endpoint(listener)
}

/// The live brokers that have the listener.
pub fn live_brokers<'a>(
    image: &'a Image,
    listener: &'a ListenerName,
) -> impl Iterator<Item = (&'a BrokerRegistration, &'a Endpoint)> {
    image
        .brokers()
        .filter(|broker| broker.ready)
        .filter_map(move |broker| Some((&**broker, broker.endpoint(listener)?)))
}

/// The broker that `/controller` names, if it is live; clients send admin requests to it.
pub fn controller(image: &Image) -> BrokerId {
    image.controller().filter(|id| live(image, *id).is_some()).unwrap_or(BrokerId::NONE)
}

/// The leader that a client of this listener can reach, or why there is none.
pub fn reachable_leader(image: &Image, state: &PartitionState, listener: &ListenerName) -> Result<BrokerId, ErrorCode> {
    match live(image, state.leader) {
        None => Err(ErrorCode::LeaderNotAvailable),
        Some(leader) if leader.endpoint(listener).is_none() => Err(ErrorCode::ListenerNotFound),
        Some(leader) => Ok(leader.id),
    }
}

/// The replicas that a client of this listener cannot reach, or that cannot read their log.
pub fn offline_replicas<'a>(
    image: &'a Image,
    state: &'a PartitionState,
    listener: &'a ListenerName,
) -> impl Iterator<Item = BrokerId> + Clone + 'a {
    let is_offline = |id: BrokerId| image.broker_epoch(id).is_some_and(|epoch| state.is_offline(id, epoch));
    let is_unreachable = move |id: &BrokerId| live_endpoint(image, *id, listener).is_none() || is_offline(*id);
    state.replicas.iter().copied().filter(is_unreachable)
}

#[cfg(test)]
mod tests {
    use ottla_model::{BrokerEpoch, IsrMember, PartitionId};

    use super::*;
    use crate::request::test_image::{CLIENT, image};

    /// B4: a replica whose directory failed looked healthy. The mark is of one registration of its broker.
    #[test]
    fn a_replica_that_cannot_read_its_log_is_offline() {
        let (image, listener) = (image(), ListenerName::new(CLIENT));
        let offline = |epoch| {
            let mut state = PartitionState::clone(image.partition_of("t", PartitionId(0)).unwrap());
            state.offline = vec![IsrMember { broker: BrokerId(2), epoch }];
            offline_replicas(&image, &state, &listener).collect::<Vec<_>>()
        };
        let epoch = image.broker_epoch(BrokerId(2)).unwrap();
        assert_eq!(offline(epoch), [BrokerId(2), BrokerId(3)]);
        assert_eq!(offline(BrokerEpoch(epoch.0 + 1)), [BrokerId(3)]);
    }
}
