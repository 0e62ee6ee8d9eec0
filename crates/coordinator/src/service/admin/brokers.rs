//! The registered brokers.

use ottla_metadata::controller::UnregisterBroker;
use ottla_model::BrokerId;
use ottla_rpc::admin::{Broker, ListBrokersResponse, UnregisterBrokerRequest, UnregisterBrokerResponse};
use tonic::Status;

use super::decisions::key;
use super::errors::refused;
use super::{AdminService, count};

impl AdminService {
    pub(super) fn brokers(&self) -> Result<ListBrokersResponse, Status> {
        let view = self.view()?;
        let image = &view.image;
        let live = image.brokers().map(|b| (b.id, b.epoch, &b.rack, &b.endpoints, !b.ready));
        let down = image.fenced_brokers().map(|b| (b.id, b.epoch, &b.rack, &b.endpoints, true));
        let leads = |id: BrokerId| {
            let in_sync = image.in_sync_on(id).filter_map(|partition| image.partition(partition));
            count(in_sync.filter(|state| state.leader == id).count())
        };
        let brokers = live.chain(down).map(|(id, epoch, rack, endpoints, fenced)| Broker {
            id: id.0,
            epoch: epoch.0,
            rack: rack.clone().unwrap_or_default(),
            endpoints: endpoints
                .iter()
                .map(|endpoint| format!("{}://{}:{}", endpoint.listener, endpoint.host, endpoint.port))
                .collect(),
            fenced,
            replicas: count(image.hosted_by(id).count()),
            leaders: leads(id),
        });
        let mut brokers: Vec<_> = brokers.collect();
        brokers.sort_by_key(|broker| broker.id);
        Ok(ListBrokersResponse {
            brokers,
            controller_id: image.controller().unwrap_or(BrokerId::NONE).0,
            cluster_id: image.cluster_id().map(ToString::to_string).unwrap_or_default(),
            revision: view.revision.0,
        })
    }

    pub(super) async fn unregister(
        &self,
        request: UnregisterBrokerRequest,
    ) -> Result<UnregisterBrokerResponse, Status> {
        let key = key("UnregisterBroker", &request.id.to_string(), &request.request_id)?;
        let unregistered = self.decide(UnregisterBroker { broker: BrokerId(request.id) }, Some(key)).await?;
        let unregistered = unregistered.map_err(|refusal| refused(&refusal))?;
        Ok(UnregisterBrokerResponse { revision: unregistered.revision.0 })
    }
}
