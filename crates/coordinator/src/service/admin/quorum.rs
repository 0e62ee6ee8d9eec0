//! The members of the quorum: who they are, and changes of them.

use ottla_metadata::controller::ChangeQuorum;
use ottla_model::{CoordinatorId, IncarnationId, TimestampMs};
use ottla_rpc::admin::{
    AddQuorumMemberRequest, ChangeQuorumResponse, QuorumMember, QuorumStatusResponse, RemoveQuorumMemberRequest,
    TransferQuorumLeadershipRequest,
};
use tonic::Status;

use super::AdminService;
use super::errors::refused;
use crate::service::requests::said_by_driver;

impl AdminService {
    pub(super) async fn quorum(&self) -> Result<QuorumStatusResponse, Status> {
        let formed = self.shared.require_formed()?;
        let status = said_by_driver(formed.driver.status()).await?;
        let matched = |id| status.peers.iter().find(|peer| peer.id == id).map_or(0, |peer| peer.matched.0);
        let progress = said_by_driver(formed.driver.progress()).await?;
        let heard_at = |id| {
            let voter = progress.iter().flat_map(|progress| &progress.voters).find(|voter| voter.id == id);
            voter.map_or(TimestampMs::NONE, |voter| voter.progress.heard_at)
        };
        let known = formed.members();
        let members = known.by_id.iter().map(|(&id, member)| QuorumMember {
            coordinator_id: id.0,
            address: member.address.clone(),
            matched_revision: matched(id),
            learner: !member.is_voter,
            disk_id: member.disk.map(|disk| disk.to_string()).unwrap_or_default(),
            heard_at_ms: heard_at(id).0,
        });
        let cluster_id = formed.view.get().image.cluster_id().map(ToString::to_string);
        Ok(QuorumStatusResponse {
            coordinator_id: self.shared.id.0,
            leader_id: status.role.leader.map_or(0, |leader| leader.0),
            term: status.role.term,
            committed_revision: status.committed.0,
            applied_revision: status.applied.0,
            members: members.collect(),
            cluster_id: cluster_id.unwrap_or_default(),
        })
    }

    pub(super) async fn add_member(&self, request: AddQuorumMemberRequest) -> Result<ChangeQuorumResponse, Status> {
        let AddQuorumMemberRequest { coordinator_id, address } = request;
        let coordinator = CoordinatorId(coordinator_id);
        self.change_quorum(ChangeQuorum::Add { coordinator, disk: IncarnationId::ZERO, address }).await
    }

    pub(super) async fn remove_member(
        &self,
        request: RemoveQuorumMemberRequest,
    ) -> Result<ChangeQuorumResponse, Status> {
        let RemoveQuorumMemberRequest { coordinator_id, force } = request;
        let coordinator = CoordinatorId(coordinator_id);
        // The member of now: a try that comes late removes nobody who was added again under the same id.
        let known = self.shared.require_formed()?.members();
        let disk = known.by_id.get(&coordinator).and_then(|member| member.disk);
        self.change_quorum(ChangeQuorum::Remove { coordinator, disk, force }).await
    }

    pub(super) async fn transfer_leadership(
        &self,
        request: TransferQuorumLeadershipRequest,
    ) -> Result<ChangeQuorumResponse, Status> {
        let to = Some(request.coordinator_id).filter(|id| *id != 0).map(CoordinatorId);
        self.change_quorum(ChangeQuorum::TransferLeadership { to }).await
    }

    async fn change_quorum(&self, change: ChangeQuorum) -> Result<ChangeQuorumResponse, Status> {
        match self.decide(change, None).await? {
            Ok(changed) => Ok(ChangeQuorumResponse { revision: changed.revision.0 }),
            Err(refusal) => Err(refused(&refusal)),
        }
    }
}
