//! Who may call what of a coordinator: the roles of callers, and the role that each call needs.
//!
//! Without roles in the configuration there are two kinds of callers: those that show the cluster's secret, and others,
//! who may make the open calls. Where there is no secret either, everybody may do everything.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use ottla_config::RolesConfig;
use ottla_metadata::controller::{ChangeQuorum, Request};
use ottla_metadata::image::{ConfigEntity, ConfigKind};
use ottla_metrics::RateLimit;
use ottla_model::{BrokerId, ClusterSecret, CoordinatorId, KafkaPrincipal};
use ottla_rpc::cluster_metadata;
use tonic::Status;
use tonic::metadata::MetadataMap;

/// What a caller may do; each may do what those before it may.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// See the cluster, without secrets.
    Read,
    /// Alter what clients use: topics and their partitions, configurations, leaders, replicas.
    Operate,
    /// Delete topics, and alter who belongs to the cluster and who may do what: users, rules, brokers, coordinators.
    Admin,
    /// Be a broker or a coordinator: alter ISRs, vote, see secrets.
    Member,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
            Self::Member => "member",
        })
    }
}

/// A gRPC method, and who may call it.
pub struct Method {
    path: &'static str,
    role: Role,
    /// Without roles it may be called by whoever does not show the cluster's secret: it alters nothing, shows no
    /// credentials of users, and costs brokers nothing.
    is_open: bool,
}

const fn open(path: &'static str) -> Method {
    Method { path, role: Role::Read, is_open: true }
}

const fn guarded(path: &'static str, role: Role) -> Method {
    Method { path, role, is_open: false }
}

/// Every method of the three services. One that is missing here needs [`Role::Member`].
const METHODS: &[Method] = &[
    guarded("/ottla.admin.v1.Admin/AddQuorumMember", Role::Admin),
    // Of users and brokers it needs `Admin`: see `role_of_entity`.
    guarded("/ottla.admin.v1.Admin/AlterConfig", Role::Operate),
    open("/ottla.admin.v1.Admin/ClusterHealth"),
    guarded("/ottla.admin.v1.Admin/CreatePartitions", Role::Operate),
    guarded("/ottla.admin.v1.Admin/CreateTopic", Role::Operate),
    guarded("/ottla.admin.v1.Admin/DeleteTopic", Role::Admin),
    open("/ottla.admin.v1.Admin/DescribeConfig"),
    guarded("/ottla.admin.v1.Admin/DescribeGroup", Role::Read),
    guarded("/ottla.admin.v1.Admin/DescribeLogDirs", Role::Read),
    open("/ottla.admin.v1.Admin/DescribeTopic"),
    guarded("/ottla.admin.v1.Admin/ElectLeaders", Role::Operate),
    open("/ottla.admin.v1.Admin/GetNode"),
    open("/ottla.admin.v1.Admin/ListBrokers"),
    guarded("/ottla.admin.v1.Admin/ListGroups", Role::Read),
    open("/ottla.admin.v1.Admin/ListNodes"),
    open("/ottla.admin.v1.Admin/ListPartitions"),
    open("/ottla.admin.v1.Admin/ListTopics"),
    open("/ottla.admin.v1.Admin/QuorumStatus"),
    guarded("/ottla.admin.v1.Admin/ReassignPartitions", Role::Operate),
    guarded("/ottla.admin.v1.Admin/RemoveQuorumMember", Role::Admin),
    guarded("/ottla.admin.v1.Admin/TransferQuorumLeadership", Role::Operate),
    guarded("/ottla.admin.v1.Admin/UnregisterBroker", Role::Admin),
    open("/ottla.admin.v1.Admin/WatchNodes"),
    // By its request: see `role_of`.
    guarded("/ottla.cluster.v1.Cluster/Decide", Role::Operate),
    open("/ottla.cluster.v1.Cluster/DescribeQuorum"),
    guarded("/ottla.cluster.v1.Cluster/Heartbeat", Role::Member),
    // Shows the whole tree, with the keys of users.
    guarded("/ottla.cluster.v1.Cluster/Watch", Role::Member),
    guarded("/ottla.quorum.v1.Quorum/Identify", Role::Member),
    guarded("/ottla.quorum.v1.Quorum/Raft", Role::Member),
];

/// Whether the method may be called by anybody where there are no roles.
pub fn is_open(path: &str) -> bool {
    path.starts_with(STANDARD_SERVICES) || METHODS.iter().any(|method| method.is_open && method.path == path)
}

