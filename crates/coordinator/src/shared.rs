//! The state that the services and the peers' tasks of one coordinator share.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use ottla_config::CoordinatorConfig;
use ottla_consensus::{Role, RoleChange};
use ottla_model::{Chroot, CoordinatorId, FeatureLevels, IncarnationId};
use ottla_quorum_node::first_start::{FirstStart, Step};
use ottla_quorum_node::identity::{Conflict, Identified, OwnIdentity};
use ottla_quorum_node::opinions::Opinions;
use ottla_quorum_node::{BrokenRules, Members};
use ottla_resources::{Ledger, Share, Usage};
use ottla_rpc::cluster_metadata::ClusterChannel;
use ottla_rpc::quorum::{IdentifyResponse, Voter as WireVoter};
use ottla_rpc::{CallError, ChannelSecurity, LeaderHint, NotLeader};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use crate::access::Caller;
use crate::broker_security::BrokerSecurity;
use crate::driver::{CurrentView, DriverHandle};
use crate::identify;
use crate::rocksdb_store::Identity;

/// Bound of the addresses in one broker's list; further ones are ignored.
pub const CONNECT_LIST_MAX: usize = 16;

/// Watch streams of all clients together: brokers have one each. A quarter is kept for callers that show the cluster's
/// secret: others cannot keep brokers from the tree.
const WATCHES_MAX: u64 = 1_024;
const WATCHES_KEPT_FOR_MEMBERS: u64 = WATCHES_MAX / 4;

/// A coordinator that belongs to a quorum.
pub struct Formed {
    pub driver: DriverHandle,
    pub view: CurrentView,
    pub role: watch::Receiver<RoleChange>,
    pub members: watch::Receiver<Arc<Members>>,
}

impl Formed {
    /// Who belongs to the quorum, as far as this coordinator knows.
    pub fn members(&self) -> Arc<Members> {
        self.members.borrow().clone()
    }
}

/// How other processes are called.
#[derive(Clone, Debug, Default)]
pub struct OutgoingSecurity {
    /// Callers of this coordinator must show the same secret.
    pub coordinators: ChannelSecurity,
    pub brokers: BrokerSecurity,
}

pub struct Shared {
    pub id: CoordinatorId,
    pub disk: IncarnationId,
    configured_cluster_id: Option<String>,
    security: OutgoingSecurity,
    chroot: Option<Chroot>,
    /// The quorum at the root, if this is that of a chroot.
    root: Option<Arc<Shared>>,
    /// Set once, when the quorum is formed; never taken back.
    formed: OnceLock<Formed>,
    /// The disk had a quorum when the process started.
    has_quorum: bool,
    /// The list that this coordinator was configured with, or agreed on while forming.
    voters: Mutex<BTreeMap<CoordinatorId, String>>,
    /// Addresses of coordinators that brokers sent, for a coordinator without a configured list.
    connect_lists: mpsc::Sender<Vec<String>>,
    watches: Watches,
    raft_streams: Mutex<RaftStreams>,
    /// What the other members say of this disk.
    opinions: Mutex<Opinions>,
}

/// The Raft streams between this member and the others, at most one each way with each.
#[derive(Default)]
struct RaftStreams {
    /// The tokens of streams that this coordinator opened, with which it confirms them to their receivers.
    outgoing: BTreeMap<CoordinatorId, Bytes>,
    /// Confirmed by their senders; ended by the next one of the same sender.
    incoming: BTreeMap<CoordinatorId, CancellationToken>,
}

struct Watches {
    anybodys: Arc<Ledger>,
    members: Arc<Ledger>,
}

impl Default for Watches {
    fn default() -> Self {
        let (anybodys, members) = (WATCHES_MAX - WATCHES_KEPT_FOR_MEMBERS, WATCHES_KEPT_FOR_MEMBERS);
        Self { anybodys: Ledger::new(anybodys), members: Ledger::new(members) }
    }
}

impl Watches {
    fn permit(&self, is_member: bool) -> Option<Share> {
        let kept = is_member.then(|| self.members.take(1)).flatten();
        kept.or_else(|| self.anybodys.take(1))
    }

    /// A member that finds none of those that are kept is refused only where no other is left.
    fn usage(&self) -> Usage {
        let (anybodys, members) = (Usage::from(&*self.anybodys), Usage::from(&*self.members));
        Usage {
            used: anybodys.used + members.used,
            ceiling: anybodys.ceiling + members.ceiling,
            refused: anybodys.refused,
        }
    }
}

impl Shared {
    pub fn new(
        identity: &Identity,
        config: &CoordinatorConfig,
        security: OutgoingSecurity,
        (chroot, root): (Option<Chroot>, Option<Arc<Self>>),
        connect_lists: mpsc::Sender<Vec<String>>,
    ) -> Arc<Self> {
        let voters = config.servers.iter().map(|server| (server.id, server.address.to_string())).collect();
        Arc::new(Self {
            id: identity.id,
            disk: identity.disk,
            configured_cluster_id: config.cluster_id.as_ref().map(ToString::to_string),
            security,
            chroot,
            root,
            formed: OnceLock::new(),
            has_quorum: !identity.voters.is_empty(),
            voters: Mutex::new(voters),
            connect_lists,
            watches: Watches::default(),
            raft_streams: Mutex::default(),
            opinions: Mutex::default(),
        })
    }