/// Health and the descriptions of the services: open to everybody, as load balancers have no certificates.
const STANDARD_SERVICES: &str = "/grpc.";

/// The role that a request to the controller needs.
pub fn role_of(request: &Request) -> Role {
    match request {
        Request::CreateTopics(_)
        | Request::CreatePartitions(_)
        | Request::ElectLeaders(_)
        | Request::AlterReassignments(_)
        | Request::ChangeQuorum(ChangeQuorum::TransferLeadership { .. }) => Role::Operate,
        Request::AlterConfigs(alter) => {
            alter.entities.iter().map(|one| role_of_entity(&one.entity)).max().unwrap_or(Role::Operate)
        }
        Request::DeleteTopics(_)
        | Request::ChangeQuorum(_)
        | Request::UnregisterBroker(_)
        | Request::UpdateFeatures(_)
        | Request::CreateAcls(_)
        | Request::DeleteAcls(_) => Role::Admin,
        Request::Register(_)
        | Request::AlterPartitions(_)
        | Request::ResignLeadership(_)
        | Request::ControlledShutdown(_)
        | Request::AllocateProducerIds(_)
        | Request::AdmitCoordinator(_)
        | Request::SetMember(_)
        | Request::AlterDelegationToken(_)
        | Request::Proved(..) => Role::Member,
        Request::Once(_, request) => role_of(request),
    }
}

/// The role that a change of a configuration needs: that of a user has its keys, and that of a broker its users.
pub fn role_of_entity(entity: &ConfigEntity) -> Role {
    match entity.kind {
        ConfigKind::Users | ConfigKind::UserClients | ConfigKind::Brokers => Role::Admin,
        ConfigKind::Topics | ConfigKind::Clients | ConfigKind::Ips | ConfigKind::Groups | ConfigKind::ClientMetrics => {
            Role::Operate
        }
    }
}

/// What a client's certificate says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertifiedClient {
    pub principal: KafkaPrincipal,
    /// Its common name and its DNS names.
    pub names: Vec<String>,
}

/// The certificate of a connection's client, for each of its calls.
#[derive(Clone)]
pub struct ClientInfo(pub Option<Arc<CertifiedClient>>);

/// The rules of one coordinator.
pub struct Access {
    secret: Option<ClusterSecret>,
    /// None: callers have no roles.
    roles: Option<RolesConfig>,
    /// `ssl.member.id`: a broker's and a coordinator's id stands in its certificate.
    binds_ids: bool,
    refusals: RateLimit,
}

impl Access {
    pub fn new(secret: Option<ClusterSecret>, roles: Option<RolesConfig>, binds_ids: bool) -> Arc<Self> {
        Arc::new(Self { secret, roles, binds_ids, refusals: RateLimit::per_second() })
    }

    fn role(&self, roles: &RolesConfig, client: Option<&CertifiedClient>, shows_secret: bool) -> Option<Role> {
        let of_certificate = client.and_then(|client| {
            let of_role = |(role, principals): (Role, &BTreeSet<KafkaPrincipal>)| {
                principals.contains(&client.principal).then_some(role)
            };
            let each = [
                (Role::Read, &roles.read),
                (Role::Operate, &roles.operate),
                (Role::Admin, &roles.admin),
                (Role::Member, &roles.member),
            ];
            each.into_iter().filter_map(of_role).max()
        });
        of_certificate.max(shows_secret.then_some(Role::Member))
    }

    /// Who comes with this certificate, and shows this.
    pub fn caller(self: &Arc<Self>, metadata: Option<&MetadataMap>, client: Option<Arc<CertifiedClient>>) -> Caller {
        let shown =
            metadata.is_some_and(|metadata| cluster_metadata::check_secret(self.secret.as_ref(), metadata).is_ok());
        let shows_secret = shown && self.secret.is_some();
        let rights = match &self.roles {
            None => Rights::WithoutRoles { is_trusted: shows_secret || self.secret.is_none() },
            Some(roles) => Rights::Of(self.role(roles, client.as_deref(), shows_secret)),
        };
        Caller { access: Arc::clone(self), client, shows_secret, rights }
    }

    /// The caller of a method; the status with which the call is refused.
    pub fn admit(
        self: &Arc<Self>,
        path: &str,
        metadata: &MetadataMap,
        client: Option<Arc<CertifiedClient>>,
    ) -> Result<Caller, Status> {
        let caller = self.caller(Some(metadata), client);
        if path.starts_with(STANDARD_SERVICES) {
            return Ok(caller);
        }
        let method = METHODS.iter().find(|method| method.path == path);
        match (caller.rights, method) {
            (Rights::WithoutRoles { is_trusted: true }, _) => {}
            (Rights::WithoutRoles { is_trusted: false }, Some(method)) if method.is_open => {}
            (Rights::WithoutRoles { is_trusted: false }, _) => {
                cluster_metadata::check_secret(self.secret.as_ref(), metadata)?;
            }
            (Rights::Of(_), method) => {
                let role = method.map_or(Role::Member, |method| method.role);
                caller.check(role, path.rsplit('/').next().unwrap_or_default())?;
            }
        }
        Ok(caller)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rights {
    /// There are no roles. Trusted: it has shown the secret, or there is none.
    WithoutRoles {
        is_trusted: bool,
    },
    Of(Option<Role>),
}

/// Who makes a call.
#[derive(Clone)]
pub struct Caller {
    access: Arc<Access>,
    client: Option<Arc<CertifiedClient>>,
    shows_secret: bool,
    rights: Rights,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.client {
            Some(client) => client.principal.fmt(f),
            None => f.write_str("a caller without a certificate"),
        }
    }
}

impl Caller {
    /// It has proved that it belongs to the cluster: room is kept for it.
    pub fn is_member(&self) -> bool {
        self.shows_secret || self.rights == Rights::Of(Some(Role::Member))
    }

    /// Whether it may do what a role may.
    pub fn has(&self, role: Role) -> bool {
        match self.rights {
            Rights::WithoutRoles { is_trusted } => is_trusted || role == Role::Read,
            Rights::Of(own) => own >= Some(role),
        }
    }

    /// Refuses a caller without the role; the log has one line of it a second.
    pub fn check(&self, role: Role, what: &str) -> Result<(), Status> {
        if self.has(role) {
            return Ok(());
        }
        Err(self.refuse(format!("{self} may not call {what}: it needs the role {role}")))
    }

    /// Refuses a request that the caller may not have decided.
    pub fn check_request(&self, request: &Request) -> Result<(), Status> {
        self.check(role_of(request), request.name())?;
        match request.broker() {
            Some(broker) => self.check_broker(broker),
            None => Ok(()),
        }
    }

    /// Refuses a broker whose id is not in its certificate, where that is asked for.
    pub fn check_broker(&self, broker: BrokerId) -> Result<(), Status> {
        self.check_name(&format!("broker-{broker}"))
    }

    /// As [`Caller::check_broker`], of a coordinator.
    pub fn check_coordinator(&self, coordinator: CoordinatorId) -> Result<(), Status> {
        self.check_name(&format!("coordinator-{coordinator}"))
    }

    fn check_name(&self, name: &str) -> Result<(), Status> {
        let has_name = |client: &CertifiedClient| client.names.iter().any(|known| known.eq_ignore_ascii_case(name));
        if !self.access.binds_ids || self.client.as_deref().is_some_and(has_name) {
            return Ok(());
        }
        Err(self.refuse(format!("{self} is not {name}: its certificate has no such name (ssl.member.id)")))
    }

    fn refuse(&self, why: String) -> Status {
        // A name of a certificate may hold what ends the line.
        let why = why.replace(char::is_control, "\u{fffd}");
        self.access.refusals.run(|left_out| tracing::warn!(left_out, "refused: {why}"));
        Status::permission_denied(why)
    }
}

#[cfg(test)]
mod tests {
    use ottla_metadata::controller::{CreateTopics, DeleteTopics};
    use ottla_rpc::FILE_DESCRIPTOR_SET;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;
    use tonic::Code;

    use super::*;

    #[test]
    fn every_method_has_a_row() {
        let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("a descriptor set");
        let of_file = |file: &prost_types::FileDescriptorProto| {
            let package = file.package().to_owned();
            let services = file.service.iter();
            let methods = services.flat_map(|service| {
                service.method.iter().map(|method| (service.name().to_owned(), method.name().to_owned()))
            });
            methods.map(|(service, method)| format!("/{package}.{service}/{method}")).collect::<Vec<_>>()
        };
        let there: BTreeSet<String> = files.file.iter().flat_map(of_file).collect();
        let known: BTreeSet<String> = METHODS.iter().map(|method| method.path.to_owned()).collect();
        assert_eq!(there, known);
        assert_eq!(known.len(), METHODS.len(), "a method stands there twice");
    }

    fn principals(names: &[&str]) -> BTreeSet<KafkaPrincipal> {
        names.iter().map(|name| KafkaPrincipal::user(*name)).collect()
    }