    /// The (lazy) channel to another coordinator.
    pub fn channel(&self, address: &str) -> Result<Channel, CallError> {
        self.security.coordinators.channel(address)
    }

    /// A channel to another coordinator, for calls of this cluster.
    pub fn cluster_channel(&self, channel: Channel) -> ClusterChannel {
        self.security.coordinators.metadata(self.chroot.as_ref()).to(channel)
    }

    /// How brokers are asked for what only they know.
    pub fn broker_security(&self) -> &BrokerSecurity {
        &self.security.brokers
    }

    pub fn chroot(&self) -> Option<&Chroot> {
        self.chroot.as_ref()
    }

    pub fn formed(&self) -> Option<&Formed> {
        self.formed.get()
    }

    pub fn set_formed(&self, formed: Formed) {
        // A second quorum on one disk is impossible: the caller has just formed the only one.
        let _ = self.formed.set(formed);
    }

    pub fn set_voters(&self, voters: BTreeMap<CoordinatorId, String>) {
        *self.voters.lock() = voters;
    }

    /// What this coordinator knows of itself and of its quorum now.
    pub fn own_identity(&self) -> OwnIdentity {
        OwnIdentity {
            id: self.id,
            disk: self.disk,
            cluster_id: self.cluster_id(),
            listed: self.voters.lock().clone(),
            members: self.formed().map(Formed::members),
            levels: FeatureLevels::OF_THIS_RELEASE,
            broken_rules: BrokenRules::default(),
        }
    }

    /// The members; before the quorum is formed, the list that was configured or agreed on.
    pub fn voters(&self) -> BTreeMap<CoordinatorId, String> {
        self.own_identity().voters()
    }

    /// A broker sent addresses of coordinators. They are dropped if this coordinator does not wait for them, or while
    /// it checks earlier ones.
    pub fn heard_of(&self, mut addresses: Vec<String>) {
        // The root's quorum has the same members, and perhaps no brokers that would tell it of them.
        if let Some(root) = &self.root {
            root.heard_of(addresses.clone());
        }
        if self.formed.get().is_none() && !addresses.is_empty() {
            addresses.truncate(CONNECT_LIST_MAX);
            let _ = self.connect_lists.try_send(addresses);
        }
    }

    /// Leave to watch, until it is dropped.
    pub fn watch_permit(&self, caller: &Caller) -> Result<Share, Status> {
        let refused = || Status::resource_exhausted("no more watches may be open here: ask another coordinator");
        self.watches.permit(caller.is_member()).ok_or_else(refused)
    }

    /// The watches of this quorum's tree.
    pub fn watches(&self) -> Usage {
        self.watches.usage()
    }

    pub fn leads(&self) -> bool {
        self.formed().is_some_and(|formed| formed.role.borrow().role == Role::Leader)
    }

    /// The response to a client that requests a decision while another coordinator leads.
    pub fn not_leader(&self) -> NotLeader {
        let leader = self.formed().and_then(|formed| {
            let id = formed.role.borrow().leader.filter(|leader| *leader != self.id)?;
            Some(LeaderHint { id, address: formed.members().address(id)?.to_owned() })
        });
        NotLeader { answered_by: self.id, leader }
    }

    /// The cluster's id: from the tree, else from the configuration.
    pub fn cluster_id(&self) -> Option<String> {
        let known = self.formed().and_then(|formed| Some(formed.view.get().image.cluster_id()?.to_string()));
        known.or_else(|| self.configured_cluster_id.clone())
    }

    /// Whether the coordinator that answered as `found` can be in one quorum with this one.
    pub fn check_identity(&self, address: &str, expected: CoordinatorId, found: &Identified) -> Result<(), Conflict> {
        self.own_identity().check(&mut self.opinions.lock(), address, expected, found)
    }

    /// The answers of a round of a first start.
    pub fn first_start_round(
        &self,
        start: &mut FirstStart,
        answers: impl IntoIterator<Item = Result<Identified, String>>,
    ) -> Result<Step, Conflict> {
        start.round(&self.own_identity(), &mut self.opinions.lock(), answers)
    }

    /// A Raft stream to `peer` is being opened: its first frame shows this token.
    pub fn open_stream(&self, peer: CoordinatorId) -> Bytes {
        let token = Bytes::copy_from_slice(&rand::random::<[u8; 16]>());
        self.raft_streams.lock().outgoing.insert(peer, token.clone());
        token
    }