    fn access(secret: Option<&str>) -> Arc<Access> {
        let roles = RolesConfig {
            read: principals(&["reader", "both"]),
            operate: principals(&["operator", "both"]),
            admin: principals(&["admin"]),
            member: principals(&["broker-1"]),
        };
        Access::new(secret.map(ClusterSecret::new), Some(roles), true)
    }

    fn client(name: &str) -> Option<Arc<CertifiedClient>> {
        let names = vec![name.to_owned()];
        Some(Arc::new(CertifiedClient { principal: KafkaPrincipal::user(name), names }))
    }

    #[test]
    fn each_role_may_do_what_those_before_it_may() {
        let access = access(None);
        let may = |client: Option<Arc<CertifiedClient>>, method: &str| {
            access.admit(method, &MetadataMap::new(), client).map(drop).map_err(|status| status.code())
        };
        let calls = [
            ("/ottla.admin.v1.Admin/ListTopics", Role::Read),
            ("/ottla.admin.v1.Admin/ListGroups", Role::Read),
            ("/ottla.admin.v1.Admin/CreateTopic", Role::Operate),
            ("/ottla.admin.v1.Admin/DeleteTopic", Role::Admin),
            ("/ottla.admin.v1.Admin/RemoveQuorumMember", Role::Admin),
            ("/ottla.cluster.v1.Cluster/Watch", Role::Member),
            ("/ottla.quorum.v1.Quorum/Raft", Role::Member),
            ("/ottla.quorum.v1.Quorum/Later", Role::Member),
        ];
        for (name, role) in [
            ("reader", Some(Role::Read)),
            ("both", Some(Role::Operate)),
            ("operator", Some(Role::Operate)),
            ("admin", Some(Role::Admin)),
            ("broker-1", Some(Role::Member)),
            ("stranger", None),
        ] {
            for (method, needed) in calls {
                let expected = if role >= Some(needed) { Ok(()) } else { Err(Code::PermissionDenied) };
                assert_eq!(may(client(name), method), expected, "{name} {method}");
            }
        }
        assert_eq!(may(None, "/ottla.admin.v1.Admin/ListTopics"), Err(Code::PermissionDenied));
        assert_eq!(may(None, "/grpc.health.v1.Health/Check"), Ok(()));
    }

    #[test]
    fn the_secret_makes_a_member_where_there_are_roles() {
        let access = access(Some("s3cret"));
        let shown = |secret: &str| {
            let metadata = ottla_rpc::ChannelSecurity::of_secret(Some(&ClusterSecret::new(secret))).metadata(None);
            let mut metadata = metadata;
            let request = tonic::service::Interceptor::call(&mut metadata, tonic::Request::new(())).expect("attached");
            access.admit("/ottla.cluster.v1.Cluster/Watch", request.metadata(), None)
        };
        assert!(shown("s3cret").is_ok_and(|caller| caller.is_member()));
        assert!(shown("guessed").is_err_and(|status| status.code() == Code::PermissionDenied));
    }

    #[test]
    fn a_request_to_the_controller_needs_what_it_does() {
        let create = CreateTopics {
            topics: Vec::new(),
            validate_only: false,
            default_partitions: 1,
            default_replication_factor: 1,
        };
        let access = access(None);
        let caller = |name: &str| access.caller(None, client(name));
        let create = Request::CreateTopics(create);
        let delete = Request::DeleteTopics(DeleteTopics { topics: Vec::new() });
        assert!(caller("operator").check_request(&create).is_ok());
        assert!(caller("operator").check_request(&delete).is_err());
        assert!(caller("admin").check_request(&delete).is_ok());
        assert!(caller("reader").check_request(&create).is_err());
        let entity = |kind| ConfigEntity { kind, name: "x".to_owned() };
        assert_eq!(role_of_entity(&entity(ConfigKind::Topics)), Role::Operate);
        assert_eq!(role_of_entity(&entity(ConfigKind::Users)), Role::Admin);
    }

    #[test]
    fn an_id_stands_in_its_certificate() {
        let access = access(Some("s3cret"));
        let broker = access.caller(None, client("broker-1"));
        assert!(broker.check_broker(BrokerId(1)).is_ok());
        assert!(broker.check_broker(BrokerId(2)).is_err());
        assert!(broker.check_coordinator(CoordinatorId(1)).is_err());
        let without = access.caller(None, None);
        assert!(without.check_broker(BrokerId(1)).is_err());
        let unbound = Access::new(None, None, false);
        assert!(unbound.caller(None, None).check_broker(BrokerId(1)).is_ok());
    }
}