    /// A Raft stream of `sender` begins, and its former one ends. The stream must end when the returned token is
    /// cancelled.
    pub fn begin_stream(&self, sender: CoordinatorId) -> CancellationToken {
        let token = CancellationToken::new();
        if let Some(former) = self.raft_streams.lock().incoming.insert(sender, token.clone()) {
            former.cancel();
        }
        token
    }

    /// Whether this member of a quorum reads its disk, and cannot say yet whom it knows. It must not seem to be an
    /// empty one meanwhile: a member that has lost its disk would form a new quorum with it.
    pub fn is_opening(&self) -> bool {
        self.has_quorum && self.formed().is_none()
    }

    /// Whether this disk belongs to a quorum, of which it is a member or becomes one.
    pub fn has_quorum(&self) -> bool {
        self.has_quorum || self.formed().is_some()
    }

    fn has_stream(&self, peer: CoordinatorId, token: &[u8]) -> bool {
        !token.is_empty() && self.raft_streams.lock().outgoing.get(&peer).is_some_and(|open| *open == token)
    }

    /// The response to `asker`, whose disk is `asker_disk`.
    pub fn identify(&self, asker: CoordinatorId, asker_disk: &[u8], stream_token: &[u8]) -> IdentifyResponse {
        let answer = self.own_identity().answer(asker, IncarnationId::from_slice(asker_disk));
        identify::response(answer, self.has_stream(asker, stream_token))
    }
}

pub fn wire_voters(voters: &BTreeMap<CoordinatorId, String>) -> Vec<WireVoter> {
    let voter = |(id, address): (&CoordinatorId, &String)| WireVoter {
        coordinator_id: id.0,
        address: address.clone(),
        disk_id: Bytes::new(),
    };
    voters.iter().map(voter).collect()
}

#[cfg(test)]
pub mod testing {
    use ottla_config::Sources;
    use ottla_consensus::Membership;
    use ottla_metadata::image::Image;
    use ottla_quorum_node::{View, Voter};

    use super::*;

    fn disk(id: u64) -> IncarnationId {
        IncarnationId([u8::try_from(id).unwrap_or_default(); 16])
    }

    /// Coordinator `id` of three, which have the disks [1; 16] to [3; 16], in cluster `test`. Nothing drives it.
    pub fn formed(id: u64) -> Arc<Shared> {
        let shared = opening(id);
        form(&shared);
        shared
    }

    /// As [`formed`], while it reads its disk.
    pub fn opening(id: u64) -> Arc<Shared> {
        let id_text = id.to_string();
        let flags = [("id", &*id_text), ("cluster.id", "test"), ("data.dir", "/nonexistent")];
        let flags = flags.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let config = CoordinatorConfig::load(&Sources { flags, ..Sources::default() }).expect("a configuration").config;
        let identity = Identity { id: CoordinatorId(id), disk: disk(id), voters: voters() };
        Shared::new(&identity, &config, OutgoingSecurity::default(), (None, None), mpsc::channel(1).0)
    }

    fn voters() -> BTreeMap<CoordinatorId, Voter> {
        let address = |id: u64| format!("c{id}:2181");
        (1..=3).map(|id| (CoordinatorId(id), Voter { address: address(id), disk: Some(disk(id)) })).collect()
    }

    fn form(shared: &Shared) {
        let voters = voters();
        let membership = Membership::new(voters.keys().copied()).expect("three");
        let members = Members::new(&membership, &Image::empty(), &voters);
        let view = View::new(ottla_metadata::tree::Tree::new(), Image::empty());
        shared.set_formed(Formed {
            driver: DriverHandle::new(crate::driver::queue::queue(1).0),
            view: CurrentView::new(Arc::new(view)),
            role: watch::channel(RoleChange { role: Role::Follower, leader: None, term: 1 }).1,
            members: watch::channel(Arc::new(members)).1,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member with an empty disk that asked the others while they read theirs began the quorum anew.
    #[test]
    fn a_member_that_reads_its_disk_does_not_seem_to_be_empty() {
        let (opening, formed) = (testing::opening(1), testing::formed(1));
        assert!(opening.is_opening() && opening.has_quorum());
        assert!(!formed.is_opening() && formed.has_quorum());
    }

    /// G12: watches that strangers leave open kept brokers from the tree.
    #[test]
    fn g12_strangers_cannot_take_the_watches_of_members() {
        let watches = Watches::default();
        let taken = |is_member| std::iter::from_fn(|| watches.permit(is_member)).collect::<Vec<_>>();
        let strangers = taken(false);
        assert_eq!(strangers.len() as u64, WATCHES_MAX - WATCHES_KEPT_FOR_MEMBERS);
        let members = taken(true);
        assert_eq!(members.len() as u64, WATCHES_KEPT_FOR_MEMBERS);
        // The last try of each.
        assert_eq!(watches.usage(), Usage { used: WATCHES_MAX, ceiling: WATCHES_MAX, refused: 2 });
        drop(strangers);
        assert_eq!(taken(true).len() as u64, WATCHES_MAX - WATCHES_KEPT_FOR_MEMBERS);
    }
}
